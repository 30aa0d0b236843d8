"""The objects of the fleet bench are what the operator takes them for."""

from bench.operator.__main__ import BENCHES
from bench.operator.stand_ins import (
    DEVICES_PER_NODE,
    MODELS,
    foreign_pod,
    longest_and_count,
    model_deployment,
    node,
)
from memroute.placement import Inventory, Placed, plan
from memroute_kube.resources import GPU_RESOURCE
from memroute_operator.nodes import read_node
from memroute_operator.plan import wanted_replica
from memroute_operator.pod.pod_resources import requested_devices
from memroute_operator.readings.device_metrics import DeviceMetrics
from memroute_operator.spec.deployment import read_deployment
from planned_objects import context

# What the CRD adds.
DEFAULTS = {
    "engine": {"type": "VLLM"},
    "memory": {
        "maxContextTokens": 8192, "concurrency": 4, "kvCacheDtype": "Auto", "quantization": "Auto",
    },
    "parallelism": {"tensorParallelSize": 1},
    "placement": {"mode": "Exclusive", "strategy": "Pack"},
}  # fmt: skip


def test_its_nodes_have_eight_gpus_that_models_fit_on():
    """A fleet on which nothing fits would converge at once, and look fast."""
    (found,) = read_node(node(7), DeviceMetrics(scrape_seconds=5), {}, 0.0)
    assert (found.name, len(found.devices)) == ("gpu-7", DEVICES_PER_NODE)
    for number in range(len(MODELS)):
        obj = model_deployment(number, 4)
        obj["spec"] = DEFAULTS | obj["spec"]
        obj["metadata"] |= {
            "namespace": "fleet", "uid": "u", "generation": 1, "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        deployment = read_deployment(obj)
        assert deployment.failure is None
        (one,) = plan(Inventory(nodes=(found,)), [wanted_replica(deployment, 0, context())])
        assert isinstance(one, Placed)


def test_pods_of_others_are_many_and_take_no_gpu():
    pod = foreign_pod(503, 500)
    assert pod["spec"]["nodeName"] == "gpu-3"
    assert requested_devices(pod)[GPU_RESOURCE] == 0


def test_blocks_of_the_event_loop_are_read_from_its_histogram():
    """Cumulative buckets: 95 were in time, three took up to a quarter second, two up to half."""
    buckets = {0.1: 95.0, 0.25: 98.0, 0.5: 100.0, 1.0: 100.0, float("inf"): 100.0}
    assert longest_and_count(buckets) == (0.5, 5)


def test_both_benches_are_on_the_command_line():
    assert set(BENCHES) == {"fleet", "planning"}
