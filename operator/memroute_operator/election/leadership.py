"""Who may write: the holder of a Lease, decided from facts alone.

The rules are those of client-go's ``tools/leaderelection``, which every controller of
Kubernetes itself goes by:

* The Lease names its holder and how long a renewal counts. The holder renews every
  ``retry_seconds``; it stops writing ``renew_seconds`` after it *sent* the last renewal that
  the API server confirmed. Nobody else takes the Lease before it has looked the same for
  ``duration_seconds``. The difference (3 s by default) is what a write may take to arrive.
* Two machines' clocks are never compared. ``renewTime`` is for people. What counts is when
  *this* process first saw a renewal, by its own clock, and clocks that only have to run about
  equally fast.
* A holder that ends well gives the Lease back (an empty holder): the standby need not wait.

::

              no Lease / released / not renewed for its duration
    STANDBY ───────────── Create, Take, confirmed ─────────────► LEADING ──┐ Renew, confirmed
       ▲                                                            │  ▲───┘
       └─── someone else holds it; or renew_seconds without one ────┘

Times here are seconds of one local clock that also runs while the process or the machine
sleeps (``BOOTTIME``): a process that was stopped for a minute wakes up as a standby.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTiming:
    """How long a renewal counts, for others and for its holder. All in seconds."""

    # client-go has 15, 10, 2. Its programs exit when they lose the Lease, so it is patient; we
    # become a standby, which costs nothing. A failover takes at most 12.8 s and one list: 2.4 until
    # the standby has seen the last renewal (retry and 20 % jitter), 10, 0.4 of jitter at the end.
    duration_seconds: float = 10.0
    renew_seconds: float = 7.0
    retry_seconds: float = 2.0

    @property
    def problem(self) -> str | None:
        """Why these times make no sense; None when they do. As in client-go."""
        if not self.duration_seconds > self.renew_seconds:
            return "the lease's duration must be longer than the time to renew it in"
        if not self.renew_seconds > 2 * self.retry_seconds > 0:
            return "the time to renew the lease in must be longer than two retries of it"
        return None

    @property
    def call_seconds(self) -> float:
        """How long one look at the Lease, with its write, may take: a third of the deadline."""
        return self.renew_seconds / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """What the API server holds. Two records are equal when nobody has renewed in between."""

    holder: str
    """Empty when it was given back."""
    duration_seconds: float | None
    """How long its holder's renewals count; None when it does not say."""
    acquire_time: str | None = None
    renew_time: str | None = None
    """The holder's wall clock, for people; only that it *changes* means something."""
    transitions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Leadership:
    """What one process knows of the Lease, and since when."""

    identity: str
    timing: LeaseTiming = LeaseTiming()
    observed: LeaseRecord | None = None
    """The newest record; None when there is no Lease, or nobody has looked yet."""
    observed_at: float | None = None
    """When this process first saw that record; None when it has not looked yet."""
    renewed_at: float | None = None
    """When the last confirmed renewal of ours was *sent*; None for a standby."""
    term: int = 0
    """How often this process has taken the Lease: a write belongs to the term it was planned in."""
    has_kept_it: bool = False
    """Whether nobody else has had the Lease since it was taken last, as far as anybody looked."""

    def is_leading(self, now: float) -> bool:
        """Whether a write may be sent now."""
        return self.seconds_left(now) > 0

    def seconds_left(self, now: float) -> float:
        """How long writes may still be sent without another renewal; 0 for a standby."""
        if self.renewed_at is None:
            return 0.0
        return max(0.0, self.renewed_at + self.timing.renew_seconds - now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Write the Lease with ourselves as its holder."""

    record: LeaseRecord
    creates: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Look again later."""

    seconds: float
    why: str


def observe(leadership: Leadership, record: LeaseRecord | None, *, now: float) -> Leadership:
    """What is known after the API server was asked.

    A record that is not ours ends our term: somebody else may have written since.
    """
    if leadership.observed_at is None or record != leadership.observed:
        leadership = replace(leadership, observed=record, observed_at=now)
    if record is None or record.holder != leadership.identity:
        leadership = replace(leadership, renewed_at=None, has_kept_it=False)
    return leadership


def step_down_if_late(leadership: Leadership, *, now: float) -> Leadership:
    """A holder whose renewals are not confirmed is a standby from its deadline on.

    Its term goes on if the next renewal finds the Lease as it was: nobody else has written. So a
    single operator that was busy for ten seconds need not plan anew.
    """
    if leadership.renewed_at is not None and not leadership.is_leading(now):
        return replace(leadership, renewed_at=None)
    return leadership


def decide(leadership: Leadership, *, now: float, wall_time: str) -> Attempt | Wait:
    """What to do about the Lease now, and why. ``wall_time``: what people will read in it."""
    timing, observed = leadership.timing, leadership.observed
    ours = LeaseRecord(
        holder=leadership.identity,
        duration_seconds=timing.duration_seconds,
        acquire_time=wall_time,
        renew_time=wall_time,
        transitions=0 if observed is None else observed.transitions,
    )
    if observed is None:
        return Attempt(record=ours, creates=True, why="there is no Lease")
    if observed.holder == leadership.identity:
        # Ours, whether we lead or have just stepped down: nobody has taken it meanwhile.
        renewal = replace(ours, acquire_time=observed.acquire_time or wall_time)
        return Attempt(record=renewal, creates=False, why="the Lease is ours")
    taken = replace(ours, transitions=observed.transitions + 1)
    if not observed.holder:
        return Attempt(record=taken, creates=False, why="its last holder gave it back")
    # The holder's own promise counts: it may have been started with other times than we were.
    duration = observed.duration_seconds or timing.duration_seconds
    expires_at = (leadership.observed_at or now) + duration
    if now >= expires_at:
        why = f"{observed.holder} has not renewed it for {duration:g} s"
        return Attempt(record=taken, creates=False, why=why)
    return Wait(
        # Not later than its end: that is when the standby is wanted.
        seconds=min(timing.retry_seconds, expires_at - now),
        why=f"{observed.holder} holds it, for {expires_at - now:.1f} s more unless it renews",
    )


def confirm(leadership: Leadership, record: LeaseRecord, *, sent_at: float) -> Leadership:
    """We hold the Lease: the API server took ``record``, which was sent at ``sent_at``.

    Counted from the sending: no observer can have seen the renewal earlier.
    """
    return replace(
        leadership,
        observed=record,
        observed_at=sent_at,
        renewed_at=sent_at,
        has_kept_it=True,
        term=leadership.term + (not leadership.has_kept_it),
    )


def released(leadership: Leadership, *, wall_time: str) -> LeaseRecord | None:
    """The record that gives the Lease back; None when it is not ours to give."""
    observed = leadership.observed
    if observed is None or observed.holder != leadership.identity:
        return None
    return replace(observed, holder="", duration_seconds=1.0, renew_time=wall_time)
