"""Histories of priorities, preemption and quotas, in a cluster that does as it likes."""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from memroute.placement import HBMQuotas
from memroute.units import GIB
from memroute_operator.plan import Create, Delete, GiveWay
from planned_cluster import USABLE_BYTES
from preempted_cluster import PriorityCluster
from sizes import size

SETTLE_STEPS = 250
NAMES = ("a", "b", "c", "d", "e")
# 18.6 to 64 GiB of an H100's 80 with Qwen3-8B.
CONCURRENCIES = st.sampled_from([1, 2, 4, 12, 20, 30, 38])
CLASSES = st.sampled_from(["low", None, None, "high", "urgent", "polite"])
SETTINGS = settings(
    max_examples=int(os.environ.get("MEMROUTE_HISTORIES") or size(10, 25)),
    derandomize="MEMROUTE_HISTORIES" not in os.environ,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
QUOTAS = st.sampled_from([None, None, 60, 100, 160, 240])


class PriorityHistory(RuleBasedStateMachine):
    """Only lower ones give way, only where that was asked for, and never for nothing."""

    def __init__(self):
        super().__init__()
        self.cluster = PriorityCluster()

    @initialize(
        num_nodes=st.integers(1, 3),
        num_devices=st.integers(1, 2),
        deployments=st.lists(
            st.tuples(CONCURRENCIES, st.integers(1, 3), CLASSES, st.booleans()),
            min_size=2,
            max_size=len(NAMES),
        ),
        quota=QUOTAS,
    )
    def build(self, num_nodes, num_devices, deployments, quota):
        self.cluster = PriorityCluster(num_nodes, num_devices)
        self.set_quota(quota)
        for name, one in zip(NAMES, deployments, strict=False):
            self.deploy(name, *one)
            self.operate(3)

    def step(self, *, only=None):
        cluster = self.cluster
        (planner,) = cluster.planners
        before = {one.key: one for one in cluster.replicas()}
        facts = cluster.facts(planner)
        # Of pods that are there: claims may be void by now.
        held = sum(one.total_bytes for one in facts.inventory.reservations if not one.replaces)
        claims = planner.memory.departed_claims(facts.deployments)
        step = cluster.reconcile(planner, only=only)
        self.check_quota(step, held, {f"{one.deployment}#{one.index}" for one in claims})
        for action in step.actions:
            if isinstance(action, GiveWay) and action.deployment is not None:
                self.check_way(action)
            if isinstance(action, Delete) and "gives way" in action.why:
                assert before[action.replica.key].gives_way is not None
        return step

    def check_quota(self, step, held, claimed):
        """What is created is within the quota, unless its room was claimed before it was lowered.

        ``claimed``: slots whose room was claimed by pods that have gone.
        """
        limit = self.cluster.quotas.limit_bytes("default")
        creates = [one.placed for one in step.actions if isinstance(one, Create)]
        new = [one for one in creates if one.key.slot not in claimed]
        if limit is not None and new:
            assert held + sum(one.total_bytes for one in creates) <= limit

    def check_way(self, action):
        """It was asked for, and the one that gives way is worth less."""
        waiting = action.deployment
        assert waiting.preempts
        assert waiting.template.priority_class != "polite"
        assert action.priority == self.cluster.priority_of(waiting.name)
        assert action.replica.priority < action.priority
        assert action.replica.deployment != waiting.key

    def set_quota(self, gib):
        sizes = {} if gib is None else {"default": gib * GIB}
        self.cluster.quotas = HBMQuotas(by_namespace=sizes)

    # What happens

    @rule(
        name=st.sampled_from(NAMES),
        concurrency=CONCURRENCIES,
        replicas=st.integers(0, 3),
        priority=CLASSES,
        preempts=st.booleans(),
    )
    def deploy(self, name, concurrency, replicas, priority, preempts):
        self.cluster.deployments.pop(name, None)
        self.cluster.add(
            name,
            concurrency=concurrency,
            replicas=replicas,
            priority=priority,
            preempts=preempts,
        )

    @precondition(lambda self: self.cluster.deployments)
    @rule(data=st.data(), concurrency=CONCURRENCIES, replicas=st.integers(0, 3))
    def edit(self, data, concurrency, replicas):
        name = data.draw(st.sampled_from(sorted(self.cluster.deployments)))
        self.cluster.edit(name, concurrency=concurrency, replicas=replicas)

    @rule(gib=QUOTAS)
    def quota(self, gib):
        self.set_quota(gib)

    @rule(number=st.integers(1, 12), seconds=st.sampled_from([1, 5]))
    def operate(self, number, seconds=5):
        for _ in range(number):
            self.cluster.sync(self.cluster.planners[0])
            self.step()
            self.cluster.advance(seconds)

    @rule(only=st.integers(0, 2))
    def kill_the_operator(self, only):
        """In the middle of its actions: what it began is on the pods."""
        (planner,) = self.cluster.planners
        self.cluster.sync(planner)
        self.step(only=only)
        self.cluster.restart(planner)

    @precondition(lambda self: self.cluster.pods)
    @rule(data=st.data())
    def delete_a_pod(self, data):
        name = data.draw(st.sampled_from(sorted(self.cluster.pods)))
        self.cluster.delete(next(r for r in self.cluster.replicas() if r.pod_name == name))

    @rule(what=st.sampled_from(["writes", "nothing"]))
    def harm_the_control_plane(self, what):
        self.cluster.failing = what == "writes"

    # What must be true

    @invariant()
    def no_device_is_promised_more_than_it_has(self):
        for uuid in self.cluster.foreign:
            assert self.cluster.promised(uuid) <= USABLE_BYTES, uuid

    def teardown(self):
        cluster = self.cluster
        cluster.failing = False
        quiet = 0
        for _ in range(SETTLE_STEPS):
            cluster.sync(cluster.planners[0])
            actions = self.step().actions
            cluster.advance(5)
            self.no_device_is_promised_more_than_it_has()
            is_quiet = not actions and not any(r.is_terminating for r in cluster.replicas())
            quiet = quiet + 1 if is_quiet else 0
            if quiet == 15:
                break
        assert quiet == 15, "it does not come to rest"
        for replica in cluster.replicas():
            assert replica.gives_way is None, f"{replica.key} gives way to nobody"
            assert not replica.is_draining, replica.key


TestPriorities = pytest.mark.timeout(3600)(PriorityHistory.TestCase)
TestPriorities.settings = SETTINGS
