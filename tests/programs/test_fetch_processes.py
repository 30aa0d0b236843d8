"""``memroute-fetch`` as processes: killed, stopped, two at once, and how much memory one takes."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

import fake_hub
from fake_hub import SHARDS, FakeHub, Repository, tiny_files
from memroute_fetch import MARKER_NAME, model_directory
from memroute_fetch.remotes.http import PIECE_BYTES

# Larger than what the program hands on at once, so that a killed one has something on the disk.
LARGE = bytes(range(256)) * 8192
FILES = {"config.json": b"{}", "model.safetensors": LARGE}
HALF = 2**20
# Of that, what is surely on the disk: the rest may still be in the program's hand.
THERE = HALF - PIECE_BYTES
# Bytes of the model whose memory is measured, and how much of it the program may have in memory.
BIG_BYTES, GROWTH_BYTES = 64 * 2**20, 16 * 2**20
# Not what the kernel says of children that ended: that counts their parent's memory too.
MEASURED = """
import os, sys, threading
from memroute_fetch.program import run
code = run(sys.argv[1:], os.environ, threading.Event())
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")), end="")
sys.exit(code)
"""


@pytest.fixture
def hub():
    with FakeHub({"org/large": Repository(FILES)}) as running:
        yield running


@contextlib.contextmanager
def started(hub, cache, program=("-m", "memroute_fetch")):
    """The program, running; ended with the context."""
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": ""}
    arguments = [
        source(hub), "--cache", str(cache), "--port", "0", "--keep-free-bytes", "0",
        "--termination-log", str(cache.parent / "last-words"),
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-u", *program, *arguments],
        env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def source(hub):
    ((name, repository),) = hub.repositories.items()
    return f"hf://{name}@{repository.commit}"


def port_of(process):
    """Where it answers, by its first line."""
    return int(re.fullmatch(r"progress at port (\d+)\n", process.stdout.readline())[1])


def progress(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=30) as answer:
        return json.load(answer)


def until(condition, what):
    """What the condition gives, as soon as it is something."""
    for _ in range(600):
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"never: {what}")


def test_a_killed_download_goes_on_and_its_lock_is_gone(hub, tmp_path):
    """Kill -9 in the middle (an OOM-kill, a node that restarts): what is there is not asked for."""
    cache = tmp_path / "cache"
    hub.faults["model.safetensors"] = [fake_hub.stall(HALF)]
    with started(hub, cache) as process:
        port = port_of(process)
        until(lambda: progress(port)["bytes_done"] >= THERE, "half of it is there")
        told = progress(port)
        assert (told["phase"], told["bytes_total"]) == ("downloading", len(LARGE) + 2)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    folder = cache / model_directory(source(hub))
    assert not (folder / MARKER_NAME).exists()
    with started(hub, cache) as process:
        assert process.wait(60) == 0
    assert (folder / "model.safetensors").read_bytes() == LARGE
    first, second = (one.byte_range for one in hub.requests if one.is_cdn)
    assert first is None
    assert THERE <= int(re.fullmatch(rf"bytes=(\d+)-{len(LARGE) - 1}", second)[1]) <= HALF


def test_a_stopped_download_ends_at_once_and_goes_on(hub, tmp_path):
    """A pod that is deleted has its grace period; what was fetched is not lost."""
    cache = tmp_path / "cache"
    hub.faults["model.safetensors"] = [fake_hub.stall(HALF)]
    with started(hub, cache) as process:
        port = port_of(process)
        until(lambda: progress(port)["bytes_done"] >= THERE, "half of it is there")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert "kept" in (tmp_path / "last-words").read_text()
    with started(hub, cache) as process:
        assert process.wait(60) == 0
    assert hub.bytes_sent["model.safetensors"] <= len(LARGE) + PIECE_BYTES


def test_a_stop_does_not_wait_for_a_hub_that_says_nothing(hub, tmp_path):
    """A list that never comes: the pod is gone long before its grace is over."""
    hub.faults["tree"] = [fake_hub.stall()]
    with started(hub, tmp_path / "cache") as process:
        until(lambda: hub.requests, "the list is asked for")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143


def test_two_at_once_download_once_and_the_second_says_that_it_waits(hub, tmp_path):
    """Two replicas start on one node: the bytes come once, and both end with the whole model."""
    cache = tmp_path / "cache"
    go_on = threading.Event()
    hub.faults["model.safetensors"] = [fake_hub.held(HALF, go_on)]
    with started(hub, cache) as first:
        port = port_of(first)
        until(lambda: progress(port)["bytes_done"] >= THERE, "half of it is there")
        with started(hub, cache) as second:
            other = port_of(second)
            told = until(
                lambda: (seen := progress(other))["phase"] == "waiting"
                and "GiB" in seen["message"] and seen,
                "the second waits",
            )  # fmt: skip
            assert "another pod fetches hub--org--large" in told["message"]
            assert "downloading" in told["message"]
            go_on.set()
            assert (first.wait(60), second.wait(60)) == (0, 0)
    assert hub.bytes_sent["model.safetensors"] == len(LARGE)
    assert hub.bytes_sent["config.json"] == 2


def test_a_waiter_takes_over_from_a_killed_one(hub, tmp_path):
    """A lock ends with its holder: nobody waits for one that is gone."""
    cache = tmp_path / "cache"
    hub.faults["model.safetensors"] = [fake_hub.stall(HALF)]
    with started(hub, cache) as first:
        port = port_of(first)
        until(lambda: progress(port)["bytes_done"] >= THERE, "half of it is there")
        with started(hub, cache) as second:
            other = port_of(second)
            until(lambda: progress(other)["phase"] == "waiting", "the second waits")
            first.send_signal(signal.SIGKILL)
            assert second.wait(60) == 0
    assert hub.bytes_sent["model.safetensors"] <= len(LARGE) + PIECE_BYTES


def test_memory_does_not_grow_with_the_model(tmp_path):
    """Downloaders that buffer took 8 GB and were OOM-killed: 64 MiB go through less than 16."""
    big = bytes(2**20) * (BIG_BYTES // 2 // 2**20)
    files = {"config.json": b"{}"} | dict.fromkeys(SHARDS, big)
    with FakeHub({"org/big": Repository(files)}) as hub:
        peak = _peak_bytes(hub, tmp_path / "big")
    with FakeHub({"org/tiny": Repository(tiny_files())}) as hub:
        base = _peak_bytes(hub, tmp_path / "tiny")
    assert peak - base < GROWTH_BYTES


def _peak_bytes(hub, cache):
    """The most memory that one run had at once, by the kernel's count of the process alone."""
    with started(hub, cache, program=("-c", MEASURED)) as process:
        last = process.stdout.read().splitlines()[-1]
        assert process.wait(60) == 0
    return int(re.fullmatch(r"VmHWM:\s+(\d+) kB", last)[1]) * 1024
