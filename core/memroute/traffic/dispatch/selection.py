"""What one request needs, which replica the policy chooses for it, and the reservation there."""

from collections.abc import Callable, Sequence
from typing import Final, Generic

from memroute.traffic.admission import AdmissionSettings
from memroute.traffic.admission.settings import OWN_PREFILL_RATIO
from memroute.traffic.dispatch.ask import Ask, T
from memroute.traffic.dispatch.settings import DispatchSettings
from memroute.traffic.lengths import OutputLengths
from memroute.traffic.prefixes.cached_prompts import CachedPrompts
from memroute.traffic.replica import Predictions, Reservation
from memroute.traffic.replica.backend import Backend, FastestReplica
from memroute.traffic.replica.requests_there import MEMORY_QUANTILE
from memroute.traffic.request import Hits, RequestProfile
from memroute.traffic.routing.chooser import Chooser, MemrouteChooser, PublishedChooser
from memroute.traffic.routing.cost import MEMROUTE, Choice, RandomSource, wait_seconds
from memroute.traffic.routing.published import published_policy
from memroute.traffic.routing.shortlist import Shortlist, closed_to

# Fraction of every admission limit that applies to a tenant over its fair share while others wait;
# the rest goes to the others at once.
# Unit: ratio of the limit. Source: chosen by hand.
OVER_SHARE_LIMIT_RATIO: Final = 0.8
# The policy of safe mode, and what decisions are labelled with in it.
SAFE_POLICY: Final = "least-request"
SAFE_MODE: Final = "safe-mode"
NO_HITS: Hits = {}


class Assignment:
    """The chosen replica, and what was reserved there in the same step."""

    __slots__ = ("backend", "choice", "num_taught_blocks", "reservation")

    def __init__(
        self,
        backend: Backend,
        choice: Choice,
        reservation: Reservation,
        num_taught_blocks: int,
    ) -> None:
        self.backend = backend
        self.choice = choice
        self.reservation = reservation
        self.num_taught_blocks = num_taught_blocks
        """Blocks at the end of its prompt that were not taken to be cached there before."""


class Selection(Generic[T]):
    """Owns the policy that chooses a replica. It keeps no request."""

    def __init__(
        self,
        settings: DispatchSettings,
        lengths: OutputLengths,
        cached: CachedPrompts,
        fastest: FastestReplica,
        *,
        rng: RandomSource,
        find_hits: Callable[[T], Hits] | None,
        predictions: Predictions,
    ) -> None:
        """``find_hits``: cached tokens by replica; None: as ``cached`` knows them."""
        self.settings = settings
        self._lengths = lengths
        self._cached = cached
        self._fastest = fastest
        self._rng = rng
        self._find_hits = find_hits
        self._predictions = predictions
        self._chooser = _chooser(settings)
        self._safe_chooser = PublishedChooser(SAFE_MODE, published_policy(SAFE_POLICY))
        self._reduced = settings.limits.reduced(OVER_SHARE_LIMIT_RATIO)
        self._without_time = settings.limits.without_time()

    def configure(self, settings: DispatchSettings) -> None:
        """Choose by these settings from now on. Raises ``KeyError`` for an unknown policy."""
        before = self.settings
        if (
            settings.policy != before.policy
            or settings.prefill_tokens_per_second != before.prefill_tokens_per_second
        ):
            self._chooser = _chooser(settings)
        self.settings = settings
        self._reduced = settings.limits.reduced(OVER_SHARE_LIMIT_RATIO)
        self._without_time = settings.limits.without_time()

    def ask(self, ticket: T, *, now_seconds: float) -> Ask[T]:
        """What the request needs: expected tokens, and a deadline."""
        profile = ticket.profile
        deadline = self.deadline(profile, now_seconds=now_seconds)
        return Ask(ticket, output_tokens=self._output_tokens(profile), deadline_seconds=deadline)

    def deadline(self, profile: RequestProfile, *, now_seconds: float) -> float:
        """When the first token is due of a request that comes now."""
        deadline = profile.deadline_seconds
        if deadline is None:
            deadline = now_seconds + self._ttft_target_seconds(profile.num_prompt_tokens)
        return deadline

    def shortlist(
        self,
        ask: Ask[T],
        backends: Sequence[Backend],
        *,
        is_over_share: bool,
        asks_gates: bool,
        now_seconds: float,
    ) -> Shortlist:
        """The policy's choice among the open replicas, and how many are closed for which reason.

        ``asks_gates``: False where admission is off. A published policy then gets all replicas.
        """
        limits = self._limits(is_over_share=is_over_share)
        chooser = self._chooser_now()
        if not asks_gates and not chooser.minds_gates:
            return Shortlist(backends, limits)
        return chooser.among_open(
            backends,
            ask.profile,
            hits=self._hits(ask.ticket, backends),
            output_tokens=ask.output_tokens,
            limits=limits,
            max_age_seconds=self.settings.max_age_seconds,
            rng=self._rng,
            now_seconds=now_seconds,
        )

    def in_any_case(self, ask: Ask[T], gated: Shortlist) -> Shortlist:
        """``gated`` with the policy's choice where no request is held."""
        hits = NO_HITS
        chooser = self._chooser_now()
        if chooser.sees_prefixes:
            hits = self._hits(ask.ticket, gated.backends)
        return chooser.among_all(ask.profile, gated, hits=hits, rng=self._rng)

    def is_open(
        self,
        ask: Ask[T],
        backend: Backend,
        *,
        work_tokens: int,
        is_over_share: bool,
        now_seconds: float,
    ) -> bool:
        """Whether the replica takes the request now.

        ``work_tokens``: of the prompt, what the replica would have to compute.
        """
        closed = closed_to(
            backend.ledger,
            ask.profile,
            work_tokens=work_tokens,
            output_tokens=ask.output_tokens,
            limits=self._limits(is_over_share=is_over_share),
            now_seconds=now_seconds,
        )
        return closed is None

    def is_in_time(self, ask: Ask[T], found: Shortlist, *, now_seconds: float) -> bool:
        """Whether its first token is expected in time from where it is sent now."""
        backend = found.open
        if backend is None:
            return False
        ledger = backend.ledger
        ahead = wait_seconds(ledger, now_seconds=now_seconds)
        own = ledger.speed.prefill_seconds(1, found.open_work)
        return now_seconds + ahead + own <= ask.deadline_seconds

    def assign(self, ask: Ask[T], found: Shortlist, *, now_seconds: float) -> Assignment:
        """Reserve room on ``found.open``. Raises ``ValueError`` where it is None."""
        backend = found.open
        if backend is None:
            msg = "no replica was chosen"
            raise ValueError(msg)
        profile, ledger = ask.profile, backend.ledger
        output, work = ask.output_tokens, found.open_work
        backend.health.trying(now_seconds=now_seconds)
        chooser = self._chooser_now()
        chooser.sent()
        choice = Choice(
            replica=ledger.replica,
            policy=chooser.name,
            num_candidates=len(found.backends),
            num_open=found.num_open,
            wait_seconds=wait_seconds(ledger, now_seconds=now_seconds),
            own_seconds=ledger.speed.prefill_seconds(1, work),
            hit_tokens=profile.num_prompt_tokens - work,
            projected_ratio=ledger.projected_ratio(ask.num_tokens),
            closed=found.closed,
            waited_for_wake=ask.waited_for_wake,
        )
        reservation = ledger.reserve(
            profile,
            now_seconds=now_seconds,
            work_tokens=work,
            expected_output_tokens=output,
        )
        reservation.expected_first_token_seconds = choice.wait_seconds + choice.own_seconds
        if ledger.observer is not None:
            ledger.observer.sent(ledger.replica, reservation)
        num_taught = self._cached.sent(ledger, profile)
        return Assignment(backend, choice, reservation, num_taught)

    # Inside.

    @property
    def is_in_safe_mode(self) -> bool:
        """Whether predictions are so far off that replicas are chosen by least request."""
        return self._predictions.distrusted is not None and self._chooser.name == MEMROUTE

    def _chooser_now(self) -> Chooser:
        return self._safe_chooser if self.is_in_safe_mode else self._chooser

    def _limits(self, *, is_over_share: bool) -> AdmissionSettings:
        """The limits that apply: lower ones for a tenant over its share."""
        if self.is_in_safe_mode:
            return self._without_time
        return self._reduced if is_over_share else self.settings.limits

    def _ttft_target_seconds(self, num_prompt_tokens: int) -> float:
        """When the first token is due that nobody has asked for sooner.

        A prompt that takes longer than the target (over ``OWN_PREFILL_RATIO``) on the fastest
        replica, idle and with nothing cached, gets as much time as it can be served in. In safe
        mode the target counts alone: what is believed of speed is wrong.
        """
        target = self.settings.limits.ttft_target_seconds
        if self.is_in_safe_mode:
            return target
        alone = self._fastest.prefill_seconds(num_prompt_tokens)
        return target if alone is None else max(target, OWN_PREFILL_RATIO * alone)

    def _hits(self, ticket: T, possible: Sequence[Backend]) -> Hits:
        find = self._find_hits
        return self._cached.hits(ticket.profile, possible) if find is None else find(ticket)

    def _output_tokens(self, profile: RequestProfile) -> int:
        """Expected tokens of the answer, all choices together: known, learned or assumed."""
        if profile.known_output_tokens is not None:
            return profile.known_output_tokens
        learned = self._lengths.quantile(
            MEMORY_QUANTILE,
            tenant=profile.tenant,
            num_prompt_tokens=profile.num_prompt_tokens,
            max_output_tokens=profile.max_output_tokens,
        )
        if learned is None:
            return profile.assumed_output_tokens
        return learned * profile.num_choices


def _chooser(settings: DispatchSettings) -> Chooser:
    if settings.policy == MEMROUTE:
        return MemrouteChooser()
    picker = published_policy(
        settings.policy, prefill_tokens_per_second=settings.prefill_tokens_per_second
    )
    return PublishedChooser(settings.policy, picker)
