"""``status.adapters`` from what replicas were seen to have. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memroute_kube.shapes import listed, mapping
from memroute_operator.adapters.container import mount_paths_of
from memroute_operator.adapters.reading import Adapter
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment

LOADED, LOADING, FETCHING = "Loaded", "Loading", "Fetching"
FAILED, PENDING, NAME_ONLY = "Failed", "Pending", "NameOnly"
# Replicas that a message names one by one before it only counts.
MAX_LISTED = 3
WAITS_WHILE_PAUSED = "nothing is loaded or unloaded while spec.paused is true"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one replica has, as it was last seen. Names are those that clients use."""

    loaded: frozenset[str] | None = None
    """None while its engine does not serve."""
    fetched: Mapping[str, str] = field(default_factory=dict)
    """Commits of what its container has fetched from a hub, by the source as it is written."""
    fetching: frozenset[str] = frozenset()
    troubles: Mapping[str, str] = field(default_factory=dict)
    """What is in the way of each, as a sentence."""
    waiting: Mapping[str, str] = field(default_factory=dict)
    """What another pod is needed for."""


def pinned_commits(deployment: Deployment) -> dict[str, str]:
    """The commits that its status keeps, of adapters whose source is as it was."""
    status = mapping(deployment.obj.get("status"))
    addresses = {one.name: one.address for one in deployment.adapters.listed}
    found = {}
    for one in map(mapping, listed(status.get("adapters"))):
        name, commit, source = one.get("name"), one.get("commit"), one.get("source")
        is_same = source is not None and addresses.get(str(name)) == source
        if is_same and isinstance(commit, str) and isinstance(name, str):
            found[name] = commit
    return found


def told_adapters(
    deployment: Deployment,
    replicas: Sequence[Replica],
    views: Mapping[str, View],
    loaded: Mapping[str, frozenset[str]],
) -> list[dict[str, Any]] | None:
    """The list; None where no adapter is wanted.

    ``loaded``: what routers are told that replicas have, by the uid of their pod.
    """
    wanted = deployment.adapters.listed
    if not wanted:
        return None
    commits = pinned_commits(deployment)
    ready = [one for one in replicas if one.is_ready and not one.is_terminating]
    return [
        _told(
            one, ready, replicas, views, loaded,
            commit=commits.get(one.name), is_paused=deployment.paused,
        )
        for one in wanted
    ]  # fmt: skip


def _told(
    adapter: Adapter,
    ready: Sequence[Replica],
    replicas: Iterable[Replica],
    views: Mapping[str, View],
    loaded: Mapping[str, frozenset[str]],
    *,
    commit: str | None,
    is_paused: bool,
) -> dict[str, Any]:
    if not adapter.is_managed:
        message = "it has no source: the engines' owner loads it, and routers know its name"
        return {"name": adapter.name, "state": NAME_ONLY, "message": message}
    having = sum(adapter.name in loaded.get(one.uid, ()) for one in ready)
    seen = [(one, views[one.uid]) for one in replicas if one.uid in views]
    commit = commit or next(
        (found for _, view in seen if (found := view.fetched.get(adapter.address or ""))), None
    )
    state, message = _state(adapter.name, ready, having, seen)
    if is_paused and state in (PENDING, FETCHING, LOADING):
        state, message = PENDING, WAITS_WHILE_PAUSED
    said: dict[str, Any] = {
        "name": adapter.name,
        "state": state,
        "loadedReplicas": having,
        "readyReplicas": len(ready),
        "source": adapter.told_source,
    }
    if commit is not None:
        said["commit"] = commit
    if message:
        said["message"] = message
    return said


def _state(
    name: str, ready: Sequence[Replica], having: int, seen: Sequence[tuple[Replica, View]]
) -> tuple[str, str]:
    """The state, and what is in the way."""
    if troubles := _troubles(name, seen):
        return FAILED, troubles
    if not ready:
        return PENDING, "no replica serves yet"
    if having == len(ready):
        return LOADED, ""
    if why := _why_pending(name, ready, seen):
        return PENDING, why
    is_fetching = any(name in view.fetching for _, view in seen)
    return (FETCHING if is_fetching else LOADING), ""


def _troubles(name: str, seen: Sequence[tuple[Replica, View]]) -> str:
    """What is in the way, and where; empty where nothing is."""
    pods: dict[str, list[str]] = {}
    for replica, view in seen:
        if name in view.troubles:
            pods.setdefault(view.troubles[name], []).append(replica.pod_name)
    told = []
    for words, listed_pods in sorted(pods.items())[:MAX_LISTED]:
        more = len(listed_pods) - MAX_LISTED
        named = ", ".join(sorted(listed_pods)[:MAX_LISTED]) + (
            f" and {more} more" if more > 0 else ""
        )
        told.append(f"{named}: {words}")
    return "; ".join(told)


def _why_pending(
    name: str, ready: Sequence[Replica], seen: Sequence[tuple[Replica, View]]
) -> str | None:
    """What other pods are needed for; None where these will do."""
    old = sum(mount_paths_of(one.obj) is None for one in ready)
    if old:
        return (
            f"{old} replica(s) were started without slots for adapters: they are replaced by "
            f"spec.rollout"
        )
    return next((view.waiting[name] for _, view in seen if name in view.waiting), None)


def failing_adapters(told: Sequence[Mapping[str, Any]] | None) -> tuple[str, str, str] | None:
    """The condition ``AdaptersFailing``; None while none fails. The model itself serves on."""
    failing = [one for one in told or () if one["state"] == FAILED]
    if not failing:
        return None
    named = "; ".join(f"{one['name']}: {one.get('message', '')}" for one in failing[:MAX_LISTED])
    more = len(failing) - MAX_LISTED
    message = (
        f"{len(failing)} of {len(told or ())} adapter(s) could not be loaded everywhere, and are "
        f"tried again: {named}{f'; and {more} more' if more > 0 else ''}"
    )
    return "True", "AdapterFailed", message
