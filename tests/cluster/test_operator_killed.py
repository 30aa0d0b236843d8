import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml

from cluster_support import Recorder, apply, get_deployment, pods_of, program_address, wait_ready
from memroute_kube.resources import LABEL_DEPLOYMENT

NUM_KILLS = 20
SYSTEM = "memroute-system"


@pytest.fixture
def mortal_operator(cluster):
    """An operator of our own, under the operator's ServiceAccount, that can be killed at will."""
    cluster.kubectl("scale", "deployment/memroute-operator", "--replicas=0", "-n", SYSTEM)
    cluster.wait_for("the operator to stop", lambda: program_address(cluster, "operator") is None)
    token = cluster.kubectl("create", "token", "memroute-operator", "-n", SYSTEM, "--duration=1h")
    document = yaml.safe_load(cluster.kubeconfig.read_text())
    document["users"] = [{"name": "memroute-admin", "user": {"token": token.strip()}}]
    path = cluster.directory / "mortal-operator.kubeconfig"
    path.write_text(yaml.safe_dump(document))
    started = []

    def start():
        command = [
            sys.executable,
            "-m",
            "memroute_operator",
            "--host",
            f"127.{cluster.network}.0.2",
        ]
        # Nobody else is left, and a killed one's Lease would be waited for 20 times.
        command += ["--no-leader-election"]
        command += ["--scrape-seconds=1", "--drain-timeout-seconds=3", "--resync-seconds=10"]
        with (cluster.directory / "logs" / "mortal-operator.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=os.environ | cluster.environment | {"KUBECONFIG": str(path)},
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
    cluster.kubectl("scale", "deployment/memroute-operator", "--replicas=1", "-n", SYSTEM)
    cluster.wait_for("the operator to be back", lambda: program_address(cluster, "operator"))


def spec(rng):
    mode = rng.choice(["Shared", "Shared", "Exclusive"])
    return {
        "placement": {"mode": mode},
        "replicas": rng.randint(0, 2),
        "memory": {"maxContextTokens": rng.choice([2048, 4096, 8192])},
    }


def test_an_operator_killed_anywhere_converges(cluster, namespace, mortal_operator, fleet):
    """Creates, edits and deletes, and SIGKILL at 20 random moments.

    At no recorded moment is a device promised more than it has; no engine runs out of memory;
    the end state is what the last specs say, and nothing else is left.
    """
    rng = random.Random(os.environ.get("MEMROUTE_CHAOS_SEED", "11"))
    with Recorder(cluster, fleet) as recorder:
        wanted = {}
        operator = mortal_operator()
        for _ in range(NUM_KILLS):
            # Mostly shorter than one second, so that most deaths fall into the work itself.
            alive_until = time.monotonic() + rng.choice([0.9, 1.2, 1.6, 2.5, 4.0])
            while time.monotonic() < alive_until:
                name = f"m{rng.randint(0, 4)}"
                if name in wanted and rng.random() < 0.25:
                    cluster.kubectl("delete", "mdep", name, "-n", namespace, "--wait=false")
                    del wanted[name]
                else:
                    wanted[name] = spec(rng)
                    apply(cluster, namespace, name, **wanted[name])
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
            wait_ready(cluster, namespace, name, timeout_seconds=120)

        # Which of its replicas a smaller one keeps is the plan's to choose.
        expected = sorted(name for name, facts in wanted.items() for _ in range(facts["replicas"]))

        def settled():
            pods = pods_of(cluster, namespace)
            return sorted(pod["metadata"]["labels"][LABEL_DEPLOYMENT] for pod in pods) == expected

        cluster.wait_for("exactly the wanted pods", settled, timeout_seconds=60)
        for name, facts in wanted.items():
            obj = get_deployment(cluster, namespace, name)
            uids = {
                p["metadata"]["ownerReferences"][0]["uid"]
                for p in pods_of(cluster, namespace, name)
            }
            assert uids == {obj["metadata"]["uid"]}
            assert obj["status"]["summary"] == f"{facts['replicas']}/{facts['replicas']}"
    assert recorder.num_events > 30
    assert recorder.overbooked == []
    # What nobody can order: an owner's deletion frees memory while a neighbour profiles. The
    # engine asserts, restarts, and serves. Nothing else may end one, least of all its memory.
    unexpected = {f for f in recorder.failed_engines if "Error in memory profiling" not in f[1]}
    assert unexpected == set()
