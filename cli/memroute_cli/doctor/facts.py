"""What checks decide on: objects as the API server has them, and what could not be read."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

from memroute_kube import KubeObject
from memroute_kube.shapes import listed, mapping
from memroute_operator.readings.fleet_view import FleetView

NAME_LABEL = "app.kubernetes.io/name"
PART_OF_LABEL = "app.kubernetes.io/part-of"
COMPONENT_LABEL = "app.kubernetes.io/component"
MEMROUTE = "memroute"
OPERATOR, ROUTER, PICKER = "operator", "router", "picker"


@dataclass(frozen=True, slots=True)
class Unread:
    """Why something is not known, as a sentence."""

    why: str
    next_step: str = "ask an administrator for the ClusterRole memroute-look, or run it as one"


Objects = tuple[KubeObject, ...] | Unread


@dataclass(frozen=True, slots=True)
class Right:
    """One thing that an account may do or not, as RBAC says it."""

    verb: str
    group: str
    resource: str
    namespace: str | None = None
    """None: in the whole cluster."""
    name: str | None = None

    @property
    def words(self) -> str:
        """Such as ``list nodes`` or ``get configmaps/memroute-fleet in memroute-system``."""
        named = f"/{self.name}" if self.name else ""
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.resource}{named}{where}"


Rights = Mapping[Right, bool] | Unread
"""Whether each is granted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutcome:
    """What became of a test request."""

    url: str
    model: str
    status: int | None
    """None: nothing answered."""
    seconds: float
    message: str = ""
    """The router's own words, or why nothing answered."""
    replica: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """What is asked of each operator: there is one for a namespace."""

    namespace: str
    rights: Rights
    """Of its service account."""
    view: FleetView | Unread | None
    """What it has told; None: nothing yet."""
    name: str = "memroute-operator"
    """Of its Deployment."""

    @property
    def logs(self) -> str:
        """The command that shows what it says."""
        return f"kubectl -n {self.namespace} logs deploy/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One look at a cluster."""

    now: datetime
    program_version: str
    namespace: str
    """Of the operator that was named, or found first."""
    server_version: str | Unread
    crd: KubeObject | Unread | None
    """None: there is none."""
    deployments: Objects
    daemon_sets: Objects
    pods: Objects
    nodes: Objects
    leases: Objects
    """Of the namespaces of all operators."""
    services: Objects
    endpoint_slices: Objects
    runtime_classes: Objects
    namespaces: Objects
    quotas: Objects
    webhooks: Objects
    """Validating and mutating configurations."""
    model_deployments: Objects
    pools: Objects | None
    """InferencePools; None: the kind is not installed."""
    objectives: Objects
    """InferenceObjectives of either group; none where neither kind is installed."""
    pool_services: Objects
    """Services of the namespaces that have pools."""
    view: FleetView | Unread | None
    """What the operator has told; None: nothing yet."""
    own_rights: Rights
    operator_rights: Rights
    request: RequestOutcome | None = None
    """None: none was asked for."""
    others: tuple[Operator, ...] = ()
    """Operators of further releases, in namespaces of their own."""
    crd_fields: frozenset[str] = field(default_factory=frozenset)
    """Paths that this program's CRD has."""

    @property
    def operators(self) -> tuple[Operator, ...]:
        """All of them; the one of ``namespace`` first."""
        programs = self.programs(OPERATOR)
        names = {} if isinstance(programs, Unread) else {
            str(one["metadata"].get("namespace")): name_of(one) for one in programs
        }  # fmt: skip
        first = Operator(namespace=self.namespace, rights=self.operator_rights, view=self.view)
        return tuple(
            replace(one, name=names.get(one.namespace, one.name)) for one in (first, *self.others)
        )

    def named(self, operator: Operator) -> str:
        """``the operator``, and of which namespace where there are several."""
        return f"the operator of {operator.namespace}" if self.others else "the operator"

    def programs(self, component: str) -> Objects:
        """Deployments of one of memroute's programs, in whatever namespace."""
        if isinstance(self.deployments, Unread):
            return self.deployments
        return tuple(one for one in self.deployments if is_program(one, component))

    def pods_of(self, deployment: KubeObject) -> tuple[KubeObject, ...]:
        """The pods that a Deployment's selector matches; none where pods are not known."""
        if isinstance(self.pods, Unread):
            return ()
        wanted = mapping(mapping(spec_of(deployment).get("selector")).get("matchLabels"))
        namespace = deployment["metadata"].get("namespace")
        return tuple(
            pod for pod in self.pods
            if pod["metadata"].get("namespace") == namespace
            and wanted and wanted.items() <= labels_of(pod).items()
        )  # fmt: skip


def is_program(obj: KubeObject, component: str) -> bool:
    """Whether labels say that it is this program of memroute."""
    labels = labels_of(obj)
    is_ours = MEMROUTE in (labels.get(NAME_LABEL), labels.get(PART_OF_LABEL))
    return is_ours and labels.get(COMPONENT_LABEL) == component


def labels_of(obj: KubeObject) -> dict[str, Any]:
    """Labels; empty where there are none."""
    return dict(mapping(mapping(obj.get("metadata")).get("labels")))


def spec_of(obj: KubeObject) -> dict[str, Any]:
    """The spec; empty where there is none."""
    return dict(mapping(obj.get("spec")))


def status_of(obj: KubeObject) -> dict[str, Any]:
    """The status; empty where there is none."""
    return dict(mapping(obj.get("status")))


def name_of(obj: KubeObject) -> str:
    """The name alone."""
    return str(obj["metadata"]["name"])


def containers_of(obj: KubeObject) -> list[dict[str, Any]]:
    """Containers of a pod, or of a Deployment's template."""
    spec = spec_of(obj)
    template = mapping(mapping(spec.get("template")).get("spec"))
    return [dict(mapping(one)) for one in listed((template or spec).get("containers"))]


def arguments_of(deployment: KubeObject, flag: str) -> list[str]:
    """What its containers are given for a flag: ``--flag=value``, ``--flag value``, or nothing."""
    found = []
    for container in containers_of(deployment):
        arguments = [str(one) for one in listed(container.get("args"))]
        for argument, following in pairwise([*arguments, ""]):
            name, equals, value = argument.partition("=")
            if name == flag:
                found.append(value if equals else "" if following.startswith("--") else following)
    return found
