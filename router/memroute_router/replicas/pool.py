"""A pool: all replicas that serve one model, and the requests that wait for them.

It is a ``RequestPool`` (``memroute.traffic.dispatch``): that decides, chooses and reserves in one
step, holds what does not fit now, and says when its turn has come. What is added here is what
discovery says: which replicas there are, where, and by which settings they are routed to.
"""

import logging
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from random import Random
from typing import Final
from zlib import crc32

from memroute.traffic.dispatch import Dispatcher, DispatchSettings, RequestPool, RetryRule
from memroute.traffic.lengths import PromptLengths
from memroute.traffic.peers import PeerGroup
from memroute.traffic.replica import SleepPhase
from memroute_router.replicas.pool_settings import (
    DEFAULT_ASSUMED_OUTPUT_TOKENS,
    CommonSettings,
    PoolSettings,
)
from memroute_router.replicas.replica import Replica, ReplicaInfo
from memroute_router.replicas.targets import TargetWatch

# One logger for all pools and each of them.
LOGGER = logging.getLogger("memroute_router.replicas.pools")
_NEARLY_AWAKE: Final = (SleepPhase.ASLEEP, SleepPhase.FALLING_ASLEEP, SleepPhase.WAKING)
"""The phases of replicas that sleep, that which serves soonest last."""


class Pool(RequestPool[Replica]):
    """All replicas that serve one model, and the requests that wait for them."""

    def __init__(
        self,
        model: str,
        rng: Random,
        common: CommonSettings,
        retries: RetryRule,
        call_soon: Callable[..., object],
        call_later: Callable[..., object],
        on_error: Callable[[Exception], None],
        peers: PeerGroup,
        tenant_weights: Mapping[str, float],
    ) -> None:
        """``call_soon``, ``call_later``: the event loop's; the queue moves on from there alone.

        ``peers``: the other routers, the same for all pools. ``tenant_weights``: of the tenants'
        shares, likewise.
        """
        super().__init__(
            Dispatcher(
                DispatchSettings(
                    waits_for_replicas=common.waits_for_replicas,
                    max_age_seconds=common.max_age_seconds,
                ),
                common.queue_limits,
                rng=rng,
                peers=peers,
                tenant_weights=tenant_weights,
            ),
            retries=retries,
            clock=time.monotonic,
            call_soon=call_soon,
            call_later=call_later,
            on_error=on_error,
        )
        self._common = common
        self.model = model
        self.settings: PoolSettings | None = None
        self.labels: tuple[str, str] = "", ""
        """Namespace and ModelDeployment: what its series are labelled with."""
        self._is_shared = False
        """Whether a replica of another ModelDeployment, of the same served name, is in it."""
        self._arrivals_apart: dict[tuple[str, str], int] = {}
        """Requests that were for replicas of one ModelDeployment alone, by its labels."""
        self._keys_of: dict[tuple[str, str], set[str]] = {}
        """Names of the replicas of each ModelDeployment that has, or had, any."""
        self.prompts = PromptLengths()
        self.targets = TargetWatch()
        self._rng = rng

    def changed(self) -> None:
        """Settings or replicas are other than before."""
        for replica in self.replicas.values():
            info, backend = replica.info, replica.backend
            backend.is_routable = info.is_routable
            backend.adapters = info.adapters
            if info.sleep is not None or backend.sleep is not None:
                self._sleeps(replica)
        if self.settings is not None:
            self.labels = self.settings.namespace, self.settings.deployment
            self.dispatcher.configure(self.settings.dispatch(self._common))
        elif self.replicas:
            info = next(iter(self.replicas.values())).info
            self.labels = info.namespace, info.deployment
        self._is_shared = any(one.labels != self.labels for one in self.replicas.values())
        for keys in self._keys_of.values():
            keys.clear()
        for key, replica in self.replicas.items():
            self._keys_of.setdefault(replica.labels, set()).add(key)
        self.advance_soon()

    def replicas_of(self, labels: tuple[str, str]) -> AbstractSet[str]:
        """Names of the replicas of one ModelDeployment, now and later.

        A request that waits for them may go to those that come meanwhile.
        """
        return self._keys_of.setdefault(labels, set())

    def asked_of(self, only: AbstractSet[str]) -> None:
        """A request has come that may go to these replicas alone."""
        if self._is_shared:
            meant = self._meant(only)
            self._arrivals_apart[meant] = self._arrivals_apart.get(meant, 0) + 1

    def asked_in_vain(self, labels: tuple[str, str]) -> None:
        """A request has come for a ModelDeployment that has no replica in the pool."""
        self.num_arrivals += 1
        self._arrivals_apart[labels] = self._arrivals_apart.get(labels, 0) + 1

    @property
    def arrivals(self) -> dict[tuple[str, str], int]:
        """Requests that have asked for each ModelDeployment of it, by labels.

        Those of a gateway's pool ask for that one alone (``RequestProfile.only``); all others count
        for the one by whose settings the pool decides.
        """
        found = dict.fromkeys((one.labels for one in self.replicas.values()), 0)
        found |= self._arrivals_apart
        found[self.labels] = 0
        found[self.labels] = self.num_arrivals - sum(found.values())
        return found

    @property
    def held(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Requests that wait for each ModelDeployment of it, and their tokens, by labels."""
        if not self._is_shared:
            return {self.labels: (self.num_held, self.held_tokens)}
        found = {self.labels: (0, 0)} | {one.labels: (0, 0) for one in self.replicas.values()}
        for ask in self.dispatcher.waiting():
            only = ask.profile.only
            meant = self.labels if only is None else self._meant(only)
            count, num_tokens = found[meant]
            found[meant] = count + 1, num_tokens + ask.num_tokens
        return found

    def _meant(self, only: AbstractSet[str]) -> tuple[str, str]:
        """The ModelDeployment of these replicas; that of the pool where they are of several."""
        found = {self.replicas[key].labels for key in only if key in self.replicas}
        return found.pop() if len(found) == 1 else self.labels

    def _sleeps(self, replica: Replica) -> None:
        """A replica sleeps, or has slept until now."""
        info, now = replica.info, self.now_seconds()
        self.dispatcher.set_sleep(
            info.key, info.sleep, wake_seconds=info.wake_seconds, now_seconds=now
        )
        if info.sleep is None:
            replica.awake_since_seconds = now

    @property
    def sleep(self) -> SleepPhase | None:
        """What the model does that sleeps: no replica is awake; None: one is, or none sleeps."""
        phases = [one.info.sleep for one in self.replicas.values() if one.info.sleep is not None]
        if not phases or any(one.info.is_routable for one in self.replicas.values()):
            return None
        return max(phases, key=_NEARLY_AWAKE.index)

    @property
    def tokenizer_folder(self) -> str | None:
        """Where its tokenizer is, if somewhere of its own."""
        return None if self.settings is None else self.settings.tokenizer_folder

    @property
    def assumed_output_tokens(self) -> int:
        """How long an answer without a limit is taken to be while nothing is learned."""
        if self.settings is None:
            return DEFAULT_ASSUMED_OUTPUT_TOKENS
        return self.settings.assumed_output_tokens

    def add(self, info: ReplicaInfo) -> Replica:
        """A new engine: a new ledger."""
        ledger = self.dispatcher.ledger(
            info.key,
            promised_capacity_tokens=info.promised_capacity_tokens,
            max_context_tokens=info.max_context_tokens,
            weight_ratio=info.weight_ratio,
        )
        ledger.host = info.host
        replica = Replica(info, ledger)
        self.join(replica.backend, replica)
        return replica

    def draw(self, session: str) -> float:
        """Which of several versions a request goes to, 0 to 1: a session stays with one."""
        return (crc32(session.encode()) / 2**32) if session else self._rng.random()

    def num_stale(self, *, now_seconds: float) -> int:
        """Routable replicas that were never read, or not for too long."""
        max_age = self._common.max_age_seconds
        return sum(
            replica.info.is_routable
            and now_seconds - replica.awake_since_seconds > max_age
            and not replica.ledger.is_fresh(max_age_seconds=max_age, now_seconds=now_seconds)
            for replica in self.replicas.values()
        )

    def tick(self) -> None:
        """Time passes: whole answers begin, replicas that hang are left, targets are judged."""
        predictions = self.dispatcher.predictions
        before = predictions.distrusted
        super().tick()
        if predictions.distrusted is not before:
            if before is None:
                LOGGER.warning("safe mode model=%s reason=%r", self.model, predictions.message)
            else:
                LOGGER.info("safe mode ends model=%s: predictions are right again", self.model)
        self.targets.look(
            self.model,
            [replica.ledger for replica in self.replicas.values()],
            self.dispatcher.settings.limits,
            now_seconds=self.now_seconds(),
        )
