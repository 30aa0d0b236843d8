"""Two operators on one cluster, each behind a network of its own that can be cut.

``never two writers``, by the API server's own audit log and its one clock: the Lease belongs to
whoever wrote it last with success (create or update). Every other write of an operator that the
API server *received* must have come from the one to whom the Lease belonged at that moment. A
takeover counts from its answer on, and what was received before it is the last leader's.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml

from audit_log import events

ACCOUNT = "system:serviceaccount:memroute-system:memroute-operator"
CREDENTIAL = "authentication.kubernetes.io/credential-id"
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
# Runs the operator with a wall clock that is off by so many seconds.
SKEWED = Path(__file__).with_name("skewed_operator.py")


class Cable:
    """A TCP proxy on a thread of its own that can be cut.

    While it is cut nothing passes, connections stay, and new ones are not answered: as when
    packets are lost. When it heals, what was sent meanwhile arrives, unless its sender has reset
    the connection, or it is older than ``delivers_seconds``: then its kernel, which tries for as
    long as TCP_USER_TIMEOUT says, would have sent nothing more either.
    """

    def __init__(self, listen, target, *, delivers_seconds=3.0):
        self._listen, self._target = listen, target
        self._delivers_seconds = delivers_seconds
        self._loop = asyncio.new_event_loop()
        self._whole = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self.port = None

    def __enter__(self):
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def cut(self):
        self._loop.call_soon_threadsafe(self._whole.clear)

    def heal(self):
        self._loop.call_soon_threadsafe(self._whole.set)

    def _run(self):
        self._loop.run_until_complete(self._start())
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _start(self):
        self._whole = asyncio.Event()
        self._whole.set()
        self._server = socket.create_server((self._listen, 0))
        self._server.setblocking(False)
        self.port = self._server.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept())
        self._started.set()

    async def _accept(self):
        pairs = set()
        while True:
            client, _ = await self._loop.sock_accept(self._server)
            client.setblocking(False)
            task = asyncio.create_task(self._connect(client))
            pairs.add(task)
            task.add_done_callback(pairs.discard)

    async def _connect(self, client):
        await self._whole.wait()
        with client, socket.socket() as server:
            server.setblocking(False)
            with contextlib.suppress(OSError):
                await self._loop.sock_connect(server, self._target)
                ways = [
                    asyncio.create_task(self._pass_on(client, server)),
                    asyncio.create_task(self._pass_on(server, client)),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_on(self, source, sink):
        while data := await self._loop.sock_recv(source, 65536):
            was_cut, sent_at = not self._whole.is_set(), time.monotonic()
            await self._whole.wait()
            if was_cut and source.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return  # reset by its sender: it would not have been sent again
            if time.monotonic() - sent_at > self._delivers_seconds:
                return
            await self._loop.sock_sendall(sink, data)


class Operator:
    """One operator process, with a token, a cable and a wall clock of its own."""

    def __init__(self, cluster, name, host, cable, *, skew_seconds=0.0, arguments=()):
        self._cluster, self._name = cluster, name
        self._host, self._cable = host, cable
        self._skew_seconds, self._arguments = skew_seconds, arguments
        self._token = cluster.kubectl(
            "create", "token", "memroute-operator", "-n", "memroute-system", "--duration=4h"
        ).strip()
        self.process = None
        self.is_stopped = False
        self._log_path = cluster.directory / "logs" / f"{name}.log"
        self._log_start = 0

    @property
    def host(self):
        return self._host

    @property
    def credential(self):
        """What the audit log tells this one's calls by."""
        payload = self._token.split(".")[1]
        claims = json.loads(_base64(payload))
        return f"JTI={claims['jti']}"

    def start(self):
        document = yaml.safe_load(self._cluster.kubeconfig.read_text())
        document["users"] = [{"name": "memroute-admin", "user": {"token": self._token}}]
        document["clusters"][0]["cluster"]["server"] = (
            f"https://{self._cluster.address}:{self._cable.port}"
        )
        path = self._cluster.directory / f"{self._name}.kubeconfig"
        path.write_text(yaml.safe_dump(document))
        command = [sys.executable, str(SKEWED), str(self._skew_seconds)]
        command += ["--host", self._host, *self._arguments]
        with self._log_path.open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                command,
                env=os.environ | self._cluster.environment | {"KUBECONFIG": str(path)},
                stdout=log,
                stderr=log,
            )

    def signal(self, number):
        self.process.send_signal(number)
        self.is_stopped = number == signal.SIGSTOP

    def end(self):
        """End it, whatever state it is in; what it held is given back."""
        if self.process is None or self.process.poll() is not None:
            return
        self._cable.heal()
        self.signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log(self):
        """What this one has said; earlier operators of its name wrote into the same file."""
        return self._log_path.read_bytes()[self._log_start :].decode(errors="replace")


@dataclass(frozen=True)
class Call:
    """One call of an operator that the API server took."""

    credential: str
    is_lease: bool
    received: datetime
    answered: datetime
    what: str


def writes(audit_log, *, since=0):
    """Accepted writes of operators after so many bytes of the log, by the time of arrival."""
    return _calls(audit_log, WRITES, since)


def looks(audit_log, credential, *, since=0):
    """What an operator has read of the operators' Lease, by the time of arrival."""
    calls = _calls(audit_log, {"get"}, since)
    return [one for one in calls if one.is_lease and one.credential == credential]


def num_lists(audit_log, *, since):
    """How often operators have listed something since then: the first thing that each does."""
    return len(_calls(audit_log, {"list"}, since))


def _calls(audit_log, verbs, since):
    found = []
    for event in events(audit_log, since=since):
        code = event.get("responseStatus", {}).get("code", 500)
        if event["verb"] not in verbs or event["user"]["username"] != ACCOUNT or code >= 300:
            continue
        if event["stage"] != "ResponseComplete":
            continue
        reference = event["objectRef"]
        found.append(
            Call(
                credential=event["user"]["extra"][CREDENTIAL][0],
                is_lease=reference["resource"] == "leases",
                received=datetime.fromisoformat(event["requestReceivedTimestamp"]),
                answered=datetime.fromisoformat(event["stageTimestamp"]),
                what=f"{event['verb']} {event['requestURI']}",
            )
        )
    return sorted(found, key=lambda call: call.received)


def turns_and_trespasses(found):
    """Who held the Lease one after the other; and the writes of those who did not hold it."""
    leases = sorted((w for w in found if w.is_lease), key=lambda write: write.answered)
    turns = [leases[0].credential] if leases else []
    for write in leases:
        if write.credential != turns[-1]:
            turns.append(write.credential)
    trespasses = []
    for write in found:
        if write.is_lease:
            continue
        before = [lease for lease in leases if lease.answered <= write.received]
        if before and before[-1].credential != write.credential:
            trespasses.append(write)
    return turns, trespasses


def longest_gap_seconds(found):
    """The longest time between two writes of the Lease: how long nobody led at the most."""
    times = sorted(w.answered for w in found if w.is_lease)
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(times)]
    return max(gaps, default=0.0)


def wait_until(condition, *, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            msg = f"waited {seconds} s for {what}"
            raise TimeoutError(msg)
        time.sleep(0.05)


def _base64(text):
    import base64

    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
