"""What the operator is told when it starts; read once."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from memroute.command_line import CommandLine, DefaultsFormatter, above_0, port
from memroute.units import GIB
from memroute_hub.settings import (
    SettingsError,
    checked_endpoint,
    is_offline_by_environment,
    usual_endpoint,
)
from memroute_operator.election.leadership import LeaseTiming
from memroute_operator.pod.pod_defaults import any_address
from memroute_operator.readings.sources import PodSelector, SelectorError, parse_pod_selector
from memroute_operator.weights.arguments import add_weights_arguments
from memroute_operator.weights.caches import WeightsSettings

DEFAULT_ENGINE_IMAGE = "vllm/vllm-openai:v0.32.0"
# Where exporters are installed: NVIDIA's GPU operator, the same on OpenShift, dcgm-exporter's own
# chart, GKE's managed exporter, AMD's GPU operator (whose exporter serves on 5000).
DEFAULT_EXPORTER_SELECTORS = (
    "gpu-operator/app=nvidia-dcgm-exporter",
    "nvidia-gpu-operator/app=nvidia-dcgm-exporter",
    "gpu-operator/app.kubernetes.io/name=dcgm-exporter",
    "gke-managed-system/app.kubernetes.io/name=gke-managed-dcgm-exporter",
    "kube-amd-gpu/app.kubernetes.io/name=metrics-exporter:5000",
)
DEFAULT_ROUTER_SELECTOR = "app.kubernetes.io/name=memroute,app.kubernetes.io/component=router"
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """Settings of one operator process."""

    host: str
    metrics_port: int
    health_port: int
    engine_image: str
    watch_namespace: tuple[str, ...]
    shared_runtime_class: str | None
    exclusive_runtime_class: str | None
    engine_bind_address: str
    resync_seconds: float
    exporter_selector: tuple[PodSelector, ...]
    exporter_port: int
    scrape_seconds: float
    router_selector: PodSelector
    router_url: str | None
    picker_selector: PodSelector | None
    picker_tls: bool
    max_contention: float | None
    drain_timeout_seconds: float
    node_lost_seconds: float
    leader_election: bool
    lease_namespace: str
    lease_duration_seconds: float
    lease_renew_seconds: float
    lease_retry_seconds: float
    hub_endpoint: str
    hub_token_file: Path | None
    offline: bool
    model_cache_path: str | None
    model_cache_gib: int | None
    allowed_host_path: tuple[str, ...]
    fetch_image: str

    @property
    def front_doors(self) -> tuple[PodSelector, ...]:
        """Who sends requests to replicas: routers, and pickers for the gateways that ask them.

        What they have in flight keeps a replica that drains, and wakes one that sleeps.
        """
        if self.picker_selector is None:
            return (self.router_selector,)
        return self.router_selector, self.picker_selector

    @property
    def weights(self) -> WeightsSettings:
        """What there is of caches, for those who read ModelDeployments."""
        size = self.model_cache_gib
        return WeightsSettings(
            cache_path=self.model_cache_path,
            cache_bytes=None if size is None else size * GIB,
            host_paths=self.allowed_host_path,
        )

    @property
    def lease_timing(self) -> LeaseTiming:
        """How long a renewal of the Lease counts."""
        return LeaseTiming(
            duration_seconds=self.lease_duration_seconds,
            renew_seconds=self.lease_renew_seconds,
            retry_seconds=self.lease_retry_seconds,
        )

    @property
    def engines_hub_endpoint(self) -> str | None:
        """What engines are told of the hub; None where they find it by themselves."""
        return None if self.hub_endpoint == usual_endpoint() else self.hub_endpoint


def _text_or_none(text: str) -> str | None:
    return text or None


def _endpoint(text: str) -> str:
    try:
        return checked_endpoint(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def own_namespace() -> str | None:
    """The namespace that this pod runs in; None outside of a cluster."""
    if name := os.environ.get("POD_NAMESPACE"):
        return name
    try:
        return _NAMESPACE_FILE.read_text().strip() or None
    except OSError:
        return None


def _selector(*, needs_daemon_set: bool) -> Callable[[str], PodSelector]:
    namespace = own_namespace()

    def parse(text: str) -> PodSelector:
        try:
            return parse_pod_selector(
                text, own_namespace=namespace, needs_daemon_set=needs_daemon_set
            )
        except SelectorError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def parse_settings(argv: Sequence[str]) -> OperatorSettings:
    """Settings from the command line; each has a default that fits the shipped manifests."""
    parser = CommandLine(
        prog="memroute-operator",
        description="Places model replicas on accelerators by free HBM.",
        formatter_class=DefaultsFormatter,
    )
    every_address = any_address(os.environ.get("POD_IP"))
    parser.add_argument(
        "--host",
        default=every_address,
        type=lambda text: every_address if text == "*" else text,
        help="address to serve metrics and health on; * is every one, in the family of the pod's",
    )
    parser.add_argument("--metrics-port", type=port, default=8080)
    parser.add_argument("--health-port", type=port, default=8081)
    parser.add_argument(
        "--engine-image", default=DEFAULT_ENGINE_IMAGE, help="for ModelDeployments that name none"
    )
    parser.add_argument(
        "--watch-namespace",
        action="append",
        default=[],
        help="namespace whose ModelDeployments this operator looks after; may be given several "
        "times; without it all. Pods and nodes of the whole cluster are read all the same: a "
        "device is taken, whoever has it",
    )
    parser.add_argument(
        "--shared-runtime-class",
        default="nvidia",
        type=_text_or_none,
        help="runtimeClassName of replicas on shared devices; empty for the node's default",
    )
    parser.add_argument(
        "--exclusive-runtime-class",
        type=_text_or_none,
        help="runtimeClassName of replicas on whole devices, where nvidia is not the node's "
        "default (k3s, RKE2, Talos, MicroK8s); without it the node's default",
    )
    parser.add_argument(
        "--engine-bind-address",
        default=every_address,
        help="what engines listen on: every address of their pod, in the family of the operator's",
    )
    parser.add_argument(
        "--resync-seconds", type=above_0, default=300.0, help="how often everything is listed again"
    )
    parser.add_argument(
        "--exporter-selector",
        action="append",
        type=_selector(needs_daemon_set=True),
        help="NAMESPACE/LABELS[:PORT] of exporters that are believed, pods of a DaemonSet; may be "
        f"given several times; without it: {', '.join(DEFAULT_EXPORTER_SELECTORS)}",
    )
    parser.add_argument("--exporter-port", type=port, default=9400)
    parser.add_argument(
        "--scrape-seconds",
        type=above_0,
        default=5.0,
        help="how often exporters and routers are read; more than 100 exporters less often",
    )
    parser.add_argument(
        "--router-selector",
        type=_selector(needs_daemon_set=False),
        default=DEFAULT_ROUTER_SELECTOR,
        help="[NAMESPACE/]LABELS of the routers' pods; without a namespace the operator's own",
    )
    parser.add_argument(
        "--router-url",
        type=_text_or_none,
        help="base URL under which clients find the routers: status.url of every ModelDeployment",
    )
    parser.add_argument(
        "--picker-selector",
        type=_selector(needs_daemon_set=False),
        help="[NAMESPACE/]LABELS[:PORT] of the endpoint picker's pods, to which InferencePools "
        "lead gateways (spec.routing.gateway); without a namespace the operator's own; without it "
        "there is no picker",
    )
    parser.add_argument(
        "--picker-tls",
        action="store_true",
        help="the picker serves by TLS: its Services do not say h2c",
    )
    parser.add_argument(
        "--max-contention",
        type=float,
        help="what engines on one device may want of its time, all together, before another "
        "device is preferred: 2 is two that never wait; without it bytes alone decide",
    )
    parser.add_argument(
        "--drain-timeout-seconds",
        type=float,
        default=60.0,
        help="how long a replica that is to go may finish what it has",
    )
    parser.add_argument(
        "--node-lost-seconds",
        type=float,
        default=30.0,
        help="how long a kubelet may be silent, or a node not ready, before its replicas are "
        "replaced; counted from its last Lease where that is known",
    )
    timing = LeaseTiming()
    parser.add_argument(
        "--leader-election",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether a Lease says which of several operators writes; without it, run only one",
    )
    parser.add_argument(
        "--lease-namespace",
        default="memroute-system",
        help="namespace of the Lease memroute-operator and of grants of names: the operator's own",
    )
    parser.add_argument(
        "--lease-duration-seconds",
        type=float,
        default=timing.duration_seconds,
        help="how long others wait for a leader that does not renew; whole seconds",
    )
    parser.add_argument(
        "--lease-renew-seconds",
        type=float,
        default=timing.renew_seconds,
        help="after how long without a renewal the leader stops writing",
    )
    parser.add_argument(
        "--lease-retry-seconds",
        type=float,
        default=timing.retry_seconds,
        help="how often the leader renews, and a standby looks",
    )
    parser.add_argument(
        "--hub-endpoint",
        type=_endpoint,
        default="",
        help="hub that knows models which the catalogue does not; engines load from it too; "
        "without it HF_ENDPOINT, else the public one",
    )
    parser.add_argument(
        "--hub-token-file",
        type=Path,
        help="holds the operator's own token for gated and private models, read at each use; "
        "without it HF_TOKEN; engines have theirs from source.hub.tokenSecretRef",
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        default=is_offline_by_environment(),
        help="ask no hub: the catalogue and spec.model.config alone say what a model needs",
    )
    add_weights_arguments(parser)
    values = vars(parser.parse_args(argv))
    for several in ("allowed_host_path", "watch_namespace"):
        values[several] = tuple(values[several])
    exporters = values.pop("exporter_selector") or [
        parse_pod_selector(text, needs_daemon_set=True) for text in DEFAULT_EXPORTER_SELECTORS
    ]
    settings = OperatorSettings(exporter_selector=tuple(exporters), **values)
    problem = settings.lease_timing.problem
    if problem is not None:
        parser.error(problem)
    limit = settings.max_contention
    if limit is not None and not limit >= 1:
        parser.error(f"--max-contention {limit:g}: from 1 up, one engine may take all the time")
    return settings
