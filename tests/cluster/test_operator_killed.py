import os
import random
import signal
import time

import pytest

from cluster_support import Recorder, apply, get_deployment, pods_of, wait_ready
from memroute_kube.resources import LABEL_DEPLOYMENT
from mortal_operator import mortal_operators
from two_operators import num_lists

NUM_KILLS = int(os.environ.get("MEMROUTE_KILLS", "8"))


@pytest.fixture
def mortal_operator(cluster):
    """An operator of our own, under the operator's ServiceAccount, that can be killed at will."""
    with mortal_operators(cluster) as start:
        yield start


def spec(rng):
    mode = rng.choice(["Shared", "Shared", "Exclusive"])
    return {
        "placement": {"mode": mode},
        "replicas": rng.randint(0, 2),
        "memory": {"maxContextTokens": rng.choice([2048, 4096, 8192])},
    }


def test_an_operator_killed_anywhere_converges(cluster, namespace, mortal_operator, fleet):
    """Creates, edits and deletes, and SIGKILL at random moments of the work (``make chaos``: 50).

    At no recorded moment is a device promised more than it has; no engine runs out of memory;
    the end state is what the last specs say, and nothing else is left.
    """
    rng = random.Random(os.environ.get("MEMROUTE_CHAOS_SEED", "11"))
    with Recorder(cluster, fleet) as recorder:
        wanted = {}

        def change():
            name = f"m{rng.randint(0, 4)}"
            if name in wanted and rng.random() < 0.25:
                cluster.kubectl("delete", "mdep", name, "-n", namespace, "--wait=false")
                del wanted[name]
            else:
                wanted[name] = spec(rng)
                apply(cluster, namespace, name, **wanted[name])

        operator = mortal_operator()
        for _ in range(NUM_KILLS):
            # Mostly shorter than one second, so that most deaths fall into the work itself.
            since = cluster.audit_log.stat().st_size
            change()
            cluster.wait_for(
                "it to begin", lambda since=since: num_lists(cluster.audit_log, since=since)
            )
            alive_until = time.monotonic() + rng.choice([0.0, 0.2, 0.5, 1.0, 2.5])
            while time.monotonic() < alive_until:
                change()
                time.sleep(rng.uniform(0, 0.3))
            assert operator.poll() is None, cluster.log_tail("mortal-operator", lines=60)
            operator.send_signal(signal.SIGKILL)
            operator.wait()
            operator = mortal_operator()
        # One last spec for each, so that the end is known.
        wanted = {
            "m0": {"replicas": 2},
            "m1": {"replicas": 1, "placement": {"mode": "Exclusive"}},
            "m2": {"replicas": 2, "memory": {"maxContextTokens": 4096}},
        }
        for name in ("m3", "m4"):
            cluster.kubectl("delete", "mdep", name, "-n", namespace, "--ignore-not-found")
        for name, facts in wanted.items():
            apply(cluster, namespace, name, **facts)
        for name in wanted:
            wait_ready(cluster, namespace, name)

        # Which of its replicas a smaller one keeps is the plan's to choose.
        expected = sorted(name for name, facts in wanted.items() for _ in range(facts["replicas"]))

        def settled():
            pods = pods_of(cluster, namespace)
            return sorted(pod["metadata"]["labels"][LABEL_DEPLOYMENT] for pod in pods) == expected

        cluster.wait_for("exactly the wanted pods", settled)
        for name, facts in wanted.items():
            said = f"{facts['replicas']}/{facts['replicas']}"
            cluster.wait_for(
                f"the status of {name} to say {said}",
                lambda name=name, said=said: (
                    get_deployment(cluster, namespace, name)["status"]["summary"] == said
                ),
            )
            obj = get_deployment(cluster, namespace, name)
            uids = {
                p["metadata"]["ownerReferences"][0]["uid"]
                for p in pods_of(cluster, namespace, name)
            }
            assert uids == {obj["metadata"]["uid"]}
    assert recorder.num_events > NUM_KILLS
    assert recorder.overbooked == []
    # What nobody can order: an owner's deletion frees memory while a neighbour profiles. The
    # engine asserts, restarts, and serves. Nothing else may end one, least of all its memory.
    unexpected = {f for f in recorder.failed_engines if "Error in memory profiling" not in f[1]}
    assert unexpected == set()
