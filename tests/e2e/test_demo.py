import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from followed_pages import Reader
from memroute_simulator.emulated_cluster import find_kubectl
from page_blocks import scripts

MEMROUTE = str(Path(sys.executable).parent / "memroute")


@pytest.fixture
def place(tmp_path):
    """A place for temporary files of the test's own; whoever uses it must leave nothing."""
    yield tmp_path
    deadline = time.monotonic() + 120
    while (left := leftovers(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def leftovers(place):
    """Files in the place, and processes whose temporary files are there."""
    tag = f"TMPDIR={place}".encode()
    found = [str(path) for path in place.iterdir()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
                if any(variable.startswith(tag) for variable in variables):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


@contextlib.contextmanager
def demo(place, *arguments):
    """A running demo; ended with the block, however that ends."""
    process = subprocess.Popen(
        [MEMROUTE, "demo", *arguments],
        env=os.environ | {"TMPDIR": str(place), "COLUMNS": "160"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()


def read_until(process, word):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def test_the_demo_does_its_job_and_leaves_nothing(place):
    with demo(place, "--seconds", "25") as process:
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "✗" not in output
    assert output.count("✓") >= 9
    for word in ("placements, and why", "TTFT P50", "NoDeviceLargeEnough", "400 never-fits"):
        assert word in output


def exported(output):
    """What the demo tells a second terminal to export, but for the checkout's own programs."""
    words = " ".join(re.findall(r"^\s*export (.*)$", output, re.MULTILINE)).split()
    return dict(word.split("=", 1) for word in words if not word.startswith("PATH="))


def follow_the_first_hour(process, folder):
    """Every command of the tutorial, on the demo that it begins with."""
    output = ""
    while len(told := exported(output)) < 3:
        output += process.stdout.readline()
    reader = Reader(folder / "home", environment=told | {"PAGE_KUBECTL": find_kubectl()})
    for block in scripts("docs/tutorial/first-hour.md", on_cluster=True):
        assert reader.follow([block], changes=True) == ""
        if "patch mdep/large" in block.script:
            waiting = "kubectl wait --for=condition=Ready mdep/large\n"
            assert reader.follow([replace(block, text=waiting)], changes=True) == ""


def test_after_the_first_hour_nothing_is_left(place, tmp_path_factory):
    """Not even after the tutorial's refusals, scaling, and machine that died."""
    with demo(place, "--seconds", "0", "--keep") as process:
        read_until(process, "kept running")
        assert len(leftovers(place)) > 8
        follow_the_first_hour(process, tmp_path_factory.mktemp("reader"))
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=240)
    assert code == 130


def test_two_demos_at_once_do_not_clash_and_whatever_ends_them_nothing_is_left(place):
    """One is asked to go, the other is killed."""
    # Long enough for requests after the death of a replica, which a busy machine sees late.
    arguments = ("--seconds", "25", "--keep")
    with demo(place, *arguments) as one, demo(place, *arguments) as other:
        for process in (one, other):
            output = read_until(process, "kept running")
            assert "✗" not in output
            assert "the job was not done" not in output
        one.send_signal(signal.SIGTERM)
        other.send_signal(signal.SIGKILL)
        assert (one.wait(timeout=240), other.wait(timeout=240)) == (143, -9)
