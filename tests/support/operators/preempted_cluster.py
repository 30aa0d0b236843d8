"""Deployments with priorities, and the steps of a planner until nothing changes.

A cluster for the plan alone (``planned_cluster``), whose API server resolves PriorityClasses and
whose administrator sets quotas.
"""

import copy
from dataclasses import replace

from memroute.placement import NO_QUOTAS
from memroute_operator.plan import GiveWay, PlanContext, plan_step
from memroute_operator.replicas.giving_way import ANNOTATION_GIVES_WAY, encode_gives_way
from memroute_operator.rules.priorities import read_priority_classes
from memroute_operator.spec.deployment import read_deployment
from planned_cluster import DRAIN_TIMEOUT_SECONDS, Cluster

PRIORITIES = {"low": -10, "high": 1000, "urgent": 2000}


def priority_class(name, value, **fields):
    """A PriorityClass as the API server shows it."""
    return {"metadata": {"name": name}, "value": value, **fields}


CLASSES = read_priority_classes(
    [priority_class(name, value) for name, value in PRIORITIES.items()]
    + [priority_class("polite", 1500, preemptionPolicy="Never")]
)


class PriorityCluster(Cluster):
    """A cluster with PriorityClasses and quotas."""

    def __init__(self, num_nodes=2, num_devices=1, num_planners=1):
        self.quotas = NO_QUOTAS
        self.classes = CLASSES
        self.avoided = {}
        self.held_back = frozenset()
        super().__init__(num_nodes, num_devices, num_planners)

    def add(self, name, *, concurrency=4, replicas=1, priority=None, preempts=False, template=None):
        """A new ModelDeployment with a PriorityClass."""
        self.add_deployment(name, concurrency=concurrency, replicas=replicas)
        spec = self.deployments[name]["spec"]
        if preempts:
            spec["placement"]["preemption"] = "LowerPriority"
        if priority is not None or template:
            spec["template"] = {"spec": {**(template or {})}}
            if priority is not None:
                spec["template"]["spec"]["priorityClassName"] = priority

    def context(self, planner, facts):
        """What a step depends on beside the facts."""
        age = None if planner.in_flight_at is None else self.now - planner.in_flight_at
        return PlanContext(
            drain_timeout_seconds=DRAIN_TIMEOUT_SECONDS,
            in_flight=planner.in_flight if self.routers_up else None,
            in_flight_age_seconds=age,
            avoided_nodes=self.avoided,
            lost_nodes=frozenset(),
            departed_claims=planner.memory.departed_claims(facts.deployments),
            gave_way=planner.memory.ways.gave_way(one.key for one in facts.deployments),
            quotas=self.quotas,
            priorities=self.classes,
            held_back=self.held_back,
        )

    def reconcile(self, planner, *, only=None):
        """One step of a planner."""
        facts = self.facts(planner)
        step = plan_step(facts, self.context(planner, facts))
        for action in step.actions[:only]:
            self.apply(planner, action)
        if only is None:
            self._write_statuses(planner, facts, step)
        return step

    def apply(self, planner, action):
        """As the API server would, priorities resolved."""
        if isinstance(action, GiveWay):
            self._num_writes += 1
            if self.failing and self._num_writes % 2:
                return
            text = None
            if action.deployment is not None:
                text = encode_gives_way(action.deployment, action.placed, action.priority)
            self._annotate(planner, action.replica, ANNOTATION_GIVES_WAY, text)
            return
        super().apply(planner, action)
        for name, pod in self.pods.items():
            if "priority" not in pod["spec"]:
                known = self.classes.of(pod["spec"].get("priorityClassName"))
                pod["spec"]["priority"] = 0 if known is None else known.value
                self._bump(pod)
                self._tell(planner, name)

    def run(self, seconds=300, *, every=5):
        """Operate for so long; the last step."""
        planner = self.planners[0]
        step = None
        for _ in range(seconds // every):
            self.sync(planner)
            step = self.reconcile(planner)
            self.advance(every)
        return step

    def priority_of(self, name):
        """Of a deployment's replicas."""
        deployment = read_deployment(copy.deepcopy(self.deployments[name]))
        known = self.classes.of(deployment.template.priority_class)
        return 0 if known is None else known.value

    def edit_spec(self, name, change):
        """Change anything of a spec."""
        change(self.deployments[name]["spec"])
        self.deployments[name]["metadata"]["generation"] += 1


def without_live_readings(facts):
    """The facts as if no exporter were there."""
    nodes = tuple(
        replace(node, devices=tuple(replace(d, live_free_bytes=None) for d in node.devices))
        for node in facts.inventory.nodes
    )
    return replace(facts, inventory=replace(facts.inventory, nodes=nodes))
