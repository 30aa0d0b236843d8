"""What ``memroute explain`` says of adapters: the state of each, and what each replica has."""

from collections.abc import Iterator, Mapping
from typing import Any

from memroute_kube.shapes import listed, mapping
from memroute_operator.explaining import ModelExplanation
from memroute_operator.replicas.replica import Replica


def adapter_lines(explanation: ModelExplanation) -> Iterator[str]:
    """A line for each adapter, as the operator has told it; none where the spec lists none."""
    told = {str(one.get("name")): one for one in adapters_of(explanation)}
    for adapter in explanation.deployment.adapters.listed:
        one = told.get(adapter.name)
        if one is None:
            yield f"{adapter.name}: the operator has told nothing of it yet"
            continue
        ready = one.get("readyReplicas")
        number = "" if ready is None else f" by {one.get('loadedReplicas', 0)} of {ready} ready"
        commit = "" if one.get("commit") is None else f" at commit {str(one['commit'])[:12]}"
        source = "" if one.get("source") is None else f", {one['source']}{commit}"
        message = f": {one['message']}" if one.get("message") else ""
        state = f"Loaded{number}" if ready is not None else str(one.get("state"))
        if ready is not None and one.get("state") != "Loaded":
            state = f"{one.get('state')}, loaded{number}"
        yield f"{adapter.name}: {state}{source}{message}"


def replica_line(explanation: ModelExplanation, replica: Replica) -> str | None:
    """Which adapters a replica has, and which it lacks; None where nobody knows or none is wanted.

    By what routers are told: requests for an adapter go to the replicas that have it.
    """
    wanted = [one.name for one in explanation.deployment.adapters.managed]
    loaded = explanation.loaded.get(replica.uid)
    if not wanted or loaded is None:
        return None
    lacking = [name for name in wanted if name not in loaded]
    has = ", ".join(sorted(loaded)) or "none"
    return f"adapters: {has}" + (f"; not loaded: {', '.join(lacking)}" if lacking else "")


def adapters_of(explanation: ModelExplanation) -> list[Mapping[str, Any]]:
    """``status.adapters``."""
    return [mapping(one) for one in listed(explanation.status.get("adapters"))]
