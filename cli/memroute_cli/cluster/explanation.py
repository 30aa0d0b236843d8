"""What is said of one model, as text for a terminal and as a document for a program."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from memroute.placement import Verdict
from memroute.units import format_gib
from memroute_cli.cluster.adapters_told import adapter_lines, adapters_of, replica_line
from memroute_cli.cluster.tables import age_words
from memroute_cli.terminal.indented import Indented
from memroute_cli.terminal.shell import folded
from memroute_operator.explaining import ModelExplanation, Remedy
from memroute_operator.replicas.replica import Replica
from memroute_operator.status.failing import on_the_way

COMMAND_INDENT = "    "
# Nodes that are told one by one: chosen by hand. The nearest misses come first.
MAX_NODES = 12
# Conditions that are told where they are there, beside Ready.
TOLD_CONDITIONS = (
    "Stalled", "Degraded", "Paused", "Overbooked", "FootprintDrift", "DeviceMetricsStale",
    "TargetsUnmet", "TemplateOutdated", "PolicyUnknown", "Asleep", "SleepFailing",
    "GatewayNotReady",
)  # fmt: skip


class Command:
    """What a person copies: folded as a shell reads it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        for line in folded(self.text, options.max_width, indent=COMMAND_INDENT):
            yield Text(line, no_wrap=True, overflow="ignore")


def told(
    explanation: ModelExplanation,
    observed_age_seconds: float | None,
    notes: Sequence[str],
    *,
    shows_all: bool = False,
) -> Iterator[RenderableType]:
    """The text, a paragraph each. ``shows_all``: every node, not only the nearest."""
    yield from _what_it_is(explanation)
    yield Text(f"observations: {age_words(observed_age_seconds)}")
    for note in notes:
        yield Text(f"note: {note}")
    yield from _conditions(explanation)
    yield from _replicas(explanation)
    yield from _adapters(explanation)
    yield from _missing(explanation)
    yield from _nodes(explanation, None if shows_all else MAX_NODES)


def _what_it_is(explanation: ModelExplanation) -> Iterator[RenderableType]:
    one = explanation.deployment
    yield Text(one.key, style="bold")
    image = f", {one.engine_image}" if one.engine_image else ""
    commit = "" if one.pin is None else f" at commit {one.pin.commit[:12]}"
    yield Text(f"{one.model}{commit} on {one.engine.spelled}{image}")
    footprint = one.footprint
    if footprint is None:
        yield Text("its footprint is not known")
        return
    devices = "1 device" if footprint.num_devices == 1 else f"{footprint.num_devices} devices"
    kind = "measured" if one.calibrations else "estimated"
    yield Text(
        f"each replica: {format_gib(footprint.total_bytes)} on {devices}, "
        f"{one.mode.value}, {one.strategy.value} (weights {format_gib(footprint.weights_bytes)}, "
        f"KV cache {format_gib(footprint.kv_cache_bytes)}, overhead "
        f"{format_gib(footprint.overhead_bytes)}; {kind})"
    )


def _conditions(explanation: ModelExplanation) -> Iterator[RenderableType]:
    yield Text()
    if explanation.is_outdated:
        yield Text("the operator has not told of the current spec yet")
    ready = explanation.conditions.get("Ready")
    if ready is None:
        yield Text("the operator has told nothing of it: is it running?")
    else:
        yield Text(f"Ready={ready.get('status')} {ready.get('reason')}: {ready.get('message')}")
    for kind in TOLD_CONDITIONS:
        condition = explanation.conditions.get(kind)
        repeats = (
            ready is not None
            and condition is not None
            and (condition.get("message") == ready.get("message"))
        )
        if condition is not None and condition.get("status") == "True":
            words = "as above" if repeats else condition.get("message")
            yield Text(f"{kind} {condition.get('reason')}: {words}")
    if explanation.rollout is not None:
        yield Text(f"rollout: {explanation.rollout}")
    targets = _targets(explanation)
    if targets:
        yield Text(targets)


def _targets(explanation: ModelExplanation) -> str:
    routing = explanation.deployment.obj["spec"].get("routing") or {}
    asked = {"TTFT": "ttftTargetMilliseconds", "TPOT": "tpotTargetMilliseconds"}
    words = [f"{name} {routing[field]} ms" for name, field in asked.items() if routing.get(field)]
    pressure = explanation.status.get("kvPressure")
    parts = [f"targets: {', '.join(words)}"] if words else []
    if pressure:
        parts.append(f"KV pressure: {pressure}")
    return "; ".join(parts)


def _replicas(explanation: ModelExplanation) -> Iterator[RenderableType]:
    one = explanation.deployment
    yield Text()
    if not explanation.replicas:
        yield Text(f"no replica is there, {one.replicas} wanted")
    footprint = one.footprint
    weights = None if footprint is None else footprint.weights.expected * footprint.num_devices
    for replica in explanation.replicas:
        yield Text(_replica(replica, one.revision))
        yield _indented(f"why there: {replica.why or 'its pod does not say'}")
        if adapters := replica_line(explanation, replica):
            yield _indented(adapters)
        if replica.failure is not None:
            yield _indented(f"failed: {replica.failure}")
        elif way := on_the_way(replica, weights):
            yield _indented(way.strip())


def _adapters(explanation: ModelExplanation) -> Iterator[RenderableType]:
    lines = list(adapter_lines(explanation))
    if lines:
        yield Text()
        yield Text("adapters:")
    for line in lines:
        yield _indented(line)


def _replica(replica: Replica, revision: str) -> str:
    devices = ", ".join(sorted(replica.device_bytes)) or f"{replica.num_devices} whole device(s)"
    age = "" if replica.revision == revision else ", of an older spec"
    restarts = f", {replica.num_restarts} restart(s)" if replica.num_restarts else ""
    return (
        f"{replica.pod_name}: {replica.state.value} on {replica.node} ({devices}, "
        f"{format_gib(replica.bytes_per_device)} each{age}{restarts})"
    )


def _missing(explanation: ModelExplanation) -> Iterator[RenderableType]:
    refused = explanation.refused
    if refused is None:
        return
    yield Text()
    ready = str(explanation.conditions.get("Ready", {}).get("message"))
    why = "see above" if refused.message in ready else f"the next {refused.message}"
    number = explanation.num_refused
    yield Text(f"{number} replica(s) placed nowhere ({refused.reason.value}): {why}")
    yield Text()
    if not explanation.remedies:
        yield Text("what would help: nothing that was tried makes room for another one")
        return
    yield Text("what would help (each was tried; first what disturbs nothing that serves):")
    for remedy in explanation.remedies:
        yield _indented(f"* {remedy.change}")
        yield Command(remedy.command)
        yield _indented(f"then: {_outcome(remedy, number)}; {remedy.then}", by=4)


def _outcome(remedy: Remedy, num_missing: int) -> str:
    """How many are placed, and what it costs."""
    disturbed = remedy.num_disturbed
    cost = f"{disturbed} replica(s) replaced or ended" if disturbed else "nothing is disturbed"
    return f"{remedy.num_placed} of {num_missing} missing placed, {cost}"


def _nodes(explanation: ModelExplanation, limit: int | None) -> Iterator[RenderableType]:
    if not explanation.verdicts:
        return
    yield Text()
    yield Text(f"node by node, for {explanation.asked}:")
    for verdict in explanation.verdicts[:limit]:
        # Below the node's name: below `no` it reads as another node.
        yield _indented(_verdict(verdict), further=4)
    more = 0 if limit is None else len(explanation.verdicts) - limit
    if more > 0:
        yield _indented(f"and {more} more (--wide has them all)")


def _verdict(verdict: Verdict) -> str:
    return f"{'yes' if verdict.fits else 'no '} {verdict.node}: {verdict.why}"


def _indented(text: str, *, by: int = 2, further: int = 0) -> RenderableType:
    return Indented(text, by=by, further=further)


def document(
    explanation: ModelExplanation, observed_age_seconds: float | None, notes: Sequence[str]
) -> dict[str, Any]:
    """The same for a program."""
    one, footprint = explanation.deployment, explanation.deployment.footprint
    refused = explanation.refused
    return {
        "namespace": one.namespace, "name": one.name, "model": one.model,
        "engine": one.engine.spelled, "mode": one.mode.value,
        "commit": None if one.pin is None else one.pin.commit,
        "footprint": None if footprint is None else {
            "devices": footprint.num_devices, "bytesPerDevice": footprint.total_bytes,
            "weightsBytes": footprint.weights_bytes, "kvCacheBytes": footprint.kv_cache_bytes,
            "overheadBytes": footprint.overhead_bytes,
        },
        "observedAgeSeconds": observed_age_seconds,
        "notes": list(notes),
        "isOutdated": explanation.is_outdated,
        "conditions": [dict(condition) for condition in explanation.conditions.values()],
        "wantedReplicas": one.replicas,
        "replicas": [_replica_document(explanation, one) for one in explanation.replicas],
        "adapters": [dict(adapter) for adapter in adapters_of(explanation)],
        "rollout": explanation.rollout,
        "numRefused": explanation.num_refused,
        "refused": None if refused is None else {
            "reason": refused.reason.value, "message": refused.message,
        },
        "remedies": [
            {"change": r.change, "command": r.command, "then": r.then,
             "numPlaced": r.num_placed, "numDisturbed": r.num_disturbed}
            for r in explanation.remedies
        ],
        "asked": explanation.asked,
        "nodes": [
            {"node": v.node, "resource": v.resource, "fits": v.fits, "why": v.why,
             "shortBytes": v.short_bytes}
            for v in explanation.verdicts
        ],
    }  # fmt: skip


def _replica_document(explanation: ModelExplanation, replica: Replica) -> dict[str, Any]:
    diagnosis, loaded = replica.diagnosis, explanation.loaded.get(replica.uid)
    return {
        "replica": replica.index, "pod": replica.pod_name, "state": replica.state.value,
        "node": replica.node, "devices": sorted(replica.device_bytes),
        "bytesPerDevice": replica.bytes_per_device, "why": replica.why,
        "restarts": replica.num_restarts, "onTheWay": replica.on_the_way,
        "adapters": None if loaded is None else sorted(loaded),
        "failure": None if diagnosis is None else {
            "reason": diagnosis.name, "sentence": diagnosis.sentence,
            "nextStep": diagnosis.next_step, "evidence": diagnosis.evidence,
        },
    }  # fmt: skip
