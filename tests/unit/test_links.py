"""A link that leads nowhere is found by the person who needs it most."""

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PAGES = sorted(
    Path(name)
    for name in subprocess.run(
        ["git", "ls-files", "*.md"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
)


def text_of(page):
    return FENCE.sub("", (REPOSITORY / page).read_text())


def anchors(page):
    """As GitHub makes them of headings."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page):
    text = text_of(page)
    for target in LINK.findall(text) + IMAGE.findall(text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (REPOSITORY / page.parent / path).resolve() if path else REPOSITORY / page
        assert file.exists(), target
        assert file.is_relative_to(REPOSITORY), target
        if anchor:
            assert anchor in anchors(file.relative_to(REPOSITORY)), target


def test_the_index_has_every_page():
    """Whoever looks for a page does not know its name."""
    linked = {
        (Path("docs") / target.partition("#")[0])
        for target in LINK.findall(text_of(Path("docs/README.md")))
    }
    pages = {page for page in PAGES if page.parts[0] == "docs" and page.parts[1] != "adr"}
    assert pages - linked == {Path("docs/README.md")}
