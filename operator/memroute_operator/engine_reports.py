"""What engines say of their own KV pool: read once from each, when it is ready.

What a page says is the engine's own affair (``engines``); here is whom to ask, and when.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from memroute_kube import KubeObject
from memroute_kube.resources import ENGINE_PORT, LABEL_DEPLOYMENT, is_condition_true
from memroute_operator.engines.registry import EngineReport, read_report
from memroute_operator.readings.pages import PageFailure, PageReader, read_spread
from memroute_operator.readings.sources import SourceLog

__all__ = ["EngineReport", "EngineReports", "find_engines", "read_report"]


def find_engines(pods: Iterable[KubeObject]) -> list[KubeObject]:
    """The pods that are replicas."""
    return [pod for pod in pods if LABEL_DEPLOYMENT in (pod["metadata"].get("labels") or {})]


@dataclass(slots=True)
class EngineReports:
    """Reports by the pod's uid; None for an engine that has none to give."""

    by_pod: dict[str, EngineReport | None] = field(default_factory=dict)
    log: SourceLog = field(default_factory=lambda: SourceLog("engine"))

    def unread(self, engines: Sequence[KubeObject]) -> list[KubeObject]:
        """Ready engines that were not read yet. Reports of those that are gone are dropped."""
        alive = {pod["metadata"]["uid"] for pod in engines}
        self.by_pod = {uid: report for uid, report in self.by_pod.items() if uid in alive}
        self.log.keep(_name(pod) for pod in engines)
        return [
            pod
            for pod in engines
            if pod["metadata"]["uid"] not in self.by_pod and is_condition_true(pod, "Ready")
        ]

    async def scrape(
        self, reader: PageReader, unread: Sequence[KubeObject], *, over_seconds: float = 0.0
    ) -> None:
        """Read those of ``unread``."""

        async def read(pod: KubeObject) -> None:
            page = await reader.read(pod.get("status", {}).get("podIP"), ENGINE_PORT)
            if isinstance(page, PageFailure):
                self.log.report(_name(pod), page.reason.value, page.message)
                return
            self.log.report(_name(pod), None)
            self.by_pod[pod["metadata"]["uid"]] = read_report(page)

        await read_spread(unread, read, over_seconds=over_seconds)


def _name(pod: KubeObject) -> str:
    metadata = pod["metadata"]
    return f"{metadata.get('namespace')}/{metadata['name']}"
