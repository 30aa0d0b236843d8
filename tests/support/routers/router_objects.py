"""Pods and ModelDeployments as the API server sends them to a router."""

import copy
import random

from memroute.traffic.admission import QueueLimits
from memroute_router.discovery.beliefs import Beliefs
from memroute_router.discovery.doubts import Doubts
from memroute_router.replicas.pool_settings import CommonSettings
from memroute_router.replicas.pools import Pools

BORN = "2026-01-01T00:00:00Z"
LABEL = "memroute.dev/model-deployment"
SERVED = "memroute.dev/served-model"
CAPACITY = "memroute.dev/kv-capacity-tokens"
CONTEXT = "memroute.dev/max-context-tokens"


def deployment(namespace="a", name="chat", *, served="chat", born=BORN, adapters=(), **spec):
    """A ModelDeployment that the operator has not looked at yet."""
    listed = {"adapters": [{"name": one} for one in adapters]} if adapters else {}
    return {
        "metadata": {
            "namespace": namespace, "name": name, "uid": f"uid-{namespace}-{name}",
            "creationTimestamp": born, "generation": 1,
        },
        "spec": {
            "model": {"name": "org/m", "servedName": served},
            "routing": {"kvWatermarkPercent": 90, "assumedOutputTokens": 100},
        } | listed | spec,
    }  # fmt: skip


def pod(namespace="a", name="chat-0", *, served="chat", of="chat", address="10.0.0.7", **metadata):
    """A replica's pod that serves."""
    return {
        "metadata": {
            "namespace": namespace, "name": name, "uid": f"uid-{namespace}-{name}",
            "labels": {LABEL: of},
            "annotations": {SERVED: served, CAPACITY: "4096"},
            "ownerReferences": [{
                "apiVersion": "memroute.dev/v1alpha1", "kind": "ModelDeployment", "name": of,
                "uid": f"uid-{namespace}-{of}", "controller": True,
            }],
        } | metadata,
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    }  # fmt: skip


def told(obj, *pods, names=None, since=BORN):
    """The ModelDeployment with the status that the operator writes.

    ``names``: that it may serve; without them, its own.
    """
    model = obj["spec"]["model"]
    names = [model["servedName"]] if names is None else names
    return obj | {
        "status": {
            "observedGeneration": 1,
            "replicas": len(pods),
            "routing": {
                "observedGeneration": 1,
                "names": [{"name": name, "since": since} for name in names],
                "replicas": [
                    {
                        "servedName": one["metadata"]["annotations"][SERVED],
                        "kvCapacityTokens": 4096,
                        "pods": {one["metadata"]["name"]: one["metadata"]["uid"]},
                    }
                    for one in pods
                ],
            },
        }
    }


def told_by_0_1(obj, *pods, cut=0):
    """The ModelDeployment with the status of an operator that knows nothing of ``routing``.

    ``cut``: replicas that it counts and does not list.
    """
    return obj | {
        "status": {
            "observedGeneration": 1,
            "replicas": len(pods) + cut,
            "placements": [
                {"replica": i, "pod": one["metadata"]["name"], "node": one["spec"]["nodeName"]}
                for i, one in enumerate(pods)
            ],
        }
    }


class BeliefsRig:
    """Beliefs and their pools, and what was told."""

    def __init__(self, *deployments, pods=()):
        self.pools = Pools(
            random.Random(1),
            common=CommonSettings(queue_limits=QueueLimits()),
            call_soon=lambda *_: None,
            call_later=lambda *_: None,
            on_error=self._on_error,
        )
        self.gone = []
        self.doubts = Doubts()
        self.beliefs = Beliefs(
            self.pools,
            on_upsert=lambda _: None,
            on_gone=lambda replica: self.gone.append(replica.info.key),
            doubts=self.doubts,
        )
        self.see(*deployments)
        self.beliefs.deployments_listed()
        self.see_pods(*pods)

    @staticmethod
    def _on_error(error):
        raise error

    def see(self, *deployments):
        for obj in deployments:
            key = f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"
            self.beliefs.deployment_seen(key, copy.deepcopy(obj))

    def see_pods(self, *pods):
        for obj in pods:
            key = f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"
            self.beliefs.pod_seen(key, copy.deepcopy(obj))

    def replicas(self, model="chat"):
        """Those of a pool that new requests may be sent to."""
        pool = self.pools.get(model)
        found = {} if pool is None else pool.replicas
        return sorted(key for key, replica in found.items() if replica.info.is_routable)

    def reasons(self):
        """What is in doubt: kind and reason → how many."""
        return {
            f"{kind} {reason.value}": count
            for (kind, reason), count in self.doubts.counts().items()
        }

    def picture(self):
        """All that the pools have, to be compared."""
        return {
            model: (pool.settings, {key: one.info for key, one in sorted(pool.replicas.items())})
            for model, pool in sorted(self.pools.by_model.items())
        }
