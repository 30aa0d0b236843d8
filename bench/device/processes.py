"""Other processes on a device: one that only has a context, some that move memory at once.

Each is this program again (``python -m bench.device --child …``). It says ``ready`` once its
context is open, and begins when it is told so by a line, so that all begin together.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.device.driver import CudaDevice, Device, DriverError, Way, load_devices
from bench.device.parts import LOCAL_BYTES

# Copies between two looks at the clock: a third of a second on the slowest device that is known.
BATCH = 64
READY_SECONDS = 30.0


class CudaMachine:
    """This machine."""

    def __init__(self) -> None:
        self.devices: Sequence[Device] = load_devices()

    @contextmanager
    def hold(self, index: int) -> Iterator[None]:
        """Another process has a context, and nothing else."""
        (child,) = _started(["hold", str(index)], 1)
        try:
            yield
        finally:
            child.communicate("go\n", timeout=READY_SECONDS)

    def sharers(self, index: int, count: int, seconds: float) -> list[float]:
        """Bytes per second of each of so many processes."""
        children = _started(["share", str(index), str(seconds)], count)
        for child in children:
            if child.stdin is not None:
                child.stdin.write("go\n")
                child.stdin.flush()
        told = [child.communicate(timeout=seconds + READY_SECONDS)[0] for child in children]
        return [float(text.split()[-1]) for text in told]


def _started(words: list[str], count: int) -> list[subprocess.Popen[str]]:
    children = [
        subprocess.Popen(  # noqa: S603 - this program
            [sys.executable, "-m", "bench.device", "--child", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(count)
    ]  # fmt: skip
    for child in children:
        line = "" if child.stdout is None else child.stdout.readline()
        if line.strip() != "ready":
            for other in children:
                other.kill()
            call = "another process on the device"
            raise DriverError(call, child.wait())
    return children


def run_child(words: Sequence[str]) -> None:
    """What another process does: ``hold INDEX`` or ``share INDEX SECONDS``."""
    kind, index, *rest = words
    device = next(one for one in load_devices() if one.index == int(index))
    device.open()
    print("ready", flush=True)
    sys.stdin.readline()
    if kind == "share":
        print(_moved_per_second(device, float(rest[0])), flush=True)


def _moved_per_second(device: CudaDevice, seconds: float) -> float:
    moved, begun = 0, time.perf_counter()
    spent = 0.0
    while time.perf_counter() - begun < seconds:
        spent += device.copy_seconds(Way.LOCAL, LOCAL_BYTES, BATCH, pinned=True)
        moved += 2 * LOCAL_BYTES * BATCH
    return moved / spent if spent else 0.0
