"""Resident memory of a process, as the kernel has it."""

from pathlib import Path


def resident_bytes(pid: int) -> int:
    """What is resident now."""
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The most that was resident since ``forget_peak``: no sample misses it."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """The peak is what is resident now (proc(5), ``clear_refs``)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    msg = f"/proc/{pid}/status has no {name}"
    raise RuntimeError(msg)
