"""The planner's cluster, with a cache of weights on each node and pods that go ahead.

What a node has is true here; planners see pods. A replica whose weights are not on its node when it
starts is noted: nobody served in its place meanwhile.
"""

import copy
from dataclasses import replace

from memroute_operator.ahead.facts import read_ahead
from memroute_operator.ahead.pod import ahead_pod, nominal
from memroute_operator.plan import EndFetch, FetchAhead
from memroute_operator.pod.manifests import replica_pod
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.weights.caches import WeightsSettings
from planned_cluster import Cluster

SETTINGS = WeightsSettings(cache_path="/var/cache/models")
FETCH_SECONDS = 120.0
"""How long the weights take to come: longer than a drain, a start and an end together."""
DONE = {"name": "memroute-fetch", "state": {"terminated": {"exitCode": 0}}, "restartCount": 0}
FETCHING = {"name": "memroute-fetch", "state": {"running": {}}, "restartCount": 0}
PULLED = [{"name": "engine", "state": {"terminated": {"exitCode": 0}}}]


def failed_fetch(exit_code, restarts, message=""):
    """What kubelet says of a fetcher that has ended badly, and waits for its next try."""
    return {
        "name": "memroute-fetch",
        "restartCount": restarts,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": exit_code, "message": message}},
    }


class AheadCluster(Cluster):
    """Owns the truth about the caches, and the pods that go ahead."""

    def __init__(self, **facts):
        self.aheads = {}
        """Name → pod."""
        self.begun = {}
        """uid of a pod ahead → when it began."""
        self.caches = {}
        """Node → keys of weights that are whole there."""
        self.cold_starts = []
        """Replicas that had to download while nobody served in their place."""
        self.failures = None
        """Status of the fetcher of pods ahead, where it fails."""
        self.refuses = None
        """Why the API server refuses pods that go ahead; None while it takes them."""
        self.is_full = False
        """Whether no node has room for a pod that goes ahead."""
        self.num_made = 0
        super().__init__(**facts)

    def read(self, obj):
        return read_deployment(obj, SETTINGS)

    def load(self, name, number):
        """Edit where the weights of a deployment's model come from."""
        source = {"s3": {"uri": f"s3://models/qwen-{number}"}}
        self.deployments[name]["spec"]["model"] = {"name": "Qwen/Qwen3-8B", "source": source}
        self.deployments[name]["metadata"]["generation"] += 1

    def seen_aheads(self):
        """The pods ahead, as they are read."""
        return [read_ahead(copy.deepcopy(pod), pod["owner"]) for pod in self.aheads.values()]

    def facts(self, planner):
        found = super().facts(planner)
        aheads = planner.memory.stamp_aheads(self.seen_aheads(), now_seconds=self.now)
        return replace(found, aheads=tuple(aheads))

    def apply(self, planner, action):
        match action:
            case FetchAhead():
                self._send_ahead(action)
            case EndFetch():
                self.aheads.pop(action.ahead.pod_name, None)
            case _:
                super().apply(planner, action)

    def _send_ahead(self, action):
        name = action.pod_key.partition("/")[2]
        if self.refuses is not None:
            self.refused[action.pod_key] = self.refuses
            return
        if name in self.aheads:
            return  # 409
        deployment, node = action.deployment, action.node
        replica = replica_pod(
            deployment, nominal(deployment, node), is_gated=False, default_image="vllm/x",
            shared_runtime_class=None, fetch_image="memroute/fetch:1",
        )  # fmt: skip
        pod = ahead_pod(deployment, action.goal, replica, node)
        assert pod["metadata"]["name"] == name
        self.num_made += 1
        pod["metadata"] |= {"uid": f"a{self.num_made}", "creationTimestamp": self.stamp()}
        pod["status"] = {"phase": "Pending"}
        pod["owner"] = deployment.uid
        self.aheads[name] = pod

    def _kubelets(self):
        super()._kubelets()
        for pod, ahead in zip(self.aheads.values(), self.seen_aheads(), strict=True):
            if self.is_full or "lost" in self.nodes[ahead.node] or ahead.is_done:
                continue
            began = self.begun.setdefault(ahead.uid, self.now)
            pod["spec"]["nodeName"] = ahead.node
            fetch = FETCHING if self.failures is None else self.failures
            if self.failures is None and self.now - began >= FETCH_SECONDS:
                fetch = DONE
                self.caches.setdefault(ahead.node, set()).add(ahead.weights_key)
                pod["status"]["containerStatuses"] = copy.deepcopy(PULLED)
            pod["status"]["initContainerStatuses"] = [copy.deepcopy(fetch)]

    def _one_pod(self, name, pod):
        was = self._read(pod).is_scheduled
        super()._one_pod(name, pod)
        if name not in self.pods or was:
            return
        replica = self._read(pod)
        if not replica.is_scheduled:
            return
        (volume,) = [one for one in pod["spec"]["volumes"] if one["name"] == "memroute-weights"]
        assert volume["hostPath"]["path"] == SETTINGS.cache_path
        known = self.caches.setdefault(replica.node, set())
        place = replica.weights_key
        if place not in known:
            self.cold_starts.append(name)
            known.add(place)
        pod["status"]["initContainerStatuses"] = [copy.deepcopy(DONE)]
        self._bump(pod)
