"""Whether the operator is alive and in sync, from marks that its loops leave.

``/healthz`` is of the reconcile loop: a loop that hangs gets the process restarted, one that is
slow does not, and neither does a standby or an API server that cannot be reached. ``/readyz`` is
of the picture of the cluster: whether everything has been listed, and not too long ago.

Answered from a thread of its own, so that a long computation on the event loop is judged by how
long it has lasted, not by a probe's time-out.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6

LOGGER = logging.getLogger(__name__)
# Seconds without any sign of the reconcile loop, or of the election, that count as hung. A step
# of 10,000 GPUs takes seconds and a call to the API server 30 s at most; each write is a sign.
STALLED_SECONDS = 120.0
# How long the first lists may take, in seconds: an API server that is down is waited for, and a
# start that hangs is not.
START_SECONDS = 900.0
# Full lists in a row that may fail before the picture is too old to be called in sync.
MAX_MISSED_LISTS = 2


@dataclass(slots=True)
class Marks:
    """What the loops were seen doing last, in seconds of ``clock``. None: not yet."""

    clock: Callable[[], float] = time.monotonic
    started_at: float = field(init=False)
    step_at: float | None = None
    """When the last step began, or last wrote something."""
    is_standby: bool = False
    """Whether the reconcile loop waits to lead."""
    election_at: float | None = None
    """When the election last asked for the Lease; None without an election."""
    leading_since: float | None = None
    """Since when the election has said that we lead; None for a standby, and without one."""
    listed_at: float | None = None
    """When everything was last listed in full."""

    def __post_init__(self) -> None:
        self.started_at = self.clock()

    def on_step(self) -> None:
        """A step begins."""
        self.is_standby = False
        self.step_at = self.clock()

    def on_write(self) -> None:
        """A write of the step has ended, well or not."""
        self.step_at = self.clock()

    def on_standby(self) -> None:
        """The reconcile loop asks whether it may go on."""
        self.is_standby = True

    def on_election(self) -> None:
        """The API server is being asked for the Lease."""
        self.election_at = self.clock()

    def on_leading(self, leads: bool) -> None:
        """The election says whether we lead, from now on."""
        self.leading_since = self.clock() if leads else None

    def on_listed(self) -> None:
        """Everything has been listed."""
        self.listed_at = self.clock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a probe is told."""

    is_good: bool
    why: str


def liveness(marks: Marks, *, stalled_seconds: float = STALLED_SECONDS) -> Verdict:
    """Whether the loops make progress: otherwise only a restart helps."""
    now = marks.clock()
    if marks.election_at is not None and now - marks.election_at > stalled_seconds:
        why = f"the election last asked for the lease {now - marks.election_at:.0f} s ago"
        return Verdict(is_good=False, why=why)
    if marks.is_standby:
        return _of_standby(marks, now=now, stalled_seconds=stalled_seconds)
    if marks.step_at is None:
        age = now - marks.started_at
        return Verdict(is_good=age <= START_SECONDS, why=f"starting, for {age:.0f} s")
    quiet = now - marks.step_at
    why = f"the reconcile loop last began a step or wrote {quiet:.0f} s ago"
    return Verdict(is_good=quiet <= stalled_seconds, why=why)


def _of_standby(marks: Marks, *, now: float, stalled_seconds: float) -> Verdict:
    """A reconcile loop that waits to lead is well, unless the election says that we do."""
    if marks.leading_since is None:
        return Verdict(is_good=True, why="standby: another operator leads")
    waits = now - max(marks.leading_since, marks.step_at or marks.leading_since)
    why = f"we lead, and the reconcile loop has waited for that for {waits:.0f} s"
    return Verdict(is_good=waits <= stalled_seconds, why=why)


def readiness(marks: Marks, *, resync_seconds: float) -> Verdict:
    """Whether what the operator knows of the cluster is complete, and not old."""
    if marks.listed_at is None:
        return Verdict(is_good=False, why="the first list is not complete")
    age = marks.clock() - marks.listed_at
    is_good = age <= max(STALLED_SECONDS, MAX_MISSED_LISTS * resync_seconds)
    return Verdict(is_good=is_good, why=f"everything was last listed {age:.0f} s ago")


def serve_health(host: str, port: int, marks: Marks, *, resync_seconds: float) -> None:
    """Serve ``/healthz`` and ``/readyz`` from a thread of its own, until the process ends."""
    questions: dict[str, Callable[[], Verdict]] = {
        "/healthz": lambda: liveness(marks),
        "/readyz": lambda: readiness(marks, resync_seconds=resync_seconds),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            question = questions.get(self.path.partition("?")[0])
            if question is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            verdict = question()
            if not verdict.is_good:
                LOGGER.warning("unhealthy path=%s why=%r", self.path, verdict.why)
            body = json.dumps({"ok": verdict.is_good, "why": verdict.why}).encode() + b"\n"
            good, bad = HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE
            self.send_response(good if verdict.is_good else bad)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:  # a probe every few seconds is no news
            pass

    class Server(ThreadingHTTPServer):
        address_family = AF_INET6 if ":" in host else AF_INET
        daemon_threads = True

    server = Server((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
