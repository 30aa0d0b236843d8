"""The map of a fleet: the operator writes it, routers show it.

Exporters and promises are the operator's to read; a router knows requests. Its live map needs both.
So the operator keeps, in a ConfigMap of its namespace, what of each device is whose, and which
ModelDeployments wait for what; a router reads that one object, and only while somebody looks:

```yaml
apiVersion: v1
kind: ConfigMap
metadata: {name: memroute-map, namespace: memroute-system}
data:
  map: '{"version": 1, "at": "2026-11-29T04:00:00Z", "nodes": [{"node": "gpu-a", "devices": [{
    "index": 0, "usable": 51500000000, "foreign": 0, "free": 4200000000, "holders": [{
    "pod": "default/chat-0", "weights": 16100000000, "overhead": …, "kv": …}]}]}], "models": […]}'
```

Bytes are numbers; what nobody knows is null, and never 0.
"""

import json
from typing import Any, NoReturn

from memroute_kube.packed import NotPackedError, unpacked_text
from memroute_kube.resources import KubeObject

MAP_NAME = "memroute-map"
MAP_KEY = "map"
MAP_VERSION = 1
# Of a map that a router shows, in bytes. The operator writes 2,048 devices at the most, with some
# 400 bytes each; ten times that is somebody else's text.
MAX_MAP_BYTES = 8 * 1024**2


class UnreadableMapError(ValueError):
    """The ConfigMap holds no map that this release shows; the message says why."""


def read_map(obj: KubeObject) -> bytes:
    """The map as JSON, which a browser reads. Raises ``UnreadableMapError``."""
    try:
        text = unpacked_text(obj, MAP_KEY)
        if len(text) > MAX_MAP_BYTES:
            message = f"the map has {len(text)} characters"
            raise UnreadableMapError(message)
        document = json.loads(text, parse_constant=_no_number)
        body = text.encode()
    except NotPackedError as error:
        raise UnreadableMapError(str(error)) from error
    except (ValueError, RecursionError) as error:
        message = f"the map is no JSON: {error}"
        raise UnreadableMapError(message) from error
    if not isinstance(document, dict) or document.get("version") != MAP_VERSION:
        message = "the map is of another release of memroute"
        raise UnreadableMapError(message)
    if not _is_drawable(document):
        message = "the map has other parts than the operator writes"
        raise UnreadableMapError(message)
    return body


def _no_number(text: str) -> NoReturn:
    """What Python's JSON has, and a browser's has not: NaN and infinities."""
    message = f"{text} is no number"
    raise ValueError(message)


def _is_drawable(document: dict[str, Any]) -> bool:
    """Whether a page finds what it asks for: one that does not shows nothing else either."""
    if not all(map(_is_node, _objects(document.get("nodes")))):
        return False
    models = _objects(document.get("models"))
    left = document.get("leftOut", {})
    return isinstance(left, dict) and all(isinstance(one.get("model"), str) for one in models)


def _is_node(node: dict[str, Any]) -> bool:
    if not isinstance(node.get("node"), str):
        return False
    return all(_is_holder(one) for one in _objects(node.get("unattributed", []))) and all(
        isinstance(one.get("usable"), int)
        and isinstance(one.get("strangers"), list)
        and all(isinstance(name, str) for name in one["strangers"])
        and all(_is_holder(holder) for holder in _objects(one.get("holders")))
        for one in _objects(node.get("devices"))
    )


def _is_holder(holder: dict[str, Any]) -> bool:
    return isinstance(holder.get("pod"), str) and isinstance(holder.get("model"), str)


def _objects(value: object) -> list[dict[str, Any]]:
    """A list of objects. Raises ``UnreadableMapError`` for anything else."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        message = f"the map has {type(value).__name__} where it has a list of objects"
        raise UnreadableMapError(message)
    return value
