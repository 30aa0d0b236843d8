"""Whether an object of ours is as we want it, whatever the API server and others have added."""

from collections.abc import Mapping
from typing import Any

from memroute_kube import KubeObject
from memroute_kube.shapes import listed, mapping

# Maps of labels: one that somebody adds selects other pods, or none.
_SELECTORS = (("spec", "selector", "matchLabels"), ("spec", "selector"))


def is_as_wanted(found: KubeObject, wanted: KubeObject) -> bool:
    """Whether every field of ``wanted`` is so; lists as a whole, but for what has defaults.

    Owners that others have added are theirs. What ports speak is told by its absence, too.
    """
    return (
        _holds(found, wanted)
        and removal(found, wanted) is None
        and app_protocols(found) == app_protocols(wanted)
    )


def app_protocols(obj: KubeObject) -> list[Any]:
    """What each port of a Service or an EndpointSlice speaks; None where it does not say."""
    ports = listed(obj.get("ports")) or listed(mapping(obj.get("spec")).get("ports"))
    return [mapping(one).get("appProtocol") for one in ports]


def removal(found: KubeObject, wanted: KubeObject) -> KubeObject | None:
    """A merge patch that takes away labels that others have put into a selector; None: none has.

    Server-side apply leaves fields of others as they are.
    """
    for path in _SELECTORS:
        ours, theirs = _at(wanted, path), _at(found, path)
        more = [key for key, value in theirs.items() if key not in ours and isinstance(value, str)]
        if more:
            patch: KubeObject = dict.fromkeys(more)
            for name in reversed(path):
                patch = {name: patch}
            return patch
    return None


def _at(obj: KubeObject, path: tuple[str, ...]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = obj
    for name in path:
        found = mapping(found.get(name))
    return found


def _holds(found: object, wanted: object) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            key in found and _holds_field(key, found[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(_holds(one, other) for one, other in zip(found, wanted, strict=True))
        )
    return found == wanted


def _holds_field(key: str, found: object, wanted: object) -> bool:
    if key == "ownerReferences" and isinstance(wanted, list):
        # Apply merges them by uid: those of others stay, whatever is applied.
        return all(any(_holds(one, owner) for one in listed(found)) for owner in wanted)
    return _holds(found, wanted)
