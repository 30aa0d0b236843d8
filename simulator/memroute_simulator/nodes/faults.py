"""Faults of a node on demand: annotations of its Node object, which kubectl sets and removes.

* ``simulator.memroute.dev/gone: "true"``: the machine has died: no heartbeat, no process;
* ``simulator.memroute.dev/lost-gpus: "0,2"``: those GPUs have fallen off the bus;
* ``simulator.memroute.dev/foreign-hbm: '{"0": "20Gi"}'``: what a tenant outside Kubernetes uses,
  per GPU index, in bytes or as a quantity;
* ``simulator.memroute.dev/exporter-down: "true"``: the metrics exporter stops answering;
* ``simulator.memroute.dev/cut-off: "true"``: the node no longer reaches the API server, nor that
  it: no heartbeat, no status, no pod started or stopped, while its processes go on and answer;
* ``simulator.memroute.dev/xid: '{"0": 79}'``: the driver's last error, per GPU index;
* ``simulator.memroute.dev/image-pull-seconds: "never"`` (or a number): images that are not there
  yet take so long to be pulled.

What says none of these is no fault: the node goes on as if it were not there, and says so.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from memroute_kube.quantities import parse_count

PREFIX = "simulator.memroute.dev"
# Longest part of a value that is quoted. Unit: characters. Source: chosen by hand.
MAX_QUOTED = 60
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What a node's annotations ask for."""

    is_gone: bool
    is_cut_off: bool
    is_exporter_down: bool
    lost_gpus: frozenset[int]
    """Indices of GPUs."""
    foreign_bytes: Mapping[int, int]
    """Index of a GPU → bytes that somebody else uses."""
    xids: Mapping[int, int]
    """Index of a GPU → the driver's last error."""
    image_pull_seconds: float | None
    """None: as the fleet file says. Infinite: never."""
    not_understood: tuple[str, ...]
    """A sentence for each annotation that cannot be read."""


def read_faults(annotations: Mapping[str, str], *, num_gpus: int) -> Faults:
    """Raises nothing: what cannot be read is in ``not_understood``, and is no fault."""
    reader = _Reader(annotations, num_gpus)
    return Faults(
        is_gone=reader.flag("gone"),
        is_cut_off=reader.flag("cut-off"),
        is_exporter_down=reader.flag("exporter-down"),
        lost_gpus=reader.indices("lost-gpus"),
        foreign_bytes=reader.per_gpu("foreign-hbm", '{"0": "20Gi"}'),
        xids=reader.per_gpu("xid", '{"0": 79}'),
        image_pull_seconds=reader.seconds("image-pull-seconds"),
        not_understood=tuple(reader.problems),
    )


class _Reader:
    def __init__(self, annotations: Mapping[str, str], num_gpus: int) -> None:
        self._annotations = annotations
        self._num_gpus = num_gpus
        self.problems: list[str] = []

    def flag(self, name: str) -> bool:
        value = self._annotations.get(f"{PREFIX}/{name}", "false")
        found = _WORDS.get(value)
        if found is None:
            self._no(name, value, '"true" or "false"')
        return found is True

    def indices(self, name: str) -> frozenset[int]:
        value = self._annotations.get(f"{PREFIX}/{name}", "")
        found = {word.strip() for word in value.split(",") if word.strip()}
        if all(self._is_index(word) for word in found):
            return frozenset(map(int, found))
        self._no(name, value, f"GPUs by index, {self._range()}")
        return frozenset()

    def per_gpu(self, name: str, example: str) -> Mapping[int, int]:
        value = self._annotations.get(f"{PREFIX}/{name}", "{}")
        try:
            document = json.loads(value)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict):
            found = {index: parse_count(number) for index, number in document.items()}
            if all(self._is_index(index) for index in found):
                numbers = {int(i): number for i, number in found.items() if number is not None}
                if len(numbers) == len(found):
                    return numbers
        self._no(name, value, f"GPUs by index, {self._range()}, as in {example}")
        return {}

    def seconds(self, name: str) -> float | None:
        value = self._annotations.get(f"{PREFIX}/{name}")
        if value is None:
            return None
        if value == "never":
            return math.inf
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if found >= 0:
            return found
        self._no(name, value, 'seconds, or "never"')
        return None

    def _is_index(self, word: str) -> bool:
        return word.isascii() and word.isdigit() and len(word) < 4 and int(word) < self._num_gpus  # noqa: PLR2004

    def _range(self) -> str:
        if not self._num_gpus:
            return "and this node has none"
        return f"from 0 to {self._num_gpus - 1}"

    def _no(self, name: str, value: str, wanted: str) -> None:
        quoted = value if len(value) <= MAX_QUOTED else value[:MAX_QUOTED] + "…"
        self.problems.append(f"{PREFIX}/{name} is {quoted!r}, but it takes {wanted}: it is ignored")
