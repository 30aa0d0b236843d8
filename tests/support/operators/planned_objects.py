"""Deployments, pods and facts as the planner sees them: one shared H100, one exclusive one."""

import copy
from dataclasses import replace
from datetime import UTC, datetime

from memroute.placement import (
    Device,
    Inventory,
    Node,
    Placed,
    PlacementMode,
    ReplicaKey,
    plan,
)
from memroute.units import GIB
from memroute_operator.gather import Facts
from memroute_operator.plan import PlanContext, wanted_replica
from memroute_operator.pod.manifests import replica_pod
from memroute_operator.replicas.promises import encode_claim
from memroute_operator.replicas.reading import read_replica
from memroute_operator.replicas.replica import ANNOTATION_SUCCESSOR, Seen
from memroute_operator.spec.deployment import read_deployment

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GPU = Device(
    node="a",
    index=0,
    uuid="GPU-a-0",
    product="NVIDIA-H100-80GB-HBM3",
    usable_bytes=int(79.2 * GIB),
    usable_source="dcgm",
)
SHARED = Node(name="a", mode=PlacementMode.SHARED, devices=(GPU,), has_fresh_metrics=True)


def deployment(
    name="m", *, replicas=1, model="Qwen/Qwen3-8B", mode="Shared", uid="u1", rollout=None, **memory
):
    defaults = {
        "maxContextTokens": 8192,
        "concurrency": 4,
        "kvCacheDtype": "Auto",
        "quantization": "Auto",
    }
    return read_deployment(
        {
            "metadata": {
                "namespace": "default",
                "name": name,
                "uid": uid,
                "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "resourceVersion": "1",
            },
            "spec": {
                "model": {"name": model},
                "engine": {"type": "VLLM"},
                "memory": defaults | memory,
                "parallelism": {"tensorParallelSize": 1},
                "replicas": replicas,
                "placement": {"mode": mode, "strategy": "Pack"},
                "routing": {"kvWatermarkPercent": 95, "assumedOutputTokens": 256},
                "rollout": rollout or {},
            },
        }
    )


def context(**facts):
    defaults = {
        "drain_timeout_seconds": 60.0,
        "in_flight": {},
        "in_flight_age_seconds": 1.0,
        "avoided_nodes": {},
        "lost_nodes": frozenset(),
        "engine_image": "vllm/x",
    }
    return PlanContext(**(defaults | facts))


def pod_of(of, index=0, *, ready=True, node="a", gated=False, **annotations):
    """A pod as the API server would show it, with the name that earlier releases gave it."""
    nodes = (SHARED,) if of.mode is PlacementMode.SHARED else (EXCLUSIVE,)
    placed = plan(Inventory(nodes=nodes), [wanted_replica(of, index, context())])[0]
    assert isinstance(placed, Placed)
    pod = replica_pod(
        of, placed, is_gated=gated, default_image="vllm/x", shared_runtime_class="nvidia"
    )
    pod["metadata"] |= {
        "name": f"{of.name}-{index}",
        "uid": f"pod-{of.name}-{index}",
        "creationTimestamp": f"2026-01-01T00:00:0{index}Z",
        "resourceVersion": "5",
    }
    pod["metadata"]["annotations"] |= annotations
    pod["status"] = {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
    }
    if not gated:
        pod["spec"]["nodeName"] = node
    return pod


EXCLUSIVE = Node(
    name="x",
    mode=PlacementMode.EXCLUSIVE,
    devices=(GPU.__class__(**{f: getattr(GPU, f) for f in GPU.__slots__} | {"node": "x"}),),
    num_allocatable=1,
)


def seen(replica):
    """What an operator has seen that was there all the time, with one clock for everything."""

    def age(since):
        return None if since is None else (NOW - since).total_seconds()

    deleted = replica.obj["metadata"].get("deletionTimestamp")
    return Seen(
        serving_seconds=600.0 if replica.is_ready else None,
        unready_seconds=None if replica.is_ready else 1.0,
        draining_seconds=age(replica.draining_since),
        unschedulable_seconds=age(replica.unschedulable_since),
        terminating_seconds=deleted and age(datetime.fromisoformat(deleted)),
    )


def facts(
    deployments, pods, nodes=(SHARED,), lost=(), live_pods=None, departed=(), aheads=(), **seen_as
):
    """``seen_as``: by the pod's name, with _ for -, what is seen of it otherwise."""
    replicas = tuple(
        replace(one, seen=seen_as.get(one.pod_name.replace("-", "_"), seen(one)))
        for one in map(read_replica, pods)
    )
    return Facts(
        deployments=tuple(deployments),
        replicas=replicas,
        unreadable_pods=(),
        aheads=tuple(aheads),
        inventory=Inventory(
            nodes=tuple(nodes),
            reservations=tuple(one for r in replicas for one in r.reservations()),
            live_pods=live_pods,
            departed=tuple(departed),
        ),
        lost_nodes=frozenset(lost),
        stale_nodes=frozenset(),
    )


def claimed(pod, action):
    """The pod with the claim of its successor, as the API server would show it."""
    pod = copy.deepcopy(pod)
    claim = encode_claim(action.placed, revision=action.revision)
    pod["metadata"]["annotations"][ANNOTATION_SUCCESSOR] = claim
    return pod


def placed_on(node, index=0, *, name="m"):
    """A place on a whole H100 of that node."""
    return Placed(
        key=ReplicaKey(namespace="default", name=name, index=index),
        node=node, mode=PlacementMode.EXCLUSIVE, device_uuids=(), num_devices=1,
        bytes_per_device=79 * GIB, needed_bytes_per_device=20 * GIB,
        usable_bytes_per_device=79 * GIB, product=None, why="",
    )  # fmt: skip
