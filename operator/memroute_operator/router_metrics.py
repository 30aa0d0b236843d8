"""What the routers report: requests in flight, projected KV use, targets that are not met."""

import asyncio
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import httpx

from memroute.traffic.admission import AloneLatency
from memroute_kube import KubeObject
from memroute_kube.resources import container_port, is_condition_true
from memroute_operator.device_metrics import parse_labels

LOGGER = logging.getLogger(__name__)
DEFAULT_PORT = 8000
_SAMPLE = re.compile(
    r"^memroute_router_(requests_in_flight|kv_projected_ratio|targets_unmet|tpot_alone_seconds"
    r"|ttft_alone_seconds)\{(.*)\}\s+(\S+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetsReport:
    """What the routers say of one ModelDeployment's latency targets."""

    are_unmet: bool
    """Whether every router that knows says so: one that has seen them met has the proof."""
    alone: AloneLatency
    """What the fastest replica needs with one request, by the router that has seen the least."""


@dataclass(slots=True, kw_only=True)
class RouterMetrics:
    """The sums over all routers, by pod. None of them known means that none answered."""

    is_known: bool = False
    in_flight: dict[str, int] = field(default_factory=dict)
    """``namespace/pod`` → requests that routers have at it."""
    kv_projected_ratio: dict[str, float] = field(default_factory=dict)
    """``namespace/pod`` → the highest projection of any router."""
    targets: dict[str, TargetsReport] = field(default_factory=dict)
    """``namespace/deployment`` → whether its engines meet its targets; absent while nobody knows.
    Kept while a router does not answer: what engines need does not change meanwhile."""

    async def scrape(self, client: httpx.AsyncClient, routers: Iterable[KubeObject]) -> None:
        """Read every router once; unknown unless all of them answer."""

        async def read(pod: KubeObject) -> str | None:
            port = container_port(pod, "http", DEFAULT_PORT)
            url = f"http://{pod['status']['podIP']}:{port}/metrics"
            try:
                response = await client.get(url)
                response.raise_for_status()
            except httpx.HTTPError as error:
                LOGGER.warning("router does not answer url=%s error=%r", url, error)
                return None
            return response.text

        ready = [pod for pod in routers if is_condition_true(pod, "Ready")]
        self.take(await asyncio.gather(*(read(pod) for pod in ready)))

    def take(self, pages: Sequence[str | None]) -> None:
        """The pages of all routers; None for one that did not answer."""
        self.is_known = bool(pages) and None not in pages
        self.in_flight, self.kv_projected_ratio = {}, {}
        by_deployment: dict[str, dict[str, float]] = {}
        for page in pages:
            for name, labels_text, text in _SAMPLE.findall(page or ""):
                labels, value = parse_labels(labels_text), float(text)
                key = f"{labels.get('namespace')}/{labels.get('pod')}"
                if name == "requests_in_flight":
                    self.in_flight[key] = self.in_flight.get(key, 0) + int(value)
                elif name == "kv_projected_ratio":
                    highest = max(self.kv_projected_ratio.get(key, 0.0), value)
                    self.kv_projected_ratio[key] = highest
                else:
                    key = f"{labels.get('namespace')}/{labels.get('model_deployment')}"
                    least = by_deployment.setdefault(key, {})
                    least[name] = min(least.get(name, value), value)
        if self.is_known or not pages:
            self.targets = {
                key: TargetsReport(
                    are_unmet=least["targets_unmet"] > 0.0,
                    alone=AloneLatency(
                        tpot_seconds=least.get("tpot_alone_seconds"),
                        ttft_seconds=least.get("ttft_alone_seconds"),
                    ),
                )
                for key, least in by_deployment.items()
                if "targets_unmet" in least
            }
