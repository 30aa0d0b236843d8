"""The Dockerfile and what surrounds it, without building: `make images-test` does its steps."""

import subprocess
import tomllib
from pathlib import Path

import pytest

from dockerfiles import NotUnderstoodError, ignored, read_stages
from image_roots import BASE_IMAGES, context_files

DOCKERFILE = "deploy/images/Dockerfile"
PROGRAMS = ("operator", "fetch", "router", "simulator")


@pytest.fixture(scope="module")
def stages(repository):
    return read_stages((repository / DOCKERFILE).read_text())


@pytest.fixture(scope="module")
def left_out(repository):
    return (repository / ".dockerignore").read_text()


def ancestors(stages, name):
    while name in stages:
        yield stages[name]
        name = stages[name].base


def test_every_image_runs_its_program_as_a_number_that_is_not_root(stages, repository):
    """Kubernetes can tell that a user is not root only by its number (runAsNonRoot)."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    for program in PROGRAMS:
        lines = [line for stage in ancestors(stages, program) for line in stage.instructions]
        (entrypoint,) = [line.words for line in lines if line.kind == "ENTRYPOINT"]
        assert entrypoint == (f"memroute-{program}",)
        assert entrypoint[0] in project["scripts"]
        assert [line.words for line in lines if line.kind == "USER"] == [("65532", "65532")]
        assert list(ancestors(stages, program))[-1].base in BASE_IMAGES


def test_what_the_dockerfile_copies_is_in_the_build_context(stages, repository, left_out):
    """A COPY of what .dockerignore leaves out fails on the machine of whoever builds, not here."""
    copies = [
        line for stage in stages.values() for line in stage.instructions if line.kind == "COPY"
    ]
    for line in copies:
        if line.from_stage is not None:
            assert line.from_stage in stages
        else:
            assert next(context_files(repository, left_out, line.words[0]), None) is not None
    for line in [line for stage in stages.values() for line in stage.instructions]:
        if line.kind == "RUN" and "requirements/" in line.words[0]:
            (lock,) = [word for word in line.words[0].split() if word.startswith("requirements/")]
            assert (repository / lock).exists()
            assert not ignored(left_out, lock)


def test_the_wheel_can_be_built_from_the_context(repository, left_out):
    """What pyproject.toml and hatch_build.py name must not be left out."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    for name in (*packages, "hatch_build.py", "README.md", "LICENSE", "pyproject.toml"):
        assert (repository / name).exists()
        assert not ignored(left_out, name)


def test_what_git_ignores_is_not_sent_to_the_build(repository, left_out):
    """Venvs and caches are gigabytes, and differ from machine to machine."""
    for line in (repository / ".gitignore").read_text().split():
        name = line.strip("/").replace("*", "x")
        assert ignored(left_out, name), line
        if not line.startswith("/"):
            assert ignored(left_out, Path("core", "memroute", name)), line


@pytest.mark.slow
def test_tests_and_documents_are_not_sent_to_the_build(repository, left_out):
    """An image that was built after an edit of a test is the same image."""
    tracked = subprocess.run(
        ["git", "-C", str(repository), "ls-files"], capture_output=True, text=True, check=False
    ).stdout.split()
    sent = {name.split("/")[0] for name in tracked if not ignored(left_out, name)}
    assert sent <= {
        ".dockerignore", ".gitignore", "LICENSE", "README.md", "cli", "core", "fetch",
        "hatch_build.py", "hub", "kube", "operator", "picker", "pyproject.toml", "requirements",
        "router", "simulator",
    }  # fmt: skip


@pytest.mark.parametrize(
    "line",
    ["ADD https://example.com/x /x", "RUN --mount=type=cache,target=/x true", "USER memroute",
     "COPY a b c", "COPY --chown=1:1 a b", "ONBUILD RUN true", "RUN true \\", 'RUN ["true"]',
     "HEALTHCHECK CMD true", "ENTRYPOINT memroute", "WORKDIR here", "ENV NAME value"],
)  # fmt: skip
def test_an_instruction_that_the_runner_does_not_do_is_refused_by_its_line(line):
    """Skipping it would show an image that Docker does not build."""
    with pytest.raises(NotUnderstoodError, match="line 2"):
        read_stages(f"FROM python:3.13 AS build\n{line}\n")


@pytest.mark.parametrize(
    ("pattern", "path", "is_left_out"),
    [
        ("tests", "tests/unit/test_x.py", True),
        ("tests", "core/tests/x.py", False),
        ("**/__pycache__", "core/memroute/__pycache__/x.pyc", True),
        ("**/__pycache__", "__pycache__", True),
        (".venv*", ".venv-bench/bin/python", True),
        ("core/*.so", "core/x.so", True),
        ("core/*.so", "core/memroute/x.so", False),
    ],
)
def test_what_is_left_out_is_read_as_docker_reads_it(pattern, path, is_left_out):
    """Docker's patterns start at the top, unlike git's."""
    assert ignored(pattern, path) is is_left_out
