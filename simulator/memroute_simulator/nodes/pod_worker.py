"""One pod on its node: from bound to deleted. One task owns all of its state.

```text
admit (devices) → address → containers: start → probes → exit → back-off → start …
deletion timestamp → SIGTERM → grace → SIGKILL → final delete
```
"""

import asyncio
import contextlib
import logging
import math
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memroute_kube import PODS, ApiError, KubeObject
from memroute_kube.quantities import parse_count
from memroute_simulator.nodes import probes
from memroute_simulator.nodes.container import (
    ContainerProcess,
    ContainerState,
    now_rfc3339,
    termination_message,
    waiting,
)
from memroute_simulator.nodes.container_start import ContainerStart, driver_owner
from memroute_simulator.nodes.environment import ConfigurationError
from memroute_simulator.nodes.images import BuiltIn, entrypoint_for
from memroute_simulator.nodes.pod_status import phase_of, pod_status
from memroute_simulator.nodes.probing import keep_probing

if TYPE_CHECKING:
    from memroute_simulator.nodes.agent import NodeAgent

LOGGER = logging.getLogger(__name__)
TOO_MANY, SERVER_ERROR = 429, 500
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 60.0
# kubelet's back-off starts at 10 s and ends at 300; a person in front of an emulation waits less.
# Between two tries of a call that the API server did not answer, or of what a pod's spec names.
RETRY_SECONDS = 1.0
ANNOTATION_KILL = "simulator.memroute.dev/kill"
"""A fault on demand: a new value kills the pod's containers with SIGKILL, once."""
ANNOTATION_UNDYING = "simulator.memroute.dev/undying"
"""``true``: no signal ends the pod's processes, as in uninterruptible sleep behind a dead device:
the pod stays in Terminating; deleted by force, its processes outlive it until the node reboots."""
ANNOTATION_EVICT = "simulator.memroute.dev/evict"
"""A fault on demand: kubelet evicts the pod, for that reason (``DiskPressure``)."""
# How often a pull looks whether the node's images have become faster, in seconds.
PULL_STEP_SECONDS = 0.2


def _is_passing(error: ApiError) -> bool:
    """Whether the call is made again, as kubelet does: no answer came, or the server is busy."""
    return error.status in (0, TOO_MANY) or error.status >= SERVER_ERROR


def _states_of(containers: list[KubeObject], reason: str) -> dict[str, ContainerState]:
    """Containers that have not been started, by name."""
    return {
        spec["name"]: ContainerState(
            name=spec["name"], image=spec["image"], state=waiting(reason), last_state={}
        )
        for spec in containers
    }


class PodWorker:
    """Runs one pod. ``update`` feeds it newer versions of the object; its task does the rest."""

    def __init__(self, agent: "NodeAgent", pod: KubeObject) -> None:
        self._agent = agent
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.key = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        self.ip: str | None = None
        init = pod["spec"].get("initContainers") or []
        self._init_states = _states_of(init, "PodInitializing")
        self._states = _states_of(
            pod["spec"]["containers"], "PodInitializing" if init else "ContainerCreating"
        )
        self._is_initialized = not init
        self._processes: dict[str, ContainerProcess] = {}
        self._phase = "Pending"
        self._started_at = now_rfc3339()
        self._reported: dict[str, Any] | None = None
        self._status_lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._evicted = asyncio.Event()
        self._reason: dict[str, str] = {}
        self._killed_token: str | None = pod["metadata"].get("annotations", {}).get(ANNOTATION_KILL)
        self._task = asyncio.create_task(self._run(), name=f"pod {self.key}")

    @property
    def directory(self) -> Path:
        """Where the pod's logs and credentials are."""
        return self._agent.directory / "pods" / f"{self.key[0]}_{self.key[1]}_{self.uid}"

    def log_path(self, container: str, *, previous: bool = False) -> Path:
        """The log of a container's current (or previous) instance."""
        state = (self._states | self._init_states)[container]
        count = state.restart_count - (1 if previous else 0)
        return self.directory / container / f"{count}.log"

    def update(self, pod: KubeObject) -> None:
        """Take a newer version of the object."""
        self.pod = pod
        self._changed.set()
        if self._annotation(ANNOTATION_EVICT) is not None:
            self._evicted.set()
        token = pod["metadata"].get("annotations", {}).get(ANNOTATION_KILL)
        if token is not None and token != self._killed_token:
            self._killed_token = token
            self.kill()

    @property
    def is_undying(self) -> bool:
        """Whether no signal ends its processes now."""
        return self._annotation(ANNOTATION_UNDYING) == "true"

    def _annotation(self, name: str) -> str | None:
        value = self.pod["metadata"].get("annotations", {}).get(name)
        return None if value is None else str(value)

    def kill(self) -> None:
        """SIGKILL every container, as a fault would; restarts follow the pod's policy."""
        for process in self._processes.values():
            process.send_signal(signal.SIGKILL)

    def kill_out_of_memory(self, container: str) -> None:
        """The kernel has no memory for a container: it ends, and starts again by its policy."""
        process = self._processes.get(container)
        if process is not None:
            process.kill_out_of_memory()

    async def abandon(self) -> None:
        """End the processes without a word to the API server: the object or node is gone."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.kill()
        for name, process in self._processes.items():
            await process.wait()
            self._release(name)
        self._agent.forget(self)

    async def _run(self) -> None:
        try:
            if not await self._admit():
                await self._wait_for_deletion()
            else:
                await self._run_containers()
            await self._finish()
        except ApiError as error:
            LOGGER.warning("pod lost key=%s error=%s", "/".join(self.key), error)
        except asyncio.CancelledError:
            raise
        except Exception:
            LOGGER.exception("pod worker failed key=%s", "/".join(self.key))
            raise

    async def _admit(self) -> bool:
        for resource in self._agent.devices.resources():
            wanted = sum(
                parse_count(spec.get("resources", {}).get("limits", {}).get(resource)) or 0
                for spec in self.pod["spec"]["containers"]
            )
            if wanted and self._agent.devices.assign(self.uid, wanted, resource) is None:
                self._phase = "Failed"
                message = f"Allocate failed: requested {wanted} of {resource}, too few left"
                await self._fail("UnexpectedAdmissionError", message)
                return False
        self.ip = self._agent.take_address(self.pod.get("status", {}).get("podIP"))
        await self._report()
        return True

    async def _run_containers(self) -> None:
        starting = asyncio.create_task(self._run_init_containers())
        tasks = [
            asyncio.create_task(self._run_container(spec, after=starting))
            for spec in self.pod["spec"]["containers"]
        ]
        deletion = asyncio.create_task(self._wait_for_deletion())
        eviction = asyncio.create_task(self._evicted.wait())
        done = asyncio.gather(*tasks)
        try:
            first: list[asyncio.Future[Any]] = [deletion, eviction, done]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if deletion.done():
                await self._stop_containers()
            elif eviction.done():
                await self._evict(tasks)
                await deletion
            else:
                # Every container has ended for good: the pod is terminal until it is deleted.
                codes = await done
                self._phase = "Succeeded" if all(code == 0 for code in codes) else "Failed"
                await self._report()
                await deletion
        finally:
            others = (starting, deletion, eviction)
            for task in (*tasks, *others):
                task.cancel()
            await asyncio.gather(done, *tasks, *others, return_exceptions=True)

    async def _run_init_containers(self) -> None:
        """One after the other, each until it has ended well."""
        for spec in self.pod["spec"].get("initContainers") or ():
            state = self._init_states[spec["name"]]
            backoff = FIRST_BACKOFF_SECONDS
            while await self._run_once(spec, state) != 0:
                await self._back_off(state, backoff)
                backoff = min(MAX_BACKOFF_SECONDS, backoff * 2)
        self._is_initialized = True

    async def _back_off(self, state: ContainerState, seconds: float) -> None:
        state.last_state = state.state
        state.state = waiting(
            "CrashLoopBackOff", f"back-off {seconds:.0f}s restarting failed container"
        )
        await self._report()
        await asyncio.sleep(seconds)
        state.restart_count += 1

    async def _evict(self, tasks: list[asyncio.Task[int]]) -> None:
        """End the containers as kubelet does under pressure: the pod has failed, and stays."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.kill()
        for name, process in list(self._processes.items()):
            code = await process.wait()
            state = (self._states | self._init_states)[name]
            state.state = process.terminated_state(code)
            state.is_ready = False
            self._release(name)
        self._processes.clear()
        self._phase = "Failed"
        pressure = self._annotation(ANNOTATION_EVICT)
        await self._fail("Evicted", f"The node had condition: [{pressure}].")

    async def _fail(self, reason: str, message: str) -> None:
        self._reason = {"reason": reason, "message": message}
        await self._report()

    async def _stop_containers(self) -> None:
        grace = self.pod["metadata"].get("deletionGracePeriodSeconds", 30)
        for state in self._states.values():
            state.is_ready = False
        await self._report()
        while self.is_undying:
            self._changed.clear()
            await self._changed.wait()
        await asyncio.gather(*(self._stop(name, grace) for name in list(self._processes)))

    async def _stop(self, name: str, grace_seconds: float) -> None:
        """End one container: its preStop sleep counts against the grace, as kubelet has it."""
        listed = [*self.pod["spec"]["containers"], *self.pod["spec"].get("initContainers", ())]
        spec = next(one for one in listed if one["name"] == name)
        hook = (spec.get("lifecycle") or {}).get("preStop") or {}
        pause = min(float((hook.get("sleep") or {}).get("seconds") or 0), grace_seconds)
        process = self._processes[name]
        ended = asyncio.ensure_future(process.wait())
        await asyncio.wait([ended], timeout=pause)
        await process.stop(grace_seconds - pause)

    async def _run_container(self, spec: KubeObject, *, after: "asyncio.Task[None]") -> int:
        await asyncio.shield(after)
        state = self._states[spec["name"]]
        policy = self.pod["spec"].get("restartPolicy", "Always")
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            code = await self._run_once(spec, state)
            if policy == "Never" or (policy == "OnFailure" and code == 0):
                return code
            await self._back_off(state, backoff)
            backoff = min(MAX_BACKOFF_SECONDS, backoff * 2)

    async def _run_once(self, spec: KubeObject, state: ContainerState) -> int:
        entrypoint = entrypoint_for(spec["image"])
        if entrypoint is None:
            state.state = waiting("ImagePullBackOff", f"no emulation of image {spec['image']!r}")
            await self._report()
            await asyncio.Event().wait()  # until the pod is deleted
        if isinstance(entrypoint, BuiltIn):
            return await self._run_built_in(spec, state)
        assert isinstance(entrypoint, list)  # noqa: S101 - None never gets here
        await self._pull(spec["image"], state)
        environment, command = await self._resolve(spec, state, entrypoint)
        try:
            process = await ContainerProcess.start(
                command, environment, self.log_path(spec["name"])
            )
        except OSError as error:
            state.state = waiting("RunContainerError", str(error))
            await self._report()
            return 128
        self._processes[spec["name"]] = process
        state.state = {"running": {"startedAt": process.started_at}}
        prober = asyncio.create_task(self._probe(spec, state, environment, process))
        try:
            code = await process.wait()
        finally:
            prober.cancel()
            # Not awaited itself: who is cancelled now would take that for the prober's end, and
            # start the container of a deleted pod once more.
            await asyncio.wait([prober])
        if not prober.cancelled() and (trouble := prober.exception()) is not None:
            raise trouble
        self._processes.pop(spec["name"], None)
        self._release(spec["name"])
        state.is_ready = state.is_started = False
        message = termination_message(spec, code, self.log_path(spec["name"]))
        state.state = process.terminated_state(code, message)
        await self._report()
        return code

    async def _pull(self, image: str, state: ContainerState) -> None:
        """Wait as long as the node's images take to come, unless this one is there."""
        waited = 0.0
        while image not in self._agent.pulled_images and waited < self._agent.image_pull_seconds:
            never = self._agent.image_pull_seconds == math.inf
            state.state = (
                waiting("ImagePullBackOff", f"Back-off pulling image {image!r}")
                if never
                else waiting("ContainerCreating")
            )
            await self._report()
            await asyncio.sleep(PULL_STEP_SECONDS)
            waited += PULL_STEP_SECONDS
        self._agent.pulled_images.add(image)

    async def _run_built_in(self, spec: KubeObject, state: ContainerState) -> int:
        port = probes.port_number(spec, spec["ports"][0]["containerPort"])
        async with self._agent.serve_exporter(self.ip or "", port):
            state.state = {"running": {"startedAt": now_rfc3339()}}
            state.is_started = state.is_ready = True
            await self._report()
            await asyncio.Event().wait()
        return 0

    async def _resolve(
        self, spec: KubeObject, state: ContainerState, entrypoint: list[str]
    ) -> tuple[dict[str, str], list[str]]:
        start = ContainerStart(
            agent=self._agent, pod=self.pod, spec=spec, ip=self.ip or "", directory=self.directory
        )
        while True:
            try:
                own = await start.own_variables()
                return await start.environment_and_command(own, entrypoint)
            except (ConfigurationError, ApiError) as error:
                state.state = waiting("CreateContainerConfigError", str(error))
                await self._report()
                await asyncio.sleep(RETRY_SECONDS)

    async def _probe(
        self,
        spec: KubeObject,
        state: ContainerState,
        environment: dict[str, str],
        process: ContainerProcess,
    ) -> None:
        """Run the container's probes until cancelled."""

        async def check(probe: probes.Probe) -> bool:
            return await probes.check(
                self._agent.session, probe, spec, pod_ip=self.ip or "", environment=environment
            )

        await self._report()
        await keep_probing(
            spec,
            state,
            check,
            kill=lambda: process.send_signal(signal.SIGKILL),
            report=self._report,
            report_soon=lambda: self._agent.run_soon(self._report()),
        )

    def _release(self, container: str) -> None:
        self._agent.close_driver(driver_owner(self.uid, container))

    async def _wait_for_deletion(self) -> None:
        while "deletionTimestamp" not in self.pod["metadata"]:
            self._changed.clear()
            await self._changed.wait()

    async def _finish(self) -> None:
        for name, process in list(self._processes.items()):
            process.send_signal(signal.SIGKILL)
            await process.wait()
            self._release(name)
        self._agent.finished.add(self.uid)
        self._agent.forget(self)
        namespace, name = self.key
        while True:
            try:
                await self._agent.client.delete(
                    PODS, namespace, name, grace_period_seconds=0, uid=self.uid
                )
            except ApiError as error:
                if not _is_passing(error):
                    # Its next event ends it again.
                    self._agent.finished.discard(self.uid)
                    raise
                LOGGER.warning("pod not deleted key=%s error=%s", "/".join(self.key), error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def report_again(self) -> None:
        """Write the status anew, whoever has changed it meanwhile."""
        self._reported = None
        await self._report()

    async def _report(self) -> None:
        async with self._status_lock:
            status = self._status() | self._reason
            unreachable = self._agent.is_gone or self._agent.is_cut_off
            if status == self._reported or unreachable:
                return
            try:
                await self._agent.client.patch(
                    PODS,
                    *self.key,
                    {"metadata": {"uid": self.uid}, "status": status},
                    sub="status",
                    content_type=STRATEGIC_MERGE_PATCH,
                )
                self._reported = status
            except ApiError as error:
                if error.status not in (404, 409):
                    LOGGER.warning("status not written key=%s error=%s", "/".join(self.key), error)
                if _is_passing(error):
                    self._agent.run_soon(self._report_later())

    async def _report_later(self) -> None:
        await asyncio.sleep(RETRY_SECONDS)
        await self._report()

    def _status(self) -> dict[str, Any]:
        states = list(self._states.values())
        if self._phase in ("Pending", "Running"):
            self._phase = phase_of(states)
        return pod_status(
            phase=self._phase,
            uid=self.uid,
            ip=self.ip,
            host_ip=self._agent.address,
            started_at=self._started_at,
            is_initialized=self._is_initialized,
            states=states,
            init_states=list(self._init_states.values()),
            before=self._reported or {},
        )
