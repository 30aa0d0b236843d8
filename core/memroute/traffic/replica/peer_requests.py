"""What other routers have sent to one replica, by their own reports.

A scrape shows other routers' requests up to a scrape period late, and does not say when they will
end. The routers' own reports are some milliseconds old. A reported request is a reservation like
one of ours:

```text
sent      the prompt waits there, until
answered  the first token came: the answer decodes, grows with the replica's clock, and is expected
          to end as ours are
ended     what the request held is free, whatever the last reading says
```

So the gates protect the answers of all routers alike, and the projection of memory counts how all
of them grow. What no router reports is foreign, and known by scrapes alone.

Times are when this router hears of an event, by its own clock: no two clocks are compared.
"""

from memroute.traffic.lengths.events import TokensPerEvent
from memroute.traffic.lengths.output import OutputLengths
from memroute.traffic.replica.decoding import Reservation
from memroute.traffic.replica.own_requests import MIN_TELLING_TOKENS, OwnRequests
from memroute.traffic.replica.predictions import Predictions
from memroute.traffic.request import RequestProfile


class SharedRequests(OwnRequests):
    """Our requests on one replica, and those that other routers report. Owns both."""

    __slots__ = (
        "foreign_tokens", "num_foreign_running", "num_foreign_waiting", "peer_leases",
        "read_at_seconds",
    )  # fmt: skip

    def __init__(
        self,
        lengths: OutputLengths | None,
        events: TokensPerEvent | None,
        predictions: Predictions | None,
    ) -> None:
        super().__init__(lengths, events, predictions)
        self.read_at_seconds = -1.0
        """When the last scrape started; -1 before the first."""
        self.foreign_tokens = 0
        self.num_foreign_waiting = self.num_foreign_running = 0
        """Tokens held, requests queued and requests running there that no router reports, by the
        last scrape."""
        self.peer_leases: set[Reservation] = set()
        """Requests there that other routers report."""

    def peer_sent(
        self, profile: RequestProfile, *, work_tokens: int, now_seconds: float
    ) -> Reservation:
        """Another router has sent a request to the replica.

        ``profile``: what its router tells of it. ``work_tokens``: of the prompt, what the replica
        has to compute.
        """
        lease = self._await(
            profile,
            work_tokens=work_tokens,
            expected_output_tokens=profile.assumed_output_tokens,
            now_seconds=now_seconds,
        )
        self.peer_leases.add(lease)
        return lease

    def peer_answered(self, lease: Reservation, *, is_seen: bool, now_seconds: float) -> None:
        """The first token has come: the answer decodes."""
        if is_seen:
            self.progressed_at_seconds = now_seconds
        lease.is_answered = is_seen
        self._decodes(lease, now_seconds, is_seen=is_seen)

    def peer_ended(
        self, lease: Reservation, *, held_tokens: int | None, now_seconds: float
    ) -> None:
        """The request has left; ``held_tokens``: at its end, None when its router did not say."""
        self.peer_leases.remove(lease)
        self._projected_tokens = -1
        if lease.is_pending:
            self._left_unanswered(lease, now_seconds)
            return
        if held_tokens is None and self.read_at_seconds >= 0:
            # It may be there still. The next reading says what is free. (A replica that is never
            # read would keep it for ever.)
            self.foreign_tokens += lease.prompt_tokens + self._tokens_so_far(lease)
        elif held_tokens is not None:
            self._note_end(held_tokens, now_seconds)
            ticks = (held_tokens - lease.prompt_tokens) / lease.num_sequences
            if lease.is_answered and ticks >= MIN_TELLING_TOKENS:
                # Where nobody saw the first token, how long the answer took is not known.
                seconds = now_seconds - lease.answered_at_seconds
                self.steps.report(seconds / ticks)
        self.drop(lease)
        self._look_for_idle()
