"""All situations made to happen, and read from what the operator has written."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cluster_stub import refuse
from fake_hub import FakeHub, Repository, loopback_sessions, tiny_files
from memroute.units import GIB, MIB
from memroute_hub import HubError, HubModel, HubReason, ModelName
from memroute_hub.client import open_hub
from memroute_hub.settings import HubSettings, Token
from memroute_kube.resources import LABEL_DEPLOYMENT
from memroute_operator.pod.pod_names import replica_key
from memroute_operator.readings.pod_events import MAX_PER_ROUND
from memroute_operator.spec.deployment import read_deployment
from operator_rig import mdep, node, operator_rig, reading
from situations import SITUATIONS, Obj, Row, Scene, Situation


async def rows() -> dict[str, list[Row]]:
    """All situations, by group: most on one cluster, those of hubs each on its own."""
    found = await _on_one_cluster()
    found["The hub"] = await _of_hubs()
    return found


@dataclass(kw_only=True)
class _Stage:
    """Everything that is there before anything happens."""

    nodes: list[Obj] = field(default_factory=list)
    mdeps: list[Obj] = field(default_factory=list)
    pods: list[Obj] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    """What the API server answers to pods, by ModelDeployment."""
    parts: list[tuple[str, str, Situation]] = field(default_factory=list)
    """ModelDeployment, node and situation."""

    def add(self, number: int, one: Situation) -> None:
        name, machine = f"m{number:02}", node(f"n{number:02}")
        obj = mdep(name)
        machine["metadata"]["labels"]["own"] = name
        obj["spec"]["placement"]["nodeSelector"] = {"own": name}
        obj["spec"]["model"]["servedName"] = name
        one.machine(machine)
        one.spec(obj)
        self.nodes.append(machine)
        self.mdeps.append(obj)
        if "taken" in obj["metadata"].get("annotations", {}):
            own = replica_key(read_deployment(copy.deepcopy(obj)), 0)
            self.pods.append(_of_others(own.pod_name))
        if one.refused:
            self.refusals[name] = one.refused
        self.parts.append((name, f"n{number:02}", one))

    def fault(self, call: Any) -> Any:
        if (call.method, call.plural) != ("POST", "pods"):
            return None
        said = self.refusals.get(call.body["metadata"]["labels"].get(LABEL_DEPLOYMENT, ""))
        return None if said is None else refuse(403, "Forbidden", said)


async def _on_one_cluster() -> dict[str, list[Row]]:
    stage = _Stage()
    for number, (_, one) in enumerate(SITUATIONS):
        stage.add(number, one)
    async with operator_rig(
        nodes=stage.nodes, mdeps=stage.mdeps, pods=stage.pods, request_seconds=60.0
    ) as rig:
        rig.be_patient()
        rig.cluster.fault = stage.fault
        rig.read_exporter = _exporters(stage.nodes)
        starting = [name for name, _, one in stage.parts if one.starts]
        await rig.until("the start", lambda: all(rig.is_ready(f"default/{n}") for n in starting))
        rig.cluster.is_ready_at_once = False
        before = {
            name: len(_events_of(rig, name)) if one.starts else 0 for name, _, one in stage.parts
        }
        for name, machine, one in stage.parts:
            scene = Scene(rig=rig, name=name, node=machine)
            if one.happens.__qualname__.startswith("unscheduled"):
                _unbind(rig, scene)
            one.happens(scene)
        await rig.step()
        found = await _looked_at(rig, stage, before)
    by_group: dict[str, list[Row]] = {}
    for number, (group, _) in enumerate(SITUATIONS):
        by_group.setdefault(group, []).append(found[f"m{number:02}"])
    return by_group


async def _looked_at(rig: Any, stage: _Stage, before: dict[str, int]) -> dict[str, Row]:
    """Each when its time has come."""
    found: dict[str, Row] = {}
    passed = 0
    for seconds in sorted({one.waits_seconds for _, _, one in stage.parts}):
        if seconds > passed:
            await rig.step(seconds - passed)
            passed = seconds
            for _ in range(len(stage.parts) // MAX_PER_ROUND + 1):
                await rig.reconciler.pod_events.read_due()
            await rig.step()
        for name, _, one in stage.parts:
            if one.waits_seconds == seconds:
                found[name] = _row(rig, name, one, before[name])
    return found


def _exporters(nodes: list[Obj]) -> Callable[[str, int, float], Any]:
    """What exporters say: those of some nodes of other processes, or nothing."""
    by_name = {one["metadata"]["name"]: one["metadata"]["labels"] for one in nodes}

    def read(name: str, gpus: int, now: float) -> Any:
        labels, found = by_name[name], reading(name, gpus, now)
        (device,) = found.devices
        if "unread" in labels:
            return None
        if "foreign" in labels:
            used = int(labels["foreign"]) * GIB
            device.free_bytes, device.used_bytes = device.free_bytes - used, used
        if labels["nvidia.com/gpu.product"] == "NVIDIA-L4":
            device.product = "NVIDIA-L4"
            device.free_bytes, device.reserved_bytes = 22_500 * MIB, 534 * MIB
        return found

    return read


def _of_others(name: str) -> Obj:
    return {
        "metadata": {
            "namespace": "default", "name": name,
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "theirs", "uid": "u9",
                 "controller": True}
            ],
        },
        "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running", "conditions": []},
    }  # fmt: skip


def _unbind(rig: Any, scene: Scene) -> None:
    """As before it was bound: kube-scheduler has not found a place yet."""
    rig.cluster.not_bound.add(scene.pod_key)
    rig.cluster.change("pods", scene.pod_key, lambda pod: pod["spec"].pop("nodeName"))


def _events_of(rig: Any, name: str) -> list[str]:
    return [
        f"{event['type']} {event['reason']}"
        for event in rig.cluster.objects["events"].values()
        if event["involvedObject"].get("name") == name
    ]


def _row(rig: Any, name: str, one: Situation, before: int) -> Row:
    condition = rig.condition(f"default/{name}", one.kind)
    status = rig.cluster.objects["modeldeployments"][f"default/{name}"].get("status", {})
    placements = status.get("placements") or []
    return Row(
        title=one.title,
        state=placements[0]["state"] if placements else "-",
        kind=one.kind,
        status=condition.get("status", "-"),
        reason=condition.get("reason", "-"),
        message=condition.get("message", "-"),
        events=_events_of(rig, name)[before:],
        helps=one.helps,
    )


# What hubs say before a pod is made: title, the model asked for, and the next step.
HUB_CASES = (
    ("the hub has no such repository", "org/nothere", "--hub-token-file"),
    ("the repository is gated, and the operator has no token", "org/gated", "--hub-token-file"),
    ("the repository has no config.json", "org/files", "or a config.json"),
)
# Told of what serves since before: the title, and the next step.
UNREACHED_CASE = (
    "it serves, and the hub cannot be asked for the commit that a cache needs",
    "one that has to start waits for this",
)


async def _of_hubs() -> list[Row]:
    files = {name: data for name, data in tiny_files().items() if name != "config.json"}
    repositories = {
        "org/gated": Repository(tiny_files(), is_gated=True), "org/files": Repository(files),
    }  # fmt: skip
    found = []
    with loopback_sessions(), FakeHub(repositories) as hub:
        settings = HubSettings(
            endpoint=hub.url, token=Token(value=None), is_offline=False,
            token_hint="the operator's --hub-token-file or HF_TOKEN",  # noqa: S106 - words
        )  # fmt: skip
        for title, model, helps in HUB_CASES:
            async with (
                open_hub(settings) as client,
                operator_rig(
                    nodes=[node()], mdeps=[mdep("m", model=model, maxContextTokens=1024)],
                    argv=["--hub-endpoint", hub.url], resolve_model=client.resolve,
                ) as rig,
            ):  # fmt: skip
                await rig.until(
                    title,
                    lambda rig=rig: (
                        rig.condition("default/m").get("reason") not in ("ModelResolving", None)
                    ),
                )
                situation = Situation(title=title, helps=helps)
                row = _row(rig, "m", situation, 0)
                row.message = row.message.replace(hub.url, "https://hub.example")
                found.append(row)
    found.append(await _of_what_serves())
    return found


async def _of_what_serves() -> Row:
    """A cache is set for a model that serves, and the hub cannot be reached."""

    async def resolve(name: ModelName, token: Token | None = None) -> HubModel:  # noqa: ARG001
        message = f"https://hub.example cannot be reached for {name} (Connection refused)"
        raise HubError(HubReason.HUB_UNREACHABLE, message)

    title, helps = UNREACHED_CASE
    async with operator_rig(nodes=[node()], mdeps=[mdep("m")]) as rig:
        await rig.until(title, lambda: rig.is_ready("default/m"))
        before = len(_events_of(rig, "m"))
        async with rig.restarted(argv=["--model-cache-path=/c"], resolve_model=resolve) as again:
            await again.until(
                title,
                lambda: again.condition("default/m", "Resolved")["reason"] == "HubUnreachable",
            )
            return _row(again, "m", Situation(title=title, helps=helps, kind="Resolved"), before)
