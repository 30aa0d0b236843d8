"""Targets that engines cannot meet, from the start or from a moment on, do not stop the service.

In virtual time, with the targets of a ModelDeployment that names none: 1 s and 50 ms per token. The
engines need more than 50 ms per token for one request alone, so no router could meet them.
"""

import pytest

from bench.routing.faults import run_scenario
from bench.routing.slow import LEAST_REQUEST, SLOW_CASES, run_slow
from memroute_simulator.virtual.router import MEMROUTE
from sizes import size


@pytest.mark.parametrize(
    ("name", "rate"),
    [("llama-70b-l40s", 0.7), ("llama-8b-l4", 1.0), ("qwen-32b-a100", 1.5)][: size(1, 3)],
)
def test_engines_that_are_slower_than_the_targets_serve_all_the_same(name, rate):
    """At a tenth of what the fleet carries 60 to 80 % were refused, its replicas nearly idle."""
    assert SLOW_CASES[name].tpot_alone_seconds > 0.05
    ours, peer = (
        run_slow(name, policy, rate=rate, seed=1).summary for policy in (MEMROUTE, LEAST_REQUEST)
    )
    assert (ours.num_shed, ours.num_failed) == (0, 0)
    assert ours.output_tokens_per_second >= 0.98 * peer.output_tokens_per_second
    assert ours.ttft.p99 <= 1.1 * peer.ttft.p99


@pytest.mark.parametrize("seed", range(size(1, 3)))
def test_neighbours_that_become_busy_do_not_stop_the_service(seed):
    """All four replicas become 2.26 times slower: up to 67 of 81 requests were refused then."""
    ours, peer = (
        run_scenario("neighbours", policy, seed=seed) for policy in (MEMROUTE, LEAST_REQUEST)
    )
    assert ours["num_offered"] == peer["num_offered"] >= 60
    assert ours["num_lost"] <= peer["num_lost"]
