"""What a person at the map meets: with a keyboard, without colours, when the router goes away."""

import json
from urllib.parse import urlsplit

import pytest

# What axe checks: WCAG 2.0 to 2.2, A and AA, and what it calls best practices.
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SIZES = {"desk": (1280, 800, 1), "phone": (390, 844, 1), "twice as large": (640, 400, 2)}


def findings(page, axe):
    """What axe-core finds, in words. It is run beside the page's policy, as a debugger would."""
    session = page.context.new_cdp_session(page)
    session.send("Runtime.evaluate", {"expression": axe})
    expression = (
        f"axe.run({{runOnly: {json.dumps(TAGS)}}}).then((r) => JSON.stringify(r.violations))"
    )
    answer = session.send(
        "Runtime.evaluate",
        {"expression": expression, "awaitPromise": True, "returnByValue": True},
    )
    return [
        f"{one['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for one in json.loads(answer["result"]["value"])
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing(opened, small, axe, pictures, scheme, size):
    """In both schemes, at a desk, on a phone, at 200 %; with a device selected, and as a table."""
    width, height, scale = SIZES[size]
    it = opened(small, scheme=scheme, width=width, height=height, scale=scale)
    page = it.open()
    page.locator(".device").nth(9).click()
    it.next_update()
    name = f"{size.replace(' ', '-')}-{scheme}"
    page.screenshot(path=pictures / f"{name}.png")
    page.screenshot(path=pictures / f"{name}-whole.png", full_page=True)
    assert findings(page, axe) == []
    page.select_option("#view", "table")
    it.next_update()
    page.screenshot(path=pictures / f"{name}-table.png")
    assert findings(page, axe) == []
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, "the page itself never scrolls sideways"
    assert it.said == []


def test_the_picture_of_the_documentation(opened, small, pictures):
    """``docs/how-to/live-map.png`` is this one: all that the map says, at a glance."""
    it = opened(small, scheme="dark")
    page = it.open()
    page.wait_for_selector("#waiting-requests .why")
    it.next_update()
    path = pictures / "live-map.png"
    page.screenshot(path=path)
    assert path.stat().st_size < 250_000


def test_nothing_is_asked_of_anybody_else_and_the_console_is_silent(opened, small):
    """An on-call engineer's laptop may reach this router and nothing else; so may an attacker's."""
    it = opened(small)
    page = it.open()
    for view in ("table", "map"):
        page.select_option("#view", view)
        it.next_update()
    assert it.said == []
    own = urlsplit(small.url)
    assert {urlsplit(url).netloc for url in it.asked} == {own.netloc}
    assert all(urlsplit(url).path.startswith("/map/") for url in it.asked)


def test_the_policy_holds(opened, small):
    """A name that held markup, or a script of elsewhere, would run as whoever looks."""
    it = opened(small)
    page = it.open()
    blocked = page.evaluate(
        """async () => {
          const found = [];
          const violated = (event) => found.push(event.effectiveDirective);
          document.addEventListener("securitypolicyviolation", violated);
          const script = document.createElement("script");
          try { script.textContent = "window.ran = true"; document.head.append(script); }
          catch (error) { found.push("trusted-types"); }
          try { document.body.insertAdjacentHTML("beforeend", "<b>x</b>"); }
          catch (error) { found.push("trusted-types"); }
          await fetch("http://127.0.0.1:9/").catch(() => 0);
          await new Promise((resolve) => setTimeout(resolve, 200));
          return [found, window.ran ?? false];
        }"""
    )
    assert blocked[1] is False
    assert {"trusted-types", "connect-src"} <= set(blocked[0])


def test_it_is_walked_by_keys(opened, small):
    """One stop of the tab order for all devices; arrows move, Enter shows, Escape closes."""
    it = opened(small)
    page = it.open()
    where = "document.activeElement.dataset.key ?? document.activeElement.id"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    for wanted in ("shown", "find"):
        page.keyboard.press("Tab")
        assert page.evaluate(where) == wanted
    page.keyboard.press("Tab")
    first = page.evaluate(where)
    assert first.startswith("gpu-00 ")
    page.keyboard.press("ArrowDown")
    second = page.evaluate(where)
    assert second.startswith("gpu-00 ")
    assert second != first
    page.keyboard.press("ArrowRight")
    assert page.evaluate(where).startswith("gpu-01 ")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(where) == second
    page.keyboard.press("Enter")
    assert page.locator("#selected-body h3").first.inner_text() == "gpu-00, device 1"
    it.next_update()
    assert page.evaluate(where) == second, "an update takes the focus from nobody"
    page.keyboard.press("Escape")
    assert "Select a device" in page.locator("#selected-body").inner_text()
    page.keyboard.press("End")
    page.keyboard.press("Home")
    assert page.evaluate(where) == first
    stops = page.evaluate("document.querySelectorAll('.device[tabindex=\"0\"]').length")
    assert stops == 1


def test_it_is_heard_without_being_seen(opened, small):
    """Each device says its own sentence; what nobody knows is called unknown, and is not 0."""
    it = opened(small)
    page = it.open()
    told = page.locator(".device .unseen").first.inner_text()
    assert told.startswith("gpu-00, device 0, 79.2 GiB; weights ")
    assert "KV cache, used" in told
    page.select_option("#view", "table")
    rows = page.locator("#table-view tbody tr").all_inner_texts()
    assert any("unknown" in row for row in rows)
    assert not any("NaN" in row or "undefined" in row or "null" in row for row in rows)


def test_pause_holds_everything_still(opened, small, axe):
    """What moves can be stopped, to read it; nothing is asked meanwhile."""
    it = opened(small)
    page = it.open()
    page.click("#pause")
    it.wait("paused")
    before, asked = page.locator("main").inner_text(), len(it.asked)
    page.wait_for_timeout(3000)
    assert page.locator("main").inner_text() == before
    assert len(it.asked) <= asked + 1, "one may have been under way"
    assert findings(page, axe) == []
    page.click("#pause")
    it.wait("live")


def test_who_wants_no_motion_gets_none(opened, small):
    it = opened(small, reduced_motion="reduce")
    page = it.open()
    moving = page.evaluate("getComputedStyle(document.querySelector('.fill')).transitionDuration")
    assert moving == "0s"


def test_it_says_what_waits_and_what_is_decided(opened, small):
    it = opened(small)
    page = it.open()
    waiting = page.locator("#waiting-models")
    page.wait_for_selector("#decisions li:nth-child(6)")
    assert "default/giant NoDeviceLargeEnough 0 of 1 ready" in " ".join(
        waiting.inner_text().split()
    )
    assert "152.6 GiB" in waiting.inner_text(), "with the numbers of the condition"
    page.wait_for_selector("#waiting-requests .why")
    assert "closed to it" in page.locator("#waiting-requests").inner_text()
    page.select_option("#kinds", "bad")
    assert page.locator("#decisions li.served").count() == 0


def test_it_finds_a_model_a_node_and_what_is_foreign(opened, small):
    it = opened(small)
    page = it.open()
    page.fill("#find", "gpu-01 draft")
    shown = page.locator(".device:visible")
    assert 0 < shown.count() < 8
    page.fill("#find", "no such thing")
    assert page.locator("#devices-none").is_visible()
    page.fill("#find", "")
    page.select_option("#shown", "foreign")
    assert page.locator(".device:visible").count() == 1


def test_the_theme_is_chosen_and_kept(opened, small):
    it = opened(small, scheme="light")
    page = it.open()
    page.select_option("#theme", "dark")
    page.reload()
    it.wait("live")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 20, 27)"


def test_a_router_that_goes_and_comes_again(opened, small):
    """The page says since when it knows nothing new, and goes on by itself."""
    it = opened(small)
    page = it.open()
    small.stop_router()
    try:
        it.wait("disconnected")
        assert page.locator("#connection").inner_text().startswith("disconnected since ")
        assert "retrying" in page.locator("#connection").inner_text()
        assert page.locator(".device").count() > 0, "what was known last stays"
    finally:
        small.start_router()
    it.wait("live")


def test_a_router_without_kubernetes_shows_its_replicas_and_says_so(opened, small, tmp_path):
    """There is no operator then, and nobody who knows of devices."""
    address, port = next(iter(small.engines.models)), small.engine_port
    config = tmp_path / "router.yaml"
    config.write_text(f"models: [{{name: m, replicas: ['http://{address}:{port}']}}]")
    small.stop_router()
    small.start_router("--config", str(config))
    try:
        it = opened(small)
        page = it.open()
        assert "reads its replicas from a file" in page.locator("#fleet-note").inner_text()
        page.locator(".device").first.click()
        assert "KV cache, used" in page.locator("#selected-body").inner_text()
    finally:
        small.stop_router()
        small.start_router()
