"""`make release`: what may be released, and that it is the same bytes for everybody."""

import gzip
import io
import os
import re
import subprocess
import sys
import tarfile

import pytest

from memroute import __version__
from release.archives import differences, normalise_chart
from release.changelog import Section, says_something, section_of
from release.gather import copy_tree, gather
from release.refusals import Checkout, refusals
from release.sbom import PROGRAMS, pinned
from release.versions import SOURCE, Mention, mentions, set_version, version_of

COMMIT, OTHER = "a" * 40, "b" * 40


def checkout(**facts):
    return Checkout(
        **{
            "version": "0.2.0", "commit": COMMIT, "epoch": 1_790_000_000, "changed": (),
            "tagged": None, "mentions": (Mention(SOURCE, 11, "0.2.0"),),
            "section": Section("0.2.0", "### Added\n\n- A thing."),
        } | facts
    )  # fmt: skip


def test_a_clean_new_version_that_the_changelog_tells_of_may_be_released():
    """The rule that the exceptions below are exceptions of."""
    assert refusals(checkout(), allow_dirty=False) == []


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"changed": ("core/x.py", "y")}, r"differs from its commit \(core/x.py, y\): commit or"),
        ({"changed": tuple("abcdefg")}, r"\(a, b, c, d, e and 2 more\)"),
        ({"tagged": OTHER}, r"v0\.2\.0 is the tag of another commit, bbbbbbbbbbbb: check that"),
        ({"section": None}, r"neither a section \[0\.2\.0\] nor \[Unreleased\]"),
        ({"section": Section("0.2.0", "### Added\n\n### Fixed")}, r"\[0\.2\.0\] .* is empty"),
        (
            {"mentions": (Mention(SOURCE, 11, "0.2.0"), Mention("deploy/x.yaml", 3, "0.1.0"))},
            r"deploy/x.yaml:3 says 0\.1\.0, .* 0\.2\.0: python -m release --set-version 0\.2\.0",
        ),
    ],
)
def test_each_reason_against_a_release_is_a_sentence_with_a_next_step(facts, sentence):
    """Whoever releases does so rarely: nothing is left to be remembered."""
    (said,) = refusals(checkout(**facts), allow_dirty=False)
    assert re.search(sentence, said)


def test_all_reasons_are_told_at_once():
    """One run per reason would be three runs."""
    assert (
        len(refusals(checkout(changed=("x",), tagged=OTHER, section=None), allow_dirty=True)) == 2
    )


def test_a_released_commit_can_be_built_again():
    """Whoever doubts an artifact checks its tag out, and compares."""
    assert refusals(checkout(tagged=COMMIT), allow_dirty=False) == []


def test_a_dirty_tree_may_be_tried():
    """While the release's own files are being written."""
    assert refusals(checkout(changed=("x",)), allow_dirty=True) == []


def test_every_file_names_the_version_of_the_source(repository):
    """A chart that pulls images of another version fails on the cluster, not here."""
    found = mentions(repository)
    assert {mention.version for mention in found} == {__version__} == {version_of(repository)}
    named = {str(mention.path) for mention in found}
    assert {
        "core/memroute/__init__.py", "helm/memroute/Chart.yaml", "deploy/base/kustomization.yaml",
        "deploy/base/operator.yaml", "deploy/base/router.yaml", "deploy/images/Dockerfile",
        "deploy/components/images/kustomization.yaml", "README.md",
    } <= named  # fmt: skip


def test_no_manifest_names_a_version_in_a_way_that_is_not_compared(repository):
    """A new place that names the version is a place to forget."""
    known = {(mention.path, mention.line) for mention in mentions(repository)}
    for folder in ("deploy", "helm/memroute/templates"):
        for path in (repository / folder).rglob("*"):
            lines = path.read_text().splitlines() if path.is_file() else ()
            for number, line in enumerate(lines, start=1):
                if __version__ in line:
                    assert (path.relative_to(repository), number) in known


@pytest.mark.slow
def test_the_version_is_written_everywhere_at_once(repository, tmp_path):
    """One command, and nothing else changes."""
    copy_tree(repository, tmp_path)
    before = mentions(tmp_path)
    set_version(tmp_path, "7.8.9rc1")
    assert mentions(tmp_path) == [
        Mention(mention.path, mention.line, "7.8.9rc1") for mention in before
    ]
    for mention in before:
        old = (repository / mention.path).read_text()
        assert (tmp_path / mention.path).read_text().replace("7.8.9rc1", __version__) == old
    with pytest.raises(ValueError, match=r"'v1\.2' is no version: write 1\.2\.3"):
        set_version(tmp_path, "v1.2")


def test_the_section_of_the_version_goes_before_what_is_unreleased():
    """Between writing the heading and the tag, work goes on above it."""
    text = (
        "# C\n\n## [Unreleased]\n\n- next\n\n## [0.2.0] - 2026-12-01\n\n- a\n\n## [0.1.0]\n\n- b\n"
    )
    assert section_of(text, "0.2.0") == Section("0.2.0", "- a")
    assert section_of(text, "0.1.0") == Section("0.1.0", "- b")
    assert section_of(text, "0.3.0") == Section("Unreleased", "- next")
    assert section_of("# C\n", "0.3.0") is None
    assert not says_something(Section("x", "### Added\n\n"))


def test_what_git_knows_is_what_is_built(tmp_path):
    """A file that only the releaser has must not be in what everybody else cannot make."""

    def git(*words):
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        for role in ("AUTHOR", "COMMITTER"):
            environment |= {f"GIT_{role}_NAME": "n", f"GIT_{role}_EMAIL": "e",
                            f"GIT_{role}_DATE": "1790000000 +0000"}  # fmt: skip
        subprocess.run(
            ["git", "-C", root, *words], check=True, env=environment, capture_output=True
        )

    root = tmp_path / "repository"
    (root / "core/memroute").mkdir(parents=True)
    (root / "core/memroute/__init__.py").write_text('__version__ = "0.2.0"\n')
    (root / "CHANGELOG.md").write_text("## [Unreleased]\n\n- new\n")
    (root / ".gitignore").write_text("ignored\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    git("tag", "-a", "v0.2.0", "-m", "release")
    (root / "ignored").write_text("mine")
    found = gather(root)
    assert (found.version, found.epoch, found.changed) == ("0.2.0", 1790000000, ())
    assert found.tagged == found.commit
    (root / "new file").write_text("x")
    (root / "CHANGELOG.md").write_text("## [Unreleased]\n\n- newer\n")
    assert set(gather(root).changed) == {"CHANGELOG.md", "new file"}
    copy_tree(root, tmp_path / "copy")
    copied = {str(each.relative_to(tmp_path / "copy")) for each in (tmp_path / "copy").rglob("*")}
    assert copied == {
        ".gitignore", "CHANGELOG.md", "core", "core/memroute", "core/memroute/__init__.py",
        "new file",
    }  # fmt: skip


def chart_of(path, files, *, mtime, reverse=False):
    with tarfile.open(path, "w:gz") as packed:
        for name in sorted(files, reverse=reverse):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uname = len(files[name]), mtime, str(mtime)
            packed.addfile(member, io.BytesIO(files[name]))


def test_a_chart_that_was_packed_at_another_time_is_the_same_bytes(tmp_path):
    """Helm writes the time of packing; the order of files is the file system's."""
    files = {"memroute/values.yaml": b"a: 1\n", "memroute/Chart.yaml": b"name: memroute\n"}
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    chart_of(tmp_path / "one/c.tgz", files, mtime=1)
    chart_of(tmp_path / "other/c.tgz", files, mtime=2, reverse=True)
    assert differences(tmp_path / "one", tmp_path / "other")
    for folder in ("one", "other"):
        normalise_chart(tmp_path / folder / "c.tgz", 1_790_000_000)
    assert differences(tmp_path / "one", tmp_path / "other") == []
    with tarfile.open(tmp_path / "one/c.tgz") as packed:
        assert packed.getnames()[0] == "memroute/Chart.yaml"
        assert {member.mtime for member in packed} == {1_790_000_000}


def test_a_difference_is_told_by_the_file_in_the_archive(tmp_path):
    """That a wheel differs would be the beginning of a long search."""
    for folder, text, packed_at in (("one", b"x", 1), ("other", b"y", 1)):
        (tmp_path / folder).mkdir()
        chart_of(tmp_path / folder / "c.tgz", {"a": b"same", "b": text}, mtime=packed_at)
        (tmp_path / folder / "plain.yaml").write_bytes(gzip.compress(text, mtime=1))
    (tmp_path / "one/more").write_text("")
    assert differences(tmp_path / "one", tmp_path / "other") == [
        "more was made once only",
        "c.tgz differs between two builds: b",
        "plain.yaml differs between two builds: plain.yaml",
    ]


@pytest.mark.slow
def test_wheel_and_source_archive_are_the_same_bytes_from_other_folders(repository, tmp_path):
    """Whoever doubts an artifact can make it; `make release` compares the rest too."""
    for folder, umask in (("one", 0o022), ("a longer name", 0o077)):
        copy_tree(repository, tmp_path / folder / "tree")
        environment = {"PATH": os.environ["PATH"], "SOURCE_DATE_EPOCH": "1790000000",
                       "HOME": str(tmp_path / folder)}  # fmt: skip
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "--directory", tmp_path / folder / "out"],
            cwd=tmp_path / folder / "tree", env=environment, umask=umask, check=True,
            capture_output=True,
        )  # fmt: skip
    assert differences(tmp_path / "one/out", tmp_path / "a longer name/out") == []
    assert len(list((tmp_path / "one/out").iterdir())) == 2


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_bill_of_materials_names_what_the_lock_pins_for_an_image(repository, program):
    """A scanner that asks it about a package gets the version, and the hashes of its files."""
    packages = pinned((repository / "requirements" / f"{program}.txt").read_text())
    names = {package.name for package in packages}
    assert "httpx2" in names or program == "router"
    assert not names & {"colorama", "pywin32", "tzdata-windows"}, "of other systems"
    for package in packages:
        assert re.fullmatch(r"[\w.!+-]+", package.version), package
        assert package.sha256
        assert package.needed_by
        assert set(package.needed_by) <= names | {"memroute"}, package
