"""One container: its process, its log files, its restarts, its state."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# What kubelet keeps of a log as a message (pkg/kubelet/container/runtime.go).
MESSAGE_BYTES = 2048
MESSAGE_LINES = 80


def now_rfc3339() -> str:
    """The time, as the API server writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True, kw_only=True)
class ContainerState:
    """What the pod's status says of one container."""

    name: str
    image: str
    state: dict[str, Any]
    last_state: dict[str, Any]
    restart_count: int = 0
    is_started: bool = False
    is_ready: bool = False

    def to_status(self, pod_uid: str) -> dict[str, Any]:
        """The entry in ``status.containerStatuses``."""
        return {
            "name": self.name,
            "image": self.image,
            "imageID": f"emulated://{self.image}",
            "containerID": f"process://{pod_uid}/{self.name}/{self.restart_count}",
            "ready": self.is_ready,
            "started": self.is_started,
            "restartCount": self.restart_count,
            "state": self.state,
            "lastState": self.last_state,
        }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """A container that has not started, and why."""
    return {"waiting": {"reason": reason, "message": message}}


class ContainerProcess:
    """A running process in place of a container. Owns it until it has been waited for."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.started_at = now_rfc3339()
        self.is_out_of_memory = False
        """Whether the kernel has killed it for want of memory."""

    @classmethod
    async def start(
        cls, command: list[str], environment: dict[str, str], log: Path
    ) -> "ContainerProcess":
        """Start the command, its output in ``log``. Raises ``OSError`` when it cannot run."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                cwd=log.parent,
                start_new_session=True,
            )
        return cls(process)

    async def wait(self) -> int:
        """Its exit code; 128 + n when signal n ended it, as a container runtime says it."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process and everything it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def kill_out_of_memory(self) -> None:
        """End it as the kernel does that has no memory for it."""
        self.is_out_of_memory = True
        self.send_signal(signal.SIGKILL)

    async def stop(self, grace_seconds: float) -> int:
        """SIGTERM, wait, SIGKILL; returns the exit code."""
        self.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                await asyncio.shield(self._process.wait())
        if self._process.returncode is None:
            self.send_signal(signal.SIGKILL)
        return await self.wait()

    def terminated_state(self, exit_code: int, message: str = "") -> dict[str, Any]:
        """The state of a container whose process has ended. ``message``: its last words."""
        reason = "Completed" if exit_code == 0 else "Error"
        if self.is_out_of_memory:
            reason = "OOMKilled"
        terminated = {
            "exitCode": exit_code,
            "reason": reason,
            "startedAt": self.started_at,
            "finishedAt": now_rfc3339(),
        }
        return {"terminated": terminated | ({"message": message} if message else {})}


def termination_message(container: Mapping[str, Any], exit_code: int, log: Path) -> str:
    """What kubelet takes for a container's message: the end of its log, where it is asked to.

    (``terminationMessagePolicy: FallbackToLogsOnError``; the file itself is not emulated.)
    """
    policy = container.get("terminationMessagePolicy")
    if exit_code == 0 or policy != "FallbackToLogsOnError":
        return ""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - MESSAGE_BYTES))
            tail = file.read()
    except OSError:
        return ""
    lines = tail.decode(errors="replace").splitlines(keepends=True)
    return "".join(lines[-MESSAGE_LINES:])
