"""A network of the test's own, in which pods have networks of theirs.

```text
the machine's network        (nothing of it is touched)
the test's: 127.0.0.0/8, bridge "pods" 10.244.0.1     control plane, pilot, pickers, the test itself
  └─ a pod's: eth0 10.244.0.N                          Envoy, model servers
```

All of them are nameless: the kernel takes them away with the last process in them, however that
ends, and nothing has to be cleaned up.
"""

import ctypes
import os
import shutil
import subprocess
import time
from pathlib import Path

BRIDGE = "pods"
PREFIX = "10.244.0."
GATEWAY_ADDRESS = f"{PREFIX}1"
CLONE_NEWNET = 0x40000000
WAIT_SECONDS = 120.0
PROGRAMS = {"ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}
"""What the networks are made with, and the Debian package that has it."""


def check_programs() -> None:
    """Raises ``RuntimeError`` where one of ``PROGRAMS`` is missing."""
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            message = f"{program} is not on PATH (on Debian: {package})"
            raise RuntimeError(message)


class PrivateNetwork:
    """While it is entered, this process (and what it starts) is in a network of its own."""

    def __enter__(self):
        self._before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            why = os.strerror(ctypes.get_errno())
            message = (
                f"these tests need a network of their own, which is root's to make ({why}): run "
                "them as root, or by `unshare --map-root-user make gateway-test`"
            )
            raise RuntimeError(message)
        _ip("link", "set", "lo", "up")
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{GATEWAY_ADDRESS}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        # It leads nowhere; kube-apiserver looks for one to know which address is its own.
        _ip("route", "add", "default", "dev", BRIDGE)
        return self

    def __exit__(self, *_):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(self._before, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot go back to the network from before")
        os.close(self._before)


class PodNetwork:
    """A network with one address on the bridge. Owns the process that keeps it."""

    def __init__(self, address: str, environment: dict[str, str]) -> None:
        self.address = address
        self._keeper = subprocess.Popen(
            ["unshare", "--net", "sleep", "infinity"], env=os.environ | environment
        )
        self._wait()
        number = address.rpartition(".")[2]
        _ip("link", "add", f"pod{number}", "type", "veth",
            "peer", "name", "eth0", "netns", str(self._keeper.pid))  # fmt: skip
        _ip("link", "set", f"pod{number}", "master", BRIDGE, "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            _run(*self.inside("ip", *words))

    def inside(self, *command: str) -> list[str]:
        """How a command runs in it."""
        return ["nsenter", f"--net=/proc/{self._keeper.pid}/ns/net", "--", *command]

    def close(self) -> None:
        """Let it go: with the last process in it, it is gone."""
        self._keeper.kill()
        self._keeper.wait()

    def _wait(self) -> None:
        """Until the keeper is in a network that is not ours."""
        ours = Path("/proc/thread-self/ns/net").readlink()
        deadline = time.monotonic() + WAIT_SECONDS
        while Path(f"/proc/{self._keeper.pid}/ns/net").readlink() == ours:
            if self._keeper.poll() is not None or time.monotonic() > deadline:
                message = "a pod's network could not be made"
                raise RuntimeError(message)
            time.sleep(0.01)


def add_address(address: str) -> None:
    """One more address of the test's own network."""
    _ip("address", "add", f"{address}/24", "dev", BRIDGE)


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        message = f"{' '.join(command)}: {result.stderr.strip()}"
        raise RuntimeError(message)
