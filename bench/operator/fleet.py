"""What a whole fleet costs the operator: a real control plane, nodes and foreign pods as objects.

etcd, kube-apiserver, kube-controller-manager and kube-scheduler are real. So is the operator, a
process with its own ServiceAccount. Nodes have no processes: a stand-in for all their kubelets
says of every bound replica that it runs and is ready, and lets go of what is deleted.

| phase | what is measured |
| --- | --- |
| cold start | from the start of the operator until all replicas are placed, and all are Ready |
| restart | from the start of another operator until it has seen all of it and leads |
| change | from one more replica being asked for until it is Ready, median and worst |
| idle | CPU and calls while nothing happens |

CPU, memory and the longest block of the event loop are the operator process's own; calls are
those in the API server's audit log.
"""

import argparse
import asyncio
import collections
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.arguments import whole_number
from bench.operator.stand_ins import (
    PARALLEL,
    Kubelets,
    Operator,
    foreign_pod,
    model_deployment,
    node,
)
from memroute_kube import ApiError, KubernetesClient
from memroute_kube.resources import (
    MODEL_DEPLOYMENTS,
    NAMESPACES,
    NODES,
    PODS,
    SERVICE_ACCOUNTS,
    is_condition_true,
)
from memroute_simulator.controlplane.cluster import MEMROUTE_NAMESPACE, ControlPlane
from memroute_simulator.emulated_cluster import find_kubectl

BASE = Path(__file__).parents[2] / "deploy" / "base"
NAMESPACE = "fleet"
FOREIGN_NAMESPACE = "others"
OPERATOR = "memroute-operator"
# Nodes that nobody renews must not be called lost while they are measured.
NODE_GRACE_SECONDS = 24 * 3600
NUM_CHANGES = 5
IDLE_SECONDS = 60.0
SETTLE_SECONDS = 15.0
POLL_SECONDS = 0.25


@dataclass(slots=True, kw_only=True)
class Figures:
    """What was measured. Seconds, MiB, calls."""

    num_models: int
    num_replicas: int
    num_nodes: int
    num_foreign_pods: int
    cold_placed_seconds: float | None = None
    cold_ready_seconds: float | None = None
    cold_cpu_seconds: float | None = None
    cold_calls: dict[str, int] = field(default_factory=dict)
    change_seconds: list[float] = field(default_factory=list)
    change_calls: dict[str, int] = field(default_factory=dict)
    idle_cpu_ratio: float | None = None
    idle_calls: dict[str, int] = field(default_factory=dict)
    restart_seconds: float | None = None
    peak_memory_mib: float | None = None
    num_blocks: int | None = None
    """How often the event loop was blocked for more than 0.1 s."""
    longest_block_seconds: float | None = None
    """At most so long."""


class Bench:
    """One run. Owns the control plane's client and the figures."""

    def __init__(self, plane: ControlPlane, client: KubernetesClient, figures: Figures) -> None:
        self._plane, self._client, self._figures = plane, client, figures
        self._kubelets = Kubelets(client, plane.network)
        self._num_calls = 0

    async def run(self) -> None:
        """All phases."""
        kubeconfig = await asyncio.to_thread(_install, self._plane)
        await self._make_objects()
        watching = asyncio.create_task(self._kubelets.run())
        try:
            first = Operator(self._plane, kubeconfig, 1)
            await self._cold(first)
            self._note_process(first)
            await asyncio.to_thread(first.stop)
            second = Operator(self._plane, kubeconfig, 2)
            await self._restarted(second)
            await self._changes(second)
            await self._idle(second)
            self._note_process(second)
            await asyncio.to_thread(second.stop)
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def _has_account(self, namespace: str) -> bool:
        with suppress(ApiError):
            await self._client.get(SERVICE_ACCOUNTS, namespace, "default")
            return True
        return False

    async def _make_objects(self) -> None:
        figures = self._figures
        _say("creating nodes, pods of others and ModelDeployments")
        for name in (NAMESPACE, FOREIGN_NAMESPACE):
            await self._client.create(NAMESPACES, None, {"metadata": {"name": name}})
            await _until(f"{name}'s account", lambda n=name: self._has_account(n), 60)  # type: ignore[misc]
        await self._in_parallel(
            self._client.create(NODES, None, node(number)) for number in range(figures.num_nodes)
        )
        pods = (foreign_pod(n, figures.num_nodes) for n in range(figures.num_foreign_pods))
        await self._in_parallel(self._client.create(PODS, FOREIGN_NAMESPACE, pod) for pod in pods)
        each = figures.num_replicas // figures.num_models
        models = (model_deployment(number, each) for number in range(figures.num_models))
        await self._in_parallel(
            self._client.create(MODEL_DEPLOYMENTS, NAMESPACE, model) for model in models
        )

    async def _in_parallel(self, calls: Iterable[Awaitable[object]]) -> None:
        limit = asyncio.Semaphore(PARALLEL)

        async def one(call: Awaitable[object]) -> None:
            async with limit:
                await call

        await asyncio.gather(*(one(call) for call in calls))

    async def _cold(self, operator: Operator) -> None:
        figures, started = self._figures, time.monotonic()
        kubelets = self._kubelets
        _say("cold start")

        async def placed() -> bool:
            operator.check()
            return len(kubelets.bound) >= figures.num_replicas

        await _until("all replicas to be placed", placed, 1800)
        figures.cold_placed_seconds = time.monotonic() - started
        await _until("all to be Ready", self._all_ready, 600)
        figures.cold_ready_seconds = time.monotonic() - started
        figures.cold_cpu_seconds = operator.cpu_seconds
        figures.cold_calls = self._calls()

    async def _all_ready(self) -> bool:
        models, _ = await self._client.list(MODEL_DEPLOYMENTS, NAMESPACE)
        num_ready = sum(is_condition_true(model, "Ready") for model in models)
        _say(f"{len(self._kubelets.ready)} replicas ready, {num_ready} ModelDeployments Ready")
        if num_ready < len(models):
            await asyncio.sleep(1.0)
        return num_ready == len(models)

    async def _restarted(self, operator: Operator) -> None:
        started = time.monotonic()
        _say("restart")

        async def leads() -> bool:
            operator.check()
            return await asyncio.to_thread(operator.is_leading)

        await _until("the new operator to lead", leads, 300)
        self._figures.restart_seconds = time.monotonic() - started
        await asyncio.sleep(SETTLE_SECONDS)

    async def _changes(self, operator: Operator) -> None:
        self._calls()
        each = self._figures.num_replicas // self._figures.num_models
        for number in range(NUM_CHANGES):
            operator.check()
            name, started = f"model-{number}", time.monotonic()
            body = {"spec": {"replicas": each + 1}}
            model = await self._client.patch(MODEL_DEPLOYMENTS, NAMESPACE, name, body)

            async def done(name: str = name, asked: int = model["metadata"]["generation"]) -> bool:
                found = await self._client.get(MODEL_DEPLOYMENTS, NAMESPACE, name)
                is_seen = found.get("status", {}).get("observedGeneration") == asked
                return is_seen and is_condition_true(found, "Ready")

            await _until(f"{name} to have one more", done, 120)
            self._figures.change_seconds.append(round(time.monotonic() - started, 2))
            _say(f"one more replica in {self._figures.change_seconds[-1]:.1f} s")
            await asyncio.sleep(1.0)
        self._figures.change_calls = self._calls()

    async def _idle(self, operator: Operator) -> None:
        await asyncio.sleep(SETTLE_SECONDS)
        self._calls()
        _say(f"idle for {IDLE_SECONDS:.0f} s")
        before, started = operator.cpu_seconds, time.monotonic()
        await asyncio.sleep(IDLE_SECONDS)
        operator.check()
        used = operator.cpu_seconds - before
        self._figures.idle_cpu_ratio = used / (time.monotonic() - started)
        self._figures.idle_calls = self._calls()

    def _note_process(self, operator: Operator) -> None:
        figures = self._figures
        figures.peak_memory_mib = max(figures.peak_memory_mib or 0.0, operator.peak_memory_mib)
        num_blocks, longest = operator.blocks()
        figures.num_blocks = (figures.num_blocks or 0) + num_blocks
        figures.longest_block_seconds = max(figures.longest_block_seconds or 0.0, longest)

    def _calls(self) -> dict[str, int]:
        """The operator's calls since the last time, by verb and resource."""
        found: collections.Counter[str] = collections.Counter()
        for line in self._plane.audit_log.read_text().splitlines()[self._num_calls :]:
            self._num_calls += 1
            call = json.loads(line)
            target = call.get("objectRef", {})
            sub = target.get("subresource")
            resource = f"{target.get('resource')}/{sub}" if sub else str(target.get("resource"))
            found[f"{call['verb']} {resource}"] += 1
        return dict(found.most_common())


def _install(plane: ControlPlane) -> Path:
    """CRDs, rights and namespaces, without the Deployments; the operator's kubeconfig."""

    def kubectl(*arguments: str, stdin: str | None = None) -> str:
        return subprocess.run(  # noqa: S603 - our own arguments
            [find_kubectl(), "--kubeconfig", str(plane.kubeconfig), *arguments],
            input=stdin, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip

    built = kubectl("kustomize", str(BASE), "--load-restrictor=LoadRestrictionsNone")
    parts = [part for part in built.split("\n---\n") if "\nkind: Deployment\n" not in part]
    kubectl("apply", "--server-side", "-f", "-", stdin="\n---\n".join(parts))
    token = kubectl("create", "token", OPERATOR, "-n", MEMROUTE_NAMESPACE, "--duration=8h")
    document = json.loads(kubectl("config", "view", "--raw", "-o", "json"))
    document["users"][0]["user"] = {"token": token.strip()}
    path = plane.directory / "operator.kubeconfig"
    path.write_text(json.dumps(document))
    return path


async def _until(what: str, is_so: Callable[[], Awaitable[bool]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not await is_so():
        if time.monotonic() > deadline:
            msg = f"waited {seconds:.0f} s for {what}"
            raise TimeoutError(msg)
        await asyncio.sleep(POLL_SECONDS)


def _say(text: str) -> None:
    print(f"fleet: {text}", file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> int:
    """Run it, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.operator fleet", description=__doc__)
    parser.add_argument("--models", type=whole_number, default=1000)
    parser.add_argument("--replicas", type=whole_number, default=4, help="of each model")
    parser.add_argument(
        "--nodes", type=whole_number, default=501, help="of eight GPUs; one is to spare"
    )
    parser.add_argument("--foreign-pods", type=whole_number, default=10_000)
    parser.add_argument("--logs", type=Path, help="a folder to leave all programs' logs in")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    options = parser.parse_args(argv)
    figures = Figures(
        num_models=options.models,
        num_replicas=options.models * options.replicas,
        num_nodes=options.nodes,
        num_foreign_pods=options.foreign_pods,
    )
    with ControlPlane(node_grace_seconds=NODE_GRACE_SECONDS) as plane:
        try:
            asyncio.run(_measure(plane, figures))
        finally:
            if options.logs is not None:
                shutil.copytree(plane.directory / "logs", options.logs, dirs_exist_ok=True)
                shutil.copy(plane.audit_log, options.logs)
    document = asdict(figures)
    if options.output == "json":
        print(json.dumps(document, indent=1))
        return 0
    for name, value in document.items():
        print(f"{name:22} {_in_words(value)}")
    return 0


def _in_words(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{count} {what}" for what, count in value.items()) or "none"
    if isinstance(value, list) and value:
        return f"median {statistics.median(value):.1f}, worst {max(value):.1f}"
    return str(value)


async def _measure(plane: ControlPlane, figures: Figures) -> None:
    async with await KubernetesClient.from_environment(kubeconfig=plane.kubeconfig) as client:
        await Bench(plane, client, figures).run()
