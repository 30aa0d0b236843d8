"""Are there accelerators, who names and measures them, and who hands them out?"""

from collections.abc import Iterable, Iterator

from memroute.placement import Node, PlacementMode
from memroute_cli.doctor.facts import (
    OPERATOR,
    Facts,
    Operator,
    Unread,
    arguments_of,
    labels_of,
    name_of,
)
from memroute_cli.doctor.finding import Finding, failed, ok, unknown, warning
from memroute_kube.resources import LABEL_GPU_SHARING
from memroute_operator.explaining import Picture
from memroute_operator.readings.fleet_view import FleetView

# Nodes that are named one by one.
MAX_NAMED = 4
# The operator's default of --shared-runtime-class.
USUAL_RUNTIME_CLASS = "nvidia"
RUNTIME_FLAG = "--shared-runtime-class"
EXCLUSIVE_FLAG = "--exclusive-runtime-class"
# Labels of GPU feature discovery and of AMD's node labeller: an accelerator is built in.
PRESENT_LABELS = ("nvidia.com/gpu.present", "nvidia.com/gpu.count", "amd.com/gpu.device-id")


def check(facts: Facts) -> Iterator[Finding]:
    """Nodes, the device plugin, exporters, the runtime class."""
    if isinstance(facts.nodes, Unread):
        yield unknown("nodes", facts.nodes.why, facts.nodes.next_step)
        return
    nodes = _nodes(facts, None if isinstance(facts.view, Unread) else facts.view)
    usable = _usable(nodes)
    yield from _found(nodes, usable)
    yield from _device_plugin(facts, usable)
    if usable:
        for operator in facts.operators:
            yield from _exporters(facts, operator)
    yield from _runtime_class(facts)


def _nodes(facts: Facts, view: FleetView | None) -> tuple[Node, ...]:
    """The nodes as an operator reads them that has told this."""
    picture = Picture(
        model_deployments=(),
        pods=() if isinstance(facts.pods, Unread) else facts.pods,
        nodes=() if isinstance(facts.nodes, Unread) else facts.nodes,
        view=view,
        at=facts.now,
    )
    return picture.facts().inventory.nodes


def _usable(nodes: Iterable[Node]) -> list[Node]:
    return [one for one in nodes if one.devices or one.num_allocatable]


def _found(nodes: Iterable[Node], usable: list[Node]) -> Iterator[Finding]:
    unclear = [one for one in nodes if one.devices_unknown is not None]
    for one in unclear[:MAX_NAMED]:
        yield failed(
            "nodes", f"{one.name}: its accelerators are not known: {one.devices_unknown}",
            "docs/how-to/describe-nodes.md says what tells them",
        )  # fmt: skip
    if not usable:
        yield warning(
            "nodes", "no node has an accelerator that is known: nothing can be placed",
            "install NVIDIA's GPU operator, or see docs/how-to/describe-nodes.md",
        )  # fmt: skip
        return
    away = sorted({one.name for one in usable if one.unusable_reason is not None})
    if away:
        yield warning(
            "nodes", f"{_named(away)} may take nothing now (cordoned, or not ready)",
            "kubectl get nodes; kubectl uncordon NODE",
        )  # fmt: skip
    shared = {one.name for one in usable if one.mode is PlacementMode.SHARED}
    number = sum(max(len(one.devices), one.num_allocatable) for one in usable)
    yield ok(
        "nodes",
        f"{number} accelerator(s) on {len({one.name for one in usable})} node(s), "
        f"{len(shared)} of them shared",
    )


def _device_plugin(facts: Facts, usable: list[Node]) -> Iterator[Finding]:
    """Whole devices are handed out by a device plugin, shared ones never."""
    if isinstance(facts.nodes, Unread):
        return
    offered = {one.name for one in usable if one.num_allocatable}
    shared = {one.name for one in usable if one.mode is PlacementMode.SHARED}
    built_in = {
        name_of(node) for node in facts.nodes
        if any(label in labels_of(node) for label in PRESENT_LABELS)
    }  # fmt: skip
    silent = sorted(built_in - offered - shared - _labelled_shared(facts))
    both = sorted(offered & shared)
    if silent:
        yield failed(
            "device-plugin",
            f"{_named(silent)} has accelerators and offers none: no device plugin runs there",
            "kubectl get pods -A -o wide | grep device-plugin",
        )
    if both:
        yield warning(
            "device-plugin",
            f"{_named(both)} is shared and has a device plugin too, which does not know of bytes",
            "keep the device plugin off shared nodes: docs/how-to/share-gpus.md",
        )
    if not silent and not both and offered:
        yield ok("device-plugin", f"{len(offered)} node(s) hand out whole accelerators")


def _labelled_shared(facts: Facts) -> set[str]:
    if isinstance(facts.nodes, Unread):
        return set()
    return {
        name_of(one) for one in facts.nodes if labels_of(one).get(LABEL_GPU_SHARING) == "shared"
    }


def _exporters(facts: Facts, operator: Operator) -> Iterator[Finding]:
    """Whether an operator hears an exporter on each node."""
    view = operator.view
    if isinstance(view, Unread):
        yield unknown("exporters", view.why, view.next_step)
        return
    who = facts.named(operator)
    if view is None:
        yield unknown(
            "exporters", f"{who} has not told what it reads (ConfigMap memroute-fleet)",
            operator.logs,
        )  # fmt: skip
        return
    age = (facts.now - view.at).total_seconds()
    if view.is_old(facts.now):
        yield unknown("exporters", f"what {who} reads was told {age:,.0f} s ago", operator.logs)
        return
    usable = _usable(_nodes(facts, view))
    deaf = [one for one in usable if not one.has_fresh_metrics]
    shared = sorted({one.name for one in deaf if one.mode is PlacementMode.SHARED})
    whole = sorted({one.name for one in deaf if one.mode is not PlacementMode.SHARED})
    to = "" if len(facts.operators) == 1 else f" to {who}"
    step = "kubectl get pods -A -o wide | grep exporter; --exporter-selector says which are read"
    if shared:
        yield failed(
            "exporters",
            f"no exporter answers{to} for {_named(shared)}: nothing is placed on shared devices "
            "that nobody measures",
            step,
        )
    if whole:
        yield warning(
            "exporters",
            f"no exporter answers{to} for {_named(whole)}: what others use there is not seen",
            step,
        )
    if not deaf:
        heard = len({one.name for one in usable})
        yield ok(
            "exporters", f"an exporter answers{to} for each of {heard} node(s), {age:.0f} s ago"
        )


def _runtime_class(facts: Facts) -> Iterator[Finding]:
    """Of shared replicas where there are shared nodes, and of whole ones where one is named."""
    wanted = {EXCLUSIVE_FLAG: runtime_class_of(facts, EXCLUSIVE_FLAG, "")}
    if _labelled_shared(facts):
        wanted[RUNTIME_FLAG] = runtime_class_of(facts, RUNTIME_FLAG, USUAL_RUNTIME_CLASS)
    for flag, name in wanted.items():
        if name:
            yield _found_class(facts, flag, name)


def _found_class(facts: Facts, flag: str, wanted: str) -> Finding:
    if isinstance(facts.runtime_classes, Unread):
        return unknown("runtime-class", facts.runtime_classes.why, facts.runtime_classes.next_step)
    who = "shared replicas" if flag == RUNTIME_FLAG else "replicas on whole devices"
    known = sorted(name_of(one) for one in facts.runtime_classes)
    if wanted in known:
        return ok("runtime-class", f"the RuntimeClass {wanted} of {who} is there")
    there = f"there are {', '.join(known)}" if known else "there is none"
    return failed(
        "runtime-class",
        f"{who} ask for the RuntimeClass {wanted}, and {there}",
        "install the NVIDIA container toolkit with its RuntimeClass, or set "
        f"{flag}= of the operator where nvidia is the default",
    )


def runtime_class_of(facts: Facts, flag: str, usual: str) -> str:
    """What the operator gives replicas; empty for the node's default."""
    operators = facts.programs(OPERATOR)
    for deployment in () if isinstance(operators, Unread) else operators:
        for value in arguments_of(deployment, flag):
            return value
    return usual


def _named(names: list[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
