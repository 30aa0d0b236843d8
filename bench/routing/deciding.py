"""What one decision costs, by the number of replicas: parse not included, reservation included.

Beside each row stands what a fixed piece of work took just before it, in Python and in C: on a
machine that others share, an hour that is slow shows there too.
"""

import random
import time
from typing import Any

from bench.reference import hash_milliseconds, loop_milliseconds
from memroute.traffic.admission import QueueLimits
from memroute.traffic.dispatch import Assignment, Backend, Dispatcher, DispatchSettings
from memroute.traffic.replica import ReplicaReading
from memroute.traffic.request import RequestProfile

REPLICAS = (1, 10, 100, 300, 1000)
NUM_DECISIONS = 400
STREAMS_PER_REPLICA = 20
PROMPT_TOKENS = 32_768
TOKENS_PER_BLOCK = 256


class _Asking:
    """One request with a prompt of 32k tokens, a part of it shared."""

    def __init__(self, rng: random.Random) -> None:
        self.tried: list[str] = []
        shared = rng.randrange(8)
        blocks = PROMPT_TOKENS // TOKENS_PER_BLOCK
        own = rng.getrandbits(40)
        self.profile = RequestProfile(
            num_prompt_tokens=PROMPT_TOKENS,
            min_prompt_tokens=PROMPT_TOKENS // 4,
            max_output_tokens=512,
            assumed_output_tokens=256,
            tenant=f"tenant-{shared}",
            prefix=tuple(
                hash((shared if index < blocks // 2 else own, index)) for index in range(blocks)
            ),
            tokens_per_block=TOKENS_PER_BLOCK,
        )


def deciding(*, seed: int = 1) -> list[dict[str, Any]]:
    """Microseconds per decision, for pools of 1 to 1,000 busy replicas."""
    return [_measured(count, seed) for count in REPLICAS]


def _measured(num_replicas: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)  # noqa: S311 - a benchmark
    loop, hashing = loop_milliseconds(), hash_milliseconds()
    dispatcher: Dispatcher[_Asking] = Dispatcher(
        DispatchSettings(),
        QueueLimits(max_requests=10**6, max_tokens=10**12, max_seconds=60.0),
        rng=rng,
    )
    now = 100.0
    for number in range(num_replicas):
        ledger = dispatcher.ledger(f"replica-{number}", promised_capacity_tokens=4_000_000)
        dispatcher.add(Backend(ledger))
        for _ in range(STREAMS_PER_REPLICA):
            lease = ledger.reserve(_Asking(rng).profile, now_seconds=now - 5, work_tokens=500)
            ledger.streamed(lease, num_events=1, now_seconds=now - 4)
        dispatcher.apply_reading(
            ledger,
            ReplicaReading(
                taken_at_seconds=now - rng.random(),
                kv_cache_utilization_ratio=rng.random() * 0.5,
                kv_capacity_tokens=4_000_000,
                num_requests_running=STREAMS_PER_REPLICA,
                num_requests_waiting=0,
            ),
        )
    spent = []
    for _ in range(NUM_DECISIONS):
        now += 0.01
        asking = _Asking(rng)
        begun = time.perf_counter()
        verdict = dispatcher.submit(asking, now_seconds=now)
        spent.append(time.perf_counter() - begun)
        if isinstance(verdict, Assignment):
            ledger = verdict.backend.ledger
            ledger.streamed(verdict.reservation, num_events=1, now_seconds=now + 0.005)
            dispatcher.ended(verdict, is_complete=False, now_seconds=now + 0.006)
        else:
            dispatcher.withdraw(asking)
    spent.sort()
    return {
        "num_replicas": num_replicas,
        "prompt_tokens": PROMPT_TOKENS,
        "median_microseconds": 1e6 * spent[len(spent) // 2],
        "p99_microseconds": 1e6 * spent[int(0.99 * len(spent))],
        "loop_milliseconds": loop,
        "hash_milliseconds": hashing,
    }
