"""The policy that chooses among a pool's replicas: memroute's cost, or a published one.

Both work under every admission mode. Under ``enforce`` the gates say which replicas are open and
the chooser picks among those; under ``observe`` and ``off`` it picks among all of them.
"""

from collections.abc import Sequence

from memroute.traffic.admission import AdmissionSettings
from memroute.traffic.replica import ReplicaLedger
from memroute.traffic.replica.backend import Backend
from memroute.traffic.request import Hits, RequestProfile
from memroute.traffic.routing.cost import MEMROUTE, RandomSource
from memroute.traffic.routing.published import SEES_PREFIXES, Picker
from memroute.traffic.routing.shortlist import Shortlist, closed_to, shortlist


class Chooser:
    """Picks a replica. It keeps no request and no replica from one call to the next."""

    def __init__(self, name: str, *, minds_gates: bool) -> None:
        self.name = name
        """The policy's name, with which decisions are labelled."""
        self.sees_prefixes = name in SEES_PREFIXES
        """Whether the policy uses what the replicas have cached."""
        self.minds_gates = minds_gates
        """Whether the policy prefers open replicas even where no request is held."""

    def among_open(
        self,
        backends: Sequence[Backend],
        profile: RequestProfile,
        *,
        hits: Hits,
        output_tokens: int,
        limits: AdmissionSettings,
        max_age_seconds: float,
        rng: RandomSource,
        now_seconds: float,
    ) -> Shortlist:
        """Its choice among open replicas. MUST change nothing: the choice may not be used."""
        raise NotImplementedError

    def among_all(
        self, profile: RequestProfile, gated: Shortlist, *, hits: Hits, rng: RandomSource
    ) -> Shortlist:
        """``gated`` with the policy's choice as ``open``, where no request is held.

        ``gated``: the result of ``among_open``, or only its (not empty) ``backends`` where the
        policy does not mind the gates and they were not asked.
        """
        raise NotImplementedError

    def sent(self) -> None:
        """A request was sent to the chosen replica."""


class MemrouteChooser(Chooser):
    """The least cost in seconds (``memroute.traffic.routing.cost``)."""

    def __init__(self) -> None:
        super().__init__(MEMROUTE, minds_gates=True)

    def among_open(
        self,
        backends: Sequence[Backend],
        profile: RequestProfile,
        *,
        hits: Hits,
        output_tokens: int,
        limits: AdmissionSettings,
        max_age_seconds: float,
        rng: RandomSource,
        now_seconds: float,
    ) -> Shortlist:
        """The cheapest, closed or not, and the cheapest open one."""
        return shortlist(
            backends,
            profile,
            hits=hits,
            output_tokens=output_tokens,
            limits=limits,
            max_age_seconds=max_age_seconds,
            rng=rng,
            now_seconds=now_seconds,
        )

    def among_all(
        self,
        profile: RequestProfile,
        gated: Shortlist,
        *,
        hits: Hits,
        rng: RandomSource,
    ) -> Shortlist:
        """The cheapest open one; the cheapest where none is open."""
        if gated.open is None:
            gated.pick(
                gated.best or gated.backends[0],
                gated.best_work or profile.num_prompt_tokens,
                num_open=None,
            )
        return gated


class PublishedChooser(Chooser):
    """A published policy's pick of those that are open, or of all."""

    def __init__(self, name: str, picker: Picker) -> None:
        super().__init__(name, minds_gates=False)
        self._picker = picker

    def among_open(
        self,
        backends: Sequence[Backend],
        profile: RequestProfile,
        *,
        hits: Hits,
        output_tokens: int,
        limits: AdmissionSettings,
        max_age_seconds: float,
        rng: RandomSource,
        now_seconds: float,
    ) -> Shortlist:
        """Its pick of those that are open; nothing where none is."""
        found = Shortlist(backends, limits)
        opened: list[Backend] = []
        for backend in backends:
            closed = closed_to(
                backend.ledger,
                profile,
                work_tokens=_work(profile, hits, backend.ledger),
                output_tokens=output_tokens,
                limits=limits,
                now_seconds=now_seconds,
            )
            if closed is None:
                opened.append(backend)
            else:
                found.shut(closed)
        if opened:
            chosen = self._pick(opened, profile, hits, rng)
            work = _work(profile, hits, chosen.ledger)
            found.pick(chosen, work, num_open=len(opened))
        return found

    def among_all(
        self, profile: RequestProfile, gated: Shortlist, *, hits: Hits, rng: RandomSource
    ) -> Shortlist:
        """Its pick among all replicas, whatever the gates say."""
        chosen = self._pick(gated.backends, profile, hits, rng)
        gated.pick(chosen, _work(profile, hits, chosen.ledger), num_open=None)
        return gated

    def sent(self) -> None:
        """Advance the state of the policy (round robin)."""
        self._picker.sent()

    def _pick(
        self, backends: Sequence[Backend], profile: RequestProfile, hits: Hits, rng: RandomSource
    ) -> Backend:
        shown: Hits = hits if self.sees_prefixes else {}
        ledger = self._picker.pick(profile, [backend.ledger for backend in backends], shown, rng)
        return next(backend for backend in backends if backend.ledger is ledger)


def _work(profile: RequestProfile, hits: Hits, ledger: ReplicaLedger) -> int:
    """Prompt tokens that the replica would have to compute."""
    return max(1, profile.num_prompt_tokens - hits.get(ledger.replica, 0))
