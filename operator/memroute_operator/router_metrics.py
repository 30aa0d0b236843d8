"""What the routers report of replicas: requests in flight, projected KV use."""

import asyncio
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import httpx

from memroute_kube import KubeObject
from memroute_kube.resources import container_port, is_condition_true
from memroute_operator.device_metrics import parse_labels

LOGGER = logging.getLogger(__name__)
DEFAULT_PORT = 8000
_SAMPLE = re.compile(
    r"^memroute_router_(requests_in_flight|kv_projected_ratio)\{(.*)\}\s+(\S+)", re.MULTILINE
)


@dataclass(slots=True, kw_only=True)
class RouterMetrics:
    """The sums over all routers, by pod. None of them known means that none answered."""

    is_known: bool = False
    in_flight: dict[str, int] = field(default_factory=dict)
    """``namespace/pod`` → requests that routers have at it."""
    kv_projected_ratio: dict[str, float] = field(default_factory=dict)
    """``namespace/pod`` → the highest projection of any router."""

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
        pages = await asyncio.gather(*(read(pod) for pod in ready))
        self.is_known = bool(pages) and None not in pages
        self.in_flight, self.kv_projected_ratio = {}, {}
        for page in pages:
            for name, labels_text, value in _SAMPLE.findall(page or ""):
                labels = parse_labels(labels_text)
                key = f"{labels.get('namespace')}/{labels.get('pod')}"
                if name == "requests_in_flight":
                    self.in_flight[key] = self.in_flight.get(key, 0) + int(float(value))
                else:
                    highest = max(self.kv_projected_ratio.get(key, 0.0), float(value))
                    self.kv_projected_ratio[key] = highest
