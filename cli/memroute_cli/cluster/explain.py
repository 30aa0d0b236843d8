"""The work of ``memroute explain MODEL``: why its replicas are where they are, what would help."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memroute.closeness import closest
from memroute_cli.cluster.explanation import document, told
from memroute_cli.cluster.looking import LookError, look
from memroute_cli.terminal.console import open_console
from memroute_cli.terminal.output import Output, write
from memroute_cli.terminal.progress import working
from memroute_kube import KubeObject
from memroute_kube.resources import object_key
from memroute_operator.explaining import ModelExplanation, Picture, explain_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was typed after ``memroute explain``."""

    model: str | None
    namespace: str | None
    replica: str | None
    output: Output
    is_wide: bool
    kubeconfig: Path | None
    operator_namespace: str


def run(asked: Asked) -> bool:
    """Tell it; whether all that is wanted serves. Raises ``LookError``."""
    model = _named(asked.model)
    with working("looking at the cluster, and trying what would help"):
        seen = look(
            kubeconfig=asked.kubeconfig,
            operator_namespace=asked.operator_namespace,
            events_of=model,
        )
        explanation = _explanation(seen.picture, model, asked.namespace, asked.replica)
    age = seen.picture.observed_age_seconds
    if asked.output is not Output.TABLE:
        write(document(explanation, age, seen.notes), asked.output)
    else:
        console = open_console(is_wide=asked.is_wide)
        for line in told(explanation, age, seen.notes, shows_all=asked.is_wide):
            console.print(line)
    return explanation.is_well


def _named(model: str | None) -> str:
    if model is None:
        msg = (
            "name a ModelDeployment (kubectl get mdep -A lists them); what a router has "
            "decided about requests is told by `memroute decisions`"
        )
        raise LookError(msg)
    return model


def _explanation(
    picture: Picture, model: str, namespace: str | None, replica: str | None
) -> ModelExplanation:
    key = find(picture.model_deployments, model, namespace)
    index = None if replica is None else _index(picture, key, replica)
    explanation = explain_model(picture, key, replica_index=index)
    if explanation is None:
        msg = f"{key} is being deleted"
        raise LookError(msg)
    return explanation


def _index(picture: Picture, key: str, replica: str) -> int:
    """Of the replica that is meant by its pod's name, the end of it, or its index."""
    own = [one for one in picture.facts().replicas if one.deployment == key]
    for one in own:
        if one.pod_name == replica or one.pod_name.endswith(f"-{replica}"):
            return one.index
    for one in own:
        if str(one.index) == replica:
            return one.index
    there = ", ".join(sorted(one.pod_name for one in own)) or "none at all"
    msg = f"{key} has no replica {replica}; it has {there}"
    raise LookError(msg)


def find(objects: Sequence[KubeObject], model: str, namespace: str | None) -> str:
    """``namespace/name`` of the one that is meant. Raises ``LookError``."""
    keys = sorted(map(object_key, objects))
    wanted = f"{namespace}/{model}" if namespace is not None else model
    found = [key for key in keys if key == wanted or key.partition("/")[2] == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        msg = f"several namespaces have a {model}: {', '.join(found)}; say which with -n"
        raise LookError(msg)
    full = {(key if "/" in wanted else key.partition("/")[2]): key for key in keys}
    near = [full[name] for name in closest(wanted, full)]
    hint = f"; did you mean {', or '.join(near)}?" if near else ""
    there = f"there are {', '.join(keys[:10])}" if keys else "the cluster has none at all"
    msg = f"there is no ModelDeployment {wanted}{hint or '; ' + there}"
    raise LookError(msg)
