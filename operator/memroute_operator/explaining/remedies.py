"""What would help a replica that is placed nowhere: changes that were tried on the picture.

A change is made in the objects as a person would make it (a field of the spec, a cordon, replicas
of another model), everything is read and planned anew by the operator's own code, and only what
then places a replica more is suggested. A change that the engine or the model refuses shows as a
deployment that cannot be resolved, and is no suggestion.

First comes what disturbs nothing that serves, then what places all that is missing; of those that
are alike in both, what disturbs the fewest replicas.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from memroute.footprint import ReplicaShape, smaller_alternatives
from memroute.placement import PlacementMode
from memroute_kube.resources import object_key
from memroute_operator.explaining.picture import Picture
from memroute_operator.gather import Facts
from memroute_operator.nodes.objects import taints_of
from memroute_operator.plan import Create, Step
from memroute_operator.spec.deployment import Deployment

# Suggestions that are made, and pictures that are planned for them: chosen by hand. A plan of a
# large fleet takes a second.
MAX_REMEDIES = 6
MAX_TRIALS = 60
# Other models that are scaled down together at the most, where no single one is enough.
MAX_TOGETHER = 5
# Where a field of an alternative is in the spec.
PLACES = {
    "kvCacheDtype": ("memory", "kvCacheDtype"),
    "concurrency": ("memory", "concurrency"),
    "maxContextTokens": ("memory", "maxContextTokens"),
    "quantization": ("memory", "quantization"),
    "tensorParallelSize": ("parallelism", "tensorParallelSize"),
}
# Needs a checkpoint that the spec does not name: cannot be tried.
_NEEDS_CHECKPOINT = "AWQ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A change after which a replica more is placed."""

    change: str
    """As an order: ``set spec.memory.kvCacheDtype to FP8``."""
    command: str
    """That does it."""
    then: str
    """Where the replica then goes, in the planner's words."""
    num_placed: int
    """How many of those that are missing have a place then."""
    num_disturbed: int
    """Replicas that it replaces or ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What a picture has for the replicas that are missing."""

    why: str
    """Where the first of them goes, in the planner's words."""
    num_placed: int
    is_replacing: bool
    """Whether the replicas that are there are of another revision by now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    kind: str
    """Of several of one kind the first that helps is enough."""
    change: str
    command: str
    picture: Callable[[], Picture]
    replaces: bool = False
    """Whether the model's own replicas are replaced by it, and take other room then."""
    num_ended: int = 0
    """Replicas of other models that it ends."""


def remedies(picture: Picture, facts: Facts, step: Step, deployment: Deployment) -> list[Remedy]:
    """What would place a replica more of a deployment of which one is placed nowhere.

    In the order in which a person should think of them.
    """
    num_refused = len(step.outcomes[deployment.key].refused)
    own = [one for one in facts.replicas if one.deployment == deployment.key]
    found: list[Remedy] = []
    helped: set[str] = set()
    for trial in islice(_trials(picture, facts, deployment), MAX_TRIALS):
        if trial.kind in helped:
            continue
        tried = trial.picture()
        place, when = _place(tried, deployment, num_refused), ""
        if place is None and trial.replaces:
            place = _place(tried.without_replicas(own), deployment, num_refused)
            when = "once its replicas have been replaced: "
        if place is None:
            continue
        helped.add(trial.kind)
        found.append(
            Remedy(
                change=trial.change,
                command=trial.command,
                then=f"{when}{place.why}",
                num_placed=place.num_placed,
                num_disturbed=trial.num_ended + (len(own) if place.is_replacing else 0),
            )
        )
        if len(found) == MAX_REMEDIES:
            break
    if not found and (together := _of_several(picture, facts, deployment, num_refused)):
        found.append(together)
    return sorted(
        found,
        key=lambda one: (
            one.num_disturbed > 0,
            one.num_placed < num_refused,
            one.num_disturbed,
            -one.num_placed,
        ),
    )


def _place(picture: Picture, deployment: Deployment, num_refused: int) -> _Place | None:
    """Where more of its replicas go in that picture; None where none does."""
    facts, key = picture.facts(), deployment.key
    changed = next((one for one in facts.deployments if one.key == key), None)
    if changed is None or changed.footprint is None:
        return None
    step = picture.plan(facts)
    num_placed = num_refused - len(step.outcomes[key].refused)
    if num_placed <= 0:
        return None
    creates = (a for a in step.actions if isinstance(a, Create) and a.deployment.key == key)
    placed = next(creates, None)
    if placed is None:
        return None
    return _Place(
        why=placed.placed.why,
        num_placed=num_placed,
        is_replacing=changed.revision != deployment.revision,
    )


def _trials(picture: Picture, facts: Facts, deployment: Deployment) -> Iterator[_Trial]:
    """Everything that is tried, the smallest change first."""
    yield from _of_nodes(picture)
    yield from _of_placement(picture, deployment)
    if deployment.shape is not None:
        yield from _of_shape(picture, deployment, deployment.shape)
    yield from _of_others(picture, facts, deployment)


def _edited(picture: Picture, deployment: Deployment, path: tuple[str, ...], value: Any) -> Picture:
    obj = copy.deepcopy(deployment.obj)
    place = obj["spec"]
    for name in path[:-1]:
        place = place.setdefault(name, {})
    place[path[-1]] = value
    return picture.with_deployment(obj)


def _patch(deployment: Deployment, path: tuple[str, ...], value: str) -> str:
    body = value
    for name in reversed(("spec", *path)):
        body = f'{{"{name}":{body}}}'
    return (
        f"kubectl patch mdep {deployment.name} -n {deployment.namespace} --type=merge -p '{body}'"
    )


def _of_shape(picture: Picture, deployment: Deployment, shape: ReplicaShape) -> Iterator[_Trial]:
    for one in smaller_alternatives(shape):
        if one.value == _NEEDS_CHECKPOINT:
            continue
        path = PLACES[one.field]
        text = f'"{one.value}"' if isinstance(one.value, str) else str(one.value)
        yield _Trial(
            replaces=True,
            kind=one.field,
            change=f"set spec.{'.'.join(path)} to {one.value}",
            command=_patch(deployment, path, text),
            picture=lambda path=path, value=one.value: _edited(  # type: ignore[misc]
                picture, deployment, path, value
            ),
        )


def _of_placement(picture: Picture, deployment: Deployment) -> Iterator[_Trial]:
    mode = "Shared" if deployment.mode is PlacementMode.EXCLUSIVE else "Exclusive"
    path = ("placement", "mode")
    yield _Trial(
        kind="mode",
        change=f"set spec.placement.mode to {mode}",
        command=_patch(deployment, path, f'"{mode}"'),
        picture=lambda: _edited(picture, deployment, path, mode),
    )
    selector = deployment.node_selector
    for key in sorted(selector):
        rest = {name: value for name, value in selector.items() if name != key}
        yield _Trial(
            kind="nodeSelector",
            change=f"take {key}={selector[key]} out of spec.placement.nodeSelector",
            command=_patch(deployment, ("placement", "nodeSelector"), f'{{"{key}":null}}'),
            picture=lambda rest=rest: _edited(  # type: ignore[misc]
                picture, deployment, ("placement", "nodeSelector"), rest
            ),
        )
    yield from _of_tolerations(picture, deployment)


def _of_tolerations(picture: Picture, deployment: Deployment) -> Iterator[_Trial]:
    """All taints of a node at once: with one of two nothing is won."""
    spec = deployment.obj["spec"]
    known = ((spec.get("template") or {}).get("spec") or {}).get("tolerations") or []
    seen = set()
    for node in sorted(picture.nodes, key=object_key):
        taints = taints_of(node)
        words = ", ".join(map(str, taints))
        if not taints or words in seen:
            continue
        seen.add(words)
        more = [
            {"key": one.key, "operator": "Equal", "value": one.value, "effect": one.effect.value}
            for one in taints
        ]
        yield _Trial(
            kind=f"taint {words}",
            change=f"tolerate {words} in spec.template.spec.tolerations",
            command=_patch(
                deployment, ("template", "spec", "tolerations"), json.dumps([*known, *more])
            ),
            picture=lambda more=more: _edited(  # type: ignore[misc]
                picture, deployment, ("template", "spec", "tolerations"), [*known, *more]
            ),
        )


def _of_nodes(picture: Picture) -> Iterator[_Trial]:
    for node in sorted(picture.nodes, key=object_key):
        if not (node.get("spec") or {}).get("unschedulable"):
            continue
        name = object_key(node)
        open_node = copy.deepcopy(node)
        open_node["spec"].pop("unschedulable")
        open_node["spec"]["taints"] = [
            one
            for one in open_node["spec"].get("taints") or ()
            if one.get("key") != "node.kubernetes.io/unschedulable"
        ]
        yield _Trial(
            kind="cordon",
            change=f"uncordon node {name}",
            command=f"kubectl uncordon {name}",
            picture=lambda open_node=open_node: picture.with_node(open_node),  # type: ignore[misc]
        )


def _of_others(picture: Picture, facts: Facts, deployment: Deployment) -> Iterator[_Trial]:
    """Fewer replicas of another model, as few fewer as help; the youngest model first."""
    by_deployment = facts.replicas_by_deployment()
    for other in reversed(facts.deployments):
        held = len(by_deployment.get(other.key, ()))
        if other.key == deployment.key or other.paused or not held:
            continue
        for replicas in range(min(other.replicas, held) - 1, -1, -1):
            yield _Trial(
                kind=f"scale {other.key}",
                change=f"scale {other.key} from {other.replicas} to {replicas}",
                command=f"kubectl scale mdep/{other.name} -n {other.namespace} "
                f"--replicas={replicas}",
                picture=lambda other=other, n=replicas: _scaled(picture, other, n),  # type: ignore[misc]
                num_ended=held - replicas,
            )


def _of_several(
    picture: Picture, facts: Facts, deployment: Deployment, num_refused: int
) -> Remedy | None:
    """Fewer replicas of several other models, as few as help; the youngest models first."""
    held = {key: len(replicas) for key, replicas in facts.replicas_by_deployment().items()}
    others = {
        one.key: one
        for one in reversed(facts.deployments)
        if one.key != deployment.key and not one.paused and held.get(one.key)
    }

    def place(counts: Mapping[str, int]) -> _Place | None:
        tried = picture
        for key, number in counts.items():
            tried = _scaled(tried, others[key], number)
        return _place(tried, deployment, num_refused)

    counts: dict[str, int] = {}
    then = None
    for key in list(others)[:MAX_TOGETHER]:
        counts[key] = 0
        if (then := place(counts)) is not None:
            break
    if then is None:
        return None
    for key in list(counts):  # give back what is not needed
        for number in range(others[key].replicas, 0, -1):
            fewer = counts | {key: number}
            if (found := place(fewer)) is not None:
                counts, then = fewer, found
                break
    scaled = {key: number for key, number in counts.items() if number < others[key].replicas}
    return Remedy(
        change=" and ".join(
            f"scale {key} from {others[key].replicas} to {number}" for key, number in scaled.items()
        ),
        command=" && ".join(
            f"kubectl scale mdep/{others[key].name} -n {others[key].namespace} --replicas={number}"
            for key, number in scaled.items()
        ),
        then=then.why,
        num_placed=then.num_placed,
        num_disturbed=sum(max(0, held[key] - number) for key, number in scaled.items()),
    )


def _scaled(picture: Picture, other: Deployment, replicas: int) -> Picture:
    """The picture once the operator has taken the replicas away that are too many."""
    scaled = _edited(picture, other, ("replicas",), replicas)
    facts = scaled.facts()
    kept = scaled.plan(facts).outcomes[other.key].kept
    gone = [one for one in facts.replicas if one.deployment == other.key and one.key not in kept]
    return scaled.without_replicas(gone)
