"""A cluster for the planner alone: a faithful store, kubelets, an exporter that lags, routers.

What a planner sees is what it would see: its own writes at once, those of others when an event
arrives, readings that are up to 45 s old, counts of requests from the last scrape. Time is a
number. The engines' use of memory is what their stage makes of it.
"""

import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from memroute.placement import Device, Inventory, Node, PlacementMode
from memroute.units import GIB
from memroute_operator.gather import Facts
from memroute_operator.memory import PlanMemory
from memroute_operator.plan import (
    ClaimRoom,
    Create,
    Delete,
    FetchAhead,
    MarkDraining,
    OpenGate,
    PlanContext,
    plan_step,
)
from memroute_operator.pod.manifests import replica_pod
from memroute_operator.replicas.leaving import draining_marks
from memroute_operator.replicas.promises import encode_claim
from memroute_operator.replicas.reading import read_replica
from memroute_operator.replicas.replica import ANNOTATION_SUCCESSOR
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.spec.target_revision import as_targeted, with_history
from memroute_operator.status.rollout_status import rollout_fields

REFUSED = {
    "name": "engine",
    "restartCount": 1,
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {
        "terminated": {"exitCode": 2, "message": "error: unrecognized arguments: --no-such-flag"}
    },
}
"""What kubelet says of an engine that is given a flag that it does not know."""
START = datetime(2026, 1, 1, tzinfo=UTC)
USABLE_BYTES = 80 * GIB
COLLECT_SECONDS = 30.0
"""dcgm-exporter's own interval: a page is so old at most when it is read."""
SCRAPE_SECONDS = 7.0
LOAD_SECONDS = 20.0
END_SECONDS = 8.0
DRAIN_TIMEOUT_SECONDS = 60.0
USED_RATIO = 0.97
"""Of its reservation, an engine really uses so much: the rest is the estimate's margin."""


def deployment_object(name, uid, created, *, concurrency, replicas, generation=1):
    """A ModelDeployment as the API server shows it."""
    return {
        "metadata": {
            "namespace": "default",
            "name": name,
            "uid": uid,
            "generation": generation,
            "creationTimestamp": created,
            "resourceVersion": "1",
        },
        "spec": {
            "model": {"name": "Qwen/Qwen3-8B"},
            "engine": {"type": "VLLM"},
            "memory": {
                "maxContextTokens": 8192,
                "concurrency": concurrency,
                "kvCacheDtype": "Auto",
                "quantization": "Auto",
            },
            "parallelism": {"tensorParallelSize": 1},
            "replicas": replicas,
            "placement": {"mode": "Shared", "strategy": "Pack"},
            "routing": {"kvWatermarkPercent": 95, "assumedOutputTokens": 256},
            "rollout": {},
        },
        "status": {},
    }


@dataclass
class Planner:
    """One operator: its view of the pods, what it remembers, and its last readings."""

    pods: dict = field(default_factory=dict)
    memory: PlanMemory = field(default_factory=PlanMemory)
    in_flight: dict = field(default_factory=dict)
    in_flight_at: float | None = None
    readings: dict = field(default_factory=dict)
    """Node → (when fetched, used bytes by device)."""


class Cluster:
    """The world. Owns the truth; planners have views of it."""

    def __init__(self, num_nodes=2, num_devices=1, num_planners=1):
        self.now = 0.0
        self.pods = {}
        self.deployments = {}
        self.status = {}
        self.nodes = {f"n{i}": set() for i in range(num_nodes)}
        """Node → what is wrong with it: cordoned, lost."""
        self.num_devices = num_devices
        self.foreign = {uuid: 0 for node in self.nodes for uuid in self.devices(node)}
        self.foreign_changed_at = dict.fromkeys(self.foreign, -1000.0)
        self.unread_at = dict.fromkeys(self.nodes, -1000.0)
        """Node → when its exporter was last out of reach."""
        self.pages = {}
        """Node → (when collected, used bytes by device)."""
        self.stages = {}
        """uid → [bound at, runs since, ends at, stuck]."""
        self.requests = {}
        """uid → requests that are really in flight."""
        self.planners = [Planner() for _ in range(num_planners)]
        self.exporters_up = True
        self.routers_up = True
        self.broken = {}
        """Revisions whose engines never serve → whether they end, else they hang."""
        self.failing = False
        """Whether the API server refuses every other write."""
        self.refused = {}
        """Pods ahead that the API server has refused → why."""
        self._replicas = {}
        self._deployments = {}
        self._num_writes = 0
        self._version = 0
        self._uids = 0
        self.collect()
        for planner in self.planners:
            self.sync(planner)
            self.scrape(planner)

    def devices(self, node):
        """UUIDs of a node's devices."""
        return [f"GPU-{node}-{i}" for i in range(self.num_devices)]

    # What exists

    def stamp(self):
        """The API server's clock, in whole seconds."""
        return (START + timedelta(seconds=int(self.now))).strftime("%Y-%m-%dT%H:%M:%SZ")

    def add_deployment(self, name, *, concurrency, replicas):
        """A new ModelDeployment."""
        self._uids += 1
        created = f"2026-01-01T00:{self._uids // 60:02}:{self._uids % 60:02}Z"
        self.deployments[name] = deployment_object(
            name, f"d{self._uids}", created, concurrency=concurrency, replicas=replicas
        )

    def edit(self, name, **facts):
        """Change ``concurrency``, ``replicas`` or ``rollout``."""
        spec = self.deployments[name]["spec"]
        spec["memory"]["concurrency"] = facts.get("concurrency", spec["memory"]["concurrency"])
        spec["replicas"] = facts.get("replicas", spec["replicas"])
        spec["rollout"] = facts.get("rollout", spec["rollout"])
        self.deployments[name]["metadata"]["generation"] += 1

    def replicas(self):
        """The pods as replicas, in truth."""
        return [self._read(pod) for pod in self.pods.values()]

    def _read(self, pod):
        """The pod as a replica; what was read of one version is not read again."""
        key = (pod["metadata"]["uid"], pod["metadata"]["resourceVersion"])
        if key not in self._replicas:
            self._replicas[key] = read_replica(copy.deepcopy(pod))
        return self._replicas[key]

    def serving(self, name):
        """Replicas of a deployment that requests are sent to."""
        return [
            replica
            for replica in self.replicas()
            if replica.owner_uid == self.deployments[name]["metadata"]["uid"]
            and replica.is_ready
            and not replica.is_draining
            and not replica.is_terminating
        ]

    def promised(self, uuid):
        """Bytes that pods that exist were promised of a device."""
        return sum(one.device_bytes.get(uuid, 0) for one in self.replicas() if not one.is_terminal)

    def used(self, uuid):
        """Bytes of a device that are really in use."""
        total = self.foreign[uuid]
        for replica in self.replicas():
            stage = self.stages[replica.uid]
            if uuid not in replica.device_bytes or stage["runs_since"] is None:
                continue
            loaded = min(1.0, (self.now - stage["runs_since"]) / LOAD_SECONDS)
            total += int(replica.device_bytes[uuid] * USED_RATIO * loaded)
        return total

    # What happens by itself

    def advance(self, seconds):
        """Let time pass: kubelets, the exporter, the scrapes."""
        end = self.now + seconds
        while self.now < end:
            self.now += 1.0
            self._kubelets()
            self._run_out_of_memory()
            for node, wrong in self.nodes.items():
                if "lost" in wrong or not self.exporters_up:
                    self.unread_at[node] = self.now
            if self.now % COLLECT_SECONDS == 0:
                self.collect()
            if self.now % SCRAPE_SECONDS == 0:
                for planner in self.planners:
                    self.scrape(planner)

    def _run_out_of_memory(self):
        """No device holds more than it has: who loads last ends, and tries again."""
        for uuid in self.foreign:
            while self.used(uuid) > USABLE_BYTES:
                loading = [
                    one
                    for one in self.replicas()
                    if uuid in one.device_bytes
                    and (since := self.stages[one.uid]["runs_since"]) is not None
                    and 0 < self.now - since <= LOAD_SECONDS
                ]
                self.crash(max(loading, key=lambda one: self.stages[one.uid]["runs_since"]))

    def collect(self):
        """The exporters take their readings."""
        for node in self.nodes:
            self.pages[node] = {uuid: self.used(uuid) for uuid in self.devices(node)}

    def scrape(self, planner):
        """A planner reads the exporters and the routers."""
        if self.exporters_up:
            for node, page in self.pages.items():
                if "lost" not in self.nodes[node]:
                    planner.readings[node] = (self.now, page)
        if self.routers_up:
            planner.in_flight = {
                f"default/{name}": self.requests.get(pod["metadata"]["uid"], 0)
                for name, pod in self.pods.items()
            }
            planner.in_flight_at = self.now

    def sync(self, planner):
        """All events have arrived at a planner."""
        for name in planner.pods.keys() | self.pods.keys():
            known = planner.pods.get(name)
            pod = self.pods.get(name)
            if known is None or pod is None or known["metadata"] != pod["metadata"]:
                self._tell(planner, name)

    def _kubelets(self):
        for name, pod in list(self.pods.items()):
            self._one_pod(name, pod)

    def _one_pod(self, name, pod):
        replica, stage = self._read(pod), self.stages[pod["metadata"]["uid"]]
        wrong = self.nodes[replica.node]
        if replica.is_terminating:
            if stage["stuck"] or "lost" in wrong:
                return
            if self.now >= stage["ends_at"]:
                del self.pods[name]
            return
        if replica.is_gated or "lost" in wrong:
            return
        if not replica.is_scheduled:
            if "cordoned" in wrong:
                self._condition(pod, "PodScheduled", "False", "Unschedulable")
                return
            pod["spec"]["nodeName"] = replica.node
            self._condition(pod, "PodScheduled", "True")
            pod["status"]["phase"] = "Running"
            stage["runs_since"] = self.now
            self._bump(pod)
            return
        self._engine(pod, replica, stage)

    def _engine(self, pod, replica, stage):
        """What the engine of a pod that runs does."""
        if self.broken.get(replica.revision) and not replica.num_restarts:
            pod["status"]["containerStatuses"] = [copy.deepcopy(REFUSED)]
            stage["runs_since"] = None
            self._bump(pod)
        if replica.revision in self.broken:
            return
        flaps = self.now < stage["flaps_until"]
        loaded = stage["runs_since"] + LOAD_SECONDS <= self.now
        is_ready = loaded and not flaps
        if is_ready != replica.is_ready:
            self._condition(pod, "Ready", "True" if is_ready else "False")
        if not replica.is_draining and is_ready:
            # Requests come and go: a count of zero is out of date a moment later.
            self.requests[replica.uid] = int(self.now // 4) % 3
        elif replica.is_draining and self.requests.get(replica.uid) and self.now % 6 == 0:
            self.requests[replica.uid] -= 1

    def _condition(self, pod, kind, status, reason=None):
        conditions = pod["status"]["conditions"]
        conditions[:] = [one for one in conditions if one["type"] != kind]
        conditions.append(
            {"type": kind, "status": status, "reason": reason, "lastTransitionTime": self.stamp()}
        )
        self._bump(pod)

    def _bump(self, pod):
        self._version += 1
        pod["metadata"]["resourceVersion"] = str(self._version)

    # What somebody does

    def crash(self, replica):
        """Its container restarts and loads again."""
        pod = self.pods[replica.pod_name]
        container = {"name": "engine", "restartCount": replica.num_restarts + 1}
        pod["status"]["containerStatuses"] = [container | {"state": {"running": {}}}]
        self.stages[replica.uid]["runs_since"] = self.now
        self.requests.pop(replica.uid, None)
        self._condition(pod, "Ready", "False")

    def delete(self, replica):
        """Somebody deletes the pod (or an operator does)."""
        pod = self.pods[replica.pod_name]
        stage = self.stages[replica.uid]
        if not replica.is_scheduled:
            del self.pods[replica.pod_name]
            return
        if not replica.is_terminating:
            pod["metadata"]["deletionTimestamp"] = self.stamp()
            pod["metadata"]["deletionGracePeriodSeconds"] = 60
            stage["ends_at"] = self.now + END_SECONDS
            self._bump(pod)

    # What planners do

    def facts(self, planner):
        """What a planner sees now."""
        replicas = [self._read(pod) for pod in planner.pods.values()]
        replicas = planner.memory.stamp(
            replicas, now_seconds=self.now, now=START + timedelta(seconds=self.now)
        )
        deployments = [self._deployment(name) for name in self.deployments]
        return Facts(
            deployments=tuple(sorted(deployments, key=lambda one: (one.created_at, one.key))),
            replicas=tuple(sorted(replicas, key=lambda one: (one.created_at, one.key))),
            unreadable_pods=(),
            inventory=Inventory(
                nodes=tuple(self._node(planner, name) for name in self.nodes),
                reservations=tuple(one for r in replicas for one in r.reservations()),
                departed=planner.memory.departed(now_seconds=self.now),
            ),
            lost_nodes=frozenset(n for n, wrong in self.nodes.items() if "lost" in wrong),
            stale_nodes=frozenset(),
        )

    def _deployment(self, name):
        obj = self.deployments[name]
        key = (obj["metadata"]["uid"], obj["metadata"]["generation"])
        if key not in self._deployments:
            self._deployments[key] = self.read(copy.deepcopy(obj))
        deployment = self._deployments[key]
        obj = deployment.obj | {"status": self.status.get(name, {})}
        return as_targeted(with_history(replace(deployment, obj=obj), self.read))

    def read(self, obj):
        """A ModelDeployment, as an operator of this cluster reads it."""
        return read_deployment(obj)

    def _node(self, planner, name):
        wrong = self.nodes[name]
        reading = planner.readings.get(name)
        is_fresh = reading is not None and self.now - reading[0] <= 15.0
        devices = []
        for index, uuid in enumerate(self.devices(name)):
            device = Device(
                node=name,
                index=index,
                uuid=uuid,
                product="NVIDIA-H100-80GB-HBM3",
                usable_bytes=USABLE_BYTES,
                usable_source="dcgm",
            )
            if is_fresh:
                device = replace(
                    device,
                    live_free_bytes=max(0, USABLE_BYTES - reading[1].get(uuid, 0)),
                    live_age_seconds=self.now - reading[0] + COLLECT_SECONDS,
                )
            devices.append(device)
        reason = "NotReady" if "lost" in wrong else "Cordoned" if "cordoned" in wrong else None
        return Node(
            name=name,
            mode=PlacementMode.SHARED,
            devices=tuple(devices),
            unusable_reason=reason,
            has_fresh_metrics=is_fresh,
        )

    def reconcile(self, planner, *, only=None):
        """One step of a planner. ``only``: it is killed after so many of its actions."""
        facts = self.facts(planner)
        age = None if planner.in_flight_at is None else self.now - planner.in_flight_at
        step = plan_step(
            facts,
            PlanContext(
                drain_timeout_seconds=DRAIN_TIMEOUT_SECONDS,
                in_flight=planner.in_flight if self.routers_up else None,
                in_flight_age_seconds=age,
                avoided_nodes={},
                lost_nodes=frozenset(),
                engine_image="vllm/x",
                **self.more_context(),
                departed_claims=planner.memory.departed_claims(facts.deployments),
            ),
        )
        for action in step.actions[:only]:
            self.apply(planner, action)
        if only is None:
            self._write_statuses(planner, facts, step)
        return step

    def more_context(self):
        """What a kind of cluster of its own adds to what a step depends on."""
        return {"refused_aheads": dict(self.refused)}

    def restart(self, planner):
        """The operator is killed, and started again: it lists everything, and remembers nothing."""
        planner.memory = PlanMemory()
        self.sync(planner)

    def _write_statuses(self, planner, facts, step):
        replicas = {name: [] for name in self.deployments}
        for pod in planner.pods.values():
            replica = self._read(pod)
            replicas.setdefault(replica.deployment_name, []).append(replica)
        for deployment in facts.deployments:
            own = replicas.get(deployment.name, [])
            outcome = step.outcomes[deployment.key]
            placements = [
                {
                    "replica": replica.index,
                    "node": replica.node,
                    "devices": sorted(replica.device_bytes),
                    "hbmBytes": replica.bytes_per_device,
                }
                for replica in own
            ]
            wanted = [one for one in own if one.key in outcome.kept]
            before = {k: v for k, v in self.status.get(deployment.name, {}).items()
                      if k == "lastGood"}  # fmt: skip
            fields = rollout_fields(deployment, wanted, outcome)
            self.status[deployment.name] = before | {"placements": placements} | fields

    def apply(self, planner, action):
        """Carry out an action as the API server would, and tell the planner's view."""
        self._num_writes += 1
        if self.failing and self._num_writes % 2:
            return
        match action:
            case Create():
                self._create(planner, action)
            case Delete():
                pod = self._live(planner, action.replica)
                if pod is not None:
                    self.delete(self._read(pod))
                    self._tell(planner, action.replica.pod_name)
            case MarkDraining():
                since = self.stamp() if action.draining else None
                for name, text in draining_marks(action.replica.successor, since).items():
                    self._annotate(planner, action.replica, name, text)
            case ClaimRoom():
                claim = action.placed and encode_claim(action.placed, revision=action.revision)
                self._annotate(planner, action.replica, ANNOTATION_SUCCESSOR, claim)
            case OpenGate():
                self._open(planner, action.replica)
            case FetchAhead():
                self.refused[action.pod_key] = "pods ahead are of ahead_cluster.py"

    def _open(self, planner, replica):
        pod = self._live(planner, replica)
        if pod is not None:
            pod["spec"]["schedulingGates"] = []
            self._bump(pod)
            self._tell(planner, replica.pod_name)

    def _create(self, planner, action):
        name = action.placed.key.pod_name
        if name not in self.pods:
            pod = replica_pod(
                action.deployment,
                action.placed,
                is_gated=action.is_gated,
                default_image="vllm/x",
                shared_runtime_class=None,
            )
            self._uids += 1
            pod["metadata"] |= {"uid": f"p{self._uids}", "creationTimestamp": self.stamp()}
            pod["status"] = {"phase": "Pending", "conditions": []}
            self._bump(pod)
            self.pods[name] = pod
            self.stages[pod["metadata"]["uid"]] = {
                "runs_since": None, "ends_at": None, "stuck": False, "flaps_until": 0.0,
            }  # fmt: skip
        self._tell(planner, name)

    def _live(self, planner, replica):
        pod = self.pods.get(replica.pod_name)
        if pod is None or pod["metadata"]["uid"] != replica.uid:
            self._tell(planner, replica.pod_name)
            return None
        return pod

    def _annotate(self, planner, replica, name, value):
        pod = self._live(planner, replica)
        if pod is None:
            return
        if value is None:
            pod["metadata"]["annotations"].pop(name, None)
        else:
            pod["metadata"]["annotations"][name] = value
        self._bump(pod)
        self._tell(planner, replica.pod_name)

    def _tell(self, planner, name):
        if name in self.pods:
            planner.pods[name] = copy.deepcopy(self.pods[name])
        else:
            planner.pods.pop(name, None)
