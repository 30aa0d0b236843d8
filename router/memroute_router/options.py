"""The options of a program that routes: what they are called, their defaults, what ``--help`` says.

Names, defaults and texts stand here alone; what was said is ``settings.py``'s.
"""

import argparse
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from memroute.command_line import CommandLine, DefaultsFormatter, above_0, port
from memroute.traffic.peers import MAX_BYTES_PER_SECOND
from memroute_router.access.media_hosts import MediaHosts, parse_media_hosts
from memroute_router.access.proxies import Network, parse_networks
from memroute_router.lifecycle.claims import TenantSource
from memroute_router.log.journal import AccessLog
from memroute_router.log.log_lines import LogFormat
from memroute_router.peer_addresses import DEFAULT_PEER_PORT

# The port of metrics, health and debug pages. Source: the next that is free: 8000 is the API, 8001
# the peers', 8080 and 8081 the operator's.
DEFAULT_OPS_PORT = 8002

# Of the requests that are traced, if any are. Source: chosen by hand; what most use.
DEFAULT_TRACING_RATIO = 0.1
# Where the shipped manifests install.
DEFAULT_MAP_NAMESPACE = "memroute-system"


class OptionGroup:
    """Options under one heading, of which a program may leave some out: their defaults hold."""

    def __init__(
        self, parser: CommandLine, title: str, without: Collection[str], texts: Mapping[str, str]
    ) -> None:
        """``without``: options that the program has no use for. ``texts``: help of others."""
        self._parser = parser
        self._group = parser.add_argument_group(title)
        self._without = without
        self._texts = texts

    def add_argument(self, name: str, **facts: Any) -> None:
        """One option, as ``argparse`` has it."""
        if name in self._without:
            default = facts.get("default", False if "action" in facts else None)
            self._parser.set_defaults(**{name.removeprefix("--").replace("-", "_"): default})
        else:
            if name in self._texts:
                facts["help"] = self._texts[name]
            self._group.add_argument(name, **facts)


def settings_parser(
    program: str,
    description: str,
    examples: str,
    *,
    default_port: int = 8000,
    without: Collection[str] = (),
    texts: Mapping[str, str] | None = None,
) -> CommandLine:
    """The options of a program that routes. ``without``: those that it has no use for.

    ``texts``: help of options that are something else there, by their names.
    """
    parser = CommandLine(
        prog=program,
        description=description,
        epilog=examples,
        formatter_class=_Formatter,
    )
    group = partial(OptionGroup, parser, without=without, texts=texts or {})
    where = group("where it listens, what it serves")
    where.add_argument(
        "--host", default="*", help="address to listen on; * is every one, IPv6 and IPv4"
    )
    where.add_argument(
        "--port", type=port, default=default_port, help="port to listen on; 0 takes any"
    )
    where.add_argument(
        "--ops-host",
        metavar="HOST",
        help="address of the listener of metrics, health and debug pages (default: as --host)",
    )
    where.add_argument(
        "--ops-port",
        type=port,
        default=DEFAULT_OPS_PORT,
        help="port of metrics, health and debug pages, plain HTTP, not for clients; 0: there is "
        "none, and nothing serves metrics",
    )
    where.add_argument("--config", help="YAML file of models and replicas: no Kubernetes")
    where.add_argument(
        "--namespace",
        action="append",
        default=[],
        help="serve the ModelDeployments of this namespace only; may be given several times "
        "(default: all)",
    )
    where.add_argument(
        "--map-namespace",
        default=DEFAULT_MAP_NAMESPACE,
        metavar="NAME",
        help="where the operator keeps ConfigMap memroute-map, of which the live map "
        "(/map/ on --ops-port) has nodes and devices",
    )
    where.add_argument(
        "--router-name",
        metavar="NAME",
        help="what this router is called on its live map (default: its host's name)",
    )
    where.add_argument("--tls-cert", help="PEM file: serve HTTPS with this certificate (chain)")
    where.add_argument("--tls-key", help="PEM file: its private key, if it is not beside it")
    where.add_argument(
        "--tls-client-ca",
        metavar="FILE",
        help="PEM file: clients must have a certificate that one of these authorities has signed",
    )
    _add_access(group("who may ask"))
    _add_admission(group("admission"))
    _add_limits(group("limits"))
    _add_peers(group("other routers and pickers of the same replicas"))
    parser.add_argument(
        "--access-log",
        type=AccessLog,
        choices=list(AccessLog),
        default=AccessLog.ALL,
        help="which requests get a line in the log",
    )
    parser.add_argument(
        "--log-format",
        type=LogFormat,
        choices=list(LogFormat),
        default=LogFormat.TEXT,
        help="what a line of the log is",
    )
    parser.add_argument(
        "--no-explain-header",
        action="store_true",
        help="tell no client which replica answered and why, also if it sends x-memroute-explain",
    )
    parser.add_argument(
        "--tracing-endpoint",
        metavar="URL",
        help="an OpenTelemetry collector (OTLP over HTTP, as http://collector:4318): requests are "
        "traced",
    )
    parser.add_argument(
        "--tracing-ratio",
        type=_ratio,
        default=DEFAULT_TRACING_RATIO,
        help="of the requests that are traced, 0 to 1; with --trust-headers what a client's "
        "traceparent says goes before it",
    )
    return parser


def _add_admission(group: OptionGroup) -> None:
    group.add_argument(
        "--scrape-seconds", type=above_0, default=1.0, help="how often each replica is read"
    )
    group.add_argument(
        "--tokenizers", metavar="FOLDER",
        help="holds a folder with tokenizer.json (and chat template) for each model, by its name: "
        "tokens are counted, not estimated",
    )  # fmt: skip
    group.add_argument(
        "--kv-events", action="store_true",
        help="hear from the replicas which blocks they have cached (vLLM, SGLang), instead of "
        "guessing by what was sent where; needs --tokenizers, or prompts as token ids",
    )  # fmt: skip
    group.add_argument(
        "--max-attempts", type=int, default=3, help="replicas to try before the first byte"
    )
    group.add_argument(
        "--max-queued-requests",
        type=int,
        default=1024,
        help="requests of one model (of each of its versions) that may wait for room",
    )
    group.add_argument(
        "--max-queued-tokens",
        type=int,
        default=1_000_000,
        help="expected tokens of the requests of one model (of each of its versions) that may wait",
    )
    group.add_argument(
        "--max-queue-seconds",
        type=float,
        default=10.0,
        help="how long a request may wait for room; 0 refuses at once",
    )
    group.add_argument(
        "--hold-without-replicas",
        action="store_true",
        help="hold requests while no replica is ready, for one that is being started, instead of "
        "refusing them at once",
    )
    group.add_argument(
        "--replica-wait-seconds",
        type=float,
        default=300.0,
        help="with --hold-without-replicas: how long a request may wait for a replica that is "
        "being started",
    )


def _add_access(group: OptionGroup) -> None:
    group.add_argument(
        "--keys",
        metavar="FILE",
        help="YAML or JSON file of tenants and the hashes of their keys: others get 401; read "
        "again when it changes",
    )
    group.add_argument(
        "--engine-key-file",
        metavar="FILE",
        help="holds what the router authenticates with at engines, instead of what clients bring; "
        "read again when it changes",
    )
    group.add_argument(
        "--tenants",
        type=TenantSource,
        choices=list(TenantSource),
        default=TenantSource.NONE,
        help="what tells tenants apart, who share fairly: none, the key they authenticate with, "
        "or the header x-memroute-tenant (only behind something that sets it; with "
        "--trusted-proxies, theirs alone)",
    )
    group.add_argument(
        "--trust-headers",
        action="store_true",
        help="believe x-memroute-priority, x-memroute-ttft-ms and x-forwarded-*, whoever sends "
        "them (only behind something that checks them)",
    )
    group.add_argument(
        "--trusted-proxies",
        type=_networks,
        default=(),
        metavar="NETWORKS",
        help="addresses and networks, separated by commas, that are believed as with "
        "--trust-headers: the proxies before the router",
    )
    group.add_argument(
        "--media-hosts",
        type=_media_hosts,
        metavar="HOSTS",
        help="hosts, separated by commas, from which requests may have engines fetch images and "
        "the like, as cdn.example.com, *.example.com or 10.0.0.7:8080; none: only what comes as "
        "data: (default: from anywhere)",
    )


def _media_hosts(text: str) -> MediaHosts:
    try:
        return parse_media_hosts(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return parse_networks(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _add_limits(group: OptionGroup) -> None:
    group.add_argument(
        "--max-connections",
        type=int,
        default=0,
        help="clients' connections, more get 503; 0: half of the files that may be open, or "
        "as many as --max-memory has room for",
    )
    group.add_argument(
        "--max-client-connections",
        type=_count,
        default=0,
        help="of one address (of IPv6, its /64), more get 429; those of --trusted-proxies and "
        "--trust-headers excepted; 0: no number: who has most makes room when all are taken",
    )
    group.add_argument(
        "--max-client-requests",
        type=_count,
        default=0,
        help="of one address that may be under way, more get 429; behind --trusted-proxies of the "
        "address that they tell; 0: nine tenths of --max-connections",
    )
    group.add_argument(
        "--max-body-bytes", type=int, default=32 * 1024**2, help="a larger request is 413"
    )
    group.add_argument(
        "--max-memory",
        type=int,
        default=0,
        metavar="BYTES",
        help="that the process may take: requests that do not fit get 503; 0: what its container "
        "may take, else half of the machine's",
    )
    for name, seconds, what in (
        ("connect-timeout", 2.0, "a replica may take to accept a connection"),
        ("first-byte-timeout", 600.0, "a replica may take to begin its answer"),
        ("stalled-engine", 300.0, "a replica may send nothing of an answer that it has begun"),
        ("stalled-client", 120.0, "a client may take nothing of its answer"),
        ("idle-timeout", 75.0, "a client's connection may be idle"),
        ("header-timeout", 10.0, "a client may take to send the head of a request"),
        ("body-timeout", 60.0, "a client may take to send the body of a request"),
        ("shutdown-timeout", 50.0, "answers may go on after SIGTERM"),
    ):
        group.add_argument(
            f"--{name}-seconds", type=float, default=seconds, help=f"how long {what}"
        )


def _add_peers(group: OptionGroup) -> None:
    group.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="another router or picker, once for each; a name with several addresses is all of "
        "them, and this one's own is left out",
    )
    group.add_argument(
        "--peer-selector",
        metavar="LABELS",
        help="label selector of the pods of routers and pickers: they are found at the API server",
    )
    group.add_argument(
        "--peer-namespace", metavar="NAME", help="where those pods are (default: everywhere)"
    )
    group.add_argument(
        "--peer-port",
        type=port,
        default=DEFAULT_PEER_PORT,
        help="UDP port on which they hear each other",
    )
    group.add_argument(
        "--peer-secret-file",
        metavar="FILE",
        help="a key that all of them share, 16 bytes or more: datagrams without it are dropped",
    )
    group.add_argument(
        "--peer-bytes-per-second",
        type=int,
        default=MAX_BYTES_PER_SECOND,
        help="told to each of them at the most; over it, prompts' keys are left out first",
    )


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        msg = f"{text!r} is below 0"
        raise argparse.ArgumentTypeError(msg)
    return count


def _ratio(text: str) -> float:
    ratio = float(text)
    if not 0 <= ratio <= 1:
        msg = f"{text!r} is not between 0 and 1"
        raise argparse.ArgumentTypeError(msg)
    return ratio


class _Formatter(DefaultsFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults beside their options, examples as they are written."""
