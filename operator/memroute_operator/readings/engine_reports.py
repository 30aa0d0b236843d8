"""What engines say of their own KV pool: read once from each, when it is ready.

What a page says is the engine's own affair (``engines``); here is whom to ask, and when.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from memroute_kube import KubeObject
from memroute_kube.resources import ENGINE_PORT, LABEL_DEPLOYMENT, is_condition_true
from memroute_operator.actions.backoff import Backoff
from memroute_operator.engines.registry import EngineReport, read_report
from memroute_operator.readings.pages import PageFailure, PageReader, read_spread
from memroute_operator.readings.sources import SourceLog

# How long an engine that could not be read is left alone, in seconds, doubling to the longest:
# asked every 15 s, 4,000 behind a NetworkPolicy took a tenth of a core. Chosen by hand.
FIRST_WAIT_SECONDS = 15.0
MAX_WAIT_SECONDS = 600.0
__all__ = ["EngineReport", "EngineReports", "find_engines", "read_report"]


def find_engines(pods: Iterable[KubeObject]) -> list[KubeObject]:
    """The pods that are replicas."""
    return [pod for pod in pods if LABEL_DEPLOYMENT in (pod["metadata"].get("labels") or {})]


@dataclass(slots=True)
class EngineReports:
    """Reports by the pod's uid; None for an engine that has none to give."""

    by_pod: dict[str, EngineReport | None] = field(default_factory=dict)
    log: SourceLog = field(default_factory=lambda: SourceLog("engine"))
    _failures: Backoff[str] = field(
        default_factory=lambda: Backoff(
            first_seconds=FIRST_WAIT_SECONDS, max_seconds=MAX_WAIT_SECONDS
        )
    )

    def unread(self, engines: Sequence[KubeObject], now_seconds: float) -> list[KubeObject]:
        """Ready engines that are to be read now. Reports of those that are gone are dropped."""
        alive = {pod["metadata"]["uid"] for pod in engines}
        self._failures.forget_old(now_seconds)
        self.by_pod = {uid: report for uid, report in self.by_pod.items() if uid in alive}
        self.log.keep(_name(pod) for pod in engines)
        return [
            pod
            for pod in engines
            if pod["metadata"]["uid"] not in self.by_pod
            and is_condition_true(pod, "Ready")
            and self._failures.waiting(pod["metadata"]["uid"], now_seconds) is None
        ]

    async def scrape(
        self,
        reader: PageReader,
        unread: Sequence[KubeObject],
        clock: Callable[[], float],
        *,
        over_seconds: float = 0.0,
    ) -> None:
        """Read those of ``unread``; one that cannot be read waits longer each time."""

        async def read(pod: KubeObject) -> None:
            page = await reader.read(pod.get("status", {}).get("podIP"), ENGINE_PORT)
            if isinstance(page, PageFailure):
                self.log.report(_name(pod), page.reason.value, page.message)
                self._failures.failed(
                    pod["metadata"]["uid"],
                    reason=page.reason.value,
                    message=page.message,
                    now_seconds=clock(),
                    chance=random.random(),  # noqa: S311 - no secret
                )
                return
            self._failures.succeeded(pod["metadata"]["uid"])
            self.log.report(_name(pod), None)
            self.by_pod[pod["metadata"]["uid"]] = read_report(page)

        await read_spread(unread, read, over_seconds=over_seconds)


def _name(pod: KubeObject) -> str:
    metadata = pod["metadata"]
    return f"{metadata.get('namespace')}/{metadata['name']}"
