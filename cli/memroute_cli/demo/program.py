"""``memroute demo``, step by step."""

import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console
from rich.live import Live

from memroute_cli.demo.fleet import FLEET
from memroute_cli.demo.front import (
    DEPLOY,
    ROUTER,
    SYSTEM,
    EnvoyMissingError,
    Front,
    find_envoy,
    picker_front,
)
from memroute_cli.demo.meanwhile import show_meanwhile
from memroute_cli.demo.readings import Readings, read_programs
from memroute_cli.demo.summary import Result, checks, print_summary
from memroute_cli.demo.told import kept_text, step_lines
from memroute_cli.demo.traffic import Traffic
from memroute_cli.demo.view import one_line, render
from memroute_cli.terminal.console import open_console
from memroute_kube.resources import is_condition_true
from memroute_simulator.controlplane import BinaryError, ControlPlaneError, find_binaries
from memroute_simulator.controlplane.binaries import unbuilt
from memroute_simulator.controlplane.cluster import BINARIES
from memroute_simulator.emulated_cluster import EmulatedCluster, KubectlError

KILL_AT_RATIO = 0.4
KILL_ANNOTATION = "simulator.memroute.dev/kill"
REFRESH_SECONDS = 1.0
LINE_SECONDS = 5.0
# Until a killed engine serves again and every lease is given back: only spent where something is
# wrong, or on a slow machine. Source: chosen by hand.
SETTLE_SECONDS = 120.0
OOM_WORDS = ("OutOfMemoryError", "No available memory", "Free memory on device")


def demo(*, seconds: float, keep: bool, seed: int, gateway: bool, envoy: Path | None) -> None:
    """All steps; ends by ``typer.Exit``: status 0 only if all that the summary checks is true."""
    console = open_console()
    # Set, not inherited: a shell starts background jobs with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _raise_exit)
    if not DEPLOY.is_dir():
        console.print("memroute demo runs from a checkout: its deploy/ folder is missing")
        raise typer.Exit(2)
    try:
        front = picker_front(find_envoy(envoy)) if gateway else ROUTER
    except EnvoyMissingError as error:
        console.print(f"memroute demo: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    try:
        passed = _run(console, front, seconds=seconds, keep=keep, seed=seed)
    except (BinaryError, ControlPlaneError, KubectlError, TimeoutError, RuntimeError) as error:
        console.print(f"[red]the demo could not go on:[/] {error}")
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is left behind")
        raise typer.Exit(130) from None
    raise typer.Exit(0 if passed else 1)


def _raise_exit(_number: int, _frame: FrameType | None) -> None:
    sys.exit(143)


def _run(console: Console, front: Front, *, seconds: float, keep: bool, seed: int) -> bool:
    started = time.monotonic()

    def say(text: str) -> None:
        for line in step_lines(time.monotonic() - started, text, console.width):
            console.print(line, markup=False, soft_wrap=True)

    if missing := unbuilt(BINARIES):
        say("the first run builds the control plane from source: " + ", ".join(missing))
        show_meanwhile(
            say,
            lambda text: console.print(text, markup=False, soft_wrap=True),
            num_columns=console.width,
        )
        find_binaries(BINARIES, report=say)
    say("starting etcd, kube-apiserver, kube-scheduler, kube-controller-manager and five nodes")
    with EmulatedCluster(FLEET, report=say) as cluster:
        say(f"control plane on {cluster.address}, {len(FLEET)} nodes ready")
        cluster.kubectl("apply", "--server-side", "-k", str(DEPLOY / front.overlay))
        say(
            f"kubectl apply --server-side -k deploy/{front.overlay}: operator and "
            f"{front.component} as pods"
        )
        for component in ("operator", front.component):
            _wait_ready(cluster, component)
        ops_url, operator_url = (
            f"http://{cluster.service_address(SYSTEM, name, port)}"
            for name, port in (
                (front.operations, "operations"),
                ("memroute-operator-metrics", "metrics"),
            )
        )
        router_url = front.open(cluster)
        entry = front.component if front.envoy is None else f"Envoy {front.envoy}, which asks it,"
        say(f"operator {operator_url}/metrics, {entry} {router_url}/v1 and {ops_url}/metrics")
        say(f"live map, in a browser: {ops_url}/map/")
        cluster.kubectl("apply", "-k", str(DEPLOY / "samples"))
        say("kubectl apply -k deploy/samples: chat, draft and large")
        for name in ("chat", "draft"):
            cluster.kubectl(
                "wait", "--for=condition=Ready", f"mdep/{name}", "--timeout=240s", "-n", "default"
            )
        cluster.wait_for("a verdict on large", lambda: _is_refused(cluster, "large"))
        cluster.wait_for("the router to see them", lambda: _routable(operator_url, ops_url))
        console.print(cluster.kubectl("get", "mdep", "-n", "default"))
        traffic = Traffic(router_url, seed=seed)
        killed_pod, killed_at = "", None
        if seconds:
            say(
                f"{seconds:.0f} s of traffic through the OpenAI client; one replica dies on the way"
            )
            killed_pod, killed_at = asyncio.run(
                _drive(console, cluster, traffic, operator_url, ops_url, seconds)
            )
            say(f"traffic has ended: {len(traffic.answers)} requests")
            result = _collect(cluster, traffic, operator_url, ops_url, killed_pod, killed_at)
            found = checks(result, through_gateway=front.envoy is not None)
            print_summary(console, result, found)
            passed = all(check.passed for check in found)
        else:
            passed = True
        console.print(
            f"\n[bold green]done[/] in {time.monotonic() - started:.0f} s"
            if passed
            else "\n[bold red]the job was not done[/]: see the crosses above"
        )
        if keep:
            text = kept_text(
                kubeconfig=str(cluster.kubeconfig), operator_url=operator_url,
                router_url=router_url, ops_url=ops_url, has_gateway=front.envoy is not None,
            )  # fmt: skip
            _keep(console, cluster, text)
    return passed


def _wait_ready(cluster: EmulatedCluster, component: str) -> None:
    """Until the program's pod is ready."""
    selector = f"app.kubernetes.io/component={component}"

    def is_ready() -> bool:
        pods = cluster.get("pods", "-n", SYSTEM, "-l", selector)
        return any(is_condition_true(pod, "Ready") for pod in pods)

    cluster.wait_for(f"the {component}", is_ready)


def _is_refused(cluster: EmulatedCluster, name: str) -> bool:
    for obj in cluster.get("mdep", "-n", "default"):
        if obj["metadata"]["name"] == name:
            conditions = obj.get("status", {}).get("conditions", ())
            return any(c["type"] == "Placed" and c["status"] == "False" for c in conditions)
    return False


def _routable(operator_url: str, ops_url: str) -> bool:
    readings = read_programs(operator_url, ops_url)
    return sum(replica.is_routable for replica in readings.replicas) >= 3  # noqa: PLR2004


async def _drive(
    console: Console,
    cluster: EmulatedCluster,
    traffic: Traffic,
    operator_url: str,
    ops_url: str,
    seconds: float,
) -> tuple[str, float | None]:
    """Send the traffic, kill the busiest chat replica on the way, show what happens.

    Raises ``RuntimeError`` when a part of the cluster ends.
    """
    started = time.monotonic()
    killed: tuple[str, float | None] = ("", None)
    sending = asyncio.create_task(traffic.run(seconds))
    showing = Live(console=console, refresh_per_second=4) if console.is_terminal else None
    last_line = -LINE_SECONDS
    with showing or contextlib.nullcontext():
        while not sending.done():
            cluster.check_alive()
            readings = await asyncio.to_thread(read_programs, operator_url, ops_url)
            elapsed = time.monotonic() - started
            pod = _busiest_chat(readings)
            if killed[1] is None and elapsed >= seconds * KILL_AT_RATIO and pod is not None:
                killed = (pod, await asyncio.to_thread(_kill, cluster, pod))
            outcomes = ", ".join(f"{n} {o}" for o, n in traffic.outcomes().most_common())
            if showing is not None:
                title = f"memroute demo, {min(elapsed, seconds):.0f} of {seconds:.0f} s"
                dead = f"killed {killed[0]}" if killed[0] else ""
                caption = (outcomes, f"{traffic.num_in_flight} in flight", dead)
                showing.update(render(readings, title, "; ".join(filter(None, caption))))
            elif elapsed - last_line >= LINE_SECONDS:
                last_line = elapsed
                console.print(one_line(readings, elapsed))
            await asyncio.wait([sending], timeout=REFRESH_SECONDS)
    await sending
    return killed


def _kill(cluster: EmulatedCluster, pod: str) -> float:
    """Kill a pod's engine; when it was seen to be dead, on the monotonic clock.

    Its node hears of what it is asked for a moment later: until then it serves on.
    """

    def lives() -> list[tuple[int, bool]]:
        status = cluster.read("pods", "default", pod)["status"]
        return [
            (one["restartCount"], "running" in one["state"]) for one in status["containerStatuses"]
        ]

    before = lives()
    cluster.kubectl("annotate", "pod", "-n", "default", pod, f"{KILL_ANNOTATION}=1")
    cluster.wait_for(f"{pod} to be dead", lambda: lives() != before)
    return time.monotonic()


def _busiest_chat(readings: Readings) -> str | None:
    """The pod of chat with the most requests; None while no router knows one."""
    chat = [replica for replica in readings.replicas if replica.deployment == "chat"]
    return max(chat, key=lambda replica: replica.in_flight).pod if chat else None


def _collect(
    cluster: EmulatedCluster,
    traffic: Traffic,
    operator_url: str,
    ops_url: str,
    killed_pod: str,
    killed_at: float | None,
) -> Result:
    """Look at the end state, once it has settled."""

    def settled() -> bool:
        pods = cluster.get("pods", "-n", "default")
        are_ready = all(is_condition_true(pod, "Ready") for pod in pods)
        return are_ready and _reserved_tokens(read_programs(operator_url, ops_url)) == 0

    with contextlib.suppress(TimeoutError):
        cluster.wait_for("the replicas to settle", settled, timeout_seconds=SETTLE_SECONDS)
    with contextlib.suppress(KubectlError):
        for name in ("chat", "draft"):
            cluster.kubectl(
                "wait", "--for=condition=Ready", f"mdep/{name}", "-n", "default",
                f"--timeout={SETTLE_SECONDS:.0f}s",
            )  # fmt: skip
    pods = cluster.get("pods", "-n", "default")
    readings = read_programs(operator_url, ops_url)
    logs = [
        line
        for pod in pods
        for line in cluster.kubectl("logs", "-n", "default", pod["metadata"]["name"]).splitlines()
        if any(word in line for word in OOM_WORDS)
    ]
    return Result(
        deployments=cluster.get("mdep", "-n", "default"),
        traffic=traffic,
        killed_pod=killed_pod,
        killed_at=killed_at,
        reserved_tokens_left=_reserved_tokens(readings),
        engine_restarts={
            pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"]
            for pod in pods
        },
        oom_logs=logs,
    )


def _reserved_tokens(readings: Readings) -> int | None:
    """Of all replicas; None where no router has told."""
    if not readings.replicas:
        return None
    return sum(replica.reserved_tokens for replica in readings.replicas)


def _keep(console: Console, cluster: EmulatedCluster, text: str) -> None:
    """Leave it running until Ctrl-C or SIGTERM. Raises ``RuntimeError`` when a part of it ends."""
    console.rule("[bold]kept running")
    console.print(text, markup=False, soft_wrap=True)
    while True:
        time.sleep(REFRESH_SECONDS)
        cluster.check_alive()
