"""The router against its own description: schemathesis makes requests of it, good and bad."""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from ports import free_port
from router_rig import Engine, whole

LISTENING = r"(?s)operations listening \S+ ops_port=(\d+).* listening host=\S+ port=(\d+)"
EXAMPLES = os.environ.get("MEMROUTE_OPENAPI_EXAMPLES", "25")


@pytest.fixture
def engine_port():
    """A scripted engine that answers everything, in a thread of its own."""
    loop = asyncio.new_event_loop()
    engine = Engine(whole())
    loop.run_until_complete(engine.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield engine.port
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(engine.stop())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()


@pytest.fixture
def router(engine_port, tmp_path):
    """The addresses of a router process in static mode: for clients, and for operations."""
    config = tmp_path / "router.yaml"
    config.write_text(f"models:\n  - name: m\n    replicas: [http://127.0.0.1:{engine_port}]\n")
    log = tmp_path / "log"
    command = [Path(sys.executable).parent / "memroute-router", "--config", config]
    with log.open("w") as output:
        process = subprocess.Popen(
            # 0 is no port of operations: there would be none.
            [*command, "--host", "127.0.0.1", "--port", "0", "--ops-port", str(free_port())],
            stderr=output,
        )
        try:
            deadline = time.monotonic() + 240
            while not (told := re.search(LISTENING, log.read_text())):
                assert time.monotonic() < deadline, log.read_text()
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            yield f"http://127.0.0.1:{told[2]}", f"http://127.0.0.1:{told[1]}"
        finally:
            process.terminate()
            assert process.wait(60) == 0
    assert "Traceback" not in log.read_text()


def in_flight(operations):
    """Tokens that the only replica's requests hold, and how many requests there are."""
    with urllib.request.urlopen(f"{operations}/debug/replicas") as answer:
        (replica,) = json.load(answer)
    return replica["reserved_tokens"], replica["num_in_flight"]


def test_every_answer_is_one_that_is_described(router, tmp_path):
    """Statuses, types and bodies as documented; what is described is accepted, the rest is not."""
    for url in router:
        command = [Path(sys.executable).parent / "schemathesis", "run", f"{url}/openapi.json"]
        found = subprocess.run(
            [*command, "--max-examples", EXAMPLES, "--seed", "1", "--no-color",
             "--request-timeout", "120"],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert found.returncode == 0, found.stdout[-5000:]
        assert "No issues found" in found.stdout, found.stdout[-5000:]
    _, operations = router
    deadline = time.monotonic() + 240
    while (left := in_flight(operations)) != (0, 0):  # a client that has left is seen to have left
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    with urllib.request.urlopen(f"{operations}/metrics") as answer:
        assert 'outcome="served"' in answer.read().decode()
