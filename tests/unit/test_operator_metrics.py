"""What the operator exports is whole at every scrape."""

import threading

from prometheus_client import generate_latest

from memroute_operator.gather import gather
from memroute_operator.metrics import OperatorMetrics
from memroute_operator.readings.device_metrics import DeviceMetrics
from memroute_operator.replicas.lost_nodes import NodeLoss
from memroute_operator.store.store import Store
from operator_rig import mdep, node, reading


def facts_of(num_nodes, mdeps=(), pods=()):
    store, metrics = Store(), DeviceMetrics(scrape_seconds=5)
    for i in range(num_nodes):
        one = node(f"n{i}", gpus=8)
        one["metadata"]["resourceVersion"] = "1"
        store.nodes.upsert(one)
        metrics.readings[f"n{i}"] = reading(f"n{i}", 8, 0.0)
    for obj in mdeps:
        obj["metadata"]["resourceVersion"] = "1"
        store.model_deployments.upsert(obj)
    for obj in pods:
        store.pods.upsert(obj)
    return gather(store, metrics, now_seconds=0.0)


def count(metrics, name):
    return generate_latest(metrics.registry).decode().count(f"\nmemroute_{name}{{")


def test_it_is_told_who_says_what_a_device_is():
    """A size by a label may be some GiB off what the exporter shows: where it is from counts."""
    metrics, facts = OperatorMetrics(), facts_of(1)
    metrics.on_reconciled(facts, {}, 0.1)
    page = generate_latest(metrics.registry).decode().splitlines()
    first = next(line for line in page if line.startswith("memroute_device_info{"))
    device = facts.inventory.nodes[0].devices[0]
    assert device.product_source
    for label, value in (
        ("device", device.uuid),
        ("product_source", device.product_source),
        ("memory_source", device.usable_source),
    ):
        assert f'{label}="{value}"' in first


def test_no_scrape_lacks_a_series():
    """r18: gauges were cleared and set again under the scraper: 8 of 166 scrapes had holes."""
    metrics, facts = OperatorMetrics(), facts_of(20)
    metrics.on_reconciled(facts, {}, 0.1)
    whole = count(metrics, "device_usable_bytes")
    assert whole == 160
    stopping = threading.Event()

    def reconcile():
        while not stopping.is_set():
            metrics.on_reconciled(facts, {}, 0.1)

    thread = threading.Thread(target=reconcile)
    thread.start()
    try:
        assert {count(metrics, "device_usable_bytes") for _ in range(40)} == {whole}
    finally:
        stopping.set()
        thread.join()


def test_what_is_wrong_is_counted():
    odd = {
        "metadata": {
            "namespace": "d", "name": "m-0", "uid": "u", "resourceVersion": "1",
            "labels": {"memroute.dev/model-deployment": "m"},
            "ownerReferences": [
                {"apiVersion": "memroute.dev/v1alpha1", "kind": "ModelDeployment",
                 "controller": True, "uid": "x"}
            ],
        },
    }  # fmt: skip
    broken = mdep("broken")
    broken["spec"]["memory"] = None
    metrics = OperatorMetrics()
    facts = facts_of(1, [mdep("good"), broken], [odd])
    loss = NodeLoss(num_unreachable=3, num_nodes=4, is_braked=True)
    metrics.on_reconciled(facts, {"default/good": {"InsufficientHBM": 2}}, 0.1, loss)
    metrics.on_failure("Create", 500)
    metrics.on_internal_error("plan")
    text = generate_latest(metrics.registry).decode()
    for line in (
        'memroute_operator_unreadable_objects{kind="Pod"} 1.0',
        'memroute_operator_unreadable_objects{kind="ModelDeployment"} 1.0',
        'memroute_operator_unreadable_objects{kind="Node"} 0.0',
        "memroute_nodes_unreachable 3.0",
        "memroute_node_loss_braked 1.0",
        'memroute_node_metrics_fresh{node_name="n0"} 1.0',
        'memroute_operator_failures_total{action="Create",status="500"} 1.0',
        'memroute_operator_internal_errors_total{where="plan"} 1.0',
        'model_namespace="default",reason="InsufficientHBM"} 2.0',
    ):
        assert line in text


def test_a_standby_exports_nothing_of_the_fleet():
    metrics = OperatorMetrics()
    metrics.on_reconciled(facts_of(2), {}, 0.1)
    assert count(metrics, "device_usable_bytes")
    metrics.on_leading(False)
    assert count(metrics, "device_usable_bytes") == 0


def test_a_standby_shows_nothing_of_the_fleet_also_when_a_step_ends_late():
    """The Lease was lost while a step was worked out: two operators would report every device."""
    metrics, facts = OperatorMetrics(), facts_of(2)
    metrics.on_leading(True)
    metrics.on_reconciled(facts, {}, 0.1)
    assert count(metrics, "device_usable_bytes") == 16
    metrics.on_leading(False)
    metrics.on_reconciled(facts, {}, 0.1)
    assert count(metrics, "device_usable_bytes") == 0
