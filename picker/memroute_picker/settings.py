"""What the picker is told when it starts: the router's options that it has a use for, and its own.

Read once.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

from memroute_kube.shapes import is_object_name
from memroute_picker.pools.objectives import MAX_PRIORITY
from memroute_router.options import settings_parser
from memroute_router.settings import RouterSettings, settings_of

# Of the picker. Source: the convention of endpoint pickers.
DEFAULT_PORT: Final = 9002
# Of one answer. Source: chosen by hand; a gateway tries two or three.
MAX_ENDPOINTS: Final = 8
# The gateway keeps its clients' connections itself, and asks once for each request.
WITHOUT: Final = frozenset(
    {
        "--max-attempts", "--max-client-connections", "--max-client-requests",
        "--idle-timeout-seconds", "--header-timeout-seconds", "--body-timeout-seconds",
        "--stalled-client-seconds",
    }
)  # fmt: skip

# What the router's options are here, where they are something else.
TEXTS: Final = {
    "--max-connections": "streams (requests) that one connection of a gateway may have at once; 0: "
    "half of the files that may be open, or as many as --max-memory has room for",
    "--tls-cert": "PEM file: serve gRPC by TLS with this certificate (chain)",
    "--tls-client-ca": "PEM file: gateways must have a certificate that one of these authorities "
    "has signed",
}

EXAMPLES: Final = """\
on Kubernetes, for ModelDeployments
  memroute-picker --namespace models

on Kubernetes, for ModelDeployments and for every InferencePool that is labelled
memroute.dev/picker=serve: what the chart runs
  memroute-picker --inference-pools

on Kubernetes, for the pods of an InferencePool, whoever has deployed them
  memroute-picker --inference-pool models/llama

without Kubernetes, from the router's file of models and replicas (their urls
name addresses)
  memroute-picker --config router.yaml

behind a gateway that knows its users, and strips what they claim of themselves
  memroute-picker --trust-headers --tenants header --objective batch=-10

what it decides is at the port of operations, as the router's
  curl localhost:8002/debug/decisions; curl localhost:8002/metrics
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PickerSettings:
    """Settings of one picker process."""

    router: RouterSettings
    inference_pool: tuple[tuple[str, str], ...]
    """Namespace and name of the pools whose pods are picked from; none: ModelDeployments'."""
    inference_pools: bool
    """Whether pools that ask for it are followed beside ModelDeployments."""
    max_endpoints: int
    objective: dict[bytes, int]
    """Priorities by the names of objectives."""
    pass_other_paths: bool
    conformance_test: bool


def parse_settings(argv: Sequence[str]) -> PickerSettings:
    """Settings from the command line; each has a default that fits the shipped manifests."""
    parser = settings_parser(
        "memroute-picker",
        "Tells a gateway's Envoy (ext_proc) to which replica each OpenAI-API request\n"
        "goes, and when; it decides as memroute-router does.",
        EXAMPLES,
        default_port=DEFAULT_PORT,
        without=WITHOUT,
        texts=TEXTS,
    )
    group = parser.add_argument_group("the gateway")
    group.add_argument(
        "--inference-pool",
        action="append",
        default=[],
        type=_pool,
        metavar="NAMESPACE/NAME",
        help="pick from the pods of this InferencePool, under any model name, instead of from "
        "ModelDeployments'; may be given several times: which one is meant says the name of the "
        "Service that the gateway has called, or the endpoints that it allows",
    )
    group.add_argument(
        "--inference-pools",
        action="store_true",
        help="beside ModelDeployments, pick from the pods of every InferencePool that is labelled "
        "memroute.dev/picker=serve, in the namespaces of --namespace",
    )
    group.add_argument(
        "--max-endpoints",
        type=_max_endpoints,
        default=1,
        help="endpoints that one answer names, in order: more than one needs a gateway that goes "
        "down the list (override_host)",
    )
    group.add_argument(
        "--objective",
        action="append",
        default=[],
        type=_objective,
        metavar="NAME=PRIORITY",
        help="the priority of requests with x-llm-d-inference-objective: NAME, as "
        "x-memroute-priority has it; with --trust-headers or --trusted-proxies; may be given "
        "several times",
    )
    group.add_argument(
        "--pass-other-paths",
        action="store_true",
        help="requests that are none of the API go to any ready replica, and are not admitted "
        "(default: they get 404)",
    )
    group.add_argument(
        "--conformance-test",
        action="store_true",
        help="for tests of gateways alone: a client may choose the endpoint "
        "(test-epp-endpoint-selection), and other paths pass",
    )
    values = vars(parser.parse_args(argv))
    router = settings_of(
        parser, {field.name: values[field.name] for field in fields(RouterSettings)}
    )
    pools = tuple(dict.fromkeys(values["inference_pool"]))
    if pools and (router.config or router.namespace or values["inference_pools"]):
        parser.error("--inference-pool excludes --config, --namespace and --inference-pools")
    if router.config and values["inference_pools"]:
        parser.error("--inference-pools excludes --config")
    is_test = values["conformance_test"]
    return PickerSettings(
        router=router,
        inference_pool=pools,
        inference_pools=values["inference_pools"],
        max_endpoints=values["max_endpoints"],
        objective=dict(values["objective"]),
        pass_other_paths=values["pass_other_paths"] or is_test,
        conformance_test=is_test,
    )


def _pool(text: str) -> tuple[str, str]:
    namespace, _, name = text.partition("/")
    if not is_object_name(namespace) or not is_object_name(name):
        msg = f"{text!r} is not NAMESPACE/NAME"
        raise argparse.ArgumentTypeError(msg)
    return namespace, name


def _max_endpoints(text: str) -> int:
    count = int(text)
    if not 1 <= count <= MAX_ENDPOINTS:
        msg = f"{text!r} is not between 1 and {MAX_ENDPOINTS}"
        raise argparse.ArgumentTypeError(msg)
    return count


def _objective(text: str) -> tuple[bytes, int]:
    name, _, priority = text.partition("=")
    if not name or not priority.lstrip("-").isdigit() or abs(int(priority)) > MAX_PRIORITY:
        msg = f"{text!r} is not NAME=PRIORITY, with a priority of -{MAX_PRIORITY} to {MAX_PRIORITY}"
        raise argparse.ArgumentTypeError(msg)
    return name.encode(), int(priority)
