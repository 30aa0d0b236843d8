"""What a node serves: logs over HTTPS to kubectl, and the driver to its engines.

The driver is what ``libcuda`` would be: an engine sees the devices that its environment makes
visible, asks how much is free, allocates and frees, and says what it has pinned of the node's own
memory. The URL it is given names its container, so that bytes are freed when that process ends.
"""

import asyncio
import secrets
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from aiohttp import web

from memroute.bandwidth import SharingMechanism
from memroute_simulator.nodes.devices import DeviceTable, EmulatedDevice, OutOfMemoryError
from memroute_simulator.nodes.host_memory import NO_BUDGET, HostMemory, MemoryBudget

FOLLOW_POLL_SECONDS = 0.2
# How long what an engine has said of its work counts: engines alone on a device say it every 3 s.
BUSY_SECONDS = 8.0


class HasLogs(Protocol):
    """A pod whose logs can be read."""

    def log_path(self, container: str, *, previous: bool = False) -> Path: ...  # noqa: D102


FindPod = Callable[[str, str], HasLogs | None]


def logs_application(find_pod: FindPod) -> web.Application:
    """The part of kubelet's API that ``kubectl logs`` uses."""

    async def container_logs(request: web.Request) -> web.StreamResponse:
        pod = find_pod(request.match_info["namespace"], request.match_info["pod"])
        if pod is None:
            raise web.HTTPNotFound(text="pod not found on this node")
        previous = request.query.get("previous") == "true"
        try:
            path = pod.log_path(request.match_info["container"], previous=previous)
        except KeyError:
            raise web.HTTPNotFound(text="container not found in pod") from None
        data = path.read_bytes() if path.exists() else b""
        tail = request.query.get("tailLines")
        shown = data if tail is None else b"".join(data.splitlines(keepends=True)[-int(tail) :])
        if tail == "0":
            shown = b""
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await response.write(shown)
        position = len(data)
        while request.query.get("follow") == "true":
            await asyncio.sleep(FOLLOW_POLL_SECONDS)
            if not path.exists():
                break
            with path.open("rb") as log:
                log.seek(position)
                more = log.read()
            position += len(more)
            if more:
                await response.write(more)
        return response

    application = web.Application()
    application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", container_logs)
    return application


class Driver:
    """The emulated driver of one node. Owns who may allocate on which devices."""

    def __init__(
        self,
        devices: DeviceTable,
        mechanism: SharingMechanism = SharingMechanism.TIME_SLICES,
        host: HostMemory | None = None,
        on_held: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """``mechanism``: how engines on one device take turns.

        ``host``: the node's memory; None: nobody counts it. ``on_held``: told when somebody holds
        more of it, and whom the kernel kills for that.
        """
        self._devices = devices
        self.mechanism = mechanism
        self._host = host
        self._on_held = on_held
        self.link: str | None = None
        """What joins the devices, as the node says; None where it does not."""
        self._busy_ratios: dict[str, tuple[float, float]] = {}
        """Container instance → share of the time in which it had work, and when it said so."""
        self._containers: dict[str, tuple[str, list[EmulatedDevice]]] = {}
        self._budgets: dict[str, MemoryBudget] = {}

    def open(
        self, owner: str, visible: list[EmulatedDevice], budget: MemoryBudget = NO_BUDGET
    ) -> str:
        """Let a container instance see devices; the path below which it finds the driver."""
        token = secrets.token_urlsafe(8)
        self._containers[token] = (owner, visible)
        self._budgets[owner] = budget
        return f"/driver/{token}"

    def close(self, owner: str) -> None:
        """A container's process has ended: free what it held."""
        self._devices.release(owner)
        if self._host is not None:
            self._host.release(owner)
        self._busy_ratios.pop(owner, None)
        self._budgets.pop(owner, None)
        for token, (other, _) in list(self._containers.items()):
            if other == owner:
                del self._containers[token]

    def application(self) -> web.Application:
        """Its HTTP face."""
        application = web.Application()
        application.router.add_get("/driver/{token}/devices", self._list)
        application.router.add_post("/driver/{token}/allocate", self._allocate)
        application.router.add_post("/driver/{token}/free", self._free)
        application.router.add_post("/driver/{token}/host", self._hold_host)
        application.router.add_post("/driver/{token}/busy", self._busy)
        return application

    def _container(self, request: web.Request) -> tuple[str, list[EmulatedDevice]]:
        try:
            return self._containers[request.match_info["token"]]
        except KeyError:
            raise web.HTTPNotFound(text="no such container") from None

    async def _list(self, request: web.Request) -> web.Response:
        _, visible = self._container(request)
        return web.json_response(
            [
                {
                    "uuid": device.uuid,
                    "product": device.model.product,
                    "total_bytes": device.usable_bytes,
                    "free_bytes": device.free_bytes,
                    "link": self.link or "",
                }
                for device in visible
                if not device.is_lost
            ]
        )

    async def _allocate(self, request: web.Request) -> web.Response:
        owner, visible = self._container(request)
        body = await request.json()
        if body["uuid"] not in {device.uuid for device in visible}:
            raise web.HTTPNotFound(text="device is not visible to this container")
        try:
            self._devices.allocate(owner, body["uuid"], body["bytes"])
        except OutOfMemoryError as error:
            return web.json_response({"free_bytes": error.free_bytes}, status=507)
        except LookupError as error:
            raise web.HTTPNotFound(text=str(error)) from error
        return web.json_response({})

    async def _free(self, request: web.Request) -> web.Response:
        owner, _ = self._container(request)
        body = await request.json()
        try:
            self._devices.free(owner, body["uuid"], body["bytes"])
        except LookupError as error:
            raise web.HTTPConflict(text=str(error)) from error
        return web.json_response({})

    async def _hold_host(self, request: web.Request) -> web.Response:
        """All that the container has pinned of the node's memory by now, in ``bytes``."""
        owner, _ = self._container(request)
        body = await request.json()
        if self._host is not None:
            self._on_held(self._host.hold(owner, int(body["bytes"]), self._budgets[owner]))
        return web.json_response({})

    async def _busy(self, request: web.Request) -> web.Response:
        """Note for how much of the last moments an engine had work; how many have, with it."""
        owner, _ = self._container(request)
        body = await request.json()
        now = time.monotonic()
        self._busy_ratios[owner] = min(1.0, max(0.0, float(body["busy_ratio"]))), now
        others = [self._others_on(device, owner) for device in self._devices.devices
                  if owner in device.allocations]  # fmt: skip
        num_busy = 1 + max(
            (sum(self._fresh_ratio(other, now) for other in named) for named in others),
            default=0.0,
        )
        return web.json_response(
            {"num_busy": num_busy, "is_shared": any(others), "mechanism": self.mechanism.value}
        )

    def _others_on(self, device: EmulatedDevice, owner: str) -> list[str]:
        return [other for other in device.allocations if other != owner]

    def _fresh_ratio(self, owner: str, now: float) -> float:
        ratio, told = self._busy_ratios.get(owner, (0.0, now))
        return ratio if now - told <= BUSY_SECONDS else 0.0


async def serve(
    application: web.Application, host: str, port: int, *, tls: ssl.SSLContext | None = None
) -> tuple[web.AppRunner, int]:
    """Serve on an address (port 0: any free one); the runner to clean up, and the port."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, port, ssl_context=tls, reuse_address=True)
    await site.start()
    return runner, int(runner.addresses[0][1])
