"""Start and stop one control plane.

```text
guardian (network, directory, clean-up)
  └─ etcd → kube-apiserver → kube-controller-manager, kube-scheduler        127.N.0.1
```

Ready in about three seconds; stopped in the reverse order, then the guardian sweeps.
"""

import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

import yaml

from memroute_simulator.controlplane import guardian
from memroute_simulator.controlplane.binaries import find_binaries
from memroute_simulator.controlplane.binary_cache import Report, report_to_stderr
from memroute_simulator.controlplane.certificates import (
    CertificateAuthority,
    KeyPair,
    private_key_pem,
    public_key_pem,
)

# A program that ends is seen at once; this is for one that hangs. Source: chosen by hand; on two
# busy cores kube-apiserver has taken more than a minute.
START_TIMEOUT_SECONDS = 180.0
STOP_TIMEOUT_SECONDS = 10.0
NODE_GRACE_SECONDS = 12
# kube-controller-manager waits 50 s before it calls a silent node unreachable; emulated nodes
# renew every two seconds, and people who try a node failure should not wait a minute.
BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
MEMROUTE_NAMESPACE = "memroute-system"


class ControlPlaneError(RuntimeError):
    """A part of the control plane did not come up; the message quotes the end of its log."""


class ControlPlane:
    """One control plane, from ``start`` to ``stop``. Owns its processes and its directory."""

    def __init__(
        self,
        *,
        report: Report = report_to_stderr,
        node_grace_seconds: int = NODE_GRACE_SECONDS,
        has_endpoint_slices: bool = False,
    ) -> None:
        """``node_grace_seconds``: how long a node may be silent before it is unreachable.

        ``has_endpoint_slices``: whether Kubernetes writes EndpointSlices itself, which needs pods
        whose addresses are none of the loopback network.
        """
        self._report = report
        self._node_grace_seconds = node_grace_seconds
        self._has_endpoint_slices = has_endpoint_slices
        self.cluster_id = secrets.token_hex(8)
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._guardian: subprocess.Popen[bytes] | None = None
        self.directory = Path()
        self.network = 0

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """The loopback address of the control plane."""
        return f"127.{self.network}.0.1"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.directory / "admin.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """One JSON line per call of memroute's own ServiceAccounts."""
        return self.directory / "audit.log"

    @property
    def environment(self) -> dict[str, str]:
        """What a process of this cluster must carry: the guardian's tag, and where to scribble.

        Temporary files go into the cluster's directory, which the guardian removes: a process
        that is killed cannot tidy up after itself.
        """
        return {guardian.TAG: self.cluster_id, "TMPDIR": str(self.directory / "tmp")}

    def start(self) -> None:
        """Start everything; returns when the API server is ready and namespaces work.

        Raises ``BinaryError`` or ``ControlPlaneError``.
        """
        binaries = find_binaries(BINARIES, report=self._report)
        self._start_guardian()
        authority = CertificateAuthority()
        self._write_certificates(authority)
        etcd_port, peer_port, api_port = self._free_ports(3)
        self._start_etcd(binaries["etcd"], etcd_port, peer_port)
        server = f"https://{self.address}:{api_port}"
        self._write_kubeconfigs(authority, server)
        self._start_api_server(binaries["kube-apiserver"], etcd_port, api_port)
        self._wait_ready(server, "/readyz", "kube-apiserver")
        self._start_controllers(binaries)
        self._wait_ready(
            server, "/api/v1/namespaces/default/serviceaccounts/default", "kube-controller-manager"
        )

    def stop(self) -> None:
        """End everything and remove the directory. Safe to call twice."""
        for _, process in reversed(self._processes):
            _end(process)
        self._processes.clear()
        if self._guardian is not None and self._guardian.stdin is not None:
            self._guardian.stdin.close()
            self._guardian.wait()
            self._guardian = None

    def spawn(
        self,
        name: str,
        command: list[str],
        *,
        environment: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process of this cluster, its output in ``logs/NAME.log``; ended by ``stop``."""
        logs = self.directory / "logs"
        logs.mkdir(exist_ok=True)
        with (logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment | (environment or {}),
                # Ctrl-C goes to the launcher alone, which then stops things in order.
                start_new_session=True,
            )
        self._processes.append((name, process))
        return process

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """A running process by its name, to pause or kill it in a test."""
        return next(process for known, process in self._processes if known == name)

    def log_tail(self, name: str, *, lines: int = 15) -> str:
        """The end of a process's log."""
        path = self.directory / "logs" / f"{name}.log"
        if not path.exists():
            return ""
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

    def _start_guardian(self) -> None:
        self._guardian = subprocess.Popen(
            # By path, and without the script's folder on sys.path: it starts in 50 ms.
            [sys.executable, "-P", guardian.__file__, self.cluster_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        output = cast("IO[bytes]", self._guardian.stdout)
        with output:
            announced = json.loads(output.readline())
        self.network = announced["network"]
        self.directory = Path(announced["directory"])
        (self.directory / "tmp").mkdir()

    def free_port(self) -> int:
        """A port of the control plane's address that nobody has now."""
        (port,) = self._free_ports(1)
        return port

    def _free_ports(self, count: int) -> list[int]:
        """Each of them another one: they are looked for together."""
        with contextlib.ExitStack() as stack:
            probes = [stack.enter_context(socket.socket()) for _ in range(count)]
            for probe in probes:
                probe.bind((self.address, 0))
            return [probe.getsockname()[1] for probe in probes]

    def _write_certificates(self, authority: CertificateAuthority) -> None:
        pki = self.directory / "pki"
        pki.mkdir(mode=0o700)
        (pki / "ca.crt").write_bytes(authority.certificate)
        server = authority.sign(
            "kube-apiserver",
            addresses=(self.address, "10.0.0.1"),
            names=("localhost", "kubernetes.default.svc"),
        )
        kubelet_client = authority.sign(
            "kube-apiserver-kubelet-client", organization="system:masters"
        )
        # Nodes answer `kubectl logs` on addresses of our network: one certificate serves all.
        kubelet = authority.sign(
            "memroute-node",
            addresses=tuple(f"127.{self.network}.0.{host}" for host in range(10, 255)),
        )
        for name, pair in (
            ("apiserver", server),
            ("kubelet-client", kubelet_client),
            ("kubelet", kubelet),
        ):
            (pki / f"{name}.crt").write_bytes(pair.certificate)
            (pki / f"{name}.key").write_bytes(pair.key)
        _, account_key = private_key_pem()
        (pki / "sa.key").write_bytes(account_key)
        (pki / "sa.pub").write_bytes(public_key_pem(account_key))

    def _write_kubeconfigs(self, authority: CertificateAuthority, server: str) -> None:
        for name, user, group in (
            ("admin", "memroute-admin", "system:masters"),
            ("kube-controller-manager", "system:kube-controller-manager", None),
            ("kube-scheduler", "system:kube-scheduler", None),
        ):
            pair = authority.sign(user, organization=group)
            path = self.directory / f"{name}.kubeconfig"
            path.touch(mode=0o600)
            path.write_text(
                yaml.safe_dump(kubeconfig(server, authority.certificate, pair=pair, user=user))
            )

    def _start_etcd(self, binary: Path, port: int, peer_port: int) -> None:
        client, peer = (f"http://{self.address}:{p}" for p in (port, peer_port))
        self.spawn(
            "etcd",
            [
                str(binary),
                f"--data-dir={self.directory / 'etcd'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
        )

    def _start_api_server(self, binary: Path, etcd_port: int, port: int) -> None:
        pki = self.directory / "pki"
        policy = self.directory / "audit-policy.yaml"
        policy.write_text(yaml.safe_dump(_AUDIT_POLICY))
        self.spawn(
            "kube-apiserver",
            [
                str(binary),
                f"--etcd-servers=http://{self.address}:{etcd_port}",
                f"--bind-address={self.address}",
                f"--secure-port={port}",
                f"--tls-cert-file={pki / 'apiserver.crt'}",
                f"--tls-private-key-file={pki / 'apiserver.key'}",
                f"--client-ca-file={pki / 'ca.crt'}",
                f"--kubelet-certificate-authority={pki / 'ca.crt'}",
                f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
                f"--kubelet-client-key={pki / 'kubelet-client.key'}",
                "--kubelet-preferred-address-types=InternalIP",
                f"--service-account-key-file={pki / 'sa.pub'}",
                f"--service-account-signing-key-file={pki / 'sa.key'}",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--authorization-mode=Node,RBAC",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--allow-privileged=true",
                # EndpointSlices refuse loopback addresses, so the API server cannot list itself.
                "--endpoint-reconciler-type=none",
                f"--audit-policy-file={policy}",
                f"--audit-log-path={self.audit_log}",
                # At 100 MB another file would be begun: whoever reads on would find nothing.
                "--audit-log-maxsize=10000",
            ],
        )

    def _start_controllers(self, binaries: dict[str, Path]) -> None:
        pki = self.directory / "pki"
        not_run = () if self._has_endpoint_slices else _NOT_RUN
        for name, extra in (
            (
                "kube-controller-manager",
                [
                    f"--service-account-private-key-file={pki / 'sa.key'}",
                    f"--root-ca-file={pki / 'ca.crt'}",
                    "--use-service-account-credentials=true",
                    f"--node-monitor-grace-period={self._node_grace_seconds}s",
                    # EndpointSlices refuse loopback addresses, which are all that emulated nodes'
                    # pods have: the nodes serve Services themselves (``nodes.services``).
                    f"--controllers={','.join(('*', *(f'-{name}' for name in not_run)))}",
                ],
            ),
            ("kube-scheduler", []),
        ):
            config = self.directory / f"{name}.kubeconfig"
            self.spawn(
                name,
                [
                    str(binaries[name]),
                    f"--kubeconfig={config}",
                    f"--authentication-kubeconfig={config}",
                    f"--authorization-kubeconfig={config}",
                    "--leader-elect=false",
                    "--secure-port=0",
                    *extra,
                ],
            )

    def _wait_ready(self, server: str, path: str, name: str) -> None:
        context = ssl.create_default_context(cafile=self.directory / "pki" / "ca.crt")
        pair = self.directory / "pki" / "kubelet-client"
        context.load_cert_chain(pair.with_suffix(".crt"), pair.with_suffix(".key"))
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            for other, process in self._processes:
                if process.poll() is not None:
                    msg = f"{other} ended with status {process.returncode}:\n{self.log_tail(other)}"
                    raise ControlPlaneError(msg)
            try:
                with urllib.request.urlopen(server + path, context=context, timeout=5):  # noqa: S310 - our own https address
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        msg = f"{name} was not ready within {START_TIMEOUT_SECONDS:.0f} s:\n{self.log_tail(name)}"
        raise ControlPlaneError(msg)


def kubeconfig(
    server: str,
    authority: bytes,
    *,
    user: str,
    pair: KeyPair | None = None,
    token: str | None = None,
    namespace: str = "default",
) -> dict[str, object]:
    """A kubeconfig with its credentials inside: by certificate or by token."""
    credentials: dict[str, str] = {"token": token} if token else {}
    if pair is not None:
        credentials["client-certificate-data"] = base64.b64encode(pair.certificate).decode()
        credentials["client-key-data"] = base64.b64encode(pair.key).decode()
    cluster = {
        "server": server,
        "certificate-authority-data": base64.b64encode(authority).decode(),
    }
    context = {"cluster": "memroute", "user": user, "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "memroute", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "memroute", "context": context}],
        "current-context": "memroute",
    }


_NOT_RUN = (
    "endpoints-controller", "endpointslice-controller", "endpointslice-mirroring-controller",
)  # fmt: skip
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        # What programs in pods do, and not Kubernetes' own controllers.
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGCONT)  # a process that a test paused would never see SIGTERM
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
