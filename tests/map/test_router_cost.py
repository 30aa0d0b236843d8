"""What the map costs the router. In a run of its own: a browser brings a loop."""

import statistics
import time

from memroute.traffic.replica import ReplicaReading
from memroute_router.live_map.live import live_pieces
from router_rig import Rig

MOST_MILLISECONDS = 60.0
NUM_DEVICES = 400


async def test_what_a_look_costs_the_router():
    """In its own process, between requests: the whole page, and the longest that requests wait."""
    rig = Rig()
    await rig.start()
    try:
        reading = ReplicaReading(
            taken_at_seconds=rig.pools.now_seconds(), kv_cache_utilization_ratio=0.5,
            kv_capacity_tokens=10_000, num_requests_running=20, num_requests_waiting=0,
        )  # fmt: skip
        for number in range(NUM_DEVICES):
            rig.pools.apply_reading(rig.add(f"r{number}", 9), reading)
        facts = rig.router.operations._map._facts
        whole, longest = [], []
        for _ in range(20):
            steps, begun = [], time.thread_time()
            for _ in live_pieces(facts):
                steps.append(time.thread_time() - begun)
                begun = time.thread_time()
            whole.append(1000 * sum(steps))
            longest.append(1000 * max(steps))
        print(
            f"\nlive.json of {NUM_DEVICES} replicas: {statistics.median(whole):.1f} ms of the "
            f"router's processor, the longest step {statistics.median(longest):.2f} ms"
        )
        assert len(steps) > NUM_DEVICES
        assert statistics.median(whole) < MOST_MILLISECONDS
    finally:
        await rig.stop()
