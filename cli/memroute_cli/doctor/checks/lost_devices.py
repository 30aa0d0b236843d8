"""Has an accelerator fallen off, or does its driver report an error?

```text
by labels          nvidia.com/gpu.count: what was there when the node was labelled
by the plugin      capacity: what it has registered; allocatable: what of it is healthy
by the exporter    devices that it reports, their last driver error (XID), whether memory is read
by our promises    UUIDs that replicas on shared devices were promised
```

Where one of them has fewer than another, a device is lost.
"""

from collections.abc import Iterator

from memroute.placement import Reservation
from memroute_cli.doctor.facts import Facts, Unread, labels_of, name_of, status_of
from memroute_cli.doctor.finding import Finding, failed, ok, warning
from memroute_kube import KubeObject
from memroute_operator.explaining import Picture
from memroute_operator.nodes.facts import Sharing
from memroute_operator.nodes.labels import read_labels
from memroute_operator.nodes.objects import counts_of
from memroute_operator.readings.device_metrics import NodeReading

NAME = "lost-devices"
# Findings that are told one by one: of a fleet of hundreds of nodes one cause has many.
MAX_TOLD = 8
# Resources that are accelerators, whole or cut, by their beginnings.
RESOURCES = ("nvidia.com/gpu", "nvidia.com/mig-", "amd.com/gpu")


def check(facts: Facts) -> Iterator[Finding]:
    """One for each node that has lost a device, one for each replica whose device is gone."""
    if isinstance(facts.nodes, Unread):
        return
    readings = _readings(facts)
    found = [
        finding for node in facts.nodes for finding in _of_node(node, readings.get(name_of(node)))
    ]
    found += _promised(facts, readings)
    yield from found[:MAX_TOLD]
    if len(found) > MAX_TOLD:
        yield warning(
            NAME, f"{len(found) - MAX_TOLD} more devices are lost or failing",
            "memroute doctor -o json has the first of them; mend those, and look again",
        )  # fmt: skip
    num_devices = sum(map(_num_known, facts.nodes))
    if not found and num_devices:
        by = "labels, device plugins and exporters" if readings else "labels and device plugins"
        yield ok(NAME, f"none of {num_devices} accelerators is missing, by {by}")


def _readings(facts: Facts) -> dict[str, NodeReading]:
    """What exporters say now, by node: what was told long ago says nothing of a loss."""
    found: dict[str, NodeReading] = {}
    for operator in facts.operators:
        view = operator.view
        if view is None or isinstance(view, Unread) or view.is_old(facts.now):
            continue
        metrics = view.devices()
        found |= {
            node: reading
            for node, reading in view.readings.items()
            if metrics.is_fresh(node, now_seconds=0.0)
        }
    return found


def _of_node(node: KubeObject, reading: NodeReading | None) -> Iterator[Finding]:
    name, status = name_of(node), status_of(node)
    look = f"kubectl describe node {name}; on the node: nvidia-smi, and dmesg | grep -i xid"
    capacity, allocatable = (counts_of(status.get(part)) for part in ("capacity", "allocatable"))
    for resource, total in sorted(capacity.items()):
        usable = allocatable.get(resource, 0)
        if resource.startswith(RESOURCES) and resource in allocatable and usable < total:
            yield warning(
                NAME, f"{name} hands out {usable} of {total} {resource}: its device plugin calls "
                f"{total - usable} unhealthy", look,
            )  # fmt: skip
    if reading is None:
        return
    expected = _num_known(node)
    there = {one.uuid for one in reading.devices}
    if len(there) < expected:
        missing = sorted(set(range(expected)) - {one.index for one in reading.devices})
        which = ", ".join(map(str, missing)) or "?"
        yield warning(
            NAME, f"the exporter of {name} reports {len(there)} of {expected} accelerators: "
            f"index {which} has fallen off the bus, or is left out by the exporter", look,
        )  # fmt: skip
    physical = {device.uuid: device for device in reading.devices}
    for device in physical.values():
        if device.is_failing:
            yield warning(
                NAME, f"{name} device {device.index} ({device.uuid}) reports driver error XID "
                f"{device.xid}: nothing new is placed on it",
                f"{look}; memroute.dev/ignored-xids on the node if it is harmless there",
            )  # fmt: skip
        elif device.free_bytes is None and device.used_bytes is None and device.slice_id is None:
            yield warning(
                NAME, f"the exporter of {name} reads no memory of device {device.index} "
                f"({device.uuid})", look,
            )  # fmt: skip


def _num_known(node: KubeObject) -> int:
    """Whole accelerators that a node should have; 0 where nobody says, or they are counted cut."""
    said = read_labels(labels_of(node))
    if said.count is not None and said.slice_profile is None:
        return said.count.value
    capacity = counts_of(status_of(node).get("capacity"))
    is_cut = said.slice_profile is not None or said.sharing not in (None, Sharing.NONE)
    return 0 if is_cut else max(capacity.get("nvidia.com/gpu", 0), capacity.get("amd.com/gpu", 0))


def _promised(facts: Facts, readings: dict[str, NodeReading]) -> Iterator[Finding]:
    """Replicas on shared devices that nobody reports any more."""
    for one in _reservations(facts):
        reading = readings.get(one.node)
        if reading is None or not one.device_bytes:
            continue
        gone = sorted(one.device_bytes.keys() - {device.uuid for device in reading.devices})
        if gone:
            namespace, _, pod = one.owner.partition("/")
            yield failed(
                NAME, f"replica {one.owner} was promised {', '.join(gone)}, which {one.node} does "
                "not report any more",
                f"kubectl -n {namespace} delete pod {pod} has it placed anew",
            )  # fmt: skip


def _reservations(facts: Facts) -> tuple[Reservation, ...]:
    if isinstance(facts.nodes, Unread) or isinstance(facts.pods, Unread):
        return ()
    models = facts.model_deployments
    picture = Picture(
        model_deployments=() if isinstance(models, Unread) else models,
        pods=facts.pods, nodes=facts.nodes, at=facts.now,
    )  # fmt: skip
    return picture.facts().inventory.reservations
