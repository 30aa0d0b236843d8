"""The clients of a simulation: they send, wait, give up, try again and leave.

A client sends the turns of its session one after another. What it does when it is refused, or
waits for too long, is the mix's (``memroute_simulator.virtual.mix``): it sends the same request
again after what ``Retry-After`` says, as the official clients do, and its wait counts from the
first time.
"""

from collections.abc import Callable

from memroute_simulator.virtual.loop import VirtualLoop
from memroute_simulator.virtual.mix import TrafficMix
from memroute_simulator.virtual.outcome import Outcome, OutcomeStatus
from memroute_simulator.workloads.request import Session

RETRY_SECONDS = 1.0
# Before a client tries again that was told no time.

Route = Callable[[Outcome, Callable[[Outcome], None]], None]
"""Sends a request through some router; the second argument is called once, when it has ended."""


class Client:
    """One session's client. Owns its request that is under way."""

    def __init__(
        self,
        *,
        loop: VirtualLoop,
        session: Session,
        mix: TrafficMix,
        timeout_seconds: float | None,
        open_outcome: Callable[[Session, int], Outcome],
        route: Route,
        ended: Callable[[], None],
    ) -> None:
        """``open_outcome``: of a turn; ``ended``: called when a request is over for good."""
        self._loop = loop
        self._session = session
        self._mix = mix
        self._timeout_seconds = timeout_seconds
        self._open_outcome = open_outcome
        self._route = route
        self._ended = ended

    def send(self, turn: int = 0) -> None:
        """Send a turn of the session, and the next when it has ended."""
        outcome = self._open_outcome(self._session, turn)
        leaves_after = outcome.asked_how.leaves_after_seconds
        if leaves_after is not None:
            self._loop.after(leaves_after, lambda: self._leave(outcome, turn))
        self._try(outcome, turn)

    def _try(self, outcome: Outcome, turn: int) -> None:
        outcome.num_attempts += 1
        number = outcome.num_attempts
        if self._timeout_seconds is not None:
            seconds = self._timeout_seconds
            self._loop.after(seconds, lambda: self._give_up(outcome, turn, number))
        mix = self._mix
        is_stream = outcome.asked_how.is_stream
        patience = mix.stream_timeout_seconds if is_stream else mix.whole_timeout_seconds
        if patience is not None:
            self._loop.after(patience, lambda: self._lose_patience(outcome, turn, number))
        self._route(outcome, lambda _: self._go_on(outcome, turn))

    def _give_up(self, outcome: Outcome, turn: int, number: int) -> None:
        """The answer is not whole in time."""
        if outcome.status is OutcomeStatus.OPEN and outcome.num_attempts == number:
            self._cancel(outcome, OutcomeStatus.TIMED_OUT, "the client gave up")
            self._go_on(outcome, turn)

    def _lose_patience(self, outcome: Outcome, turn: int, number: int) -> None:
        """Not a byte has come: a whole answer shows its first byte at its end."""
        has_byte = outcome.first_token_seconds is not None and outcome.asked_how.is_stream
        if not has_byte:
            self._give_up(outcome, turn, number)

    def _leave(self, outcome: Outcome, turn: int) -> None:
        """Somebody has closed a window."""
        if outcome.status is OutcomeStatus.OPEN:
            self._cancel(outcome, OutcomeStatus.LEFT, "the client left")
            self._go_on(outcome, turn)

    def _cancel(self, outcome: Outcome, status: OutcomeStatus, why: str) -> None:
        cancel, outcome.cancel = outcome.cancel, None
        if cancel is not None:
            cancel()
        outcome.end(status, self._loop.now_seconds, why)

    def _go_on(self, outcome: Outcome, turn: int) -> None:
        """The request has ended: again, or the next turn."""
        if outcome.may_come_back and outcome.num_attempts < self._mix.max_client_attempts:
            seconds = outcome.retry_after_seconds or RETRY_SECONDS
            outcome.begin_again()
            self._loop.after(seconds, lambda: self._again(outcome, turn))
            return
        self._ended()
        session = self._session
        if turn + 1 < len(session.requests):
            think = session.think_seconds[turn] if turn < len(session.think_seconds) else 0.0
            self._loop.after(think, lambda: self.send(turn + 1))

    def _again(self, outcome: Outcome, turn: int) -> None:
        if outcome.status is OutcomeStatus.OPEN:
            self._try(outcome, turn)
