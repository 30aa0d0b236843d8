"""Rollouts under load in both modes, on a free and on a full cluster (opt-in: ``make rollouts``).

``test_rollouts`` plays two of the four pairs in each run of the cluster tests. Here each pair is
played alone and to its end: a good revision, a broken one, and the edit that cures it. Its history
is checked by the recorder, and its figures are printed.
"""

import os
import time

import pytest

from cluster_support import Recorder, apply, pod_names, wait_ready
from rollouts_under_load import (
    BROKEN,
    assert_all_served,
    check_returned,
    replaced,
    rollout_of,
    served,
    under_load,
    wait_phase,
)

pytestmark = pytest.mark.skipif(
    not os.environ.get("MEMROUTE_ROLLOUT_PAIRS"), reason="make rollouts runs it"
)


def only(node):
    return {"kubernetes.io/hostname": node}


# Two replicas of 36 GiB each fill the one H100 of gpu-a but for 7 GiB; gpu-c has two H100s.
LARGE = {"maxContextTokens": 8192, "concurrency": 36}
PAIRS = {
    "shared, free": {"placement": {"mode": "Shared"}, "replicas": 2},
    "shared, full": {
        "placement": {"mode": "Shared", "nodeSelector": only("gpu-a")}, "replicas": 2,
        "memory": LARGE,
    },
    "exclusive, free": {
        "placement": {"mode": "Exclusive", "nodeSelector": only("gpu-c")}, "replicas": 1,
    },
    "exclusive, full": {
        "placement": {"mode": "Exclusive", "nodeSelector": only("gpu-c")}, "replicas": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS)
def test_a_rollout_loses_no_request_and_a_broken_one_comes_back(cluster, namespace, fleet, pair):
    """On a free cluster nothing waits for room; on a full one nobody deadlocks for it."""
    spec, is_full = PAIRS[pair], pair.endswith("full")
    num_replicas = spec["replicas"]
    with Recorder(cluster, fleet) as recorder:
        model, load = served(cluster, namespace, "m", **spec)
        before = set(pod_names(cluster, namespace, "m"))
        methods, seconds = set(), {}

        def edit(**engine):
            apply(cluster, namespace, "m", model=model, engine=engine, **spec)

        def good():
            began = time.monotonic()
            # Another revision of the same size.
            edit(env=[{"name": "REVISION", "value": "2"}])

            def is_replaced():
                methods.add(rollout_of(cluster, namespace, "m").get("method"))
                return replaced(cluster, namespace, "m", before)

            cluster.wait_for("the old ones to go", is_replaced)
            wait_phase(cluster, namespace, "m", "Complete")
            seconds["good"] = time.monotonic() - began

        under_load([load], good)
        assert_all_served(load)
        assert ("DrainFirst" in methods) == is_full, methods
        num_good = len(load.ends)

        def broken():
            began = time.monotonic()
            edit(**BROKEN, env=[{"name": "REVISION", "value": "2"}])
            check_returned(cluster, namespace, "m", before=num_replicas)
            seconds["broken, until it is back"] = time.monotonic() - began

        under_load([load], broken)
        assert_all_served(load)
        began = time.monotonic()
        edit(env=[{"name": "REVISION", "value": "3"}])
        wait_phase(cluster, namespace, "m", "Complete")
        wait_ready(cluster, namespace, "m")
        seconds["cured"] = time.monotonic() - began
    told = ", ".join(f"{what} {spent:.0f} s" for what, spent in seconds.items())
    print(  # noqa: T201 - the figures that this is run for
        f"\n{pair}: {told}; {num_good} and {len(load.ends) - num_good} requests, all served; "
        f"{recorder.num_events} events of pods, nothing promised twice"
    )
    assert recorder.overbooked == []
