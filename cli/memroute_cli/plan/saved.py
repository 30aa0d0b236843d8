"""A fleet as ``kubectl get … -o json`` has saved it, in one file or several.

What the operator reads of exporters, and so the names of shared devices, is no field of a Node: it
is in the ConfigMap ``memroute-fleet``, which may be in a file of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from memroute_cli.cluster.commands import OPERATOR_NAMESPACE
from memroute_cli.plan.files import PlanError, read_document
from memroute_kube import KubeObject
from memroute_kube.shapes import mapping
from memroute_operator.explaining import Picture
from memroute_operator.nodes.resource_slices import kept_slices
from memroute_operator.readings.fleet_view import VIEW_NAME, FleetView, read_view

SAVE = "kubectl get nodes,pods -A -o json"
SAVE_VIEW = f"kubectl -n {OPERATOR_NAMESPACE} get configmap {VIEW_NAME} -o json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """The picture of the files, and what they do not tell."""

    source: str
    picture: Picture
    notes: tuple[str, ...]


def read_saved(paths: Sequence[Path]) -> Saved:
    """What all of these files tell together. Raises ``PlanError``."""
    source = ", ".join(map(str, paths))
    objects = [one for path in paths for one in _objects(path)]

    def of(kind: str) -> tuple[KubeObject, ...]:
        return tuple(one for one in objects if one["kind"] == kind)

    nodes, pods = of("Node"), of("Pod")
    if not nodes:
        what = "it has" if len(paths) == 1 else "they have"
        msg = f"{source}: {what} no nodes: save them with `{SAVE}`"
        raise PlanError(msg)
    notes = []
    if not pods:
        notes.append(f"{source} has no pods: every device counts as free ({SAVE})")
    view, note = _view(of("ConfigMap"), source)
    picture = Picture(
        model_deployments=of("ModelDeployment"),
        pods=pods,
        nodes=nodes,
        view=view,
        resource_slices=kept_slices(of("ResourceSlice"), of("ResourceClaim")),
        at=datetime.now(UTC) if view is None else view.at,
    )
    return Saved(source=source, picture=picture, notes=(*notes, note))


def _objects(path: Path) -> Iterable[KubeObject]:
    """The objects of one file: a list of them, or one alone."""
    document = read_document(path)
    items = document.get("items", [document])
    if not isinstance(items, list) or ("items" not in document and "kind" not in document):
        msg = f"{path}: save it with `{SAVE}`"
        raise PlanError(msg)
    for one in items:
        if isinstance(one, dict) and isinstance(one.get("kind"), str):
            if not isinstance(mapping(one.get("metadata")).get("name"), str):
                msg = f"{path}: a {one['kind']} in it has no name: save it with `{SAVE}`"
                raise PlanError(msg)
            yield one


def _view(config_maps: Iterable[KubeObject], source: str) -> tuple[FleetView | None, str]:
    """What the operator had read, the latest of several, and what is not known all the same."""
    told = [one for one in config_maps if one["metadata"]["name"] == VIEW_NAME]
    views = [view for one in told if (view := read_view(one)) is not None]
    if views:
        latest = max(views, key=lambda view: view.at)
        return latest, f"what has happened since {latest.at:%Y-%m-%d %H:%M:%S} UTC"
    why = (
        f"its ConfigMap {VIEW_NAME} is of another release of memroute"
        if told
        else f"{source} has no ConfigMap {VIEW_NAME} ({SAVE_VIEW} > view.json, and "
        "--inventory FILE,view.json)"
    )
    return None, (
        "what processes use of the devices, and the UUIDs by which shared ones are handed out: "
        f"{why}"
    )
