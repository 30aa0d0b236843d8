"""The process that outlives a launcher by a moment, and leaves nothing behind.

Started first, with a pipe from its launcher as standard input. It claims a loopback network,
makes the cluster's directory, says so in one line of JSON, and waits. When the pipe closes,
because the launcher is done or because it was killed, it ends every process that carries the
cluster's tag, removes the directory, and exits. Ctrl-C does not reach it: it has a session of
its own.

A network is 127.N.0.0/16. The claim is an abstract Unix socket: the kernel releases it with
the process, so no lock file can be left over, and two clusters on one machine never meet.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

TAG = "MEMROUTE_CLUSTER"
FIRST_NETWORK = 16
LAST_NETWORK = 254
# Below 127.16 live the addresses that resolvers and other software like to take.


def claim_network() -> tuple[int, socket.socket]:
    """A number N such that 127.N.0.0/16 is ours while the socket lives."""
    networks = list(range(FIRST_NETWORK, LAST_NETWORK + 1))
    random.shuffle(networks)
    for network in networks:
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0memroute-network-{network}")
        except OSError:
            claim.close()
            continue
        return network, claim
    msg = "every loopback network is taken: too many clusters on this machine"
    raise RuntimeError(msg)


def tagged_processes(cluster_id: str) -> list[int]:
    """The process ids that carry the cluster's tag in their environment."""
    wanted = f"{TAG}={cluster_id}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # it ended meanwhile, or belongs to another user
        if wanted in environment.split(b"\0"):
            found.append(int(entry.name))
    return found


def end_processes(cluster_id: str) -> None:
    """End all tagged processes; returns when none is left."""
    while True:
        processes = [pid for pid in tagged_processes(cluster_id) if not _is_zombie(pid)]
        if not processes:
            return
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (OSError, IndexError):
        return True


def main() -> None:
    """Claim, announce, wait for the launcher's end, clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    cluster_id = sys.argv[1]
    network, claim = claim_network()
    directory = Path(tempfile.mkdtemp(prefix="memroute-"))
    print(json.dumps({"network": network, "directory": str(directory)}), flush=True)
    sys.stdin.buffer.read()  # returns when the last writer is gone
    end_processes(cluster_id)
    shutil.rmtree(directory, ignore_errors=True)
    claim.close()


if __name__ == "__main__":
    main()
