"""How a request comes to its room: one lease on one replica.

```text
_seek_room ─┬─ its tenant lacks a share of the KV tokens ─► held ─► try_again, waited_in_vain
            ├─ replicas have died with it ─┬─ it is to blame ─► refused
            │                              └─ another suspect is there ─► held ─► try_again
            └─ the pool is asked ─┬─ None: held ─► admitted, refused
                                  ├─ Reject ─────► refused
                                  └─ Lease ──────► admitted
```

A request asks anew after each attempt that has failed. It waits in one line at a time: of its
pool, of its tenant (``access/share_line.py``), or of the suspects (``isolation.py``).
"""

from memroute.traffic.admission import Reject
from memroute.traffic.dispatch import Lease
from memroute_router.http.deadlines import monotonic
from memroute_router.lifecycle.attempt import Attempt
from memroute_router.lifecycle.in_flight import InFlightRequest
from memroute_router.lifecycle.isolation import Case
from memroute_router.lifecycle.phases import Happening, Phase, after
from memroute_router.lifecycle.refusal import TOO_MANY_APART, rejected
from memroute_router.replicas.pool import Pool
from memroute_router.replicas.replica import Replica


class SeekingRequest(InFlightRequest):
    """One request and its place in a line.

    A ``Waiter``, a ``ShareWaiter``; where a replica has died with it, ``Isolated``.
    """

    __slots__ = ()

    def _seek_room(self) -> None:
        pool = self._pool
        if pool is None:
            return
        allowance = self._allowance
        if allowance is not None and allowance.lacks_share:
            self._held()
            allowance.wait_for_share(self, self.profile, pool)
            return
        case = self._case
        if case is not None:
            refusal = case.refusal()
            if refusal is not None:
                self._refuse(Happening.REFUSE, refusal)
                return
            if not self._is_apart(case, pool):
                self._wait_apart(pool)
                return
        verdict = pool.submit(self)
        if verdict is None:
            self._held()
        elif isinstance(verdict, Reject):
            self.refused(verdict)
        else:
            self._admit(verdict)

    def _admit(self, lease: Lease[Replica]) -> None:
        try:
            self.admitted(lease)
        except Exception:
            if self._attempt is None or not self._attempt.holds(lease):
                lease.release()
            raise

    # Waiter

    def admitted(self, lease: Lease[Replica]) -> None:
        """Room is reserved: forward."""
        self._phase = after(self._phase, Happening.ADMIT)
        self._waits_no_more()
        self._account.num_attempts += 1
        if self._case is not None:
            self._case.sent(self, lease.replica.info.key)
        if self._trace is not None:
            self._trace.attempted(lease.choice)
        attempt = self._attempt = self._attempt_at(lease)
        attempt.begin()

    def refused(self, reject: Reject) -> None:
        """No replica may take it."""
        self._waits_no_more()
        if self._failure is not None:
            self._give_up(self._failure)
            return
        self._statistics().shed(reject.reason.value, self.profile.expected_tokens)
        self._refuse(Happening.REFUSE, rejected(reject, unready=self._unready()))

    def is_stuck(self) -> None:
        """Its replica hangs, and others do not: before its first byte it can go there."""
        self._phase = after(self._phase, Happening.STUCK)
        if self._attempt is not None:
            self._attempt.stuck()

    def _attempt_at(self, lease: Lease[Replica]) -> Attempt:
        """An attempt at the replica of a lease, which is the attempt's from now on."""
        raise NotImplementedError

    # ShareWaiter, Isolated: its tenant's share has no room for it, or another suspect is there

    def try_again(self) -> None:
        """A replica may be free of other suspects now; or its tenant's share has room for it."""
        if self._phase != Phase.QUEUED:
            return
        self._phase = after(self._phase, Happening.SEEK)
        self._seek_room()

    def waited_in_vain(self) -> None:
        """Its tenant has had no KV tokens free of its share, for as long as it may wait."""
        allowance, pool = self._allowance, self._pool
        refusal = None if allowance is None or pool is None else allowance.share_refusal(pool)
        if refusal is not None:
            self._refuse(Happening.REFUSE, refusal)

    def _is_apart(self, case: Case, pool: Pool) -> bool:
        """Whether it may be sent now; then ``tried`` has the replicas to be left alone."""
        waited = 0.0 if self._account.queued_at is None else monotonic() - self._account.queued_at
        avoided = case.avoided(pool, self._failed_on, waited_seconds=waited)
        if avoided is None:
            return False
        self.tried = avoided
        return True

    def _wait_apart(self, pool: Pool) -> None:
        """Wait for a replica without another suspect, if as many do not wait already."""
        isolation = self._services.isolation
        if self._account.queued_at is not None or isolation.may_wait(pool):
            self._held()
            isolation.wait(self, pool)
        elif self._failure is not None:
            self._give_up(self._failure)
        else:
            self._statistics().shed(TOO_MANY_APART.outcome.value, self.profile.expected_tokens)
            self._refuse(Happening.REFUSE, TOO_MANY_APART)

    # It waits

    def _held(self) -> None:
        """It waits: for its turn, or for a replica without another suspect."""
        self._phase = after(self._phase, Happening.HOLD)
        if self._account.queued_at is None:
            self._account.queued_at = monotonic()

    def waits(self, now_seconds: float) -> dict[str, object]:
        """Who waits, and since when: for a page about the queue."""
        return self._account.waits(now_seconds)

    def _leave_queue(self) -> None:
        if self._pool is not None:
            self._pool.withdraw(self)

    def _close_case(self, *, is_answered: bool) -> None:
        if self._case is not None:
            self._case.ends(self, is_answered=is_answered)

    def _unready(self) -> str:
        """Why nothing serves the model, as its ModelDeployment's condition says; empty if unknown.

        For refusals where no replica is ready.
        """
        settings = None if self._pool is None else self._pool.settings
        if settings is None or settings.unready_reason is None:
            return ""
        return f"{settings.deployment}: {settings.unready_reason}"
