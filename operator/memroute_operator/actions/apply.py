"""Actions to API calls. Every answer goes into the store: what was written is counted at once."""

import logging
from datetime import UTC, datetime

from memroute.placement import Placed, PlacementMode, Reservation, SleepHold
from memroute_kube import PODS, ApiError, KubeObject, KubernetesClient
from memroute_kube.client import CONFLICT, JSON_PATCH, NOT_FOUND, UNPROCESSABLE
from memroute_kube.errors import BAD_REQUEST, FORBIDDEN
from memroute_kube.resources import object_key
from memroute_operator.actions.aheads import AheadApplier
from memroute_operator.actions.deleting import delete_pod
from memroute_operator.plan import (
    Action,
    ClaimRoom,
    Create,
    Delete,
    EndFetch,
    FetchAhead,
    GiveWay,
    MarkDraining,
    MarkSleep,
    OnPods,
    OpenGate,
)
from memroute_operator.pod.templates import Templates
from memroute_operator.replicas.giving_way import ANNOTATION_GIVES_WAY, encode_gives_way
from memroute_operator.replicas.leaving import draining_marks
from memroute_operator.replicas.pods import describe_owner, is_ours
from memroute_operator.replicas.promises import encode_claim
from memroute_operator.replicas.replica import ANNOTATION_SUCCESSOR, START_GATE, Replica
from memroute_operator.settings import OperatorSettings
from memroute_operator.sleeping.mark import ANNOTATION_SLEEP, mark_now
from memroute_operator.spec.deployment import Deployment
from memroute_operator.store.store import Store
from memroute_operator.weights.choosing import Fetched
from memroute_operator.weights.pod import with_live_pods

LOGGER = logging.getLogger(__name__)
# The reason of a create whose name another pod has.
NAME_TAKEN = "NameTaken"
# What the API server says of a pod that it would not take; all else may be otherwise in a moment.
WOULD_REFUSE = frozenset({BAD_REQUEST, FORBIDDEN, UNPROCESSABLE})
# A quota answers 403 like a policy, and nothing but its words tells them apart. The replica that is
# about to go still counts against it.
QUOTA_WORDS = "exceeded quota"


class RehearsalRefusedError(ApiError):
    """The API server would not take the pod of a replica that others would give way to."""


def pod_key(action: Action) -> str:
    """``namespace/name`` of the pod that the action is about."""
    if isinstance(action, Create):
        return f"{action.deployment.namespace}/{action.placed.key.pod_name}"
    if isinstance(action, FetchAhead):
        return action.pod_key
    return action.ahead.key if isinstance(action, EndFetch) else action.replica.key


def deployment_key(action: Action) -> str:
    """``namespace/name`` of the ModelDeployment that the action is for."""
    match action:
        case Create() | FetchAhead():
            return action.deployment.key
        case EndFetch():
            return action.ahead.deployment
    return action.replica.deployment


def promised(action: Create) -> Reservation:
    """What the pod will hold, to be counted before anybody has seen it."""
    placed = action.placed
    shared = placed.mode is PlacementMode.SHARED
    return Reservation(
        owner=pod_key(action),
        deployment=action.deployment.key,
        node=placed.node,
        device_bytes=dict.fromkeys(placed.device_uuids, placed.bytes_per_device) if shared else {},
        num_exclusive_devices=0 if shared else placed.num_devices,
        exclusive_bytes=0 if shared else placed.bytes_per_device,
        resource=placed.resource,
        occupancy_ratio=placed.occupancy_ratio,
        sleep=None if placed.rest_bytes is None else SleepHold(rest_bytes=placed.rest_bytes),
        host_bytes=placed.host_bytes,
    )


class Applier:
    """Carries out one action at a time for whoever asks."""

    def __init__(self, client: KubernetesClient, store: Store, settings: OperatorSettings) -> None:
        self._client = client
        self._store = store
        self._templates = Templates.from_settings(settings)
        self._aheads = AheadApplier(client, store, self._templates, self._take)

    async def apply(self, action: Action) -> bool:
        """Carry out one action; False when the cluster has moved on and the next step sees why.

        Raises ``ApiError`` when the API server refuses. A name that is taken is 409 with the
        reason ``NameTaken``.
        """
        if isinstance(action, FetchAhead | EndFetch):
            return await self._aheads.apply(action)
        try:
            return await self._apply(action)
        except ApiError as error:
            if isinstance(action, Create) or error.status not in (NOT_FOUND, CONFLICT):
                raise
            LOGGER.info("action superseded action=%s error=%s", type(action).__name__, error)
            if error.status == NOT_FOUND:
                self._store.pods.forget(action.replica.key, action.replica.uid)
            return False

    async def _apply(self, action: OnPods) -> bool:
        match action:
            case Create():
                return await self._create(action)
            case Delete():
                await self._delete(action)
            case MarkDraining():
                await self._mark(action)
            case ClaimRoom():
                await self._claim(action)
            case GiveWay():
                await self._give_way(action)
            case OpenGate():
                return await self._open_gate(action)
            case MarkSleep():
                await self._mark_sleep(action)
        return True

    async def _create(self, action: Create) -> bool:
        pod = with_live_pods(
            self._templates.pod(action.deployment, action.placed, is_gated=action.is_gated),
            self._store.pods.values(),
            datetime.now(UTC).timestamp(),
        )
        try:
            created = await self._client.create(
                PODS,
                action.deployment.namespace,
                pod,
                # A field of the template that no pod has is told, not dropped.
                is_strict=bool(action.deployment.template.said),
            )
        except ApiError as error:
            if error.status != CONFLICT:
                raise
            holder = self._store.pods.get(pod_key(action))
            if holder is not None and is_ours(holder):
                return False
            whose = "is not known yet" if holder is None else describe_owner(holder)
            message = f'pods "{action.placed.key.pod_name}" {whose}'
            raise ApiError(CONFLICT, NAME_TAKEN, message) from error
        self._take(created)
        LOGGER.info(
            "replica placed pod=%s node=%s devices=%s hbm_bytes=%d why=%r",
            pod_key(action), action.placed.node,
            ",".join(action.placed.device_uuids) or action.placed.num_devices,
            action.placed.bytes_per_device, action.placed.why,
        )  # fmt: skip
        return True

    async def _delete(self, action: Delete) -> None:
        replica = action.replica
        await delete_pod(
            self._client, self._store, replica,
            force=action.force, only_as_seen=action.only_as_seen, take=self._take,
        )  # fmt: skip
        LOGGER.info("replica deleted pod=%s force=%s why=%r", replica.key, action.force, action.why)

    async def _mark(self, action: MarkDraining) -> None:
        replica = action.replica
        since = datetime.now(UTC).isoformat(timespec="milliseconds") if action.draining else None
        marks = draining_marks(replica.successor, since)
        patched = await self._client.patch(
            PODS,
            replica.namespace,
            replica.pod_name,
            {"metadata": {"uid": replica.uid, "annotations": marks}},
        )
        self._take(patched)
        LOGGER.info("replica draining=%s pod=%s", action.draining, replica.key)

    async def _mark_sleep(self, action: MarkSleep) -> None:
        replica = action.replica
        mark = mark_now(
            action.state, datetime.now(UTC), replica.num_restarts, action.makes_room_for
        )
        # As it was seen: a mark that was not answered may come through later than one that was
        # written after it, and "asleep" would lend the bytes of an engine that has been woken.
        seen = {
            "uid": replica.uid, "resourceVersion": replica.obj["metadata"]["resourceVersion"],
        }  # fmt: skip
        patched = await self._client.patch(
            PODS,
            replica.namespace,
            replica.pod_name,
            {"metadata": seen | {"annotations": {ANNOTATION_SLEEP: mark.text()}}},
        )
        self._take(patched)
        LOGGER.info("replica sleep=%s pod=%s why=%r", action.state.value, replica.key, action.why)

    async def _rehearse(
        self,
        deployment: Deployment,
        placed: Placed,
        *,
        consequence: str = "the pod of the new spec is refused, so the old one stays",
        frees_quota: bool = True,
    ) -> None:
        """Ask the API server whether it would take the successor's pod.

        A template may say what only the API server can judge, and its replica is drained before
        the pod is created: a model must not be lost by a typing error. Raises ``ApiError`` when
        the pod would be refused whatever else happens. ``consequence``: for its
        message. ``frees_quota``: whether whoever leaves for it counts against the same
        ResourceQuota.
        """
        pod = self._templates.pod(deployment, placed, is_gated=False)
        # The old pod may still have the name.
        pod["metadata"]["name"] += "-rehearsal"
        try:
            await self._client.create(
                PODS, deployment.namespace, pod, is_strict=True, is_dry_run=True
            )
        except ApiError as error:
            if error.status not in WOULD_REFUSE or (frees_quota and QUOTA_WORDS in error.message):
                return
            message = f"{consequence}: {error.message}"
            raise ApiError(error.status, error.reason, message) from error

    async def _claim(self, action: ClaimRoom) -> None:
        replica, deployment = action.replica, action.deployment
        is_judged_by_others = deployment is not None and (
            deployment.template.said or isinstance(deployment.weights, Fetched)
        )
        if action.placed is not None and deployment is not None and is_judged_by_others:
            await self._rehearse(deployment, action.placed)
        claim = action.placed and encode_claim(action.placed, revision=action.revision)
        patched = await self._client.patch(
            PODS,
            replica.namespace,
            replica.pod_name,
            {"metadata": {"uid": replica.uid, "annotations": {ANNOTATION_SUCCESSOR: claim}}},
        )
        self._take(patched)
        LOGGER.info("room claimed for the successor pod=%s claim=%s", replica.key, claim)

    async def _give_way(self, action: GiveWay) -> None:
        replica, deployment, placed = action.replica, action.deployment, action.placed
        text = None
        if deployment is not None and placed is not None:
            try:
                same = deployment.namespace == replica.namespace
                consequence = "its pod would be refused, so nobody gives way to it"
                await self._rehearse(deployment, placed, consequence=consequence, frees_quota=same)
            except ApiError as error:
                raise RehearsalRefusedError(error.status, error.reason, error.message) from error
            text = encode_gives_way(deployment, placed, action.priority)
        patched = await self._client.patch(
            PODS,
            replica.namespace,
            replica.pod_name,
            {"metadata": {"uid": replica.uid, "annotations": {ANNOTATION_GIVES_WAY: text}}},
        )
        self._take(patched)
        LOGGER.info("replica gives way pod=%s way=%s why=%r", replica.key, text, action.why)

    async def _open_gate(self, action: OpenGate) -> bool:
        replica = action.replica
        index = gate_index(replica)
        if index is None:
            return False
        try:
            patched = await self._client.patch(
                PODS,
                replica.namespace,
                replica.pod_name,
                # Ours alone: others (Kueue) hold pods by gates of their own.
                [
                    {"op": "test", "path": "/metadata/uid", "value": replica.uid},
                    {
                        "op": "test",
                        "path": f"/spec/schedulingGates/{index}/name",
                        "value": START_GATE,
                    },
                    {"op": "remove", "path": f"/spec/schedulingGates/{index}"},
                ],
                content_type=JSON_PATCH,
            )
        except ApiError as error:
            if error.status != UNPROCESSABLE:
                raise
            LOGGER.info("gates have moved pod=%s error=%s", replica.key, error)
            return False
        self._take(patched)
        LOGGER.info("replica may start pod=%s", replica.key)
        return True

    def _take(self, pod: KubeObject) -> None:
        """Count what was written before its event comes."""
        try:
            object_key(pod)
        except (KeyError, TypeError):
            LOGGER.warning("answer without a pod answer=%.200r", pod)
            return
        self._store.pods.upsert(pod)


def gate_index(replica: Replica) -> int | None:
    """Where our gate is among the pod's; None when it has none (any more)."""
    gates = replica.obj["spec"].get("schedulingGates") or ()
    return next((i for i, gate in enumerate(gates) if gate.get("name") == START_GATE), None)
