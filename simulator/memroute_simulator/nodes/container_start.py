"""What a container is started with: its variables, credentials, folders, devices and words."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from memroute_kube import SERVICE_ACCOUNTS, KubeObject
from memroute_simulator.nodes.environment import (
    ANY_ADDRESS,
    command_line,
    resolve_environment,
)
from memroute_simulator.nodes.host_memory import MemoryBudget
from memroute_simulator.nodes.volumes import (
    MOUNTS_VARIABLE,
    environment_in_folders,
    in_folders,
    mounts_of,
)

if TYPE_CHECKING:
    from memroute_simulator.nodes.agent import NodeAgent

TOKEN_SECONDS = 24 * 3600
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH")


def driver_owner(uid: str, container: str) -> str:
    """As whom the emulated driver knows the processes of a container."""
    return f"{uid}/{container}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerStart:
    """One start of one container of a pod."""

    agent: "NodeAgent"
    pod: KubeObject
    spec: KubeObject
    """Of the container."""
    ip: str
    directory: Path
    """The pod's own."""

    async def own_variables(self) -> dict[str, str]:
        """What its spec says, resolved.

        Raises ``ConfigurationError`` or ``ApiError``: something that it names is missing.
        """
        status = {
            **self.pod.get("status", {}),
            "podIP": self.ip,
            "hostIP": self.agent.address,
        }
        return await resolve_environment(
            self.agent.client, self.pod | {"status": status}, self.spec
        )

    async def environment_and_command(
        self, own: dict[str, str], entrypoint: list[str]
    ) -> tuple[dict[str, str], list[str]]:
        """All of its environment, and the words that start it. ``own``: ``own_variables``."""
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment |= self.agent.cluster_environment | {"PYTHONUNBUFFERED": "1"}
        if self.pod["spec"].get("automountServiceAccountToken", True):
            environment["KUBECONFIG"] = str(await self._write_credentials())
        uid = self.pod["metadata"]["uid"]
        if assigned := self.agent.devices.assigned.get(uid):
            environment["NVIDIA_VISIBLE_DEVICES"] = ",".join(assigned)
        mounts = mounts_of(
            self.pod, self.spec, root=self.agent.directory, node=self.agent.name,
            pod_directory=self.directory,
        )  # fmt: skip
        # Whoever would listen on every address of the pod listens on its own.
        own = {name: self.ip if value in ANY_ADDRESS[:2] else value for name, value in own.items()}
        environment |= environment_in_folders(own, mounts)
        environment[MOUNTS_VARIABLE] = json.dumps({one.path: str(one.folder) for one in mounts})
        visible = self.agent.devices.visible(environment.get("NVIDIA_VISIBLE_DEVICES"))
        owner = driver_owner(uid, self.spec["name"])
        budget = MemoryBudget.of(self.spec)
        environment["MEMROUTE_DRIVER_URL"] = self.agent.open_driver(owner, visible, budget)
        words = command_line(entrypoint, self.spec, own, self.ip)
        return environment, [in_folders(word, mounts) for word in words]

    async def _write_credentials(self) -> Path:
        metadata = self.pod["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        account = self.pod["spec"].get("serviceAccountName", "default")
        bound = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": metadata["uid"]}
        answer = await self.agent.client.request(
            "POST",
            SERVICE_ACCOUNTS.path(namespace, account, "token"),
            body={
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": TOKEN_SECONDS, "boundObjectRef": bound},
            },
        )
        path = self.directory / "kubeconfig"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        document = self.agent.kubeconfig_for(account, answer["status"]["token"], namespace)
        path.write_text(yaml.safe_dump(document))
        return path
