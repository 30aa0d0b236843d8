"""Histories of a planner in a cluster that does as it likes.

``MEMROUTE_HISTORIES`` sets how many are tried: 15 in ``make slow``, 50 in ``make test``, 500 in
the long run.
"""

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

from memroute.units import GIB
from memroute_operator.plan import Create, Delete
from memroute_operator.spec.revision import revision_of
from memroute_operator.spec.rollout_spec import read_rollout
from planned_cluster import (
    DRAIN_TIMEOUT_SECONDS,
    END_SECONDS,
    USABLE_BYTES,
    USED_RATIO,
    Cluster,
    deployment_object,
)
from sizes import size

# The longest that a reading can lag behind (collect 30 s, scrape 5 s, freshness 15 s), and the
# end of a pod that it may have been taken before.
FOREIGN_KNOWN_SECONDS = 60.0 + DRAIN_TIMEOUT_SECONDS + END_SECONDS
SETTLE_STEPS = 200
NAMES = ("a", "b", "c", "d")
# 18.6 to 64 GiB of an H100's 80 with Qwen3-8B.
CONCURRENCIES = st.sampled_from([1, 1, 2, 2, 3, 4, 12, 19, 20, 30, 38])
# Of revisions that never serve → whether their engines end, else they hang.
BROKEN = {5: True, 6: False}
ROLLOUTS = st.sampled_from([
    {}, {"maxSurge": 0}, {"maxUnavailable": 0}, {"maxSurge": 2}, {"maxUnavailable": 2},
    {"maxSurge": "100%", "maxUnavailable": "50%"}, {"partition": 1}, {"partition": "50%"},
    {"onFailure": "Halt"}, {"onFailure": "Halt", "maxSurge": 0},
])  # fmt: skip
SETTINGS = settings(
    max_examples=int(os.environ.get("MEMROUTE_HISTORIES") or size(15, 25)),
    # The same histories each time, so that a change is judged by them alone; the long run (``make
    # histories``) looks for others.
    derandomize="MEMROUTE_HISTORIES" not in os.environ,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class PlanHistory(RuleBasedStateMachine):
    """One operator: what is promised always fits, and what served is not lost."""

    num_planners = 1

    def __init__(self):
        super().__init__()
        self.cluster = Cluster()
        self.untouched = set()
        """Deployments that served in full, and to which nothing but edits has happened since."""
        self.edited_under_way = set()
        """Of those: the one replica that had left may find no room for the newer spec."""
        self.in_slot = {}
        """(Deployment, number of its slot) → the last replica that was in it."""
        self.served = set()
        """Uids of replicas that have been ready."""

    @initialize(
        num_nodes=st.integers(1, 3),
        num_devices=st.integers(1, 2),
        deployments=st.lists(
            st.tuples(CONCURRENCIES, st.integers(1, 3)), min_size=1, max_size=len(NAMES)
        ),
    )
    def build(self, num_nodes, num_devices, deployments):
        self.cluster = Cluster(num_nodes, num_devices, self.num_planners)
        for name, (concurrency, replicas) in zip(NAMES, deployments, strict=False):
            self.cluster.add_deployment(name, concurrency=concurrency, replicas=replicas)
        self.operate_for_long()

    def step(self, planner, only=None):
        cluster = self.cluster
        before = {replica.uid: replica for replica in cluster.replicas()}
        for replica in before.values():
            self.note_served(replica)
        step = cluster.reconcile(planner, only=only)
        for action in step.actions:
            # What belongs to nobody any more is not drained, and the garbage collector does not.
            if isinstance(action, Delete) and "ModelDeployment" not in action.why:
                self.check_delete(action.replica, before)
            if isinstance(action, Create):
                self.check_create(action.placed)
        return step

    def check_delete(self, replica, before):
        """Whoever is served is not cut off before the drain has timed out."""
        true = before.get(replica.uid)
        if true is None or replica.is_broken or not self.cluster.requests.get(replica.uid):
            return
        drained = replica.seen.draining_seconds or 0.0
        assert drained >= DRAIN_TIMEOUT_SECONDS, (
            f"{replica.key} has requests in flight: {replica.seen}"
        )

    def check_create(self, placed):
        """Beside foreign processes that readings have had the time to show, there is room."""
        cluster = self.cluster
        for uuid in placed.device_uuids:
            known_since = max(cluster.foreign_changed_at[uuid], cluster.unread_at[placed.node])
            if cluster.now - known_since < FOREIGN_KNOWN_SECONDS:
                continue
            ending = sum(
                one.device_bytes.get(uuid, 0) for one in cluster.replicas() if one.is_terminating
            )
            # By what engines really use: that of what was promised which a reading does not
            # show as used cannot be told from what is free, beside others.
            foreign = max(0, cluster.foreign[uuid] - self.unclear_bytes(placed, uuid))
            total = (cluster.promised(uuid) - ending) * USED_RATIO + foreign
            assert total <= USABLE_BYTES, f"{placed.key} beside others on {uuid}"

    def note_served(self, replica):
        self.in_slot[replica.deployment, replica.index] = replica
        if replica.is_ready:
            self.served.add(replica.uid)

    def unclear_bytes(self, placed, uuid):
        """Of what is used there, what may be engines of ours that never served, by readings.

        Only beside one that takes the place of such an engine: that one's room counts as its own.
        """
        before = self.in_slot.get((placed.key.deployment, placed.key.index))
        if before is None or before.uid in self.served:
            return 0
        unserved = [one for one in self.cluster.replicas() if one.uid not in self.served]
        uids = {one.uid for one in unserved}
        unserved += [before] if before.uid not in uids else []
        return sum(one.device_bytes.get(uuid, 0) for one in unserved)

    def touch(self, *names):
        self.untouched -= set(names)

    def moving(self):
        """Deployments that are not serving in full just now."""
        return [name for name in self.untouched if not self.is_full(name)]

    def is_full(self, name):
        wanted = self.cluster.deployments[name]["spec"]["replicas"]
        return len(self.cluster.serving(name)) == wanted

    # What users do

    @rule(name=st.sampled_from(NAMES), concurrency=CONCURRENCIES, replicas=st.integers(1, 3))
    def deploy(self, name, concurrency, replicas):
        if name in self.cluster.deployments:
            self.edit(name, concurrency)
        else:
            self.cluster.add_deployment(name, concurrency=concurrency, replicas=replicas)

    @rule(concurrencies=st.lists(CONCURRENCIES, min_size=2, max_size=4))
    def edit_several(self, concurrencies):
        for name, concurrency in zip(sorted(self.cluster.deployments), concurrencies, strict=False):
            self.edit(name, concurrency)

    def edit(self, name, concurrency):
        if not self.is_full(name):
            self.edited_under_way.add(name)
        self.cluster.edit(name, concurrency=concurrency)

    @precondition(lambda self: self.cluster.deployments)
    @rule(data=st.data(), replicas=st.integers(0, 3))
    def scale(self, data, replicas):
        name = data.draw(st.sampled_from(sorted(self.cluster.deployments)))
        self.cluster.edit(name, replicas=replicas)
        self.touch(name)

    @precondition(lambda self: self.cluster.deployments)
    @rule(data=st.data())
    def remove(self, data):
        name = data.draw(st.sampled_from(sorted(self.cluster.deployments)))
        del self.cluster.deployments[name]
        self.touch(name)

    # What operators do

    @rule(planner=st.integers(0, 1), seconds=st.sampled_from([1, 2, 5]), number=st.integers(1, 6))
    def operate(self, planner, seconds, number):
        chosen = self.cluster.planners[planner % len(self.cluster.planners)]
        for _ in range(number):
            self.cluster.sync(chosen)
            self.step(chosen)
            self.cluster.advance(seconds)

    @rule()
    def operate_for_long(self):
        """Until what fits serves: what comes then finds replicas that have something to lose."""
        for _ in range(24):
            for planner in self.cluster.planners:
                self.cluster.sync(planner)
                self.step(planner)
            self.cluster.advance(5)
            self.what_serves_and_is_only_edited_keeps_all_but_one()

    @rule(planner=st.integers(0, 1))
    def operate_on_an_old_view(self, planner):
        """Its own writes are known to it; nothing that happened since its last events is."""
        chosen = self.cluster.planners[planner % len(self.cluster.planners)]
        self.step(chosen)

    @rule(planner=st.integers(0, 1), only=st.integers(0, 2))
    def kill_the_operator(self, planner, only):
        """In the middle of its actions, before it has written any status."""
        chosen = self.cluster.planners[planner % len(self.cluster.planners)]
        self.cluster.sync(chosen)
        self.step(chosen, only=only)
        self.cluster.restart(chosen)
        self.touch(*self.moving())

    # What the cluster does

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds):
        self.cluster.advance(seconds)

    @rule(data=st.data(), share=st.sampled_from([0.0, 0.3, 0.9]))
    def foreign_process(self, data, share):
        """It takes some of what is physically free, which may be promised; or it ends."""
        cluster = self.cluster
        uuid = data.draw(st.sampled_from(sorted(cluster.foreign)))
        cluster.foreign[uuid] = 0
        cluster.foreign[uuid] = int((USABLE_BYTES - max(cluster.used(uuid), cluster.promised(uuid)))
                                    * share) // GIB * GIB  # fmt: skip
        cluster.foreign[uuid] = max(0, cluster.foreign[uuid])
        cluster.foreign_changed_at[uuid] = cluster.now
        claims = {r.deployment_name for r in cluster.replicas() if r.successor is not None}
        self.touch(*self.moving(), *claims)

    @precondition(lambda self: self.cluster.pods)
    @rule(data=st.data(), what=st.sampled_from(["delete", "crash", "flap", "hang"]))
    def harm_a_pod(self, data, what):
        cluster = self.cluster
        name = data.draw(st.sampled_from(sorted(cluster.pods)))
        replica = next(one for one in cluster.replicas() if one.pod_name == name)
        stage = cluster.stages[replica.uid]
        if what == "delete":
            cluster.delete(replica)
        elif what == "crash" and replica.is_scheduled and not replica.is_terminating:
            cluster.crash(replica)
        elif what == "flap":
            stage["flaps_until"] = cluster.now + 15.0
        elif what == "hang":
            stage["stuck"] = True
        self.touch(replica.deployment_name, *self.moving())

    @rule(data=st.data(), wrong=st.sampled_from(["cordoned", "lost", "mended", "mended"]))
    def harm_a_node(self, data, wrong):
        cluster = self.cluster
        node = data.draw(st.sampled_from(sorted(cluster.nodes)))
        cluster.nodes[node] = set() if wrong == "mended" else {wrong}
        claims = {r.deployment_name for r in cluster.replicas() if r.successor is not None}
        self.touch(*self.moving(), *claims)

    @rule(what=st.sampled_from(["exporters", "routers", "writes", "nothing", "nothing"]))
    def harm_the_control_plane(self, what):
        cluster = self.cluster
        cluster.exporters_up = what != "exporters"
        cluster.routers_up = what != "routers"
        cluster.failing = what == "writes"

    # What must be true

    @invariant()
    def no_device_is_promised_more_than_it_has(self):
        for uuid in self.cluster.foreign:
            assert self.cluster.promised(uuid) <= USABLE_BYTES, uuid

    @invariant()
    def what_serves_and_is_only_edited_keeps_all_but_one(self):
        for name in self.cluster.deployments:
            if self.is_full(name):
                self.edited_under_way.discard(name)
            if name in self.untouched:
                wanted = self.expected(name)
                assert len(self.cluster.serving(name)) >= wanted - self.most_missing(name), name
            elif self.is_full(name) and not self.is_flapping(name):
                self.untouched.add(name)

    def expected(self, name):
        """Replicas of which its bounds say how many may be away.

        Edited while one was away, others may have taken its room; then a smaller revision is not
        kept waiting for it: what it leaves may be what makes room.
        """
        wanted = self.cluster.deployments[name]["spec"]["replicas"]
        if name not in self.edited_under_way:
            return wanted
        uid = self.cluster.deployments[name]["metadata"]["uid"]
        return min(wanted, sum(one.owner_uid == uid for one in self.cluster.replicas()))

    def bounds(self, name):
        """How many replicas of it may be what."""
        spec = self.cluster.deployments[name]["spec"]
        return read_rollout(spec).bounds(spec["replicas"])

    def most_missing(self, name):
        """How many may be away at a time: as it was said, else one where no surge fits."""
        said = self.bounds(name).unavailable
        return 1 if said is None else said

    def is_flapping(self, name):
        return any(
            self.cluster.stages[one.uid]["flaps_until"] > self.cluster.now
            or self.cluster.stages[one.uid]["stuck"]
            for one in self.cluster.replicas()
            if one.deployment_name == name
        )

    def settle(self):
        """Everything is mended; the operators go on until nothing is left to do."""
        cluster = self.cluster
        cluster.exporters_up = cluster.routers_up = True
        cluster.failing = False
        cluster.nodes = {name: set() for name in cluster.nodes}
        for stage in cluster.stages.values():
            stage["stuck"] = False
        quiet = 0
        for _ in range(SETTLE_STEPS):
            num_actions, phases = 0, self.phases()
            for planner in cluster.planners:
                cluster.sync(planner)
                num_actions += len(self.step(planner).actions)
            cluster.advance(5)
            self.what_serves_and_is_only_edited_keeps_all_but_one()
            if len(cluster.planners) == 1:
                self.no_device_is_promised_more_than_it_has()
            # What is found in one step is acted on in the next.
            is_moving = num_actions or self.phases() != phases
            is_moving = is_moving or any(r.is_terminating for r in cluster.replicas())
            quiet = 0 if is_moving else quiet + 1
            if quiet == 25:
                return
        msg = "it does not come to rest"
        raise AssertionError(msg)

    def phases(self):
        """How far the rollouts have come, as their statuses say."""
        statuses = self.cluster.status.items()
        return {name: (status.get("rollout") or {}).get("phase") for name, status in statuses}

    def teardown(self):
        cluster = self.cluster
        self.settle()
        for uuid in cluster.foreign:
            assert cluster.promised(uuid) <= USABLE_BYTES, f"{uuid} stays overbooked"
        for replica in cluster.replicas():
            assert replica.successor is None or not replica.is_draining, replica.key
        untouched = self.untouched & cluster.deployments.keys()
        for name in untouched - self.edited_under_way - self.halted():
            assert self.is_full(name), f"{name} served, was only edited, and serves no more"

    def halted(self):
        """Deployments whose failed revision stays: nothing takes its place."""
        return set()


class RolloutHistory(PlanHistory):
    """Rollouts as their owners want them, some of revisions that never serve, on full clusters.

    The bounds of ``spec.rollout`` hold, everything comes to rest, and a revision that fails leaves
    what served: by itself, or because it comes back.
    """

    @initialize()
    def break_revisions(self):
        self.cluster.broken = {
            revision_of(deployment_object("x", "x", "", concurrency=c, replicas=1)["spec"]): ends
            for c, ends in BROKEN.items()
        }

    @precondition(lambda self: self.cluster.deployments)
    @rule(data=st.data(), rollout=ROLLOUTS)
    def edit_rollout(self, data, rollout):
        name = data.draw(st.sampled_from(sorted(self.cluster.deployments)))
        self.cluster.edit(name, rollout={**rollout, "progressDeadlineSeconds": 60})
        # Who is away by other bounds is no breach of these.
        if not self.is_full(name):
            self.touch(name)

    @precondition(lambda self: self.cluster.deployments)
    @rule(data=st.data(), concurrency=st.sampled_from(sorted(BROKEN)))
    def break_it(self, data, concurrency):
        name = data.draw(st.sampled_from(sorted(self.cluster.deployments)))
        self.edit(name, concurrency)
        rollout = self.cluster.deployments[name]["spec"]["rollout"]
        self.cluster.edit(name, rollout={**rollout, "progressDeadlineSeconds": 60})

    @precondition(lambda self: self.untouched & self.cluster.deployments.keys())
    @rule(data=st.data(), rollout=ROLLOUTS, concurrency=st.sampled_from([2, 4, 5, 5, 6, 6, 20]))
    def roll_out_for_long(self, data, rollout, concurrency):
        """What serves is edited, and the operator has the time that it needs for most of it."""
        name = data.draw(st.sampled_from(sorted(self.untouched & self.cluster.deployments.keys())))
        rollout = {**rollout, "progressDeadlineSeconds": 60}
        if self.is_full(name):
            self.cluster.edit(name, rollout=rollout)
        self.edit(name, concurrency)
        self.operate_for_long()

    def check_create(self, placed):
        super().check_create(placed)
        name, bounds = placed.key.name, self.bounds(placed.key.name)
        pods = [
            one for one in self.cluster.replicas()
            if one.deployment_name == name and not self.hangs(one)
            and one.owner_uid == self.cluster.deployments[name]["metadata"]["uid"]
        ]  # fmt: skip
        most = self.cluster.deployments[name]["spec"]["replicas"] + bounds.surge
        assert len(pods) <= most, f"{name} has {len(pods)} pods"

    def hangs(self, replica):
        """Whether its end is not waited for for ever."""
        if not replica.is_terminating:
            return False
        is_lost = "lost" in self.cluster.nodes[replica.node]
        stage = self.cluster.stages[replica.uid]
        # What hung goes with the first tick after it is mended: until then it is as it was.
        return is_lost or stage["stuck"] or self.cluster.now > stage["ends_at"]

    def halted(self):
        halted = set()
        for name in self.cluster.deployments:
            status = self.cluster.status.get(name, {})
            if (status.get("rollout") or {}).get("phase") != "Halted":
                continue
            is_said = self.cluster.deployments[name]["spec"]["rollout"].get("onFailure") == "Halt"
            kept = (status.get("lastGood") or {}).get("revision")
            assert is_said or kept in (None, status["rollout"]["revision"]), (
                f"{name} stays halted: {status['rollout']['message']}"
            )
            halted.add(name)
        return halted


class TwoPlanners(PlanHistory):
    """Two operators that do not see each other's writes: what they overbook is mended."""

    num_planners = 2

    @invariant()
    def no_device_is_promised_more_than_it_has(self):
        """Not at once: see ``teardown``."""

    @invariant()
    def what_serves_and_is_only_edited_keeps_all_but_one(self):
        """Whoever is youngest on an overbooked device leaves it."""

    def check_create(self, placed):
        """The other one may have created beside it a moment before."""


# The long run takes minutes, more when a failure is made smaller.
LONG = pytest.mark.timeout(3600)
TestOnePlanner = LONG(PlanHistory.TestCase)
TestOnePlanner.settings = SETTINGS
TestRollouts = LONG(RolloutHistory.TestCase)
TestRollouts.settings = SETTINGS
TestTwoPlanners = LONG(TwoPlanners.TestCase)
TestTwoPlanners.settings = SETTINGS
