"""What other routers have sent to one replica, by their own reports.

A scrape shows other routers' requests up to a scrape period late, and only counts the prompts that
wait. The routers' own reports are some milliseconds old:

```text
sent      the prompt waits there and counts like one of ours, until
answered  the first token came: the prompt is held, and counts as foreign until the first reading
          that can include it
ended     what the request held is free, whatever the last reading says
```

Times are when this router hears of an event, by its own clock: no two clocks are compared.
"""

from memroute.traffic.lengths.events import TokensPerEvent
from memroute.traffic.lengths.output import OutputLengths
from memroute.traffic.replica.own_requests import OwnRequests
from memroute.traffic.replica.predictions import Predictions


class PeerRequest:
    """One request of another router. Only its replica's ledger changes it."""

    __slots__ = (
        "ahead_prompts", "ahead_tokens", "answered_at_seconds", "expected_output_tokens",
        "is_stream", "needed_tokens", "num_sequences", "prompt_tokens", "sent_at_seconds",
        "work_tokens",
    )  # fmt: skip

    def __init__(
        self,
        *,
        prompt_tokens: int,
        work_tokens: int,
        expected_output_tokens: int,
        now_seconds: float,
        num_sequences: int = 1,
        is_stream: bool = True,
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.work_tokens = work_tokens
        """Tokens of the prompt that the replica has to compute."""
        self.needed_tokens = prompt_tokens
        """Tokens of the prompt that no other running request holds there already."""
        self.expected_output_tokens = expected_output_tokens
        self.num_sequences = num_sequences
        self.is_stream = is_stream
        """Whether its router sees its first token when it comes."""
        self.sent_at_seconds = now_seconds
        self.answered_at_seconds = -1.0
        """When its first token came; -1 before."""
        self.ahead_prompts = self.ahead_tokens = 0.0
        """Prompts, and their tokens, that were still to be computed there when it was sent."""

    @property
    def is_pending(self) -> bool:
        """Whether its prompt still waits or is computed."""
        return self.answered_at_seconds < 0


class SharedRequests(OwnRequests):
    """Our requests on one replica, and those that other routers report. Owns both."""

    __slots__ = ("foreign_tokens", "num_foreign_running", "num_foreign_waiting", "peer_requests")

    def __init__(
        self,
        lengths: OutputLengths | None,
        events: TokensPerEvent | None,
        predictions: Predictions | None,
    ) -> None:
        super().__init__(lengths, events, predictions)
        self.foreign_tokens = 0
        self.num_foreign_waiting = self.num_foreign_running = 0
        """Tokens held, requests queued and requests running there that are not ours: by the last
        scrape, and by peers' reports since."""
        self.peer_requests: set[PeerRequest] = set()
        """Requests there that other routers report."""

    def peer_sent(self, request: PeerRequest, *, now_seconds: float) -> None:
        """Another router has sent a request to the replica."""
        speed = self.speed
        share = speed.ahead_ratio(self.num_pending, self.pending_tokens, now_seconds=now_seconds)
        request.ahead_prompts = share * self.num_pending
        request.ahead_tokens = share * self.pending_tokens
        request.needed_tokens = self.needed_tokens(request.prompt_tokens, request.work_tokens)
        self.peer_requests.add(request)
        self._projected_tokens = -1
        self.num_pending += 1
        self.pending_tokens += request.work_tokens
        self.pending_reserved_tokens += request.needed_tokens + request.expected_output_tokens
        speed.sent(now_seconds=now_seconds, is_seen=request.is_stream)

    def peer_answered(self, request: PeerRequest, *, is_seen: bool, now_seconds: float) -> None:
        """The first token has come: the prompt is held there, whatever the last reading says."""
        self._peer_waits_no_more(request, now_seconds)
        request.answered_at_seconds = now_seconds
        if is_seen:
            self.progressed_at_seconds = now_seconds
            self.speed.prefilled(
                request.work_tokens,
                num_left=self.num_pending,
                now_seconds=now_seconds,
                sent_at_seconds=request.sent_at_seconds,
                ahead_prompts=request.ahead_prompts,
                ahead_tokens=request.ahead_tokens,
            )
        else:
            self.speed.passed(num_left=self.num_pending, at_seconds=now_seconds)
        self.num_foreign_running += request.num_sequences
        self.foreign_tokens += request.needed_tokens

    def peer_ended(
        self, request: PeerRequest, *, held_tokens: int | None, now_seconds: float
    ) -> None:
        """The request has left; ``held_tokens``: at its end, None when its router did not say."""
        self.peer_requests.remove(request)
        if request.is_pending:
            self._peer_waits_no_more(request, now_seconds)
            self.speed.left(num_left=self.num_pending)
            return
        self._projected_tokens = -1
        self.num_foreign_running = max(0, self.num_foreign_running - request.num_sequences)
        if held_tokens is None:
            # The next reading says what is free.
            return
        freed = max(0, held_tokens - request.prompt_tokens) + request.needed_tokens
        self.foreign_tokens = max(0, self.foreign_tokens - freed)
        self._note_end(freed, now_seconds)

    # Inside.

    def _peer_prompts_maybe_seen(self, started: float) -> tuple[int, int]:
        """Tokens and sequences of prompts that a reading which began then may have counted."""
        tokens, count = 0, 0
        for request in self.peer_requests:
            is_old = 0 <= request.answered_at_seconds <= started
            if not is_old and request.sent_at_seconds < started:
                tokens += request.prompt_tokens
                count += request.num_sequences
        return tokens, count

    def _add_unseen_answers(self, started: float) -> None:
        """Add requests with a first token since the reading began: it did not include them."""
        for request in self.peer_requests:
            if request.answered_at_seconds > started:
                self.foreign_tokens += request.needed_tokens
                self.num_foreign_running += request.num_sequences

    def _peer_waits_no_more(self, request: PeerRequest, now_seconds: float) -> None:
        self._prompt_at_seconds = max(self._prompt_at_seconds, now_seconds)
        self._projected_tokens = -1
        self.num_pending -= 1
        self.pending_tokens -= request.work_tokens
        self.pending_reserved_tokens -= request.needed_tokens + request.expected_output_tokens
