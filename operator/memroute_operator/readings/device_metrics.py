"""What the exporters have reported last of each node's devices, and how old that is.

Each exporter pod is read at its own address, and speaks for the node it runs on: its
``Hostname`` label may be the pod's own name. Owns the last reading per node; a node that
stopped answering keeps its devices (their UUIDs do not change) and loses its freshness.

Two ages are told apart. That of the *scrape* says whether the exporter answers. That of the
*reading* says what its values can have seen: dcgm-exporter collects every 30 s by default, and
serves the same values until it collects again. It puts no time on them. So the age of a reading
is bounded from above, by what two scrapes prove:

```text
collected after the last scrape that still showed other values, and
collected at most one interval before the scrape
```
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from memroute_kube import KubeObject
from memroute_kube.resources import is_condition_true
from memroute_operator.readings.exporter_page import (
    DeviceReading,
    parse_exporter_page,
    read_exporter_page,
)
from memroute_operator.readings.pages import (
    TIMEOUT_SECONDS,
    PageFailure,
    PageFailureReason,
    PageReader,
    read_spread,
)
from memroute_operator.readings.sources import PodSelector, SourceLog, first_match

__all__ = ["DeviceMetrics", "DeviceReading", "NodeReading", "parse_exporter_page"]

# The hard cap on what counts as live: dcgm-exporter itself collects every 30 s by default.
MAX_AGE_SECONDS = 60.0
# How many scrapes may pass without an answer before a node's readings are stale.
FRESH_SCRAPES = 2
# How old the values of a page can be when nothing tells: dcgm-exporter's default interval of
# 30 s (its option -c, 30,000 ms), and five more for a collection that takes its time.
MAX_COLLECT_SECONDS = 35.0
# Exporters without an answer that are asked again in one round: each takes its whole time-out,
# and the round must not wait for hundreds of them. The longest untried come first.
MAX_SILENT_PER_ROUND = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReading:
    """All devices of one node, and when they were read."""

    devices: tuple[DeviceReading, ...]
    taken_at_seconds: float
    """When the page was asked for."""
    collected_after_seconds: float | None = None
    """The exporter collected its values after this; None when one scrape is all there is."""
    fingerprint: int | None = None
    num_unreadable: int = 0
    text_hash: int | None = None
    """Of the whole page."""

    def age_seconds(self, now_seconds: float) -> float:
        """How old the values are at most."""
        earliest = self.taken_at_seconds - MAX_COLLECT_SECONDS
        if self.collected_after_seconds is not None:
            earliest = max(earliest, self.collected_after_seconds)
        return max(0.0, now_seconds - earliest)


@dataclass(slots=True, kw_only=True)
class DeviceMetrics:
    """The last reading of every node."""

    scrape_seconds: float
    readings: dict[str, NodeReading] = field(default_factory=dict)
    log: SourceLog = field(default_factory=lambda: SourceLog("exporter"))
    tried_at_seconds: dict[str, float] = field(default_factory=dict)
    """When each node's exporter was asked last."""

    def snapshot(self) -> "DeviceMetrics":
        """The readings as they are now: later ones do not show in it."""
        return DeviceMetrics(scrape_seconds=self.scrape_seconds, readings=dict(self.readings))

    def is_fresh(self, node: str, *, now_seconds: float) -> bool:
        """Whether the node's exporter has answered recently enough for its values to count."""
        reading = self.readings.get(node)
        if reading is None:
            return False
        age = now_seconds - reading.taken_at_seconds
        # One failed scrape and the time-out of the next are still no reason to go blind.
        limit = min(MAX_AGE_SECONDS, FRESH_SCRAPES * self.scrape_seconds + TIMEOUT_SECONDS)
        return age <= limit and reading.age_seconds(now_seconds) <= MAX_AGE_SECONDS

    def take(self, node: str, text: str, *, asked_at_seconds: float) -> NodeReading:
        """A page that the node's exporter has sent; what it says of the node from now on."""
        before, text_hash = self.readings.get(node), hash(text)
        if before is not None and before.text_hash == text_hash:
            # Not one value is another: nothing was collected since, and nothing is read anew.
            return self._keep(node, replace(before, taken_at_seconds=asked_at_seconds))
        page = read_exporter_page(text)
        collected_after = None
        if before is not None and before.fingerprint is not None:
            # The same values: collected when they were first seen, or since. Others: since.
            collected_after = (
                before.collected_after_seconds
                if before.fingerprint == page.fingerprint
                else before.taken_at_seconds
            )
        reading = NodeReading(
            devices=page.devices,
            taken_at_seconds=asked_at_seconds,
            collected_after_seconds=collected_after,
            fingerprint=page.fingerprint,
            num_unreadable=page.num_unreadable,
            text_hash=text_hash,
        )
        return self._keep(node, reading)

    def _keep(self, node: str, reading: NodeReading) -> NodeReading:
        self.readings[node] = reading
        return reading

    def forget_nodes(self, alive: Iterable[str]) -> None:
        """Drop the readings of nodes that are gone."""
        kept = set(alive)
        self.readings = {node: one for node, one in self.readings.items() if node in kept}

    async def scrape(
        self,
        reader: PageReader,
        exporters: Sequence[tuple[KubeObject, int]],
        clock: Callable[[], float],
        *,
        over_seconds: float = 0.0,
    ) -> None:
        """Read every exporter (with its port) once; one that fails leaves its reading to age."""

        async def read(exporter: tuple[KubeObject, int]) -> None:
            pod, port = exporter
            node = str(pod["spec"]["nodeName"])
            asked_at = self.tried_at_seconds[node] = clock()
            page = await reader.read(pod.get("status", {}).get("podIP"), port)
            if isinstance(page, PageFailure):
                self.log.report(node, page.reason.value, page.message)
                return
            reading = self.take(node, page, asked_at_seconds=asked_at)
            trouble = None
            if not reading.devices:
                trouble = "no-devices"
            elif reading.num_unreadable:
                trouble = "unreadable-lines"
            self.log.report(node, trouble, f"{reading.num_unreadable} line(s) left out")

        nodes = {str(pod["spec"]["nodeName"]) for pod, _ in exporters}
        self.log.keep(nodes)
        tried = self.tried_at_seconds
        self.tried_at_seconds = {node: at for node, at in tried.items() if node in nodes}
        await read_spread(self._due(exporters), read, over_seconds=over_seconds)

    def _due(self, exporters: Sequence[tuple[KubeObject, int]]) -> list[tuple[KubeObject, int]]:
        """Those to read in this round: all that answer, and some of those that time out."""
        silent: list[tuple[float, int]] = []
        due: list[int] = []
        for position, (pod, _) in enumerate(exporters):
            node = str(pod["spec"]["nodeName"])
            if self.log.troubles.get(node) == PageFailureReason.TIMEOUT.value:
                silent.append((self.tried_at_seconds.get(node, 0.0), position))
            else:
                due.append(position)
        due += [position for _, position in sorted(silent)[:MAX_SILENT_PER_ROUND]]
        return [exporters[position] for position in sorted(due)]


def find_exporters(
    pods: Iterable[KubeObject], selectors: Sequence[PodSelector], *, default_port: int
) -> list[tuple[KubeObject, int]]:
    """The exporter pods that may speak for their node, each with the port it serves on.

    One per node: of several the one that the first selector finds, then the first by name, so
    that two exporters do not overwrite each other's readings.
    """
    by_node: dict[str, tuple[int, str, KubeObject, int]] = {}
    for pod in pods:
        node = pod["spec"].get("nodeName")
        selector = first_match(selectors, pod)
        if not node or selector is None or not is_condition_true(pod, "Ready"):
            continue
        name = f"{pod['metadata'].get('namespace')}/{pod['metadata']['name']}"
        found = (selectors.index(selector), name, pod, selector.port or default_port)
        if node not in by_node or found[:2] < by_node[node][:2]:
            by_node[node] = found
    return [(pod, port) for _, _, pod, port in by_node.values()]
