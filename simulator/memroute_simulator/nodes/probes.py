"""Startup, readiness and liveness probes, with kubelet's defaults."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from memroute_kube import KubeObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One probe of one container."""

    action: dict[str, Any]
    """``httpGet``, ``tcpSocket`` or ``exec``, as in the manifest."""
    initial_delay_seconds: float
    period_seconds: float
    timeout_seconds: float
    failure_threshold: int
    success_threshold: int

    @classmethod
    def parse(cls, spec: dict[str, Any] | None) -> "Probe | None":
        """A probe from its manifest; None when there is none."""
        if not spec:
            return None
        return cls(
            action=spec,
            initial_delay_seconds=spec.get("initialDelaySeconds", 0),
            period_seconds=spec.get("periodSeconds", 10),
            timeout_seconds=spec.get("timeoutSeconds", 1),
            failure_threshold=spec.get("failureThreshold", 3),
            success_threshold=spec.get("successThreshold", 1),
        )


async def check(
    session: aiohttp.ClientSession,
    probe: Probe,
    container: KubeObject,
    *,
    pod_ip: str,
    environment: Mapping[str, str],
) -> bool:
    """Whether the probe succeeds now."""
    try:
        async with asyncio.timeout(probe.timeout_seconds):
            if http := probe.action.get("httpGet"):
                return await _http_get(session, http, container, pod_ip)
            if tcp := probe.action.get("tcpSocket"):
                port = port_number(container, tcp["port"])
                _, writer = await asyncio.open_connection(tcp.get("host") or pod_ip, port)
                writer.close()
                return True
            if command := probe.action.get("exec"):
                process = await asyncio.create_subprocess_exec(
                    *command["command"],
                    env=dict(environment),
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                )
                return await process.wait() == 0
    except (OSError, aiohttp.ClientError, TimeoutError):
        return False
    return True


async def _http_get(
    session: aiohttp.ClientSession, http: dict[str, Any], container: KubeObject, pod_ip: str
) -> bool:
    host = http.get("host") or pod_ip
    port = port_number(container, http["port"])
    scheme = http.get("scheme", "HTTP").lower()
    headers = {header["name"]: header["value"] for header in http.get("httpHeaders", ())}
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{http.get('path', '/')}"
    async with session.get(url, headers=headers, ssl=False, allow_redirects=False) as response:
        return 200 <= response.status < 400  # noqa: PLR2004 - kubelet's rule


def port_number(container: KubeObject, port: int | str) -> int:
    """A port by its number or its name in the container's list."""
    if isinstance(port, int):
        return port
    for declared in container.get("ports", ()):
        if declared.get("name") == port:
            return int(declared["containerPort"])
    return int(port)


async def run_until_decided(
    run_check: Callable[[], Awaitable[bool]], probe: Probe, on_result: Callable[[bool], None]
) -> None:
    """Probe for ever; call ``on_result`` each time a threshold is reached. Cancel to stop."""
    await asyncio.sleep(probe.initial_delay_seconds)
    successes = failures = 0
    while True:
        if await run_check():
            successes, failures = successes + 1, 0
            if successes == probe.success_threshold:
                on_result(True)
        else:
            successes, failures = 0, failures + 1
            if failures == probe.failure_threshold:
                on_result(False)
                failures = 0
        await asyncio.sleep(probe.period_seconds)
