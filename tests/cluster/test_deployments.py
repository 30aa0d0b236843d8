import json
import re
import signal

import pytest

from cluster_support import (
    FAULT,
    apply,
    condition,
    fetch,
    get_deployment,
    pod_names,
    pods_of,
    wait_condition,
    wait_event,
    wait_log,
    wait_program,
    wait_quotas,
    wait_ready,
    wait_replicas,
)
from memroute.units import GIB
from memroute_kube.resources import is_condition_true
from memroute_operator.readings.calibration_book import BOOK_NAME, read_book


@pytest.fixture
def fault(cluster):
    """Cause a fault on a node; it heals when the test ends."""
    caused = []

    def cause(node, kind, value):
        caused.append((node, kind))
        cluster.kubectl("annotate", "node", node, f"{FAULT}/{kind}={value}", "--overwrite")

    yield cause
    for node, kind in caused:
        cluster.kubectl("annotate", "node", node, f"{FAULT}/{kind}-")
    cluster.wait_for_nodes()


def test_two_models_share_a_gpu_and_serve(cluster, namespace):
    apply(cluster, namespace, "one")
    apply(cluster, namespace, "two")
    for name in ("one", "two"):
        wait_ready(cluster, namespace, name)
    placed = [
        get_deployment(cluster, namespace, n)["status"]["placements"][0] for n in ("one", "two")
    ]
    assert placed[0]["devices"] == placed[1]["devices"]
    assert placed[0]["hbmBytes"] > 4 * GIB
    assert all(p["state"] == "Serving" and p["why"] for p in placed)
    # The second is told that it shares the device's time, and so is the first by now.
    assert "engines on its device want" in placed[1]["why"]
    cluster.wait_for(
        "the first to hear of it",
        lambda: "times the device" in condition(cluster, namespace, "one", "Placed")["message"],
    )
    (pod,) = pods_of(cluster, namespace, "two")
    assert 0 < float(pod["metadata"]["annotations"]["memroute.dev/occupancy"]) < 1


def test_an_exclusive_model_gets_a_whole_gpu_and_says_which(cluster, namespace):
    apply(cluster, namespace, "m", placement={"mode": "Exclusive"})
    wait_ready(cluster, namespace, "m")

    def devices():
        return get_deployment(cluster, namespace, "m")["status"]["placements"][0]["devices"]

    assert cluster.wait_for("the exporter to name the device", devices)[0].startswith("GPU-")


def test_what_an_engine_measures_is_kept_and_used_next(cluster, namespace):
    """The next replica's cache is expected by what the last one reported, whoever asks for it."""
    # What other tests have measured counts for other flags only.
    engine = {"args": ["--seed=77"]}
    apply(cluster, namespace, "m", placement={"mode": "Exclusive"}, engine=engine)
    wait_ready(cluster, namespace, "m")

    def calibrations():
        books = [
            read_book(obj)
            for obj in cluster.get("configmaps", "-n", "memroute-system")
            if obj["metadata"]["name"] == BOOK_NAME
        ]
        return [one for book in books for one in book.values() if "--seed=77" in one.key.flags]

    (measured,) = cluster.wait_for("the engine's report", calibrations)
    assert GIB // 2 < measured.overhead_bytes < 4 * GIB

    def source():
        return get_deployment(cluster, namespace, "m")["status"]["footprint"]["source"]

    cluster.wait_for("its footprint to be calibrated", lambda: source() == "calibrated")
    # There only while it is so.
    assert condition(cluster, namespace, "m", "FootprintDrift")["status"] in {"True", None}
    before = promised_tokens(cluster, namespace)
    # The same node again: on one with several kinds of devices the largest need would count.
    (pod,) = pods_of(cluster, namespace)
    selector = {"kubernetes.io/hostname": pod["spec"]["nodeName"]}
    cluster.kubectl("delete", "mdep/m", "-n", namespace)
    cluster.wait_for("no pod", lambda: not pods_of(cluster, namespace))
    placement = {"mode": "Exclusive", "nodeSelector": selector}
    apply(cluster, namespace, "n", placement=placement, engine=engine)
    wait_ready(cluster, namespace, "n")
    assert promised_tokens(cluster, namespace) != before


def promised_tokens(cluster, namespace):
    """KV tokens that the operator expects the only replica to hold."""
    (pod,) = pods_of(cluster, namespace)
    return int(pod["metadata"]["annotations"]["memroute.dev/kv-capacity-tokens"])


def test_a_config_in_the_spec_decides_the_footprint(cluster, namespace):
    """Llama-3.1-405B: 405,853,388,800 parameters of 2 bytes, and 2 %, are 771.1 GiB."""
    config = {
        "model_type": "llama", "hidden_size": 16384, "num_hidden_layers": 126,
        "num_attention_heads": 128, "num_key_value_heads": 8, "intermediate_size": 53248,
        "vocab_size": 128256, "max_position_embeddings": 131072,
    }  # fmt: skip
    apply(cluster, namespace, "m", model={"name": "acme/huge", "config": config})
    found = wait_condition(cluster, namespace, "m", "Placed", "NoDeviceLargeEnough")
    assert "weights 77" in found["message"]
    apply(
        cluster, namespace, "n",
        model={"name": "acme/odd", "config": {"model_type": "acme", "hidden_size": 64}},
    )  # fmt: skip
    unknown = wait_condition(cluster, namespace, "n", "Resolved", "FootprintUnknown")
    assert "give the bytes of its checkpoint" in unknown["message"]


def test_scaling_up_and_down(cluster, namespace):
    apply(cluster, namespace, "m")
    wait_ready(cluster, namespace, "m")
    cluster.kubectl("scale", "mdep/m", "--replicas=3", "-n", namespace)
    wait_ready(cluster, namespace, "m")
    assert len(pods_of(cluster, namespace)) == 3
    cluster.kubectl("scale", "mdep/m", "--replicas=0", "-n", namespace)
    cluster.wait_for("no pod", lambda: not pods_of(cluster, namespace))
    found = wait_condition(cluster, namespace, "m", "Ready", "ScaledToZero")
    assert found["status"] == "True"


def test_an_edit_rolls_out_and_replicas_stay_where_they_fit(cluster, namespace):
    apply(cluster, namespace, "m", replicas=2)
    wait_ready(cluster, namespace, "m")
    before = {p["metadata"]["uid"] for p in pods_of(cluster, namespace)}
    apply(cluster, namespace, "m", replicas=2, memory={"maxContextTokens": 4096})
    wait_ready(cluster, namespace, "m")

    def replaced():
        pods = pods_of(cluster, namespace)
        are_new = before.isdisjoint({p["metadata"]["uid"] for p in pods})
        return pods if len(pods) == 2 and are_new else None

    pods = cluster.wait_for("the old ones to go", replaced)
    assert all("4096" in p["spec"]["containers"][0]["args"] for p in pods)


def test_an_edit_that_does_not_fit_leaves_the_old_replica_serving(cluster, namespace):
    apply(cluster, namespace, "m")
    wait_ready(cluster, namespace, "m")
    before = pods_of(cluster, namespace)[0]["metadata"]["uid"]
    apply(cluster, namespace, "m", memory={"maxContextTokens": 40960, "concurrency": 64})
    found = wait_condition(cluster, namespace, "m", "Ready", "RolloutBlocked")
    assert "would fit" in found["message"]
    (pod,) = pods_of(cluster, namespace)
    assert pod["metadata"]["uid"] == before
    assert is_condition_true(pod, "Ready")


def test_a_model_that_fits_nowhere_says_why_and_what_would_help(cluster, namespace):
    apply(
        cluster,
        namespace,
        "m",
        model={"name": "meta-llama/Llama-3.1-70B-Instruct"},
        placement={"mode": "Exclusive"},
    )
    found = wait_condition(cluster, namespace, "m", "Placed", "NoDeviceLargeEnough")
    assert found["status"] == "False"
    assert "tensorParallelSize=2" in found["message"]
    assert "NoDeviceLargeEnough" in cluster.kubectl("describe", "mdep", "m", "-n", namespace)
    # And what it says is true.
    apply(
        cluster,
        namespace,
        "m",
        model={"name": "meta-llama/Llama-3.1-70B-Instruct"},
        placement={"mode": "Exclusive"},
        parallelism={"tensorParallelSize": 2},
    )
    wait_ready(cluster, namespace, "m")
    assert pods_of(cluster, namespace)[0]["spec"]["nodeName"] == "gpu-c"


def test_a_model_that_waits_is_placed_when_room_is_made(cluster, namespace):
    """Both H100s of gpu-c, then a third replica that needs one."""
    large = {"model": {"name": "Qwen/Qwen2.5-32B-Instruct"}, "placement": {"mode": "Exclusive"}}
    apply(cluster, namespace, "first", replicas=2, **large)
    wait_ready(cluster, namespace, "first")
    apply(cluster, namespace, "second", **large)
    found = wait_condition(cluster, namespace, "second", "Placed", "InsufficientHBM")
    assert "0 of 2 device(s) free" in found["message"]
    cluster.kubectl("scale", "mdep/first", "--replicas=1", "-n", namespace)
    wait_ready(cluster, namespace, "second")


def test_a_quota_that_refuses_pods_is_told_and_holds_nobody_up(cluster, namespace):
    """Another namespace's deployments are placed after it, all the same."""
    cluster.kubectl("create", "quota", "none", "--hard=pods=0", "-n", namespace)
    wait_quotas(cluster, namespace)
    apply(cluster, namespace, "a")
    found = wait_condition(cluster, namespace, "a", "Ready", "PodRefused")
    assert "exceeded quota" in found["message"]
    # A name belongs to one namespace.
    apply(cluster, "default", "later", model={"name": "Qwen/Qwen3-0.6B", "servedName": "later"})
    wait_ready(cluster, "default", "later")
    cluster.kubectl("delete", "mdep", "later", "-n", "default")
    cluster.wait_for("its pod to go", lambda: not pods_of(cluster, "default"))
    cluster.kubectl("delete", "quota", "none", "-n", namespace)
    wait_ready(cluster, namespace, "a")


def test_an_unknown_model_is_named(cluster, namespace):
    apply(cluster, namespace, "m", model={"name": "acme/unheard-of"})
    found = wait_condition(cluster, namespace, "m", "Resolved", "RepositoryNotFound")
    assert "acme/unheard-of" in found["message"]


def test_deleting_leaves_nothing(cluster, namespace):
    apply(cluster, namespace, "m", replicas=2)
    wait_ready(cluster, namespace, "m")
    cluster.kubectl("delete", "mdep", "m", "-n", namespace)
    cluster.wait_for("no pod", lambda: not pods_of(cluster, namespace))


def test_an_engine_that_cannot_start_is_reported_with_why_and_what_helps(cluster, namespace):
    """A flag of an argument group that the operator does not own: argparse alone knows it."""
    apply(cluster, namespace, "m", engine={"args": ["--no-such-flag"]})
    found = wait_condition(cluster, namespace, "m", "Ready", "FlagUnknown")
    assert "no such flag: --no-such-flag; take it out of spec.engine.args" in found["message"]
    assert "[exit code 2: " in found["message"]
    (name,) = pod_names(cluster, namespace)
    assert f"kubectl logs --previous -n {namespace} {name}" in found["message"] or (
        f"kubectl describe pod -n {namespace} {name}" in found["message"]
    )
    # The container that runs just now may have said nothing yet.
    wait_log(cluster, namespace, name, "no-such-flag")


@pytest.mark.parametrize(
    ("ending", "reason", "says"),
    [
        ("hub-gated-no-token", "ModelGated", "HF_TOKEN from it into spec.engine.env"),
        ("cuda-out-of-memory", "DeviceMemoryExhausted", "asked for 2.32 GiB more"),
        ("segmentation-fault", "EngineCrashed", "crashed in native code"),
        ("weights-cut", "WeightsDamaged", "let it be fetched anew"),
    ],
)
def test_how_an_engine_ended_is_told_in_words(cluster, namespace, ending, reason, says):
    """From a process that ends so, over kubelet's status, to the condition and the Event."""
    apply(cluster, namespace, "m", engine={"args": ["--simulator-ending", ending]})
    found = wait_condition(cluster, namespace, "m", "Ready", reason)
    assert says in found["message"]
    wait_event(cluster, namespace, reason, lambda event: says in event["message"])


def test_a_lost_scheduling_race_is_planned_again(cluster, namespace):
    """While kube-scheduler is stopped, a foreign pod takes all GPUs of the planned node."""
    scheduler = cluster.process("kube-scheduler")
    scheduler.send_signal(signal.SIGSTOP)
    try:
        apply(cluster, namespace, "m", placement={"mode": "Exclusive"})
        (pod,) = cluster.wait_for("the pinned pod", lambda: pods_of(cluster, namespace))
        node = json.loads(pod["metadata"]["annotations"]["memroute.dev/reservation"])["node"]
        (gpus,) = (
            one["status"]["allocatable"]["nvidia.com/gpu"]
            for one in cluster.get("nodes")
            if one["metadata"]["name"] == node
        )
        thief = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "thief", "namespace": namespace},
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 1,
                "tolerations": [{"operator": "Exists"}],
                "containers": [
                    {
                        "name": "c",
                        "image": "pause",
                        "resources": {"limits": {"nvidia.com/gpu": gpus}},
                    }
                ],
            },
        }
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(thief))
    finally:
        scheduler.send_signal(signal.SIGCONT)
    # Where the scheduler had not yet heard of the thief, the node has refused the first pod.
    (pod,) = wait_replicas(cluster, namespace, "m", 1)
    assert pod["spec"]["nodeName"] != node
    cluster.kubectl("delete", "pod", "thief", "-n", namespace)


def test_replicas_of_a_node_that_died_go_elsewhere(cluster, namespace, fault):
    apply(cluster, namespace, "m")
    wait_ready(cluster, namespace, "m")
    node = pods_of(cluster, namespace)[0]["spec"]["nodeName"]
    fault(node, "gone", "true")

    def moved():
        pods = pods_of(cluster, namespace)
        return [
            one["spec"]["nodeName"] for one in pods
            if is_condition_true(one, "Ready") and one["spec"]["nodeName"] != node
        ]  # fmt: skip

    cluster.wait_for("the replica to move", moved)
    wait_ready(cluster, namespace, "m")


def test_another_tenants_bytes_are_not_promised(cluster, namespace, fault):
    """70 GiB of gpu-a are in use by nobody that Kubernetes knows; 20 GiB do not fit beside."""
    fault("gpu-a", "foreign-hbm", json.dumps({"0": 70 * GIB}))
    fault("gpu-b", "foreign-hbm", json.dumps({"0": 40 * GIB}))

    def exporter_says_so():
        address = program_url(cluster, "operator")
        text = fetch(f"{address}/metrics").text
        shared = re.compile(r'memroute_device_free_bytes\{.*node_name="gpu-[ab]"')
        free = [line for line in text.splitlines() if shared.match(line)]
        return free and all(float(line.split()[-1]) < 12 * GIB for line in free)

    cluster.wait_for("the operator to see it", exporter_says_so)
    apply(cluster, namespace, "m", model={"name": "Qwen/Qwen3-8B"})
    wait_condition(cluster, namespace, "m", "Placed", "InsufficientHBM")
    cluster.kubectl("annotate", "node", "gpu-a", f"{FAULT}/foreign-hbm-")
    wait_ready(cluster, namespace, "m")


def program_url(cluster, component):
    port = {"operator": 8080, "router": 8002}[component]
    return f"http://{wait_program(cluster, component)}:{port}"


def test_stale_readings_are_visible_and_placement_goes_on(cluster, namespace, fault):
    fault("gpu-a", "exporter-down", "true")
    fault("gpu-b", "exporter-down", "true")
    apply(cluster, namespace, "m")
    wait_condition(cluster, namespace, "m", "DeviceMetricsStale", "ExporterSilent")
    wait_ready(cluster, namespace, "m")
    assert condition(cluster, namespace, "m", "DeviceMetricsStale")["status"] == "True"


def test_a_lost_gpu_kills_its_engine_and_the_reason_is_told(cluster, namespace, fault):
    apply(cluster, namespace, "m")
    wait_ready(cluster, namespace, "m")
    node = pods_of(cluster, namespace)[0]["spec"]["nodeName"]
    fault(node, "lost-gpus", "0")
    found = wait_condition(cluster, namespace, "m", "Ready", "ParallelSizeRefused")
    assert "look at the node's device plugin" in found["message"]
    cluster.kubectl("annotate", "node", node, f"{FAULT}/lost-gpus-")
    wait_ready(cluster, namespace, "m")


def test_an_engine_never_gets_more_than_the_device_has(cluster, namespace):
    """The node enforces bytes as hardware would, in the engine's own words."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "greedy", "namespace": namespace},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "gpu-d"},
            "restartPolicy": "Never",
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    "name": "engine",
                    "image": "vllm/vllm-openai:v0.32.0",
                    "args": ["--model", "Qwen/Qwen2.5-32B-Instruct"],
                    "resources": {"limits": {"nvidia.com/gpu": "1"}},
                }
            ],
        },
    }
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(pod))

    def failed():
        (found,) = cluster.get("pods", "-n", namespace)
        return found["status"].get("phase") == "Failed"

    cluster.wait_for("the engine to give up", failed)
    wait_log(cluster, namespace, "greedy", "CUDA out of memory")
    cluster.kubectl("delete", "pod", "greedy", "-n", namespace)
