"""Which nodes are given up, and what is still counted on those that are."""

import pytest

from memroute.placement import Reservation
from memroute_operator.replicas.lost_nodes import Ghosts, LostNodes, NodeSight
from operator_rig import mdep, node, operator_rig

UP = NodeSight(exists=True, is_ready=True)
DOWN = NodeSight(exists=True, is_ready=False)
GONE = NodeSight(exists=False, is_ready=False)


def fleet(num, **others):
    """``num`` nodes that are up, with these others in place of the first ones."""
    return {f"n{i}": UP for i in range(num - len(others))} | others


class Clock:
    """Decides once a second."""

    def __init__(self):
        self.lost, self.now = LostNodes(), 0.0

    def run(self, nodes, seconds):
        for _ in range(seconds):
            self.now += 1
            loss = self.lost.decide(nodes, node_lost_seconds=30.0, now_seconds=self.now)
        return loss


def test_a_node_is_given_up_after_its_time():
    clock = Clock()
    nodes = fleet(5, x=DOWN)
    loss = clock.run(nodes, 31)
    assert loss.given_up == frozenset()
    assert "after 30 s unreachable" in loss.kept["x"]
    assert clock.run(nodes, 1).given_up == {"x"}


def test_a_node_that_is_back_is_not_given_up():
    """Its time begins anew: ten flaps of 29 s are no loss."""
    clock = Clock()
    for _ in range(10):
        assert clock.run(fleet(5, x=DOWN), 29).given_up == frozenset()
        clock.run(fleet(5), 1)


@pytest.mark.parametrize("num_down", [3, 4, 5])
def test_nothing_is_given_up_while_most_nodes_are_unreachable(num_down):
    """Kubernetes' "master disruption mode": a certificate, not five machines, has failed."""
    clock = Clock()
    loss = clock.run(fleet(5, **{f"d{i}": DOWN for i in range(num_down)}), 3600)
    assert loss.given_up == frozenset()
    assert loss.is_braked
    assert f"{num_down} of 5 GPU nodes are unreachable" in loss.kept["d0"]


def test_nodes_that_come_back_one_by_one_are_waited_for():
    """After two minutes of all being silent, half were back and the others given up at once."""
    clock = Clock()
    down = {f"d{i}": DOWN for i in range(5)}
    assert clock.run(fleet(5, **down), 120).is_braked
    for _ in range(5):
        down.popitem()
        loss = clock.run(fleet(5, **down), 5)
        assert loss.given_up == frozenset()
    assert clock.run(fleet(5, d0=DOWN, d1=DOWN), 32).given_up, "but not for ever"


def test_what_was_given_up_is_kept_again_when_most_nodes_follow():
    """The first of five went a minute before the control plane lost the others."""
    clock = Clock()
    assert clock.run(fleet(5, x=DOWN), 40).given_up == {"x"}
    everything = dict.fromkeys(fleet(5, x=DOWN), DOWN)
    assert clock.run(everything, 300).given_up == frozenset()


@pytest.mark.parametrize(("num", "a_minute"), [(4, 1), (19, 1), (20, 2), (100, 10)])
def test_at_most_a_tenth_is_given_up_a_minute(num, a_minute):
    """A rack that loses power is replaced a tenth of the fleet at a time."""
    clock = Clock()
    nodes = fleet(num, **{f"d{i:03}": DOWN for i in range(num // 2)})
    assert len(clock.run(nodes, 60).given_up) == a_minute
    assert len(clock.run(nodes, 59).given_up) <= 2 * a_minute
    assert len(clock.run(nodes, 61).given_up) <= 3 * a_minute
    kept = clock.run(nodes, 1).kept
    assert all("a minute" in why for why in kept.values())
    assert len(kept) == max(0, num // 2 - 3 * a_minute)


def test_the_last_of_two_nodes_may_be_lost():
    assert Clock().run({"a": UP, "b": DOWN}, 32).given_up == {"b"}


def test_a_node_object_that_is_missing_has_a_minute():
    """A Node that was deleted is registered again by its kubelet; podgc waits 40 s."""
    clock = Clock()
    assert clock.run(fleet(5, x=GONE), 61).given_up == frozenset()
    assert clock.run(fleet(5, x=GONE), 1).given_up == {"x"}


HELD = Reservation(owner="d/m-0", deployment="d/m", node="x", device_bytes={"GPU": 5})


def sight(**fields):
    return {"x": NodeSight(**({"exists": True, "is_ready": True} | fields))}


def cut_off(ghosts, *, boot_id="b1"):
    """A pod ran, its node was cut off, and its object was deleted by force."""
    assert ghosts.look({"u": HELD}, sight(boot_id=boot_id), now_seconds=0) == ()
    assert ghosts.look({"u": HELD}, sight(is_ready=False, boot_id=boot_id), now_seconds=1) == ()
    (ghost,) = ghosts.look({}, sight(is_ready=False, boot_id=boot_id), now_seconds=2)
    assert ghost.device_bytes == {"GPU": 5}
    assert ghost.owner != HELD.owner, "its successor has the name"


def test_what_runs_on_a_node_that_is_cut_off_stays_counted():
    """Its kubelet ends the engine when it is back: until a reading shows that, it holds on."""
    ghosts = Ghosts()
    cut_off(ghosts)
    # Back at 100; the page of 120 was collected before that.
    assert ghosts.look({}, sight(boot_id="b1", shown_after_seconds=90), now_seconds=100)
    assert ghosts.look({}, sight(boot_id="b1", shown_after_seconds=99), now_seconds=120)
    assert ghosts.look({}, sight(boot_id="b1", shown_after_seconds=101), now_seconds=130) == ()


def test_a_machine_that_has_restarted_holds_nothing():
    ghosts = Ghosts()
    cut_off(ghosts)
    assert ghosts.look({}, sight(boot_id="b2"), now_seconds=100) == ()


def test_a_ghost_that_no_exporter_shows_ends_ten_minutes_after_the_return():
    ghosts = Ghosts()
    cut_off(ghosts)
    assert ghosts.look({}, sight(boot_id="b1"), now_seconds=1000)
    assert ghosts.look({}, sight(boot_id="b1"), now_seconds=1599)
    assert ghosts.look({}, sight(boot_id="b1"), now_seconds=1601) == ()


def test_a_ghost_on_a_node_that_never_returns_ends_after_a_day():
    ghosts = Ghosts()
    cut_off(ghosts)
    assert ghosts.look({}, {}, now_seconds=86_000)
    assert ghosts.look({}, {}, now_seconds=86_500) == ()


def test_a_pod_that_ends_on_a_node_that_reports_leaves_no_ghost():
    ghosts = Ghosts()
    ghosts.look({"u": HELD}, sight(), now_seconds=0)
    assert ghosts.look({}, sight(), now_seconds=1) == ()


FIVE = [node(f"n{i}") for i in range(5)]
BIG = {"model": "Qwen/Qwen3-8B", "concurrency": 20}


def spread(rig, ready, *names):
    for name in names:
        rig.cluster.put("nodes", node(name, ready=ready))
        (rig.cluster.cut_off.discard if ready else rig.cluster.cut_off.add)(name)


@pytest.mark.slow
async def test_all_nodes_unreachable_for_two_minutes_delete_nothing():
    """r8: a control-plane blip of 31 s, and every replica of the fleet was force-deleted."""
    names = [f"n{i}" for i in range(5)]
    async with operator_rig(nodes=FIVE, mdeps=[mdep("m", replicas=5, **BIG)]) as rig:
        await rig.until("five replicas", lambda: rig.is_ready("default/m"))
        spread(rig, False, *names)
        for pod in rig.cluster.pods():
            # As the node lifecycle controller does.
            rig.cluster.change(
                "pods",
                f"default/{pod['metadata']['name']}",
                lambda p: p["status"].update(conditions=[{"type": "Ready", "status": "False"}]),
            )
        await rig.steps(120)
        assert rig.cluster.count("DELETE", "pods") == 0
        told = rig.condition("default/m", "Available")
        assert told["reason"] == "NodesUnreachable"
        assert "5 of 5 GPU nodes are unreachable" in told["message"]
        patches = rig.cluster.count("PATCH", "modeldeployments")
        await rig.steps(20)
        assert rig.cluster.count("PATCH", "modeldeployments") == patches
        spread(rig, True, *names)
        await rig.steps(60)
        assert rig.cluster.count("DELETE", "pods") == 0


@pytest.mark.slow
async def test_all_node_objects_missing_for_two_minutes_delete_nothing():
    async with operator_rig(nodes=FIVE, mdeps=[mdep("m", replicas=5, **BIG)]) as rig:
        await rig.until("five replicas", lambda: rig.is_ready("default/m"))
        for i in range(5):
            rig.cluster.remove("nodes", f"n{i}")
        await rig.steps(120)
        assert rig.cluster.count("DELETE", "pods") == 0


@pytest.mark.slow
async def test_one_dead_node_is_replaced_within_a_minute():
    async with operator_rig(nodes=FIVE, mdeps=[mdep("m", **BIG)]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        (before,) = rig.cluster.pods()
        dead = before["spec"]["nodeName"]
        spread(rig, False, dead)

        def is_replaced():
            pods = rig.cluster.pods()
            return bool(pods) and pods[0]["spec"].get("nodeName") not in (dead, None)

        assert await rig.until("another node", is_replaced, at_most=60) <= 40


@pytest.mark.slow
async def test_a_cut_off_engine_keeps_its_room_when_its_node_is_back():
    """Its object went by force: an empty device on paper, 40 GiB in use in truth.

    Two nodes; the one that is cut off comes back while its old engine still runs. What is
    wanted next must not be placed on top of it before a reading has shown the device.
    """
    async with operator_rig(
        nodes=[node("n0"), node("n1")], mdeps=[mdep("m", replicas=1, **BIG)]
    ) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        first = rig.cluster.pods()[0]["spec"]["nodeName"]
        spread(rig, False, first)
        await rig.until(
            "its successor",
            lambda: any(p["spec"].get("nodeName") not in (first, None) for p in rig.cluster.pods()),
            at_most=60,
        )
        rig.has_exporters = False  # the exporter there comes up later than its kubelet
        spread(rig, True, first)
        rig.cluster.put("modeldeployments", mdep("next", **BIG))
        await rig.steps(20)
        assert rig.condition("default/next", "Placed")["reason"] == "InsufficientHBM"
        rig.has_exporters = True
        await rig.until("room is seen", lambda: rig.is_ready("default/next"), at_most=60)


@pytest.mark.slow
async def test_a_new_term_does_not_go_on_counting_where_the_last_one_ended():
    """Another operator led for an hour; a node that was away then is away again since a second.

    By the sightings of the earlier term it would be given up at once, and its engine killed.
    """
    async with operator_rig(nodes=FIVE, mdeps=[mdep("m", **BIG)]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        (pod,) = rig.cluster.pods()
        spread(rig, False, pod["spec"]["nodeName"])
        await rig.steps(5)
        rig.now += 3600
        await rig.reconciler._begin_term()
        await rig.steps(5)
        assert rig.cluster.count("DELETE", "pods") == 0
        await rig.until("it is replaced", lambda: rig.cluster.count("DELETE", "pods") == 1)


@pytest.mark.slow
async def test_an_engine_that_was_unready_in_an_earlier_term_is_drained_like_any_other():
    """Unready then, ready in between, and unready again for a moment: that is no broken engine."""

    def set_ready(rig, key, status):
        rig.cluster.change(
            "pods",
            key,
            lambda p: p["status"].update(conditions=[{"type": "Ready", "status": status}]),
        )

    async with operator_rig(nodes=FIVE, mdeps=[mdep("m", **BIG)]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        set_ready(rig, rig.pod("default/m"), "False")
        await rig.steps(5)
        rig.now += 3600
        await rig.reconciler._begin_term()
        rig.cluster.put("modeldeployments", mdep("m", replicas=0, **BIG))
        await rig.steps(3)
        (pod,) = rig.cluster.pods()
        assert "deletionTimestamp" not in pod["metadata"]
        assert "memroute.dev/draining" in pod["metadata"]["annotations"]


@pytest.mark.slow
async def test_a_new_leader_places_nothing_on_a_node_that_is_back_before_it_is_read():
    """The leader before it deleted a replica there by force, and its memory of that went with it.

    Without a reading the device looks empty, while the engine of before holds 40 GiB of it.
    """
    async with operator_rig(nodes=[node("n0", ready=False)], mdeps=[]) as rig:
        await rig.step()
        rig.has_exporters = False
        rig.readings.devices.readings.clear()
        spread(rig, True, "n0")
        rig.cluster.put("modeldeployments", mdep("next", **BIG))
        await rig.steps(20)
        told = rig.condition("default/next", "Placed")
        assert told["status"] != "True"
        assert "NotReadSinceReturn" in told["message"]
        rig.has_exporters = True
        await rig.until("room is seen", lambda: rig.is_ready("default/next"), at_most=90)


@pytest.mark.slow
async def test_a_node_that_is_new_or_has_started_anew_is_not_waited_for():
    """Its kubelet says itself that it is not ready yet, or its machine has ended every process."""
    new = node("n0", ready=False)
    new["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    for first in (new, node("n0", ready=False, boot_id="before")):
        async with operator_rig(nodes=[first], mdeps=[mdep("m", **BIG)]) as rig:
            await rig.step()
            rig.cluster.put("nodes", node("n0"))
            await rig.until("it serves", lambda: rig.is_ready("default/m"), at_most=10)
