"""What was read of the cluster and what is believed of it, kept true in the pools.

The decisions are ``belief``'s. Here each object fails alone: what cannot be read of one is told
once (``doubts``) and changes nothing for the others. What was believed of it before stays, but a
replica that cannot be read, or is no longer believed, gets no new requests. What it answers goes
on until its pod is gone.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from memroute_kube import MODEL_DEPLOYMENTS, PODS, KubeObject
from memroute_kube.shapes import OddObjectError
from memroute_router.discovery.belief import Disbelief, Member, NotMember, believe
from memroute_router.discovery.doubts import Doubts
from memroute_router.discovery.kube_objects import (
    DeploymentFacts,
    PodFacts,
    read_model_deployment,
    read_pod,
)
from memroute_router.discovery.name_book import NameBook
from memroute_router.http.client import Endpoint
from memroute_router.replicas.pools import Pools
from memroute_router.replicas.replica import Replica, ReplicaInfo

LOGGER = logging.getLogger(__name__)
POD, MODEL_DEPLOYMENT = PODS.kind, MODEL_DEPLOYMENTS.kind
Facts = TypeVar("Facts", PodFacts, DeploymentFacts)


class Beliefs:
    """Owns what was read, and the membership and settings of the pools. Raises nothing."""

    def __init__(
        self,
        pools: Pools,
        *,
        on_upsert: Callable[[Replica], None],
        on_gone: Callable[[Replica], None],
        doubts: Doubts,
    ) -> None:
        """``on_upsert`` and ``on_gone`` are told of every replica that changes or ends."""
        self._pools = pools
        self._on_upsert = on_upsert
        self._on_gone = on_gone
        self._doubts = doubts
        self._pods: dict[str, PodFacts] = {}
        self._pods_of: dict[str, set[str]] = {}
        """Keys of pods, by the key of the ModelDeployment that their label names."""
        self._members: dict[str, Member] = {}
        self._infos: dict[str, ReplicaInfo] = {}
        """What the pools have, by the key of the pod."""
        self._names = NameBook()
        """ModelDeployments as they were when they could last be read."""
        self._unreadable: set[str] = set()
        """Keys of ModelDeployments that cannot be read now."""
        self._has_deployments = False

    def pod_seen(self, key: str, obj: KubeObject) -> None:
        """A pod is there, or has changed."""
        pod = self._read(POD, key, read_pod, obj)
        self._forget_pod(key)
        if pod is None:
            self._close(key)
            return
        self._pods[key] = pod
        self._pods_of.setdefault(pod.deployment_key, set()).add(key)
        self._settle({key})

    def pod_gone(self, key: str) -> None:
        """A pod is gone."""
        self._forget_pod(key)
        self._members.pop(key, None)
        self._drop(key)
        self._doubts.clear(POD, key)

    def deployment_seen(self, key: str, obj: KubeObject) -> None:
        """A ModelDeployment is there, or has changed. What cannot be read stays as it was."""
        deployment = self._read(MODEL_DEPLOYMENT, key, read_model_deployment, obj)
        if deployment is None:
            self._unreadable.add(key)
        else:
            self._unreadable.discard(key)
            self._decide(key, deployment)

    def deployment_gone(self, key: str) -> None:
        """A ModelDeployment is gone."""
        self._doubts.clear(MODEL_DEPLOYMENT, key)
        self._unreadable.discard(key)
        self._decide(key, None)

    def deployments_listed(self) -> None:
        """All ModelDeployments have been seen: before that nothing is decided."""
        if not self._has_deployments:
            self._has_deployments = True
            self._apply(self._names.keys(), self._names.models())
            self._settle(set(self._pods))

    def pods(self) -> set[str]:
        """The keys of the pods that are known, readable or not."""
        return {*self._pods, *self._infos, *self._members}

    def deployments(self) -> set[str]:
        """The keys of the ModelDeployments that are known, readable or not."""
        return self._names.keys() | self._unreadable

    def _read(
        self, kind: str, key: str, read: Callable[[KubeObject], Facts], obj: KubeObject
    ) -> Facts | None:
        """What an object says; None when nothing of it can be read."""
        try:
            return _of_key(key, read(obj))
        except OddObjectError as error:
            self._doubts.note(kind, key, Disbelief.UNREADABLE, str(error))
        except Exception as error:  # noqa: BLE001 - a named boundary: one object is one object's problem
            self._on_bug(kind, key, error)
        return None

    def _decide(self, key: str, deployment: DeploymentFacts | None) -> None:
        """Who serves which name now, with which settings. None: the ModelDeployment is gone."""
        try:
            changed, models = self._names.put(key, deployment)
            if self._has_deployments:
                self._apply(changed | {key}, models)
        except Exception as error:  # noqa: BLE001 - a named boundary: no event ends the watch
            self._on_bug(MODEL_DEPLOYMENT, key, error)

    def _apply(self, keys: set[str], models: set[str]) -> None:
        """Tell the pools of these models, and settle the pods of these ModelDeployments."""
        for model in sorted(models):
            try:
                self._pools.configure_model(model, self._names.settings(model))
            except Exception as error:  # noqa: BLE001 - a named boundary: one model is one model's problem
                self._on_bug(MODEL_DEPLOYMENT, model, error)
        for key in sorted(keys - self._unreadable):
            self._tell(key)
        self._settle([pod for key in keys for pod in self._pods_of.get(key, ())])

    def _tell(self, key: str) -> None:
        """Say what is odd about a ModelDeployment, once."""
        deployment = self._names.get(key)
        if deployment is None:
            return
        name = deployment.names.served
        if not self._names.may_serve(key, name):
            why = f"it may not serve {name!r} (see its condition Named)"
            self._doubts.note(MODEL_DEPLOYMENT, key, Disbelief.NAME_TAKEN, why)
        elif deployment.oddities:
            why = "; ".join(deployment.oddities)
            self._doubts.note(MODEL_DEPLOYMENT, key, Disbelief.ODD, why)
        else:
            self._doubts.clear(MODEL_DEPLOYMENT, key)

    def _settle(self, keys: Iterable[str]) -> None:
        """Put what is believed of these pods into the pools, of each for itself."""
        for key in sorted(keys):
            try:
                self._settle_one(key, self._pods[key])
            except Exception as error:  # noqa: BLE001 - a named boundary: one pod is one pod's problem
                self._on_bug(POD, key, error)

    def _settle_one(self, key: str, pod: PodFacts) -> None:
        before = self._members.get(key)
        if before is not None and before.pod_uid != pod.uid:
            # Another pod of that name: another engine.
            self._drop(key)
            del self._members[key]
            before = None
        if not self._has_deployments:
            return
        member = believe(pod, self._names.get(pod.deployment_key), before)
        if isinstance(member, Member):
            self._members[key] = member
            if self._names.may_serve(pod.deployment_key, member.served_name):
                self._put(key, pod, member)
                return
            why = f"{pod.deployment_key} may not serve {member.served_name!r}"
            member = NotMember(reason=Disbelief.NAME_TAKEN, why=why)
        self._close(key)
        if pod.is_serving and pod.address is not None:
            # While it starts, its status is only on its way.
            self._doubts.note(POD, key, member.reason, member.why)
        else:
            self._doubts.clear(POD, key)

    def _put(self, key: str, pod: PodFacts, member: Member) -> None:
        """A replica, as the pools are told of it."""
        if pod.address is None:
            self._drop(key)
            return
        is_ready = pod.is_serving and not pod.is_going
        sleep = member.sleep if is_ready else None
        info = ReplicaInfo(
            namespace=pod.namespace,
            pod=pod.name,
            deployment=pod.deployment,
            served_model=member.served_name,
            endpoint=Endpoint(pod.address, pod.port),
            promised_capacity_tokens=member.kv_capacity_tokens,
            max_context_tokens=member.max_context_tokens,
            is_routable=is_ready and sleep is None,
            sleep=sleep,
            wake_seconds=None if sleep is None else member.wake_seconds,
            version=pod.deployment_key,
            uid=pod.uid,
            adapters=member.adapters,
            host=pod.host,
        )
        self._upsert(key, info)
        if pod.oddities:
            self._doubts.note(POD, key, Disbelief.ODD, "; ".join(pod.oddities))
        else:
            self._doubts.clear(POD, key)

    def _close(self, key: str) -> None:
        """It gets no new requests; what it answers goes on."""
        info = self._infos.get(key)
        if info is not None:
            self._upsert(key, replace(info, is_routable=False, sleep=None))

    def _upsert(self, key: str, info: ReplicaInfo) -> None:
        before = self._infos.get(key)
        if before == info:
            return
        if before is not None and before.endpoint != info.endpoint:
            # Its sandbox was made anew: what was sent to the old address gets no answer.
            self._drop(key)
        self._infos[key] = info
        self._on_upsert(self._pools.upsert_replica(info))

    def _drop(self, key: str) -> None:
        if self._infos.pop(key, None) is None:
            return
        replica = self._pools.remove_replica(key)
        if replica is not None:
            self._on_gone(replica)

    def _forget_pod(self, key: str) -> None:
        """What was read of it; not what was believed."""
        pod = self._pods.pop(key, None)
        if pod is None:
            return
        siblings = self._pods_of[pod.deployment_key]
        siblings.discard(key)
        if not siblings:
            del self._pods_of[pod.deployment_key]

    def _on_bug(self, kind: str, key: str, error: Exception) -> None:
        LOGGER.error("internal error kind=%s key=%r", kind, key, exc_info=error)
        self._doubts.note(kind, key, Disbelief.INTERNAL_ERROR, repr(error))


def _of_key(key: str, facts: Facts) -> Facts:
    """The facts. Raises ``OddObjectError`` when they are of another object than was asked for."""
    if facts.key != key:
        message = f"it says that it is {facts.key!r:.80}"
        raise OddObjectError(message)
    return facts
