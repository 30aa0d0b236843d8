"""The probes of one container that runs: first startup, then readiness and liveness."""

import asyncio
from collections.abc import Awaitable, Callable

from memroute_kube import KubeObject
from memroute_simulator.nodes import probes
from memroute_simulator.nodes.container import ContainerState


async def keep_probing(
    spec: KubeObject,
    state: ContainerState,
    check: Callable[[probes.Probe], Awaitable[bool]],
    *,
    kill: Callable[[], None],
    report: Callable[[], Awaitable[None]],
    report_soon: Callable[[], None],
) -> None:
    """Probe until cancelled. What is found is in ``state``, and reported.

    ``kill``: what becomes of a container that is not alive.
    """

    async def probing(kind: str, on_result: Callable[[bool], None]) -> None:
        probe = probes.Probe.parse(spec.get(kind))
        if probe is None:
            on_result(True)
            return
        await probes.run_until_decided(lambda: check(probe), probe, on_result)

    def kill_unless(alive: bool) -> None:
        if not alive:
            kill()

    def set_ready(ready: bool) -> None:
        if state.is_ready != ready:
            state.is_ready = ready
            report_soon()

    started = asyncio.Event()
    starting = asyncio.create_task(
        probing("startupProbe", lambda ok: started.set() if ok else kill_unless(alive=False))
    )
    try:
        await started.wait()
    finally:
        starting.cancel()
    state.is_started = True
    await report()
    await asyncio.gather(
        probing("readinessProbe", set_ready), probing("livenessProbe", kill_unless)
    )
