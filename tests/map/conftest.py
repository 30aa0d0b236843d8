"""The live map in a real browser: opt-in (``make map-test``), for it needs Chromium."""

import os
import shutil
import sys
from pathlib import Path

import pytest

TOOLS = Path(os.environ.get("MEMROUTE_MAP_TOOLS", ".map-test"))
# What `make map-test` has put there; last, so that nothing of the project's is hidden by it.
sys.path.append(str(TOOLS / "python"))


from map_rig import MapRig  # noqa: E402 - after the path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SETTLE_SECONDS = 120.0


@pytest.fixture(scope="session")
def pictures():
    """Where screenshots are written."""
    folder = TOOLS / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def axe():
    """axe-core as a script."""
    return (TOOLS / "node" / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.fixture(scope="session")
def small(browser):  # noqa: ARG001 - without one there is nothing to start
    """Five nodes."""
    with MapRig(num_nodes=5) as rig:
        yield rig


@pytest.fixture(scope="module")
def large(browser):  # noqa: ARG001 - as above
    """50 nodes with 400 devices."""
    with MapRig(num_nodes=50) as rig:
        yield rig


@pytest.fixture(scope="session")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("no browser test has run: `make map-test` installs what they need")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path is not None, f"none of {', '.join(BROWSERS)} is installed"
    with sync_playwright() as playwright:
        it = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield it
        it.close()


class Watched:
    """A page, what its console has said, and whom it has asked."""

    def __init__(self, browser, rig, *, scheme="light", width=1280, height=800, scale=1, **more):
        self.context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            device_scale_factor=scale,
            bypass_csp=False,
            **more,
        )
        self.context.set_default_timeout(SETTLE_SECONDS * 1000)
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda one: self.said.append(f"{one.type}: {one.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.rig = rig

    def open(self, query=""):
        self.page.goto(self.rig.url + query)
        self.wait("live")
        self.page.wait_for_selector(".device")
        return self.page

    def wait(self, state):
        self.page.wait_for_selector(f"#connection[data-state={state}]")

    def next_update(self):
        """Wait until the router has answered twice more: what is shown is from now on."""
        for _ in range(2):
            with self.page.expect_response(lambda answer: "live.json" in answer.url):
                pass


@pytest.fixture
def opened(browser):
    """Opens pages; closes them."""
    pages = []

    def make(rig, **options):
        pages.append(Watched(browser, rig, **options))
        return pages[-1]

    yield make
    for one in pages:
        one.context.close()
