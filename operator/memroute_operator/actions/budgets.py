"""PodDisruptionBudgets: a drain of nodes takes one replica of a ModelDeployment at a time.

``kubectl drain``, cluster autoscalers and node upgrades evict pods through the API server, which
asks the budgets first. Ours are made, removed, and made anew for another number of replicas:

| the ModelDeployment | its budget |
| --- | --- |
| two replicas or more | ``minAvailable``: one less than ``spec.replicas`` |
| one replica or none | none: it would hold up every drain of its node |
| its pods are selected by somebody else's budget | none: a pod with two is never evicted |
| cannot be read | as it is |

Nobody's step depends on a budget, so they are listed with the resync and not watched. Which one
is ours is told by its owner's uid. When its ModelDeployment goes, Kubernetes collects it.
"""

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from memroute_kube import POD_DISRUPTION_BUDGETS, ApiError, KubeObject, KubernetesClient
from memroute_kube.resources import LABEL_DEPLOYMENT, object_key
from memroute_operator.actions.backoff import Backoff
from memroute_operator.actions.lanes import Lanes
from memroute_operator.gather import Facts
from memroute_operator.metrics import OperatorMetrics
from memroute_operator.pod.manifests import owner_reference
from memroute_operator.spec.deployment import INTERNAL_ERROR, Deployment
from memroute_operator.status.events import EventWriter

LOGGER = logging.getLogger(__name__)
# Below so many replicas a budget would allow no eviction at all, or protect nothing.
MIN_REPLICAS = 2
# Before a budget is tried again that was refused, in seconds. Chosen by hand: nothing hurries.
FIRST_WAIT_SECONDS = 1.0
MAX_WAIT_SECONDS = 300.0
# The Event's reason when a budget is refused.
BUDGET_REFUSED = "DisruptionBudgetRefused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A PodDisruptionBudget as far as it matters here."""

    key: str
    uid: str
    owner_uid: str | None
    """Of the object that controls it."""
    selector: KubeObject | None
    """None selects no pod, an empty one every pod of its namespace."""

    min_available: int | None = None
    """As a number; None for any other rule."""

    @property
    def namespace(self) -> str:
        """Its namespace, the only one in which it selects."""
        return self.key.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetChange:
    """A budget to create, or with ``budget`` to remove, and why."""

    deployment: Deployment
    budget: Budget | None
    why: str
    is_renewed: bool = False
    """Whether a new one takes the place of the one that is removed."""

    @property
    def kind(self) -> str:
        """The name of the change in metrics."""
        return "CreateBudget" if self.budget is None else "DeleteBudget"


def disruption_budget(deployment: Deployment) -> KubeObject:
    """The manifest of a ModelDeployment's budget."""
    return {
        "apiVersion": POD_DISRUPTION_BUDGETS.api_version,
        "kind": POD_DISRUPTION_BUDGETS.kind,
        "metadata": {
            "name": deployment.name,
            "namespace": deployment.namespace,
            "labels": {
                LABEL_DEPLOYMENT: deployment.name,
                "app.kubernetes.io/managed-by": "memroute",
            },
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {
            # Not maxUnavailable: Kubernetes would look up the scale of a kind that it may not know
            # for minutes after the CRD was installed, and allows no eviction until then.
            "minAvailable": deployment.replicas - 1,
            "selector": {"matchLabels": {LABEL_DEPLOYMENT: deployment.name}},
            # An engine that is loading or broken serves nobody: it must not hold up a drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def read_budget(obj: KubeObject) -> Budget:
    """A budget from the API server's object. Raises when it has no name or uid."""
    metadata = obj["metadata"]
    owners = metadata.get("ownerReferences") or ()
    number = (obj.get("spec") or {}).get("minAvailable")
    return Budget(
        key=object_key(obj),
        uid=metadata["uid"],
        owner_uid=next((owner["uid"] for owner in owners if owner.get("controller")), None),
        selector=(obj.get("spec") or {}).get("selector"),
        min_available=number if isinstance(number, int) else None,
    )


def selects(selector: KubeObject | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes a pod with these labels, as Kubernetes reads it."""
    if selector is None:
        return False
    pairs = (selector.get("matchLabels") or {}).items()
    return all(labels.get(name) == value for name, value in pairs) and all(
        _meets(one, labels) for one in selector.get("matchExpressions") or ()
    )


def _meets(expression: KubeObject, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    return False


def plan_budgets(
    deployments: Iterable[Deployment],
    labels: Mapping[str, Iterable[Mapping[str, str]]],
    budgets: Iterable[Budget],
) -> list[BudgetChange]:
    """What is missing and what is too much.

    ``labels``: of each deployment's pods, by its key; ``budgets``: all that exist.
    """
    ours: dict[tuple[str, str], Budget] = {}
    others: dict[str, list[Budget]] = {}
    deployments = list(deployments)
    uids = {deployment.uid for deployment in deployments}
    for budget in budgets:
        if budget.owner_uid in uids:
            ours[budget.key, str(budget.owner_uid)] = budget
        else:
            others.setdefault(budget.namespace, []).append(budget)
    changes: list[BudgetChange] = []
    for deployment in deployments:
        failure = deployment.failure
        if failure is not None and failure.reason == INTERNAL_ERROR:
            continue
        own = ours.get((deployment.key, deployment.uid))
        rival = _rival(others.get(deployment.namespace, ()), labels.get(deployment.key, ()))
        if rival is not None:
            why = f"the budget {rival.key} selects its pods, and no pod may have two"
        elif deployment.replicas < MIN_REPLICAS:
            why = f"a budget for {deployment.replicas} replica(s) would only hold up drains"
        else:
            if own is None:
                why = "drains take one replica at a time"
                changes.append(BudgetChange(deployment=deployment, budget=None, why=why))
            elif own.min_available not in (None, deployment.replicas - 1):
                why = f"{deployment.replicas} replicas are wanted"
                change = BudgetChange(deployment=deployment, budget=own, why=why, is_renewed=True)
                changes.append(change)
            continue
        if own is not None:
            changes.append(BudgetChange(deployment=deployment, budget=own, why=why))
    return changes


def _rival(others: Iterable[Budget], labels: Iterable[Mapping[str, str]]) -> Budget | None:
    """Somebody else's budget that selects one of these pods."""
    pods = list(labels)
    return next((one for one in others if any(selects(one.selector, pod) for pod in pods)), None)


@dataclass(slots=True, kw_only=True)
class Budgets:
    """Makes and removes budgets. Owns what is known of those that exist, and what failed."""

    client: KubernetesClient
    lanes: Lanes
    events: EventWriter
    metrics: OperatorMetrics
    clock: Callable[[], float]
    rng: random.Random
    _known: dict[str, Budget] | None = None
    """By ``namespace/name``; None before the first list: nothing is done on what is unknown."""
    _num_writes: int = 0
    _list_error: str | None = None
    _failures: Backoff[str] = field(
        default_factory=lambda: Backoff(
            first_seconds=FIRST_WAIT_SECONDS, max_seconds=MAX_WAIT_SECONDS
        )
    )

    async def list_all(self) -> None:
        """Read which budgets exist. A failure is told once, and the last list stays."""
        num_writes = self._num_writes
        known: dict[str, Budget] = {}
        try:
            async for page, _ in self.client.list_pages(POD_DISRUPTION_BUDGETS):
                for obj in page:
                    budget = _readable(obj)
                    if budget is not None:
                        known[budget.key] = budget
        except ApiError as error:
            if str(error) != self._list_error:
                LOGGER.warning("budgets not listed, tried again with the resync error=%s", error)
            self._list_error = str(error)
            return
        self._list_error = None
        # What was written meanwhile may not be in the list: the next one has it.
        if num_writes == self._num_writes or self._known is None:
            self._known = known

    def start(self, facts: Facts) -> None:
        """Start what is to be done where the lane is free; the rest comes with a later step."""
        if self._known is None:
            return
        labels: dict[str, list[Mapping[str, str]]] = {}
        for replica in facts.replicas:
            pod_labels = replica.obj["metadata"].get("labels") or {}
            labels.setdefault(replica.deployment, []).append(pod_labels)
        now = self.clock()
        for change in plan_budgets(facts.deployments, labels, self._known.values()):
            key = change.deployment.key
            if self._failures.waiting(key, now) is None:
                # A lane of its own: a webhook that hangs on budgets holds up no replica.
                work = partial(self._carry_out, change)
                self.lanes.start(f"{key}/budget", work, is_awaited=False)
        self._failures.forget_old(now)

    def next_due_seconds(self, now_seconds: float) -> float | None:
        """When the first one that was refused is tried again; None when none was."""
        return self._failures.next_due_seconds(now_seconds)

    async def _carry_out(self, change: BudgetChange) -> None:
        deployment = change.deployment
        try:
            await self._write(change)
        except ApiError as error:
            if error.is_global:
                return
            failure = self._failures.failed(
                deployment.key,
                reason=BUDGET_REFUSED,
                message=f"its PodDisruptionBudget was refused: {error.message}",
                now_seconds=self.clock(),
                chance=self.rng.random(),
                retry_after_seconds=error.retry_after_seconds,
            )
            self.metrics.on_failure(change.kind, error.status)
            LOGGER.warning(
                "budget refused change=%s deployment=%s error=%s retry_seconds=%.0f",
                change.kind, deployment.key, error, failure.retry_seconds,
            )  # fmt: skip
            await self.events.write(deployment, reason=BUDGET_REFUSED, message=failure.told)
        else:
            self._failures.succeeded(deployment.key)
            LOGGER.info(
                "budget change=%s deployment=%s why=%r", change.kind, deployment.key, change.why
            )

    async def _write(self, change: BudgetChange) -> None:
        # Counted before and after: a list that runs beside any part of it may lack it.
        self._num_writes += 1
        deployment, budget = change.deployment, change.budget
        known: dict[str, Budget | None] = {}
        if budget is not None:
            name = budget.key.partition("/")[2]
            await self.client.delete(
                POD_DISRUPTION_BUDGETS, deployment.namespace, name, uid=budget.uid
            )
            known[budget.key] = None
        if budget is None or change.is_renewed:
            body = disruption_budget(deployment)
            created = await self.client.create(POD_DISRUPTION_BUDGETS, deployment.namespace, body)
            known[deployment.key] = read_budget(created)
        self._num_writes += 1
        both = (self._known or {}) | known
        self._known = {key: one for key, one in both.items() if one is not None}


def _readable(obj: KubeObject) -> Budget | None:
    """A budget, or None when it cannot be read: it is nobody's then."""
    try:
        budget = read_budget(obj)
        selector = budget.selector or {}
        selects({"matchLabels": selector.get("matchLabels")}, {})
        selects({"matchExpressions": selector.get("matchExpressions")}, {})
    except (KeyError, TypeError, AttributeError):
        LOGGER.warning("budget cannot be read object=%.200r", obj)
        return None
    return budget
