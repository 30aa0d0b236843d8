"""A router in virtual time: its own clock, its own stale view of every replica.

Each replica is scraped at the router's period from a random phase on, and a reading arrives
late by the network. Requests that fail before their first token are tried elsewhere.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from memroute_simulator.engine.model import EngineRequest, SegmentedContent
from memroute_simulator.virtual.loop import VirtualLoop
from memroute_simulator.virtual.outcome import Outcome, OutcomeStatus
from memroute_simulator.virtual.policies import Policy, ReplicaView, Shed
from memroute_simulator.virtual.replica import Ticket, VirtualReplica


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """How routers see and send."""

    scrape_seconds: float = 0.2
    scrape_delay_seconds: float = 0.005
    """From the engine's answer to the decision that may use it."""
    network_seconds: float = 0.0005
    """One way, router to replica."""
    max_attempts: int = 3


@dataclass(slots=True, eq=False)
class _Attempt:
    outcome: Outcome
    view: ReplicaView
    ticket: Ticket
    uncached_tokens: int
    is_pending: bool = True


@dataclass(slots=True, kw_only=True, eq=False)
class VirtualRouter:
    """One router replica. Owns its views."""

    loop: VirtualLoop
    policy: Policy
    settings: RouterSettings
    rng: random.Random
    is_running: Callable[[], bool]
    """Whether there is still something to scrape for."""
    views: dict[str, ReplicaView] = field(default_factory=dict)
    _listed: list[ReplicaView] = field(default_factory=list)

    def add_replica(self, replica: VirtualReplica) -> None:
        """Start to scrape a replica, and to send to it."""
        view = ReplicaView(replica=replica, capacity_tokens=max(1, replica.capacity_tokens))
        self.views[replica.name] = view
        self._listed.append(view)
        if self.is_running():
            self._start(view)

    def start_scraping(self) -> None:
        """Scrape every replica, each from a phase of its own, until nothing is left to route."""
        for view in self._listed:
            self._start(view)

    def _start(self, view: ReplicaView) -> None:
        self.loop.after(self.rng.random() * self.settings.scrape_seconds, self._scrapes(view))

    def remove_replica(self, replica: VirtualReplica) -> None:
        """Send nothing more to it."""
        view = self.views.pop(replica.name, None)
        if view is not None:
            self._listed.remove(view)

    def route(self, outcome: Outcome, on_end: Callable[[Outcome], None]) -> None:
        """Send a request on, or shed it."""
        tried = set(outcome.tried)
        views = [v for v in self._listed if v.replica.name not in tried] if tried else self._listed
        if not views:
            outcome.end(OutcomeStatus.FAILED, self.loop.now_seconds, "no replica left to try")
            on_end(outcome)
            return
        request = self._request(outcome)
        choice = self.policy.choose(request, views, self.loop.now_seconds)
        if isinstance(choice, Shed):
            outcome.retry_after_seconds = choice.retry_after_seconds
            outcome.end(OutcomeStatus.SHED, self.loop.now_seconds, choice.reason)
            on_end(outcome)
            return
        self._send(outcome, request, choice, on_end)

    def _request(self, outcome: Outcome) -> EngineRequest:
        asked = outcome.asked
        return EngineRequest(
            request_id=f"{outcome.number}.{len(outcome.tried)}",
            num_prompt_tokens=asked.num_prompt_tokens,
            num_output_tokens=asked.num_output_tokens,
            max_output_tokens=asked.max_output_tokens,
            content=SegmentedContent(asked.prompt, asked.output_id),
            priority=asked.priority,
            arrival_seconds=outcome.sent_seconds,
            adapter=asked.adapter,
        )

    def _send(
        self,
        outcome: Outcome,
        request: EngineRequest,
        view: ReplicaView,
        on_end: Callable[[Outcome], None],
    ) -> None:
        outcome.tried.append(view.replica.name)
        ticket = Ticket(request=request)
        # A router without an index takes the whole prompt as work.
        hit = view.replica.hit_tokens(request) if self.policy.sees_prefixes else 0
        attempt = _Attempt(outcome, view, ticket, request.num_prompt_tokens - hit)
        view.num_in_flight += 1
        view.pending_tokens += attempt.uncached_tokens
        self.policy.on_sent(request, view, self.loop.now_seconds)
        ticket.on_first_token = lambda _: self._on_first_token(attempt)
        ticket.on_end = lambda _: self._on_end(attempt, on_end)
        outcome.cancel = lambda: self._cancel(attempt)
        self.loop.after(self.settings.network_seconds, lambda: view.replica.submit(ticket))

    def _cancel(self, attempt: _Attempt) -> None:
        """The client has gone: the engine's work ends, and what was booked is given back."""
        attempt.view.replica.abort(attempt.ticket)
        self._leave(attempt)

    def _leave(self, attempt: _Attempt) -> None:
        self._settle(attempt)
        attempt.outcome.cancel = None
        attempt.view.num_in_flight -= 1
        self.policy.on_end(attempt.ticket.request, attempt.view, self.loop.now_seconds)

    def _on_first_token(self, attempt: _Attempt) -> None:
        self._settle(attempt)
        attempt.outcome.first_token_seconds = self.loop.now_seconds + self.settings.network_seconds
        self.policy.on_first_token(attempt.ticket.request, attempt.view)

    def _settle(self, attempt: _Attempt) -> None:
        if attempt.is_pending:
            attempt.is_pending = False
            attempt.view.pending_tokens -= attempt.uncached_tokens

    def _on_end(self, attempt: _Attempt, on_end: Callable[[Outcome], None]) -> None:
        now = self.loop.now_seconds
        self._leave(attempt)
        outcome, request = attempt.outcome, attempt.ticket.request
        outcome.num_preemptions += request.num_preemptions
        outcome.num_hit_tokens = request.num_hit_tokens
        if not attempt.ticket.is_failed:
            outcome.end(OutcomeStatus.SERVED, now + self.settings.network_seconds)
            on_end(outcome)
        elif outcome.first_token_seconds is None and (
            len(outcome.tried) < self.settings.max_attempts
        ):
            self.route(outcome, on_end)
        else:
            outcome.end(OutcomeStatus.FAILED, now, "the replica died")
            on_end(outcome)

    def _scrapes(self, view: ReplicaView) -> Callable[[], None]:
        """Scrape now, and again every period while there is something to route."""

        def scrape() -> None:
            if self.views.get(view.replica.name) is not view:
                return
            if view.replica.is_serving:
                reading = view.replica.reading()
                taken = self.loop.now_seconds

                def arrive() -> None:
                    view.num_running = reading.num_running
                    view.num_waiting = reading.num_waiting
                    view.kv_ratio = reading.kv_cache_utilization_ratio
                    view.read_at_seconds = taken
                    self.policy.on_scrape(view, self.loop.now_seconds)

                self.loop.after(self.settings.scrape_delay_seconds, arrive)
            if self.is_running():
                self.loop.after(self.settings.scrape_seconds, scrape)

        return scrape
