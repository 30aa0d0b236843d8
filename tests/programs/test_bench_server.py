"""Servers that benchmarks and tests start: what is told when they do not, and that none stays."""

import sys
import time
from pathlib import Path

import pytest

from bench.server import Server, ServerError, is_ok, serving
from ports import free_port

SERVES = """\
import http.server, sys
address = ("127.0.0.1", int(sys.argv[1]))
http.server.HTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()
"""
WITH_CHILD = """\
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def port():
    return free_port()


def server(code, port, folder):
    return Server(
        [sys.executable, "-c", code, str(port)],
        url=f"http://127.0.0.1:{port}",
        log=folder / "log",
    )


def test_it_serves_until_the_block_ends(port, tmp_path):
    (tmp_path / "health").write_text("")
    code = f"import os; os.chdir({str(tmp_path)!r})\n{SERVES}"
    one = server(code, port, tmp_path)
    with serving(one, within_seconds=20):
        assert is_ok(f"{one.url}/health")
        assert one.usage().rss_bytes > 0
        with pytest.raises(ServerError, match="something else serves"):
            server(code, port, tmp_path).start()
    assert not is_ok(f"{one.url}/health")


@pytest.mark.parametrize(
    ("code", "within_seconds", "told"),
    [
        ("raise SystemExit('no such model')", 20, r"ended; it said:\s+no such model"),
        ("import time; time.sleep(60)", 0.3, r"was not ready after 0\.3 s"),
    ],
)
def test_one_that_is_not_ready_is_told_with_its_last_words(
    code, within_seconds, told, port, tmp_path
):
    one = server(code, port, tmp_path)
    with pytest.raises(ServerError, match=told), serving(one, within_seconds=within_seconds):
        pytest.fail("it is not ready")


def test_one_that_cannot_be_started_is_told(tmp_path):
    one = Server(["/nowhere/engine"], url="http://127.0.0.1:1", log=tmp_path / "log")
    with pytest.raises(ServerError, match="/nowhere/engine cannot be started"):
        one.start()
    one.stop()


def test_its_children_end_with_it_even_when_it_does_not_listen(port, tmp_path):
    one = server(WITH_CHILD, port, tmp_path)
    one.start()
    log = tmp_path / "log"
    deadline = time.monotonic() + 20
    while not log.read_text().strip() and time.monotonic() < deadline:
        time.sleep(0.02)
    child = Path("/proc") / log.read_text().strip()
    assert child.exists()
    one.stop(within_seconds=0.3)
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(child)


def _runs(process: Path) -> bool:
    """Whether it is there, and not only waited for by nobody."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
