"""Pods and ModelDeployments as a router reads them: typed, bounded, each for itself.

Everything here may have been written by somebody who means harm, or by a newer release. What
cannot be read of a field is that field's default, and is told (``oddities``); what nothing can be
read of is an ``OddObjectError``.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from memroute.traffic.replica import HostCache
from memroute.traffic.routing import POLICY_NAMES
from memroute.traffic.routing.published import LLM_D_TOKENS_PER_SECOND
from memroute_kube import MODEL_DEPLOYMENTS, KubeObject
from memroute_kube.resources import (
    ANNOTATION_DRAINING,
    ANNOTATION_HOST_KV_NANOSECONDS,
    ANNOTATION_HOST_KV_TOKENS,
    ANNOTATION_KV_CAPACITY_TOKENS,
    ANNOTATION_MAX_CONTEXT_TOKENS,
    ANNOTATION_SERVED_MODEL,
    ENGINE_PORT,
    GROUP,
    LABEL_DEPLOYMENT,
    is_condition_true,
)
from memroute_kube.routing import (
    ClaimedNames,
    RoutingStatus,
    read_claimed_names,
    read_routing_status,
)
from memroute_kube.shapes import (
    OddObjectError,
    is_object_name,
    is_time,
    listed,
    mapping,
    name_of,
    shown,
    tokens,
)
from memroute_kube.words import Words
from memroute_router.discovery.words import ADMISSION_MODES, OVERLOAD_OBJECTIVES
from memroute_router.replicas.pool_settings import (
    DEFAULT_ASSUMED_OUTPUT_TOKENS,
    DEFAULT_TPOT_TARGET_SECONDS,
    DEFAULT_TTFT_TARGET_SECONDS,
    DEFAULT_WATERMARK_RATIO,
    PoolSettings,
)

MAX_PORT = 65_535
# The bounds of spec.routing, as the schema has them.
MIN_WATERMARK_PERCENT = 10.0
MAX_ASSUMED_OUTPUT_TOKENS = 2**20
MAX_TTFT_TARGET_MILLISECONDS = 3_600_000.0
MAX_TPOT_TARGET_MILLISECONDS = 60_000.0
MAX_WEIGHT = 1000.0
# Not in the schema: a thousand times what the fastest engines do.
MAX_PREFILL_TOKENS_PER_SECOND = 1e9
# Of a reason, in characters; Kubernetes allows 1,024.
MAX_REASON_LENGTH = 128
Meaning = TypeVar("Meaning")


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """What a pod says of itself."""

    namespace: str
    name: str
    uid: str
    deployment: str
    """The name of its ModelDeployment, by its label."""
    controller_uid: str | None
    """The ModelDeployment that controls it, by its owner reference."""
    node: str | None
    address: str | None
    """None while it has none."""
    port: int
    is_serving: bool
    """Ready by its kubelet's last word."""
    is_going: bool
    """Draining or terminating."""
    served_name: str | None
    kv_capacity_tokens: int | None
    max_context_tokens: int | None
    host: HostCache | None = None
    """KV cache on its host, by the operator's word on the pod."""
    oddities: tuple[str, ...] = ()
    """What cannot be read of it, a sentence each."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def deployment_key(self) -> str:
        """``namespace/name`` of its ModelDeployment: one of its own namespace, always."""
        return f"{self.namespace}/{self.deployment}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentFacts:
    """What a ModelDeployment asks for, and what the operator has written into its status."""

    namespace: str
    name: str
    uid: str
    created_at: str
    """As the API server has set it: RFC 3339, which sorts by time."""
    names: ClaimedNames
    settings: PoolSettings
    weight: float | None
    """Its share of the traffic; None when it says none."""
    routing: RoutingStatus | None
    """None: written by no operator that knows of it, or out of date."""
    placements: frozenset[tuple[str, str]] = frozenset()
    """Pod and node of each placement in the status: what operators before ``routing`` write."""
    are_placements_cut: bool = False
    """Whether the status counts more replicas than it lists."""
    oddities: tuple[str, ...] = ()

    held_names: frozenset[str] | None = None
    """What it may serve by its status; None when nothing is decided."""
    touched_names: frozenset[str] = frozenset()
    """What it holds; what it asks for, when nothing is decided."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


def read_pod(pod: KubeObject) -> PodFacts:
    """A pod with our label. Raises ``OddObjectError``."""
    metadata, spec, status = (mapping(pod.get(part)) for part in ("metadata", "spec", "status"))
    annotations = mapping(metadata.get("annotations"))
    oddities: list[str] = []
    return PodFacts(
        namespace=_object_name(metadata, "namespace"),
        name=_object_name(metadata, "name"),
        uid=_object_name(metadata, "uid"),
        deployment=_object_name(mapping(metadata.get("labels")), LABEL_DEPLOYMENT),
        controller_uid=_controller_uid(metadata),
        node=node if is_object_name(node := spec.get("nodeName")) else None,
        address=pod_address(status.get("podIP")),
        port=_port(spec),
        is_serving=is_serving(pod),
        is_going="deletionTimestamp" in metadata or ANNOTATION_DRAINING in annotations,
        served_name=name_of(annotations.get(ANNOTATION_SERVED_MODEL)),
        kv_capacity_tokens=_tokens(annotations, ANNOTATION_KV_CAPACITY_TOKENS, oddities),
        max_context_tokens=_tokens(annotations, ANNOTATION_MAX_CONTEXT_TOKENS, oddities),
        host=_host(annotations, oddities),
        oddities=tuple(oddities),
    )


def _host(annotations: Mapping[str, Any], oddities: list[str]) -> HostCache | None:
    capacity = _tokens(annotations, ANNOTATION_HOST_KV_TOKENS, oddities)
    if not capacity:
        return None
    nanoseconds = _tokens(annotations, ANNOTATION_HOST_KV_NANOSECONDS, oddities)
    return HostCache(capacity, nanoseconds / 1e9 if nanoseconds else None)


def is_serving(pod: KubeObject) -> bool:
    """Whether its kubelet has last said that it is ready.

    While a node does not report, the node controller sets its pods' ``Ready`` to False, and leaves
    the word of the kubelet on the containers as it was. All nodes may fall silent at once (a
    certificate, a load balancer of the control plane) while their engines serve on; whether this
    one does, the router sees for itself.
    """
    if is_condition_true(pod, "Ready"):
        return True
    conditions = map(mapping, listed(mapping(pod.get("status")).get("conditions")))
    said = next((c for c in conditions if c.get("type") == "Ready"), None)
    # A reason is the kubelet's own: a container, or a readiness gate of somebody else.
    is_marked = said is not None and said.get("status") == "False" and not said.get("reason")
    return is_marked and is_condition_true(pod, "ContainersReady")


def read_model_deployment(obj: KubeObject) -> DeploymentFacts:
    """A ModelDeployment. Raises ``OddObjectError``."""
    metadata, spec, status = (mapping(obj.get(part)) for part in ("metadata", "spec", "status"))
    created_at = metadata.get("creationTimestamp")
    if not isinstance(created_at, str) or not is_time(created_at):
        message = f"no time of its creation: {shown(created_at)}"
        raise OddObjectError(message)
    placements = [mapping(one) for one in listed(status.get("placements"))]
    routing = _Fields(mapping(spec.get("routing")))
    names = read_claimed_names(obj)
    if len(names.adapters) != len(listed(spec.get("adapters"))):
        routing.oddities.append("some of adapters have no name")
    settings = _pool_settings(metadata, routing, names, _unready_reason(status))
    weight = routing.number("weight", -1.0, 0.0, MAX_WEIGHT)
    num_replicas = status.get("replicas")
    told = read_routing_status(obj)
    held = None if told is None or told.names is None else frozenset(told.since)
    return DeploymentFacts(
        namespace=settings.namespace,
        name=settings.deployment,
        uid=_object_name(metadata, "uid"),
        created_at=created_at,
        names=names,
        settings=settings,
        weight=None if weight < 0 else weight,
        routing=told,
        held_names=held,
        touched_names=frozenset(names.all) if held is None else held,
        placements=frozenset(
            (one["pod"], one["node"])
            for one in placements
            if is_object_name(one.get("pod")) and is_object_name(one.get("node"))
        ),
        are_placements_cut=isinstance(num_replicas, int) and num_replicas > len(placements),
        oddities=tuple(routing.oddities),
    )


class _Fields:
    """The fields of ``spec.routing``, each its default where it cannot be read."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self.oddities: list[str] = []

    def number(self, name: str, default: float, least: float, most: float) -> float:
        """A number within bounds."""
        value = self.given.get(name)
        if value is None:
            return default
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and least <= value <= most:  # no infinity, and not what is no number
            return float(value)
        self.oddities.append(f"routing.{name} is {shown(value)}")
        return default

    def word(self, name: str, words: Words[Meaning]) -> Meaning:
        """One of an enumeration; a newer schema may know more of them than this router."""
        value = self.given.get(name)
        found = words.meaning(value)
        if found is None and value is not None:
            self._unknown(name, value, words.default)
        return words.read(words.default) if found is None else found

    def policy(self) -> str:
        """The name of a policy that is known."""
        value = self.given.get("policy")
        if isinstance(value, str) and value in POLICY_NAMES:
            return value
        if value is not None:
            self._unknown("policy", value, POLICY_NAMES[0])
        return POLICY_NAMES[0]

    def _unknown(self, name: str, value: object, default: str) -> None:
        self.oddities.append(f"routing.{name} {shown(value)} is not known here: {default} is taken")


def _pool_settings(
    metadata: Mapping[str, Any], routing: _Fields, names: ClaimedNames, unready_reason: str | None
) -> PoolSettings:
    """How its pool admits."""
    return PoolSettings(
        namespace=_object_name(metadata, "namespace"),
        deployment=_object_name(metadata, "name"),
        watermark_ratio=routing.number(
            "kvWatermarkPercent", DEFAULT_WATERMARK_RATIO * 100, MIN_WATERMARK_PERCENT, 100.0
        )
        / 100,
        assumed_output_tokens=int(
            routing.number(
                "assumedOutputTokens", DEFAULT_ASSUMED_OUTPUT_TOKENS, 1.0, MAX_ASSUMED_OUTPUT_TOKENS
            )
        ),
        policy=routing.policy(),
        prefill_tokens_per_second=routing.number(
            "prefillTokensPerSecond", LLM_D_TOKENS_PER_SECOND, 1.0, MAX_PREFILL_TOKENS_PER_SECOND
        ),
        admission=routing.word("admission", ADMISSION_MODES),
        ttft_target_seconds=routing.number(
            "ttftTargetMilliseconds",
            DEFAULT_TTFT_TARGET_SECONDS * 1e3,
            1.0,
            MAX_TTFT_TARGET_MILLISECONDS,
        )
        / 1e3,
        tpot_target_seconds=routing.number(
            "tpotTargetMilliseconds",
            DEFAULT_TPOT_TARGET_SECONDS * 1e3,
            1.0,
            MAX_TPOT_TARGET_MILLISECONDS,
        )
        / 1e3,
        overload_objective=routing.word("overloadObjective", OVERLOAD_OBJECTIVES),
        adapters=names.adapters,
        unready_reason=unready_reason,
        created_at=str(metadata["creationTimestamp"]),
    )


def _unready_reason(status: Mapping[str, Any]) -> str | None:
    for condition in map(mapping, listed(status.get("conditions"))):
        if condition.get("type") == "Ready" and condition.get("status") != "True":
            return str(condition.get("reason"))[:MAX_REASON_LENGTH]
    return None


def _object_name(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not is_object_name(value):
        message = f"no {name}: {shown(value)}"
        raise OddObjectError(message)
    return value


def _controller_uid(metadata: Mapping[str, Any]) -> str | None:
    """The uid of the ModelDeployment that controls it; None when none does."""
    for owner in map(mapping, listed(metadata.get("ownerReferences"))):
        if owner.get("controller") is True:
            is_ours = (
                owner.get("kind") == MODEL_DEPLOYMENTS.kind
                and str(owner.get("apiVersion")).partition("/")[0] == GROUP
            )
            uid = owner.get("uid")
            return uid if is_ours and isinstance(uid, str) else None
    return None


def pod_address(value: object) -> str | None:
    """An address that a pod can have, in its one spelling; None while it has none.

    Not one that means all hosts, several, or whoever is next on the wire: cloud providers answer
    there with the node's own credentials. Loopback is one: emulated nodes give their pods such.
    """
    if value is None or value == "":
        return None
    try:
        address = ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        address = None
    if (
        address is None
        or getattr(address, "scope_id", None)
        or address.is_unspecified
        or address.is_multicast
        or address.is_link_local
    ):
        message = f"its address is none of a pod: {shown(value)}"
        raise OddObjectError(message)
    return str(address)


def _port(spec: Mapping[str, Any]) -> int:
    """The port named http; the engines' default when no container has one."""
    for container in map(mapping, listed(spec.get("containers"))):
        for port in map(mapping, listed(container.get("ports"))):
            if port.get("name") == "http":
                number = port.get("containerPort")
                if type(number) is int and 0 < number <= MAX_PORT:
                    return number
                message = f"its port is none: {shown(number)}"
                raise OddObjectError(message)
    return ENGINE_PORT


def _tokens(annotations: Mapping[str, Any], name: str, oddities: list[str]) -> int | None:
    text = annotations.get(name)
    number = tokens(text) if isinstance(text, str) else None
    if number is None and text is not None:
        oddities.append(f"{name} is no number of tokens: {shown(text)}")
    return number
