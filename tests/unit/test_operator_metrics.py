"""What the operator exports is whole at every scrape."""

import gzip
import threading

import pytest
from prometheus_client import generate_latest

from memroute.placement import RefusedReason
from memroute_operator.gather import gather
from memroute_operator.metrics import OperatorMetrics, fleet
from memroute_operator.metrics.page import page_app
from memroute_operator.readings.device_metrics import DeviceMetrics
from memroute_operator.replicas.lost_nodes import NodeLoss
from memroute_operator.replicas.replica import ReplicaState
from memroute_operator.store.store import Store
from operator_rig import mdep, node, reading
from planned_objects import deployment, pod_of
from planned_objects import facts as planned_facts


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


@pytest.mark.slow
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


def lines_of(metrics, name):
    """Labels and value of each series, as they are written."""
    page = generate_latest(metrics.registry).decode().splitlines()
    return [line for line in page if line.startswith(f"memroute_{name}{{")]


def test_what_a_device_is_promised_for_adds_up_to_what_is_promised():
    """A stack of weights, KV cache and overhead that is not as high as the whole misleads."""
    metrics, wanted = OperatorMetrics(), deployment()
    metrics.on_reconciled(planned_facts([wanted], [pod_of(wanted)]), {}, 0.1)
    purposes, whole = {}, {}
    for found, name in (
        (purposes, "device_reserved_by_purpose_bytes"),
        (whole, "device_reserved_bytes"),
    ):
        for line in lines_of(metrics, name):
            device = line.split('device="')[1].split('"')[0]
            found[device] = found.get(device, 0.0) + float(line.rsplit(" ", 1)[1])
    assert purposes == whole
    assert sum(whole.values()) > 0
    weights = [line for line in lines_of(metrics, "device_reserved_by_purpose_bytes")
               if 'purpose="weights"' in line and not line.endswith(" 0.0")]  # fmt: skip
    assert weights
    (holder,) = lines_of(metrics, "replica_reserved_bytes")
    assert 'replica="m-0"' in holder


def test_a_replica_without_a_deployment_is_promised_for_nobody_knows_what():
    """Its bytes are held, and still counted."""
    metrics = OperatorMetrics()
    metrics.on_reconciled(planned_facts([], [pod_of(deployment())]), {}, 0.1)
    held = [line for line in lines_of(metrics, "device_reserved_by_purpose_bytes")
            if not line.endswith(" 0.0")]  # fmt: skip
    assert len(held) == 1
    assert 'purpose="unknown"' in held[0]


def test_conditions_are_told_with_their_reasons():
    """An alert that says "not Ready", and not why, sends somebody to a terminal at night."""
    metrics, facts = OperatorMetrics(), facts_of(1, [mdep("good")])
    metrics.on_status(
        "default/good",
        [
            {"type": "Ready", "status": "False", "reason": "InsufficientHBM"},
            {"type": "Placed", "status": "Unknown", "reason": "Placing"},
        ],
    )
    metrics.on_status("default/gone", [{"type": "Ready", "status": "True", "reason": "Serving"}])
    metrics.on_reconciled(facts, {}, 0.1)
    told = lines_of(metrics, "condition")
    ready = [line for line in told if 'type="Ready"' in line]
    assert [line.rsplit(" ", 1)[1] for line in ready] == ["0.0"]
    assert not [line for line in told if 'type="Placed"' in line], "unknown is never 0"
    assert [line for line in told if 'type="Stalled"' in line and line.endswith(" 0.0")]
    info = lines_of(metrics, "condition_info")
    assert [
        line for line in info if 'reason="InsufficientHBM"' in line and 'status="False"' in line
    ]
    assert not [line for line in (*told, *info) if "gone" in line]


def test_every_state_and_reason_has_a_zero_for_every_deployment():
    """``wanted - on(…) Serving`` had no result while nobody served: there was no series."""
    metrics, facts = OperatorMetrics(), facts_of(1, [mdep("good")])
    metrics.on_reconciled(facts, {"default/good": {"InsufficientHBM": 2}}, 0.1)
    states = lines_of(metrics, "replicas")
    assert len(states) == len(ReplicaState)
    reasons = lines_of(metrics, "replicas_refused")
    assert len(reasons) == len(RefusedReason)
    assert sum(float(line.rsplit(" ", 1)[1]) for line in reasons) == 2
    page = generate_latest(metrics.registry).decode()
    assert 'memroute_operator_actions_total{action="Create"} 0.0' in page
    assert 'memroute_operator_hub_reads_total{result="Read"} 0.0' in page
    assert 'memroute_operator_sources_failing{kind="exporter",trouble="timeout"} 0.0' in page


def test_a_config_map_that_cannot_be_read_is_told():
    metrics = OperatorMetrics()
    metrics.on_reconciled(facts_of(1), {}, 0.1, unread=["memroute-hbm-quotas"])
    told = dict(line.rsplit(" ", 1) for line in lines_of(metrics, "operator_config_refused"))
    assert sorted(told.values()) == ["0.0", "1.0"]


def test_the_last_reconcile_has_no_time_before_there_was_one():
    """0 would be fifty years ago, and wake somebody at every start."""
    metrics = OperatorMetrics()
    name = "memroute_operator_last_reconcile_timestamp_seconds "
    page = generate_latest(metrics.registry).decode().splitlines()
    assert not [line for line in page if line.startswith(name)]
    metrics.on_reconciled(facts_of(1), {}, 0.1)
    page = generate_latest(metrics.registry).decode().splitlines()
    assert [float(line.split()[1]) > 1e9 for line in page if line.startswith(name)] == [True]


def scraped(metrics, **environ):
    """Status line, headers and body of a scrape."""
    app = page_app(metrics.registry, own=metrics._own, fleet=metrics._snapshot)
    told = []
    body = app(
        {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", **environ},
        lambda status, headers: told.extend((status, dict(headers))),
    )
    return (*told, b"".join(body))


@pytest.mark.parametrize(
    ("accept", "end"),
    [("text/plain;version=0.0.4", b""), ("application/openmetrics-text;version=1.0.0", b"# EOF\n")],
)
def test_a_scrape_has_what_the_registry_has(accept, end):
    """The page is put together of two texts, of which one is kept: nothing is lost, or twice."""
    metrics = OperatorMetrics()
    metrics.on_reconciled(facts_of(2, [mdep("good")]), {}, 0.1)
    status, _, body = scraped(metrics, HTTP_ACCEPT=accept)
    assert status == "200 OK"
    assert body.endswith(end)
    assert body.count(b"# EOF") == bool(end)
    names = [line.split("{")[0].split()[0] for line in body.decode().splitlines() if line[0] != "#"]
    page = generate_latest(metrics.registry).decode().splitlines()
    whole = [line.split("{")[0].split()[0] for line in page if line[0] != "#"]
    assert sorted(names) == sorted(whole)
    packed = scraped(metrics, HTTP_ACCEPT=accept, HTTP_ACCEPT_ENCODING="gzip")
    assert packed[1]["Content-Encoding"] == "gzip"
    assert b"memroute_device_usable_bytes" in gzip.decompress(packed[2])
    few = scraped(metrics, HTTP_ACCEPT=accept, QUERY_STRING="name[]=memroute_nodes_unreachable")
    assert b"memroute_nodes_unreachable 0.0" in few[2]
    assert b"memroute_device_usable_bytes" not in few[2]
    assert scraped(metrics, REQUEST_METHOD="POST")[0].startswith("405")


def test_a_fleet_is_written_down_once_for_all_who_scrape_it_and_for_nobody_else(monkeypatch):
    """100,000 series took a third of a second at each step: planning and watches waited for it."""
    made, families_of = [], fleet.families_of

    def counted(shown):
        made.append(shown)
        return families_of(shown)

    monkeypatch.setattr(fleet, "families_of", counted)
    metrics, facts = OperatorMetrics(), facts_of(2)
    metrics.on_reconciled(facts, {}, 0.1)
    metrics.on_reconciled(facts, {}, 0.1)
    assert not made, "nobody has asked"
    first, second = scraped(metrics)[2], scraped(metrics)[2]
    assert b"memroute_device_usable_bytes{" in first
    assert b"memroute_device_usable_bytes{" in second
    assert len(made) == 1
    metrics.on_reconciled(facts, {}, 0.1)
    scraped(metrics)
    assert len(made) == 2, "a reconcile later it is another fleet"


def test_what_changes_after_a_reconcile_is_not_in_its_page():
    """The page is made later: it must not mix two moments."""
    metrics, facts = OperatorMetrics(), facts_of(1, [mdep("good")])
    ready = {"type": "Ready", "status": "True", "reason": "Serving"}
    metrics.on_status("default/good", [ready])
    metrics.on_reconciled(facts, {}, 0.1)
    metrics.on_status("default/good", [{**ready, "status": "False"}])
    told = [line for line in lines_of(metrics, "condition") if 'type="Ready"' in line]
    assert [line.rsplit(" ", 1)[1] for line in told] == ["1.0"]
