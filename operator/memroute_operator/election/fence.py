"""A client that writes only while we lead, and only in the term that the step was planned in.

The reconciler gets this client instead of the plain one. Reads pass: a standby watches, lists
and scrapes as the leader does. Each write is checked against the Lease by the local clock, the
last time when its connection stands and the next thing is to send it: a process that was
stopped for a minute writes nothing on waking.

What it guarantees: no write *leaves* later than ``renew_seconds`` after our last confirmed
renewal was sent; one whose answer has not come by then is given up, and its connection dropped
with all that the kernel has not sent yet. Others wait for ``duration_seconds``. What it cannot:
call back a write that the API server has begun to work on (a webhook may hold one for 30 s).
That one is bound to a pod's name and uid all the same, and shows in what the next leader reads.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Protocol

import aiohttp

from memroute_kube import ApiError, KubeObject, KubernetesClient
from memroute_operator.health import Marks

# The term in which the present step was planned. What the step starts (a lane that outlasts it)
# inherits it, and keeps it when the next step begins.
_TERM: ContextVar[int | None] = ContextVar("_TERM", default=None)
# Whether the call of this task is a write: the check at the connection has no other way to know.
_IS_WRITE: ContextVar[bool] = ContextVar("_IS_WRITE", default=False)


class NotLeader(ApiError):  # noqa: N818 - a fact about us, not a fault
    """A write that was not sent, or was given up, because this process does not lead.

    As with an API server that cannot be reached (status 0), nothing at all can be written: it
    says nothing about the object, and no back-off of the object should follow.
    """

    def __init__(self, message: str) -> None:
        super().__init__(0, "NotLeader", message)


class Leader(Protocol):
    """What the fence asks: an ``Elector``, or ``AlwaysLeading``."""

    @property
    def term(self) -> int:
        """The term that we lead in, or led in last."""

    def seconds_left(self) -> float:
        """How long writes may still be sent; 0 for a standby."""

    async def wait_leading(self) -> None:
        """Return when writes may be sent."""


class AlwaysLeading:
    """For an operator that is known to be the only one (``--no-leader-election``)."""

    term = 1

    def seconds_left(self) -> float:
        """For ever."""
        return math.inf

    async def wait_leading(self) -> None:
        """Return at once."""


class Fence:
    """Whether a write may be sent. Owns the term that everything was last read anew in."""

    def __init__(self, leader: Leader, marks: Marks | None = None) -> None:
        """``marks``: where to tell what the reconcile loop is doing."""
        self._leader = leader
        self._caught_up: int | None = None
        self.marks = marks or Marks()

    async def begin_step(self, catch_up: Callable[[], Awaitable[object]]) -> None:
        """Wait until we lead. What is planned from here on belongs to the present term.

        ``catch_up``: reads everything anew. Called once in each term before the first step, so
        that all that the last leader has written is counted. Raises what it raises.
        """
        self.marks.on_standby()
        await self._leader.wait_leading()
        self.marks.on_step()
        term = self._leader.term
        if term != self._caught_up:
            _TERM.set(None)
            await catch_up()
            self._caught_up = term
        _TERM.set(term)

    def seconds_left(self) -> float:
        """How long a write of this step may take. Raises ``NotLeader`` when it may not be sent."""
        seconds = self._leader.seconds_left()
        if seconds <= 0:
            msg = "another operator leads, or may lead by now: the lease was not renewed in time"
            raise NotLeader(msg)
        if _TERM.get() != self._leader.term:
            msg = "another operator may have led since this step was planned: it is planned again"
            raise NotLeader(msg)
        return seconds


class FencedClient(KubernetesClient):
    """The API server, read by anybody, written by the leader. Without a fence nobody leads."""

    fence: Fence | None = None

    async def request(self, method: str, path: str, **options: Any) -> KubeObject:
        """One call. Raises ``NotLeader`` for a write that this process may not make (any more)."""
        if method == "GET":
            return await super().request(method, path, **options)
        seconds = self._seconds_left()
        token = _IS_WRITE.set(True)
        try:
            call = asyncio.ensure_future(super().request(method, path, **options))
        finally:
            _IS_WRITE.reset(token)
        try:
            while True:
                # As long as the lease is renewed meanwhile, a slow webhook may take its time.
                await asyncio.wait({call}, timeout=None if seconds == math.inf else seconds)
                if call.done():
                    return call.result()
                seconds = self._seconds_left()
        finally:
            call.cancel()
            await asyncio.wait({call})  # its connection is reset then, before anybody goes on
            if self.fence is not None:
                self.fence.marks.on_write()

    def _seconds_left(self) -> float:
        if self.fence is None:
            msg = "this client has no fence yet"
            raise NotLeader(msg)
        return self.fence.seconds_left()

    def _open_session(self) -> aiohttp.ClientSession:
        is_new = self._session is None
        session = super()._open_session()
        if is_new:
            # To connect takes a while: the next look is when the connection is there.
            trace = aiohttp.TraceConfig()
            trace.on_connection_create_end.append(self._check_before_sending)
            trace.on_connection_reuseconn.append(self._check_before_sending)
            # aiohttp hands the body to a task of its own, one turn of the loop later: a process
            # that is stopped in between has to look again. Head and body leave together.
            trace.on_request_chunk_sent.append(self._check_before_sending)
            trace.freeze()
            session.trace_configs.append(trace)
        return session

    async def _check_before_sending(self, *_: object) -> None:
        if _IS_WRITE.get():
            self._seconds_left()
