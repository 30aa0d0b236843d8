"""Run upstream's conformance suite, its own Go tests, with memroute's picker in this mesh.

```text
this program          control plane, pilot, the two Gateways of upstream's base.yaml with Envoy
  ├─ upstream's suite applies its manifests: pools, Deployments, routes; asks; writes its report
  └─ upstream_node    runs what the Deployments want: echo servers, memroute-picker
```

Two things are done beforehand that the suite leaves to the gateway or to chance: a Service and a
pod for each Gateway (Istio deploys neither without images), and a route of each to a pool of the
rig's own, so that its listener asks pickers before the first test (``mesh_gateways.attach``).

Exit status: 0 where every test did what is known of it (``upstream_report``), 1 where one did
not, 2 where the suite cannot be run (``upstream_binary``).
"""

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import mesh_gateways
import mesh_pods
import yaml
from mesh_cluster import CLASS, MeshCluster, pool
from mesh_network import PrivateNetwork, check_programs
from mesh_pods import Pod
from upstream_binary import HOW_TO_BUILD, SuiteError, check_suite, check_test, given_suite
from upstream_node import UpstreamNode
from upstream_pods import FLAGS
from upstream_report import (
    KNOWN_FAILURES,
    LATER_TESTS,
    TESTS,
    Outcome,
    report_troubles,
    results_of,
    rows_of,
    table,
)

from memroute_simulator.controlplane import find_binaries
from memroute_simulator.controlplane.cluster import BINARIES
from memroute_simulator.controlplane.recipes import KUBERNETES_VERSION, MODULES

NAMESPACE = "inference-conformance-app-backend"
"""Of what the suite deploys."""
SUITE, ECHO, PILOT = "gateway-suite", "echo-basic", "pilot-discovery"
# The whole suite takes some six minutes here, four of them the test that Istio fails: upstream's
# own limits are 200 and 300 s for one condition. Chosen by hand.
TIMEOUT_SECONDS = 1800
STANDING = "standing"
LOG, REPORT, PAGE, LOGS = "suite.log", "report.yaml", "results.md", "logs"
"""What is written into the folder of ``--out``."""
# Lines of the suite's log that are shown where it has run no test. Chosen by hand.
MAX_LINES = 15


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of what it writes")
    parser.add_argument("--run-test", metavar="NAME", help="one test alone, by its short name")
    parser.add_argument(
        "--suite", type=Path, metavar="BINARY",
        help=f"a suite of your own instead of the pinned one: {HOW_TO_BUILD}",
    )  # fmt: skip
    arguments = parser.parse_args()
    out: Path = arguments.out
    try:
        found, command = prepare(arguments)
    except (SuiteError, RuntimeError) as error:
        parser.error(str(error))
    make_room(out)
    with ExitStack() as stack:
        stack.enter_context(PrivateNetwork())
        cluster = stack.enter_context(MeshCluster())
        start_gateways(cluster, (found[SUITE].parent / "base.yaml").read_text(), stack.callback)
        node = UpstreamNode(cluster, namespace=NAMESPACE, echo=found[ECHO])
        stack.callback(node.close)
        status = asyncio.run(run(node, command, out / LOG))
        troubles = [f"{name} has ended by itself" for name in node.ended()]
        is_right = conclude(out, arguments, status, troubles)
        if not is_right:
            shutil.copytree(cluster.directory / "logs", out / LOGS)
            print(f"What the suite has said: {out / LOG}; the others: {out / LOGS}")  # noqa: T201
        else:
            print(f"Written: {out / PAGE}, {out / REPORT}, {out / LOG}")  # noqa: T201
    return 0 if is_right else 1


def prepare(arguments: argparse.Namespace) -> tuple[Mapping[str, Path], list[str]]:
    """Programs by their names, and how the suite is run. Raises what is missing, before any starts.

    ``SuiteError`` is of what was asked for, ``RuntimeError`` of this machine.
    """
    suite = None
    if arguments.suite:
        suite = given_suite(arguments.suite, arguments.out)
    elif arguments.run_test:
        check_test(arguments.run_test)
    check_programs()
    mesh_pods.envoy_program()
    found = find_binaries([*BINARIES, PILOT, SUITE, ECHO])
    suite = suite or found[SUITE].resolve(strict=True)
    flags = suite_flags(arguments.out / REPORT, arguments.run_test)
    check_suite(suite, flags)
    return found, [str(suite), *flags]


def make_room(out: Path) -> None:
    """The folder is there, without what an earlier run has written into it."""
    out.mkdir(parents=True, exist_ok=True)
    for name in (LOG, REPORT, PAGE):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / LOGS, ignore_errors=True)


def suite_flags(report: Path, test: str | None) -> list[str]:
    """How the suite is run. ``test``: one alone."""
    flags = [
        "-test.v", f"-test.timeout={TIMEOUT_SECONDS}s", f"-gateway-class={CLASS}",
        # All of it goes with its network.
        "-cleanup-base-resources=false",
        # The suite knows an older Gateway API than pilot wants; its report then names none.
        "-allow-crds-mismatch",
        f"-report-output={report.resolve()}", "-organization=memroute",
        "-project=Istio's pilot, Envoy, memroute-picker",
        f"-version={module_version('istio', 'istio.io/istio')}",
        "-url=https://istio.io", "-contact=none",
    ]  # fmt: skip
    return [*flags, f"-run-test={test}"] if test else flags


def start_gateways(cluster: MeshCluster, base: str, at_exit: Callable) -> None:
    """The Gateways of upstream's manifest have addresses, and ask pickers."""
    documents = yaml.safe_load_all(base.replace("{GATEWAY_CLASS_NAME}", CLASS))
    objects = [one for one in documents if one and one["kind"] in {"Namespace", "Gateway"}]
    cluster.apply(*objects)
    pods = [mesh_pods.model_server(cluster, f"{STANDING}-0", STANDING)]
    pods.append(mesh_pods.picker(cluster, f"{STANDING}-picker", [STANDING], "--conformance-test"))
    cluster.apply(
        mesh_pods.picker_service(f"{STANDING}-picker", f"{STANDING}-picker"),
        pool(STANDING, app=STANDING, picker=f"{STANDING}-picker"),
    )
    hosts: dict[str, tuple[Pod, str | None]] = {}
    for one in objects:
        if one["kind"] == "Gateway":
            name, namespace = one["metadata"]["name"], one["metadata"]["namespace"]
            cluster.apply(mesh_gateways.gateway_service(name, namespace))
            pod = mesh_gateways.gateway(cluster, name, namespace)
            hosts[name] = pod, one["spec"]["listeners"][0].get("hostname")
    gateways = [pod for pod, _ in hosts.values()]
    cluster.apply(*(pod.manifest() for pod in [*pods, *gateways]))
    for pod in [*pods, *gateways]:
        at_exit(pod.close)
        pod.start()
    for pod in pods:
        pod.wait()
        pod.say(is_ready=True)
    for pod, host in hosts.values():
        mesh_gateways.expose(cluster, pod)
        pod.say(is_ready=True)
        mesh_gateways.attach(cluster, pod, STANDING, host=host)


async def run(node: UpstreamNode, command: list[str], log: Path) -> int:
    """The suite's exit status. Raises what the node raises, and ``TimeoutError``."""
    cluster = node.cluster
    environment = os.environ | cluster.environment | {"KUBECONFIG": str(cluster.kubeconfig)}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
    serving, suite = asyncio.create_task(node.run()), asyncio.create_task(process.wait())
    try:
        done, _ = await asyncio.wait(
            {serving, suite}, timeout=TIMEOUT_SECONDS + 60, return_when=asyncio.FIRST_COMPLETED
        )
        if suite in done:
            return suite.result()
        if serving in done:
            await serving
        message = f"the suite did not end within {TIMEOUT_SECONDS} s: see {log}"
        raise TimeoutError(message)
    finally:
        if process.returncode is None:
            process.kill()
        serving.cancel()
        await asyncio.gather(serving, suite, return_exceptions=True)


def conclude(out: Path, arguments: argparse.Namespace, status: int, troubles: list[str]) -> bool:
    """Write and print what has come of it; whether all is as known."""
    report = out / REPORT
    log = (out / LOG).read_text(errors="replace")
    results = results_of(log)
    expected, later = (TESTS, LATER_TESTS)
    if arguments.suite:
        expected, later = (*TESTS, *LATER_TESTS), ()
    rows = rows_of(results, expected=expected, known=KNOWN_FAILURES, asked=arguments.run_test)
    told = yaml.safe_load(report.read_text()) if report.exists() else None
    troubles = [*troubles, *report_troubles(told, results)]
    has_failed = any(one.outcome is Outcome.FAILED for one in results.values())
    if (status != 0) is not has_failed:
        troubles.append(f"the suite ended with status {status}")
    page = table(rows, later=later, troubles=troubles)
    print(page)  # noqa: T201 - whoever has asked for it reads it
    if not results:
        words = "\n".join(log.splitlines()[-MAX_LINES:])
        print(f"The suite has run no test. Its last words:\n{words}")  # noqa: T201
    head = [
        "# Upstream's conformance suite with memroute's picker", "",
        *(f"* {name}: {version}" for name, version in versions(arguments.suite).items()), "",
        "Flags of upstream's picker, and what is made of them:", "",
        *(f"* `{flag}`: {what}" for flag, what in FLAGS.items()), "",
    ]  # fmt: skip
    (out / PAGE).write_text("\n".join([*head, page]))
    return not troubles and not any(row.is_wrong for row in rows)


def versions(suite: Path | None) -> dict[str, str]:
    """What was run with what. The definitions that the cluster had are in upstream's report."""
    envoy = subprocess.run(
        [mesh_pods.envoy_program(), "--version"], capture_output=True, text=True, check=True
    )
    gateway_api = "sigs.k8s.io/gateway-api"
    extension = f"{gateway_api}-inference-extension"
    return {
        "suite": str(suite) if suite else f"{extension} {module_version(SUITE, extension)}",
        "echo server": f"{gateway_api} {module_version(SUITE, gateway_api)}",
        "Kubernetes": KUBERNETES_VERSION,
        "Istio's pilot": module_version("istio", "istio.io/istio"),
        "Envoy": envoy.stdout.split(":", 1)[1].strip(),
    }


def module_version(recipe: str, module: str) -> str:
    """The version that a recipe's module file pins."""
    text = (MODULES / recipe / "go.mod").read_text()
    return re.search(rf"(?m)^(?:require)?\s*{re.escape(module)} (\S+)", text)[1]


if __name__ == "__main__":
    sys.exit(main())
