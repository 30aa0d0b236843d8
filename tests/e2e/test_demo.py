import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MEMROUTE = str(Path(sys.executable).parent / "memroute")


@pytest.fixture
def place(tmp_path):
    """A place for temporary files of the test's own; whoever uses it must leave nothing."""
    yield tmp_path
    deadline = time.monotonic() + 20
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
                if tag in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


def start(place, *arguments):
    return subprocess.Popen(
        [MEMROUTE, "demo", *arguments],
        env=os.environ | {"TMPDIR": str(place), "COLUMNS": "160"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process, word):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def test_the_demo_does_its_job_and_leaves_nothing(place):
    process = start(place, "--seconds", "25")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "✗" not in output
    assert output.count("✓") >= 9
    for word in ("placements, and why", "TTFT p50", "NoDeviceLargeEnough", "400 never-fits"):
        assert word in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_demo_nothing_is_left(place, number):
    process = start(place, "--seconds", "0", "--keep")
    with process.stdout:
        read_until(process, "kept running")
        assert len(leftovers(place)) > 8
        process.send_signal(number)
        code = process.wait(timeout=60)
    assert code in {signal.SIGINT: [130], signal.SIGTERM: [143], signal.SIGKILL: [-9]}[number]


def test_two_demos_at_once_do_not_clash(tmp_path):
    places = [tmp_path / name for name in "ab"]
    for each in places:
        each.mkdir()
    processes = [start(each, "--seconds", "5") for each in places]
    for process in processes:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    assert leftovers(places[0]) == leftovers(places[1]) == []
