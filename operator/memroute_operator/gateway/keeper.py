"""Keeps what gateways need of memroute as it is to be, and says how that goes.

Where the picker is not installed (no ``--picker-selector``) nothing is watched or written. What is
there is watched, by every operator; the one that leads writes, as a part of its step: an object
that somebody changes or deletes is as before within seconds. Nothing is concluded from what cannot
be listed. That the kind InferencePool is not installed hurts nothing else, and is looked for again
every few seconds.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from memroute_kube import ENDPOINT_SLICES, SERVICES, ApiError, KubernetesClient
from memroute_kube.client import CONFLICT, MERGE_PATCH
from memroute_kube.following import Followed
from memroute_kube.gateway import INFERENCE_POOLS, LABEL_PICKER_SERVICE, asks_for_picker
from memroute_kube.resources import object_key
from memroute_operator.actions.backoff import Backoff, Failure
from memroute_operator.actions.lanes import Lanes
from memroute_operator.gateway.deciding import (
    Change,
    Existing,
    GatewayPlan,
    Verb,
    Wish,
    failure_mode,
    owners_of,
    plan_gateway,
    wish_key,
)
from memroute_operator.gateway.differences import removal
from memroute_operator.gateway.pickers import Pickers, find_pickers
from memroute_operator.gateway.telling import (
    NAME_TAKEN,
    NOT_READ,
    NOTHING,
    PICKER_NOT_INSTALLED,
    POOLS_NOT_INSTALLED,
    REFUSED,
    GatewayView,
    missing,
    pool_view,
)
from memroute_operator.metrics import OperatorMetrics
from memroute_operator.readings.finding import Finder, Pods
from memroute_operator.readings.sources import PodSelector
from memroute_operator.spec.deployment import Deployment

LOGGER = logging.getLogger(__name__)
FIELD_MANAGER = "memroute-operator"
# How often it is looked whether the picker's pods have changed: nothing else wakes the operator
# for pods of others. Unit: seconds. Source: chosen by hand, about a gateway's own health checks.
LOOK_SECONDS = 1.0
# Before what was refused is tried again. Unit: seconds. Source: those of actions (``carry_out``).
FIRST_WAIT_SECONDS = 1.0
MAX_WAIT_SECONDS = 300.0
# Before what is as it was written is put right once more: somebody else may put it right, too, and
# neither would ever end. Unit: seconds. Source: chosen by hand: a person who edits by hand sees it
# within seconds, and a controller that does so costs the API server a write in five.
FIRST_REPAIR_SECONDS = 0.25
MAX_REPAIR_SECONDS = 5.0


@dataclass(slots=True, kw_only=True)
class GatewayKeeper:
    """Owns what is known of InferencePools, Services and EndpointSlices, and what failed."""

    client: KubernetesClient
    lanes: Lanes
    metrics: OperatorMetrics
    pods: Pods
    """All pods that are known."""
    selector: PodSelector | None
    """Of the picker's pods; None: there is no picker."""
    is_tls: bool = False
    """Whether the picker serves by TLS."""
    on_change: Callable[[], None]
    on_bug: Callable[[str, Exception], None]
    """Told of an exception that nobody expected: pools are written by anybody."""
    clock: Callable[[], float]
    rng: random.Random
    namespaces: Sequence[str] = ()
    """That are looked after; none for all."""
    _pickers: Pickers = field(default_factory=lambda: Pickers(namespace=None, labels=None, port=0))
    _away_since: float | None = None
    """Since when no picker is ready, by the clock; None while one is, or nobody has looked."""
    _put_off: set[str] = field(default_factory=set)
    """Whose lanes were busy when a step had something to do: what was under way has changed it."""
    _is_asked_for: bool = False
    """Whether any pool leads to the picker, or should."""
    _find_pickers: Finder[Pickers] | None = None
    """None: there is no picker."""
    _watches: tuple[Followed, ...] = ()
    _plan: GatewayPlan = field(default_factory=lambda: GatewayPlan(changes={}, taken={}, wishes={}))
    _failures: Backoff[str] = field(
        default_factory=lambda: Backoff(
            first_seconds=FIRST_WAIT_SECONDS, max_seconds=MAX_WAIT_SECONDS
        )
    )
    _repairs: Backoff[str] = field(
        default_factory=lambda: Backoff(
            first_seconds=FIRST_REPAIR_SECONDS, max_seconds=MAX_REPAIR_SECONDS
        )
    )
    """How often the same was written again."""
    _written: dict[str, Wish] = field(default_factory=dict)
    """What was written last, by ``Wish.key``."""

    def __post_init__(self) -> None:
        """Nothing is watched before ``run``."""
        if self.selector is not None:
            self._find_pickers = Finder(
                self.pods, partial(find_pickers, selector=self.selector, is_tls=self.is_tls)
            )
            follow = partial(Followed, self.client, namespaces=self.namespaces)
            self._watches = (
                follow(INFERENCE_POOLS, on_change=self.on_change),
                *(
                    follow(one, label_selector=LABEL_PICKER_SERVICE, on_change=self.on_change)
                    for one in (SERVICES, ENDPOINT_SLICES)
                ),
            )

    async def run(self) -> None:
        """Watch until cancelled."""
        if self.selector is None:
            return
        async with asyncio.TaskGroup() as group:
            for one in self._watches:
                group.create_task(one.run(), name=one.resource.plural)
            group.create_task(self._look_forever(), name="pickers")

    async def _look_forever(self) -> None:
        while True:
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - a named boundary: pods are anybody's
                self.on_bug("pickers", error)
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Look where the picker's pods are, while somebody asks for it and pods have changed."""
        if self._find_pickers is None or not self._is_asked_for:
            return
        found = self._find_pickers()
        if found.addresses:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = self.clock()
        if found != self._pickers:
            LOGGER.info("pickers addresses=%s", ",".join(found.addresses) or "none")
            self._pickers = found
            self.on_change()

    def away_seconds(self) -> float | None:
        """For how long no picker has been ready; None while one is, or nobody asks for one."""
        if self._away_since is None or not self._is_asked_for:
            return None
        return self.clock() - self._away_since

    def start(self, deployments: Sequence[Deployment]) -> None:
        """Start what is to be done where the lane is free; the rest comes with a later step."""
        if self.selector is None or not all(one.is_listed for one in self._watches):
            return
        try:
            self._plan = self._planned(deployments)
        except Exception as error:  # noqa: BLE001 - a named boundary: no step is lost for a pool
            self.on_bug("gateway", error)
            return
        now = self.clock()
        wishes = self._plan.wishes
        self._written = {key: one for key, one in self._written.items() if key in wishes}
        for key, _ in self._failures.all_known():
            if key not in self._plan.changes:
                self._failures.succeeded(key)  # somebody else has put it right, or it is not asked
        for key, changes in self._plan.changes.items():
            if self._written.get(key) != wishes.get(key):
                self._repairs.succeeded(key)
            if self._failures.waiting(key, now) or self._repairs.waiting(key, now):
                continue
            work = partial(self._carry_out, key, changes, wishes.get(key))
            on_end = partial(self._lane_ended, key)
            if not self.lanes.start(key, work, is_awaited=False, on_end=on_end):
                self._put_off.add(key)
        self._failures.forget_old(now)
        self._repairs.forget_old(now)

    def _lane_ended(self, key: str) -> None:
        """A watch may tell of what a call did before its answer comes, and tells it once."""
        if key in self._put_off:
            self._put_off.discard(key)
            self.on_change()

    def _planned(self, deployments: Sequence[Deployment]) -> GatewayPlan:
        pools, services, slices = (one.objects for one in self._watches)
        was_asked_for = self._is_asked_for
        self._is_asked_for = any(failure_mode(one) is not None for one in deployments) or any(
            asks_for_picker(one) for one in pools.values()
        )
        if not was_asked_for:
            self._away_since = None
            self.look()  # what is known of its pods is old, or nothing
        existing = Existing(pools=pools, services=services, slices=slices)
        return plan_gateway(deployments, existing, self._pickers)

    def next_due_seconds(self, now_seconds: float) -> float | None:
        """When the first that waits is tried again; None when none does."""
        dues = [one.next_due_seconds(now_seconds) for one in (self._failures, self._repairs)]
        return min((due for due in dues if due is not None), default=None)

    def view(self, deployment: Deployment) -> GatewayView:
        """What its status says of gateways."""
        if failure_mode(deployment) is None:
            return NOTHING
        if self.selector is None:
            why = (
                "spec.routing.gateway needs the endpoint picker, which is not installed: "
                "picker.enabled in the chart, or --picker-selector"
            )
            return missing(PICKER_NOT_INSTALLED, why)
        return self._hindrance(wish_key(deployment)) or pool_view(
            deployment,
            self._watches[0].objects.get(deployment.key),
            len(self._pickers.addresses),
        )

    def _hindrance(self, key: str) -> GatewayView | None:
        """Why not all of it is there; None where nothing is in the way."""
        if self._watches[0].is_missing:
            why = (
                f"the cluster does not know the kind {INFERENCE_POOLS.kind} "
                f"({INFERENCE_POOLS.api_version}): install the Gateway API inference extension; "
                "the pool is written as soon as it is there"
            )
            return missing(POOLS_NOT_INSTALLED, why)
        for one in self._watches:
            if one.trouble is not None:
                return missing(NOT_READ, f"{one.resource.plural} are not known: {one.trouble}")
        if key in self._plan.taken:
            return missing(NAME_TAKEN, self._plan.taken[key])
        failure = self._failures.last(key)
        return None if failure is None else missing(failure.reason, failure.told)

    async def _carry_out(self, key: str, changes: list[Change], wish: Wish | None) -> None:
        for change in changes:
            try:
                await self._write(change)
            except ApiError as error:
                if not error.is_global:
                    self._failed(key, change, error)
                return
            LOGGER.info("%s %s %s", change.verb, change.resource.kind, change.key)
        self._failures.succeeded(key)
        if wish is not None:
            self._note_written(key, wish)

    def _note_written(self, key: str, wish: Wish) -> None:
        """What was written once more has been put right: the next time only after a while."""
        if self._written.get(key) == wish:
            repair = self._repairs.failed(
                key,
                reason="ChangedByOthers",
                message="what leads gateways to the picker is not as it was written",
                now_seconds=self.clock(),
                chance=self.rng.random(),
            )
            LOGGER.info(
                "gateway objects put right key=%s times=%d next_seconds=%.0f",
                key, repair.count, repair.retry_seconds,
            )  # fmt: skip
        self._written[key] = wish

    async def _write(self, change: Change) -> None:
        metadata = change.body["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        if change.verb is Verb.DELETE:
            await self.client.delete(change.resource, namespace, name, uid=metadata["uid"])
            return
        if change.verb is Verb.CREATE:
            try:
                await self.client.create(change.resource, namespace, change.body)
            except ApiError as error:
                if error.status != CONFLICT:
                    raise
                if change.resource is INFERENCE_POOLS:
                    return  # all of them are watched: the next step knows whose it is
                # It is there, and does not have our label: is it ours all the same?
                found = await self.client.get(change.resource, namespace, name)
                if not set(owners_of(found)) & set(owners_of(change.body)):
                    raise
            else:
                return
        applied = await self.client.apply(
            change.resource, namespace, change.body, field_manager=FIELD_MANAGER
        )
        patch = removal(applied, change.body)
        if patch is not None:
            await self.client.patch(
                change.resource, namespace, name, patch, content_type=MERGE_PATCH
            )

    def _failed(self, key: str, change: Change, error: ApiError) -> Failure:
        is_taken = change.verb is Verb.CREATE and error.status == CONFLICT
        what = f"{change.resource.kind} {object_key(change.body)}"
        failure = self._failures.failed(
            key,
            reason=NAME_TAKEN if is_taken else REFUSED,
            message=f"there is a {what} that memroute did not write: remove it"
            if is_taken
            else f"the API server refused {what}: {error.message}",
            now_seconds=self.clock(),
            chance=self.rng.random(),
            retry_after_seconds=error.retry_after_seconds,
        )
        self.metrics.on_failure(change.verb, error.status)
        LOGGER.warning(
            "gateway object refused verb=%s object=%s error=%s retry_seconds=%.0f",
            change.verb, what, error, failure.retry_seconds,
        )  # fmt: skip
        self.on_change()
        return failure
