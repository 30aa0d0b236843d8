"""Sentences on stderr: folded where a person reads them, one line where a program does."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

COLUMNS = 60
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "COLUMNS"}


def on_terminal(words):
    """What a program says on a terminal of 60 columns, and its exit status."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    said = b""
    with subprocess.Popen(
        [sys.executable, "-m", *words], stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT
    ) as process:
        os.close(theirs)
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:  # EIO: the program has ended, and with it the other side
            pass
        process.wait(timeout=60)
    os.close(ours)
    return said.decode().replace("\r\n", "\n"), process.returncode


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("memroute_router", "--log-format", "jsn"),
        ("memroute_operator", "--resync-seconds", "often"),
        ("memroute_simulator", "nods"),
        ("memroute_cli", "simulate", "no-such-scenario.yaml"),
        ("memroute_cli", "plan", "--no-such-option-that-anybody-would-ever-type"),
        ("memroute_cli", "planning-of-something"),
    ],
)
def test_a_sentence_is_folded_on_a_terminal_alone(words):
    """A terminal breaks words in their middle; a log is searched line by line."""
    told = subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True, text=True, check=False, timeout=60, env=ENVIRONMENT,
    )  # fmt: skip
    assert told.returncode != 0
    assert max(map(len, told.stderr.splitlines())) > COLUMNS
    said, status = on_terminal(words)
    assert status == told.returncode
    assert max(map(len, said.splitlines())) <= COLUMNS
    assert said.split() == told.stderr.split()
