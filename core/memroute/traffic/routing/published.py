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
| ``llm-d`` | uncached tokens under way + its own, among those that have 80 % of the prompt cached \
while these are not 18 s of prefill behind the others | llm-d 1.0 |

Scraped values are as old as the last reading. Ties are broken at random. ``gie-prefix-kv-queue`` is
what llm-d did before 1.0.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from memroute.traffic.replica.ledger import ReplicaLedger
from memroute.traffic.request import Hits, RequestProfile
from memroute.traffic.routing.cost import RandomSource

Score = Callable[[RequestProfile, ReplicaLedger, int], float]

# Prompt tokens that smg assumes of each queued request.
# Unit: tokens. Source: smg's default, model_gateway/src/policies/least_load.rs.
SMG_MEAN_PROMPT_TOKENS: Final = 1024
# Prompt tokens per second that smg assumes of every replica.
# Unit: tokens per second. Source: smg's default, in the same file.
SMG_TOKENS_PER_SECOND: Final = 2000.0
# Weight of smg's barrier of memory, k / (1 - k).
# Unit: seconds. Source: smg's default, in the same file.
SMG_PRESSURE_SECONDS: Final = 0.15
# Weight of the cached share of the prompt in GIE's score.
# Unit: weight. Source: llm-d's chart before 1.0.
GIE_PREFIX: Final = 3.0
# Weight of the free share of the KV cache in GIE's score.
# Unit: weight. Source: llm-d's chart before 1.0.
GIE_KV: Final = 2.0
# Weight of the queue's length in GIE's score.
# Unit: weight. Source: llm-d's chart before 1.0.
GIE_QUEUE: Final = 2.0
# Weight of a waiting request against a running one.
# Unit: running requests. Source: vLLM's data-parallel balancer (vllm/v1/engine/core_client.py).
VLLM_WAITING_WEIGHT: Final = 4
# Share of a prompt that has to be cached on a replica for llm-d to stick to that replica.
# Unit: ratio of the prompt. Source: llm-d 1.0's default,
# pkg/epp/framework/plugins/scheduling/filter/prefixcacheaffinity of llm-d-router.
LLM_D_AFFINITY_RATIO: Final = 0.8
# Prefill by which a sticky replica may be behind the others before llm-d leaves it.
# Unit: seconds. Source: llm-d 1.0's default, in the same file.
LLM_D_MAX_PENALTY_SECONDS: Final = 18.0
# Prompt tokens per second of one replica where no operator has calibrated it: Qwen 32B on two
# H100s.
# Unit: tokens per second. Source: llm-d 1.0's default, in the same file.
LLM_D_TOKENS_PER_SECOND: Final = 15_928.0


def _any_of(rng: RandomSource, ledgers: Sequence[ReplicaLedger]) -> ReplicaLedger:
    return ledgers[int(rng.random() * len(ledgers))]


class Picker:
    """A published policy: which of the replicas that it is shown. Some keep state."""

    def pick(
        self,
        profile: RequestProfile,
        ledgers: Sequence[ReplicaLedger],
        hits: Hits,
        rng: RandomSource,
    ) -> ReplicaLedger:
        """One of ``ledgers``, which are not empty. MUST change nothing: it may be asked in vain."""
        raise NotImplementedError

    def sent(self) -> None:
        """The request went where it was picked to go."""


class AtRandom(Picker):
    """Any of them."""

    def pick(
        self,
        profile: RequestProfile,
        ledgers: Sequence[ReplicaLedger],
        hits: Hits,
        rng: RandomSource,
    ) -> ReplicaLedger:
        """All with the same chance."""
        return _any_of(rng, ledgers)


class PowerOfTwo(Picker):
    """Of two at random, the one with fewer of our requests."""

    def pick(
        self,
        profile: RequestProfile,
        ledgers: Sequence[ReplicaLedger],
        hits: Hits,
        rng: RandomSource,
    ) -> ReplicaLedger:
        """The two may be the same."""
        first, second = _any_of(rng, ledgers), _any_of(rng, ledgers)
        return first if first.num_in_flight <= second.num_in_flight else second


class RoundRobin(Picker):
    """One after another. Owns whose turn it is."""

    def __init__(self) -> None:
        self._next = 1

    def pick(
        self,
        profile: RequestProfile,
        ledgers: Sequence[ReplicaLedger],
        hits: Hits,
        rng: RandomSource,
    ) -> ReplicaLedger:
        """The next of those that it is shown."""
        return ledgers[self._next % len(ledgers)]

    def sent(self) -> None:
        """The turn is over."""
        self._next += 1


class LlmD(Picker):
    """llm-d 1.0: sticky until saturated, then the least token load."""

    def __init__(self, tokens_per_second: float = LLM_D_TOKENS_PER_SECOND) -> None:
        """``tokens_per_second``: of prefill, as calibrated for the model and its accelerators."""
        self._max_penalty_tokens = LLM_D_MAX_PENALTY_SECONDS * tokens_per_second

    def pick(
        self,
        profile: RequestProfile,
        ledgers: Sequence[ReplicaLedger],
        hits: Hits,
        rng: RandomSource,
    ) -> ReplicaLedger:
        """Those that have the prefix, while the least loaded of them is not too far behind."""
        needed = LLM_D_AFFINITY_RATIO * profile.num_prompt_tokens
        sticky = [ledger for ledger in ledgers if hits.get(ledger.replica, 0) >= needed]
        if sticky and len(sticky) < len(ledgers):
            others = [ledger for ledger in ledgers if hits.get(ledger.replica, 0) < needed]
            penalty = min(map(_pending, sticky)) - min(map(_pending, others))
            if penalty > self._max_penalty_tokens:
                sticky = []
        return _least(token_load, profile, sticky or ledgers, hits, rng)


class LeastScore(Picker):
    """The least score wins."""

    def __init__(self, score: Score) -> None:
        self._score = score

    def pick(
        self,
        profile: RequestProfile,
        ledgers: Sequence[ReplicaLedger],
        hits: Hits,
        rng: RandomSource,
    ) -> ReplicaLedger:
        """The one with the least score, ties at random."""
        return _least(self._score, profile, ledgers, hits, rng)


class GatewayScorers(Picker):
    """The Gateway API Inference Extension's weighted scorers: the greatest sum wins."""

    def __init__(self, *, prefix: float, kv: float, queue: float) -> None:
        self._prefix, self._kv, self._queue = prefix, kv, queue

    def pick(
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


def token_load(profile: RequestProfile, ledger: ReplicaLedger, hit: int) -> float:
    """Uncached prompt tokens that have not been computed there, this request's with them."""
    return float(ledger.pending_tokens + profile.num_prompt_tokens - hit)


def _pending(ledger: ReplicaLedger) -> int:
    return ledger.pending_tokens


def _least(
    score: Score,
    profile: RequestProfile,
    ledgers: Sequence[ReplicaLedger],
    hits: Hits,
    rng: RandomSource,
) -> ReplicaLedger:
    """The one with the least score; of several, each with some chance."""
    best, best_score, best_chance = ledgers[0], float("inf"), 0.0
    for ledger in ledgers:
        found = score(profile, ledger, hits.get(ledger.replica, 0))
        if found < best_score:
            best, best_score, best_chance = ledger, found, rng.random()
        elif found == best_score:
            chance = rng.random()
            if chance > best_chance:
                best, best_chance = ledger, chance
    return best


_SCORES: Final[Mapping[str, Score]] = MappingProxyType(
    {
        "least-request": least_request,
        "least-kv": least_kv,
        "kv-in-flight": kv_in_flight,
        "headroom": headroom,
        "lmetric": lmetric,
        "vllm-dp": vllm_dp,
        "smg-least-load": smg_least_load,
    }
)


def published_policy(
    name: str, *, prefill_tokens_per_second: float = LLM_D_TOKENS_PER_SECOND
) -> Picker:
    """A new picker: some keep state, so each pool has its own. Raises ``KeyError`` for no such one.

    ``prefill_tokens_per_second``: of the model on its accelerators, for those that need it (llm-d).
    """
    score = _SCORES.get(name)
    if score is not None:
        return LeastScore(score)
    others: dict[str, Picker] = {
        "random": AtRandom(),
        "power-of-two": PowerOfTwo(),
        "round-robin": RoundRobin(),
        "gie-kv-queue": GatewayScorers(prefix=0.0, kv=1.0, queue=1.0),
        "gie-prefix-kv-queue": GatewayScorers(prefix=GIE_PREFIX, kv=GIE_KV, queue=GIE_QUEUE),
        "llm-d": LlmD(prefill_tokens_per_second),
    }
    return others[name]


PUBLISHED: Final = (
    "random", "round-robin", "least-request", "power-of-two", "least-kv", "kv-in-flight",
    "headroom", "gie-kv-queue", "gie-prefix-kv-queue", "lmetric", "vllm-dp", "smg-least-load",
    "llm-d",
)  # fmt: skip
"""Their names."""
SEES_PREFIXES = frozenset({"gie-prefix-kv-queue", "headroom", "llm-d", "lmetric", "memroute"})
"""Policies that ask what the replicas have cached."""
POLICY_NAMES = ("memroute", *PUBLISHED)
