import re
import subprocess
import sys
import tomllib


def test_operator_is_no_package(repository):
    """operator/__init__.py would shadow Python's own module for anyone at the root."""
    assert not (repository / "operator" / "__init__.py").exists()
    assert not list((repository / "tests").rglob("__init__.py"))


def test_what_tests_share_is_found_by_its_name_alone(repository):
    """Its folders are on the path of pytest, and no two files there have one name."""
    settings = tomllib.loads((repository / "pyproject.toml").read_text())
    path = settings["tool"]["pytest"]["ini_options"]["pythonpath"]
    files = list((repository / "tests" / "support").rglob("*.py"))
    folders = {str(file.parent.relative_to(repository)) for file in files}
    assert folders == {each for each in path if each.startswith("tests/support")}
    assert len({file.name for file in files}) == len(files)


def test_a_clean_interpreter_at_the_root_still_works(repository):
    """``import collections`` needs the standard library's ``operator``."""
    code = "import collections, operator; operator.itemgetter"
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True)


def test_lock_files_hold_versions_and_hashes_and_no_address(repository):
    for path in (repository / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text, path
        assert "--hash=sha256:" in text, path
        assert not re.search(r"^--(extra-)?index-url", text, re.MULTILINE), path


def _undescribed(schema, path):
    for name, child in schema.get("properties", {}).items():
        if not child.get("description"):
            yield f"{path}.{name}"
        yield from _undescribed(child, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from _undescribed(schema["items"], f"{path}[]")


def test_every_field_of_the_crd_teaches(crd):
    """``kubectl explain`` is where people look first."""
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for part in ("spec", "status"):
        assert list(_undescribed(schema[part], part)) == []


def test_the_chart_carries_the_crd_byte_for_byte(repository):
    name = "modeldeployments.memroute.dev.yaml"
    ours = (repository / "crds" / name).read_bytes()
    assert (repository / "helm" / "memroute" / "files" / "crds" / name).read_bytes() == ours


def test_every_target_of_the_makefile_has_help(repository):
    text = (repository / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    documented = re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE)
    assert sorted(phony) == sorted(documented)
