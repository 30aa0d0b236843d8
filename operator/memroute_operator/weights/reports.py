"""How far fetchers are, read from each while it runs. Owns the last page of each."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from memroute_kube import KubeObject
from memroute_kube.resources import LABEL_DEPLOYMENT
from memroute_operator.actions.backoff import Backoff
from memroute_operator.readings.pages import PageFailure, PageReader, read_spread
from memroute_operator.readings.sources import SourceLog
from memroute_operator.weights.container import LABEL_AHEAD, is_fetching
from memroute_operator.weights.pod import PROGRESS_PORT
from memroute_operator.weights.progress import FetchProgress, read_progress, told

PROGRESS_PATH = "/progress"
# Bytes of one page, chosen by hand: it has seven fields.
MAX_PAGE_BYTES = 16 * 1024
# How long a fetcher that could not be read is left alone, in seconds, doubling to the longest: one
# that has just been started answers soon, one behind a NetworkPolicy never. Chosen by hand.
FIRST_WAIT_SECONDS = 5.0
MAX_WAIT_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    progress: FetchProgress
    moved_seconds: float
    """When it was seen to have moved last, by our clock."""


def find_fetching(pods: Iterable[KubeObject]) -> list[KubeObject]:
    """The replicas that fetch their weights now, and the pods that go ahead of some."""
    ours = {LABEL_DEPLOYMENT, LABEL_AHEAD}
    return [
        pod
        for pod in pods
        if not ours.isdisjoint(pod["metadata"].get("labels") or ()) and is_fetching(pod)
    ]


@dataclass(slots=True)
class FetchReports:
    """The last page of each fetcher, by the pod's uid."""

    log: SourceLog = field(default_factory=lambda: SourceLog("fetcher"))
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _failures: Backoff[str] = field(
        default_factory=lambda: Backoff(
            first_seconds=FIRST_WAIT_SECONDS, max_seconds=MAX_WAIT_SECONDS
        )
    )

    def words(self, now_seconds: float) -> dict[str, str]:
        """How far each is, by the pod's uid; of those that have not been read, nothing."""
        return {
            uid: told(one.progress, standing_seconds=now_seconds - one.moved_seconds)
            for uid, one in self._seen.items()
        }

    def due(self, fetching: Sequence[KubeObject], now_seconds: float) -> list[KubeObject]:
        """Those that are to be read now. Pages of those that fetch no more are dropped."""
        alive = {pod["metadata"]["uid"] for pod in fetching}
        self._seen = {uid: one for uid, one in self._seen.items() if uid in alive}
        self._failures.forget_old(now_seconds)
        self.log.keep(_name(pod) for pod in fetching)
        return [
            pod
            for pod in fetching
            if self._failures.waiting(pod["metadata"]["uid"], now_seconds) is None
        ]

    async def scrape(
        self,
        reader: PageReader,
        due: Sequence[KubeObject],
        clock: Callable[[], float],
        *,
        over_seconds: float = 0.0,
    ) -> None:
        """Read each of ``due``; one that cannot be read waits longer each time."""

        async def read(pod: KubeObject) -> None:
            uid = pod["metadata"]["uid"]
            page = await reader.read(
                (pod.get("status") or {}).get("podIP"),
                PROGRESS_PORT,
                path=PROGRESS_PATH,
                max_bytes=MAX_PAGE_BYTES,
            )
            if isinstance(page, PageFailure):
                self._failed(pod, page.reason.value, page.message, clock())
                return
            progress = read_progress(page)
            if progress is None:
                self._failed(pod, "no-progress", "what answers there is no fetcher", clock())
                return
            self._failures.succeeded(uid)
            self.log.report(_name(pod), None)
            self.note(uid, progress, clock())

        await read_spread(due, read, over_seconds=over_seconds)

    def note(self, uid: str, progress: FetchProgress, now_seconds: float) -> None:
        """A page of that pod's fetcher has been read."""
        before = self._seen.get(uid)
        has_moved = before is None or before.progress.position != progress.position
        moved = now_seconds if before is None or has_moved else before.moved_seconds
        self._seen[uid] = _Seen(progress=progress, moved_seconds=moved)

    def _failed(self, pod: KubeObject, reason: str, message: str, now_seconds: float) -> None:
        self.log.report(_name(pod), reason, message)
        self._failures.failed(
            pod["metadata"]["uid"],
            reason=reason,
            message=message,
            now_seconds=now_seconds,
            chance=random.random(),  # noqa: S311 - no secret
        )


def _name(pod: KubeObject) -> str:
    metadata = pod["metadata"]
    return f"{metadata.get('namespace')}/{metadata['name']}"
