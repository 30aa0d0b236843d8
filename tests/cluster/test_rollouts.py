"""Rollouts under load: on a free cluster beside the old replica, on a full one in its place.

The other two pairs of mode and room are played by ``make rollouts`` (``test_rollout_pairs``).
"""

import json

from cluster_support import Recorder, apply, pod_names, wait_ready, watched
from rollouts_under_load import (
    BROKEN,
    assert_all_served,
    check_returned,
    replaced,
    served,
    under_load,
    wait_phase,
)

ONLY_GPU_C = {"kubernetes.io/hostname": "gpu-c"}


def test_rollouts_under_load_on_a_free_and_on_a_full_cluster_and_back(cluster, namespace, fleet):
    """Shared mode with room for a surge; both devices of a node in exclusive mode without.

    Nothing is lost of either: one replica is replaced at a time. Then a flag that no engine has:
    it never serves, the old revision serves on or comes back, and an edit cures it.
    """
    modes = {
        "free": {"placement": {"mode": "Shared"}, "replicas": 2},
        "full": {"placement": {"mode": "Exclusive", "nodeSelector": ONLY_GPU_C}, "replicas": 2},
    }
    with Recorder(cluster, fleet) as recorder:
        models, loads, before = {}, {}, {}
        for name, spec in modes.items():
            models[name], loads[name] = served(cluster, namespace, name, **spec)
            before[name] = set(pod_names(cluster, namespace, name))

        def edit(**changes):
            for name, spec in modes.items():
                apply(cluster, namespace, name, model=models[name], **spec, **changes)

        def roll_out():
            ready = '.status.conditions[?(@.type=="Ready")]'
            with (
                watched(cluster, namespace, "full", ready) as conditions,
                watched(cluster, namespace, "full", ".status.rollout.message") as messages,
                watched(cluster, namespace, "free", ".status.rollout.method") as methods,
            ):
                edit(memory={"maxContextTokens": 4096})
                cluster.wait_for(
                    "the rollout to be told",
                    lambda: any('"RolloutInProgress"' in one for one in conditions),
                )
                cluster.wait_for(
                    "why one of the full ones leaves first",
                    lambda: any("no node has 1 free device(s)" in one for one in messages),
                )
                finish()
            told = [json.loads(one) for one in conditions if one.strip()]
            rolling = {one["status"] for one in told if one["reason"] == "RolloutInProgress"}
            assert rolling == {"False"}
            assert "DrainFirst\n" not in methods

        def finish():
            for name in modes:
                wait_phase(cluster, namespace, name, "Complete")
                cluster.wait_for(
                    f"the old ones of {name} to go",
                    lambda name=name: replaced(cluster, namespace, name, before[name]),
                )

        under_load(loads.values(), roll_out)
        assert_all_served(*loads.values())

        def break_it():
            edit(memory={"maxContextTokens": 4096}, engine=BROKEN)
            for name in modes:
                check_returned(cluster, namespace, name, before=2)

        under_load([loads["free"]], break_it)
        assert_all_served(loads["free"])
        apply(
            cluster, namespace, "free",
            model=models["free"], memory={"maxContextTokens": 2048}, **modes["free"],
        )  # fmt: skip
        wait_phase(cluster, namespace, "free", "Complete")
        wait_ready(cluster, namespace, "free")
    assert recorder.overbooked == []
