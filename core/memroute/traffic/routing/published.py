"""Policies that others have published, by their formulas: to compare with, and to choose.

| name | formula (least wins, unless it says otherwise) | source |
| --- | --- | --- |
| ``random`` | | |
| ``round-robin`` | the next | |
| ``least-request`` | our requests there | Envoy, AIBrix |
| ``power-of-two`` | the same, of two at random | Mitzenmacher; SGLang |
| ``least-kv`` | scraped KV use | AIBrix |
| ``kv-in-flight`` | scraped KV use + our pending tokens / capacity | |
| ``headroom`` | the same + this request's uncached tokens / capacity | |
| ``gie-kv-queue`` | greatest (1 - KV) + (max - queue) / (max - min) | GIE, llm-d |
| ``gie-prefix-kv-queue`` | greatest 3 x cached share + 2 x (1 - KV) + 2 x queue as above | llm-d |
| ``lmetric`` | (pending + uncached tokens) x (our requests + 1) | arXiv 2603.15202 |
| ``vllm-dp`` | 4 x waiting + running | vLLM's data-parallel balancer |
| ``smg-least-load`` | queued and new tokens / throughput + 0.15 k / (1 - k) | smg |

Scraped values are as old as the last reading. Ties are broken at random.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from memroute.traffic.replica.ledger import ReplicaLedger
from memroute.traffic.request import Hits, RequestProfile
from memroute.traffic.routing.cost import RandomSource

Pick = Callable[[RequestProfile, Sequence[ReplicaLedger], Hits, RandomSource], ReplicaLedger]
Score = Callable[[RequestProfile, ReplicaLedger, int], float]

SMG_MEAN_PROMPT_TOKENS: Final = 1024
SMG_TOKENS_PER_SECOND: Final = 2000.0
SMG_PRESSURE_SECONDS: Final = 0.15
# smg's defaults: model_gateway/src/policies/least_load.rs.
GIE_PREFIX: Final = 3.0
GIE_KV: Final = 2.0
GIE_QUEUE: Final = 2.0
VLLM_WAITING_WEIGHT: Final = 4


def _any_of(rng: RandomSource, ledgers: Sequence[ReplicaLedger]) -> ReplicaLedger:
    return ledgers[int(rng.random() * len(ledgers))]


def pick_random(
    _profile: RequestProfile, ledgers: Sequence[ReplicaLedger], _hits: Hits, rng: RandomSource
) -> ReplicaLedger:
    """Any of them."""
    return _any_of(rng, ledgers)


def pick_of_two(
    _profile: RequestProfile, ledgers: Sequence[ReplicaLedger], _hits: Hits, rng: RandomSource
) -> ReplicaLedger:
    """Of two at random, the one with fewer of our requests."""
    first, second = _any_of(rng, ledgers), _any_of(rng, ledgers)
    return first if first.num_in_flight <= second.num_in_flight else second


class RoundRobin:
    """One after another. Owns whose turn it is."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(
        self,
        _profile: RequestProfile,
        ledgers: Sequence[ReplicaLedger],
        _hits: Hits,
        _rng: RandomSource,
    ) -> ReplicaLedger:
        """The next."""
        self._next += 1
        return ledgers[self._next % len(ledgers)]


class LeastScore:
    """The least score wins."""

    def __init__(self, score: Score) -> None:
        self._score = score

    def __call__(
        self,
        profile: RequestProfile,
        ledgers: Sequence[ReplicaLedger],
        hits: Hits,
        rng: RandomSource,
    ) -> ReplicaLedger:
        """The one with the least score, ties at random."""
        best, best_score, best_chance = ledgers[0], float("inf"), 0.0
        for ledger in ledgers:
            score = self._score(profile, ledger, hits.get(ledger.replica, 0))
            if score < best_score:
                best, best_score, best_chance = ledger, score, rng.random()
            elif score == best_score:
                chance = rng.random()
                if chance > best_chance:
                    best, best_chance = ledger, chance
        return best


class GatewayScorers:
    """The Gateway API Inference Extension's weighted scorers: the greatest sum wins."""

    def __init__(self, *, prefix: float, kv: float, queue: float) -> None:
        self._prefix, self._kv, self._queue = prefix, kv, queue

    def __call__(
        self,
        profile: RequestProfile,
        ledgers: Sequence[ReplicaLedger],
        hits: Hits,
        rng: RandomSource,
    ) -> ReplicaLedger:
        """Queues are compared by where they are between the shortest and the longest."""
        queues = [num_waiting(ledger) for ledger in ledgers]
        least, most = min(queues), max(queues)
        total = max(1, profile.num_prompt_tokens)
        best, best_value, best_chance = ledgers[0], -1.0, 0.0
        for ledger, queue in zip(ledgers, queues, strict=True):
            value = self._kv * (1 - ledger.measured_ratio)
            value += self._queue * ((most - queue) / (most - least) if most > least else 1.0)
            value += self._prefix * hits.get(ledger.replica, 0) / total
            chance = rng.random()
            if value > best_value or (value == best_value and chance > best_chance):
                best, best_value, best_chance = ledger, value, chance
        return best


def num_waiting(ledger: ReplicaLedger) -> int:
    """Requests in the engine's queue at the last reading; 0 while nothing was read."""
    reading = ledger.reading
    return 0 if reading is None else reading.num_requests_waiting or 0


def num_running(ledger: ReplicaLedger) -> int:
    """Requests in the engine's batch at the last reading; 0 while nothing was read."""
    reading = ledger.reading
    return 0 if reading is None else reading.num_requests_running or 0


def least_request(_profile: RequestProfile, ledger: ReplicaLedger, _hit: int) -> float:
    """Our requests there."""
    return float(ledger.num_in_flight)


def least_kv(_profile: RequestProfile, ledger: ReplicaLedger, _hit: int) -> float:
    """Scraped KV use, and nothing else."""
    return ledger.measured_ratio


def kv_in_flight(_profile: RequestProfile, ledger: ReplicaLedger, _hit: int) -> float:
    """Scraped KV use, and what of ours has not been computed yet."""
    return ledger.measured_ratio + ledger.pending_tokens / max(1, ledger.capacity_tokens or 1)


def headroom(profile: RequestProfile, ledger: ReplicaLedger, hit: int) -> float:
    """The same, with this request."""
    pending = ledger.pending_tokens + profile.num_prompt_tokens - hit
    return ledger.measured_ratio + pending / max(1, ledger.capacity_tokens or 1)


def lmetric(profile: RequestProfile, ledger: ReplicaLedger, hit: int) -> float:
    """New prefill work there, times the batch."""
    pending = ledger.pending_tokens + profile.num_prompt_tokens - hit
    return float(pending * (ledger.num_in_flight + 1))


def vllm_dp(_profile: RequestProfile, ledger: ReplicaLedger, _hit: int) -> float:
    """What vLLM balances its data-parallel ranks by."""
    return float(VLLM_WAITING_WEIGHT * num_waiting(ledger) + num_running(ledger))


def smg_least_load(_profile: RequestProfile, ledger: ReplicaLedger, _hit: int) -> float:
    """Seconds to drain, and a convex term of KV use."""
    queued = num_waiting(ledger) * SMG_MEAN_PROMPT_TOKENS + ledger.sent_since_reading_tokens
    k = min(ledger.measured_ratio, 0.999)
    return queued / SMG_TOKENS_PER_SECOND + SMG_PRESSURE_SECONDS * k / (1 - k)


def _least(score: Score) -> Callable[[], Pick]:
    return lambda: LeastScore(score)


PUBLISHED: Mapping[str, Callable[[], Pick]] = MappingProxyType(
    {
        "random": lambda: pick_random,
        "round-robin": RoundRobin,
        "least-request": _least(least_request),
        "power-of-two": lambda: pick_of_two,
        "least-kv": _least(least_kv),
        "kv-in-flight": _least(kv_in_flight),
        "headroom": _least(headroom),
        "gie-kv-queue": lambda: GatewayScorers(prefix=0.0, kv=1.0, queue=1.0),
        "gie-prefix-kv-queue": lambda: GatewayScorers(
            prefix=GIE_PREFIX, kv=GIE_KV, queue=GIE_QUEUE
        ),
        "lmetric": _least(lmetric),
        "vllm-dp": _least(vllm_dp),
        "smg-least-load": _least(smg_least_load),
    }
)
"""A new picker by name: some keep state, so each pool has its own."""
SEES_PREFIXES = frozenset({"gie-prefix-kv-queue", "headroom", "lmetric", "memroute"})
"""Policies that ask what the replicas have cached."""
POLICY_NAMES = ("memroute", *PUBLISHED)
