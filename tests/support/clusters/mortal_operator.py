"""An operator of a test's own on the emulated cluster, that can be killed at will."""

import contextlib
import os
import subprocess
import sys

import yaml

from cluster_support import wait_gone, wait_program

SYSTEM = "memroute-system"


@contextlib.contextmanager
def mortal_operators(cluster):
    """A function that starts one, under the operator's ServiceAccount; the installed one rests."""
    cluster.kubectl("scale", "deployment/memroute-operator", "--replicas=0", "-n", SYSTEM)
    wait_gone(cluster, "operator")
    token = cluster.kubectl("create", "token", "memroute-operator", "-n", SYSTEM, "--duration=1h")
    document = yaml.safe_load(cluster.kubeconfig.read_text())
    document["users"] = [{"name": "memroute-admin", "user": {"token": token.strip()}}]
    path = cluster.directory / "mortal-operator.kubeconfig"
    path.write_text(yaml.safe_dump(document))
    started = []

    def start():
        command = [
            sys.executable,
            "-m",
            "memroute_operator",
            "--host",
            f"127.{cluster.network}.0.2",
        ]
        # Nobody else is left, and a killed one's Lease would be waited for 20 times.
        command += ["--no-leader-election"]
        command += ["--scrape-seconds=1", "--drain-timeout-seconds=3", "--resync-seconds=10"]
        with (cluster.directory / "logs" / "mortal-operator.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=os.environ | cluster.environment | {"KUBECONFIG": str(path)},
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()
        cluster.kubectl("scale", "deployment/memroute-operator", "--replicas=1", "-n", SYSTEM)
        wait_program(cluster, "operator")
