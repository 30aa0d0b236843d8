"""Keeps the Lease: asks the API server, lets ``leadership`` decide, and remembers.

Owns this process's ``Leadership``. Its calls go over a connection of their own, so that a
renewal never waits behind a thousand other writes.
"""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from memroute_kube import LEASES, ApiError, KubeObject, KubernetesClient
from memroute_kube.client import CONFLICT, NOT_FOUND
from memroute_operator.election.leadership import (
    Attempt,
    Leadership,
    LeaseRecord,
    Wait,
    confirm,
    decide,
    observe,
    released,
    step_down_if_late,
)
from memroute_operator.health import Marks

LOGGER = logging.getLogger(__name__)
# Of the pause, added at random, as client-go does: standbys do not all ask at once.
JITTER_RATIO = 0.2
# Of the pause between two renewals, after one that failed: three tries fit before the deadline.
FAILED_PAUSE_RATIO = 0.25
Clock = Callable[[], float]


def awake_or_asleep_seconds() -> float:
    """Seconds of a clock that also runs while the process is stopped or the machine sleeps.

    ``CLOCK_MONOTONIC`` stands still while a machine is suspended; where ``CLOCK_BOOTTIME`` is
    missing (not on Linux) it must do.
    """
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseName:
    """Where the Lease is."""

    namespace: str
    name: str


class Elector:
    """One candidate. ``run`` it for as long as the process may lead; ``release`` at the end."""

    def __init__(
        self,
        client: KubernetesClient,
        lease: LeaseName,
        leadership: Leadership,
        *,
        marks: Marks,
        on_change: Callable[[bool], None] = lambda _: None,
        clock: Clock = awake_or_asleep_seconds,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        rng: random.Random | None = None,
    ) -> None:
        """``leadership``: a fresh one, with this process's identity and times.

        ``on_change``: told whether we lead, whenever that changes.
        """
        self._client = client
        self._lease = lease
        self._marks = marks
        self._on_change = on_change
        self._clock = clock
        self._wall_clock = wall_clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._object: KubeObject | None = None
        self._changed = asyncio.Event()
        self._said = ""
        self.leadership = leadership

    def seconds_left(self) -> float:
        """How long writes may still be sent; 0 for a standby."""
        return self.leadership.seconds_left(self._clock())

    @property
    def term(self) -> int:
        """The term that we lead in, or led in last."""
        return self.leadership.term

    async def run(self) -> None:
        """Take the Lease when it is free, renew it while it is ours; until cancelled."""
        while True:
            pause = await self._attempt_once()
            await asyncio.sleep(pause * (1 + JITTER_RATIO * self._rng.random()))

    async def wait_leading(self) -> None:
        """Return when writes may be sent."""
        while self.seconds_left() <= 0:
            self._changed.clear()
            await self._changed.wait()

    async def release(self) -> None:
        """Give the Lease back, if it is ours: the standby takes it at its next look."""
        # From here on nothing may be written, whether the API server hears of it or not.
        self._set(replace(self.leadership, renewed_at=None))
        try:
            async with asyncio.timeout(self.leadership.timing.call_seconds):
                await self._look()  # a renewal may have been cut off half-way
                record = released(self.leadership, wall_time=self._wall_time())
                if record is None:
                    return
                await self._client.request("PUT", self._path(), body=self._document(record))
        except (ApiError, TimeoutError) as error:
            LOGGER.warning("lease not released lease=%s error=%r", self._lease.name, error)
        else:
            LOGGER.info("lease released lease=%s", self._lease.name)

    async def _attempt_once(self) -> float:
        """Look, decide, write; how long to wait before the next time."""
        timing = self.leadership.timing
        self._marks.on_election()
        self._set(step_down_if_late(self.leadership, now=self._clock()))
        try:
            async with asyncio.timeout(timing.call_seconds):
                if self._object is None or self.leadership.renewed_at is None:
                    await self._look()
                verdict = decide(self.leadership, now=self._clock(), wall_time=self._wall_time())
                if isinstance(verdict, Wait):
                    self._say(f"standby: {verdict.why}")
                    return verdict.seconds
                await self._write(verdict)
        except ApiError as error:
            # 409: somebody was faster. Anything else: not confirmed, so it does not count.
            self._object = None
            level = logging.INFO if error.status == CONFLICT else logging.WARNING
            LOGGER.log(level, "lease not taken lease=%s error=%s", self._lease.name, error)
        except TimeoutError:
            self._object = None
            LOGGER.warning(
                "lease not taken lease=%s error='no answer within %.1f s'",
                self._lease.name, timing.call_seconds,
            )  # fmt: skip
        else:
            return timing.retry_seconds
        self._set(step_down_if_late(self.leadership, now=self._clock()))
        return timing.retry_seconds * FAILED_PAUSE_RATIO

    async def _look(self) -> None:
        try:
            found = await self._client.get(LEASES, self._lease.namespace, self._lease.name)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            found = None
        self._object = found
        record = None if found is None else read_lease(found)
        self._set(observe(self.leadership, record, now=self._clock()))

    async def _write(self, attempt: Attempt) -> None:
        sent_at = self._clock()
        document = self._document(attempt.record)
        if attempt.creates:
            written = await self._client.create(LEASES, self._lease.namespace, document)
        else:
            # With the resourceVersion that was read: whoever was faster wins.
            written = await self._client.request("PUT", self._path(), body=document)
        self._object = written
        was_leading = self.leadership.renewed_at is not None
        self._set(confirm(self.leadership, read_lease(written), sent_at=sent_at))
        if not was_leading:
            self._say(f"leading: {attempt.why}")

    def _set(self, leadership: Leadership) -> None:
        before, self.leadership = self.leadership, leadership
        if before.renewed_at == leadership.renewed_at:
            return
        # Also a renewal that follows another: whoever waits may have found the last one too old.
        self._changed.set()
        if (before.renewed_at is None) != (leadership.renewed_at is None):
            leads = leadership.renewed_at is not None
            if not leads:
                self._say("standby: the lease is lost, not confirmed in time, or given back")
            self._marks.on_leading(leads)
            self._on_change(leads)

    def _say(self, what: str) -> None:
        """Log a change of state; the seconds in it change by themselves."""
        kind = what.partition(",")[0]
        if kind != self._said:
            self._said = kind
            LOGGER.info(
                "leadership lease=%s/%s identity=%s term=%d state=%r",
                self._lease.namespace, self._lease.name, self.leadership.identity,
                self.leadership.term, what,
            )  # fmt: skip

    def _wall_time(self) -> str:
        return self._wall_clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def _path(self) -> str:
        return LEASES.path(self._lease.namespace, self._lease.name)

    def _document(self, record: LeaseRecord) -> KubeObject:
        metadata: dict[str, Any] = {"name": self._lease.name, "namespace": self._lease.namespace}
        if self._object is not None:
            # All of it, resourceVersion and other people's labels included.
            metadata = self._object["metadata"]
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": record.holder,
                # Whole seconds are what the API has: rounded up, others wait rather longer.
                "leaseDurationSeconds": math.ceil(record.duration_seconds or 1),
                "acquireTime": record.acquire_time,
                "renewTime": record.renew_time,
                "leaseTransitions": record.transitions,
            },
        }


def read_lease(obj: KubeObject) -> LeaseRecord:
    """The record of a Lease; what is missing or odd in it is taken as not said."""
    spec = obj.get("spec") or {}
    duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    return LeaseRecord(
        holder=str(spec.get("holderIdentity") or ""),
        duration_seconds=duration if isinstance(duration, int) and duration > 0 else None,
        acquire_time=spec.get("acquireTime"),
        renew_time=spec.get("renewTime"),
        transitions=transitions if isinstance(transitions, int) else 0,
    )


async def run_until_cancelled(elector: Elector) -> None:
    """``elector.run()``, and the Lease given back at the end."""
    try:
        await elector.run()
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(elector.release())
