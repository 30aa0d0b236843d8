"""One dead node is told from an outage of all, by Leases, and without comparing clocks."""

from dataclasses import replace

import pytest

from cluster_stub import refuse
from memroute_operator.readings.node_leases import _Lease, silences
from memroute_operator.replicas.lost_nodes import LostNodes, NodeSight
from operator_rig import mdep, node, operator_rig

UP = NodeSight(exists=True, is_ready=True)


def test_a_lease_was_written_before_the_first_mark_that_is_past_it():
    """Marks at 10 s and 20 s; a Lease of version 7 is from before the mark of version 9."""
    marks = [(5, 10.0), (9, 20.0), (30, 30.0)]
    versions = {"old": 1, "mid": 7, "at": 9, "new": 30, "newer": 99}
    leases = {name: _Lease(version=one, renewal_seconds=10.0) for name, one in versions.items()}
    told = silences(leases, marks, now_seconds=32.0)
    assert {name: one.seconds for name, one in told.items()} == {
        "old": 22.0, "mid": 12.0, "at": 2.0, "new": 0.0, "newer": 0.0,
    }  # fmt: skip
    assert silences(leases, [], now_seconds=32.0) == {}


def decide(nodes, *, lost_seconds=30.0, now_seconds=1000.0, lost=None):
    """By an operator that has looked for long, unless ``lost`` says otherwise."""
    if lost is None:
        lost = LostNodes()
        lost.decide({"a": UP}, node_lost_seconds=lost_seconds, now_seconds=0.0)
    return lost.decide(nodes, node_lost_seconds=lost_seconds, now_seconds=now_seconds)


def silent(seconds, *, is_ready=False):
    return NodeSight(exists=True, is_ready=is_ready, is_silent=not is_ready, silent_seconds=seconds)


def test_the_patience_of_kubernetes_is_not_had_a_second_time():
    """It took 50 s to call the node silent: another 30 s made 80, and a minute is the bar."""
    others = {f"n{i}": silent(0.0, is_ready=True) for i in range(4)}
    assert decide(others | {"x": silent(41.0)}).given_up == {"x"}


def test_who_asks_for_more_patience_has_it():
    """``--node-lost-seconds 300``: from the last sign of the kubelet, not from Kubernetes' word."""
    others = {f"n{i}": silent(0.0, is_ready=True) for i in range(4)}
    assert decide(others | {"x": silent(299.0)}, lost_seconds=300.0).given_up == frozenset()
    assert decide(others | {"x": silent(301.0)}, lost_seconds=300.0).given_up == {"x"}


def test_the_first_node_of_an_outage_is_not_given_up():
    """Nodes are called silent one after the other, within 15 s: the first looks like the only one.

    All are silent by their Leases already.
    """
    others = {f"n{i}": silent(35.0, is_ready=True) for i in range(4)}
    loss = decide(others | {"x": silent(45.0)})
    assert loss.given_up == frozenset()
    assert loss.is_braked
    assert "5 of 5 GPU nodes are unreachable" in loss.kept["x"]
    assert loss.num_unreachable == 1


@pytest.mark.parametrize("first", [11.0, 20.0, 29.0, 39.0])
def test_a_cluster_that_is_called_silent_early_has_outages_too(first):
    """``--node-monitor-grace-period=12s``: nobody has missed two renewals when the first is marked.

    Kubelets that fell silent together may seem 20 s apart; in CI one of four was given up.
    """
    others = {f"n{i}": silent(max(0.0, first - 19.0), is_ready=True) for i in range(4)}
    assert decide(others | {"x": silent(first)}, lost_seconds=10.0).given_up == frozenset()
    alive = {name: silent(0.0, is_ready=True) for name in others}
    is_told = first >= 20.0  # of a shorter silence the others tell nothing yet
    lost = decide(alive | {"x": silent(first)}, lost_seconds=10.0)
    assert lost.given_up == ({"x"} if is_told else frozenset())


def test_nodes_that_come_back_after_an_outage_are_waited_for_whatever_their_leases_say():
    """Half are back; the silence of the others is as long as the outage was."""
    lost = LostNodes()
    names = [f"n{i}" for i in range(4)]
    for now in range(100):
        loss = decide(dict.fromkeys(names, silent(float(now))), lost=lost, now_seconds=now)
    assert loss.is_braked
    back = dict.fromkeys(names[:2], silent(0.0, is_ready=True))
    for now in range(100, 129):
        half = back | dict.fromkeys(names[2:], silent(float(now)))
        assert decide(half, lost=lost, now_seconds=now).given_up == frozenset()
    assert decide(half, lost=lost, now_seconds=131).given_up


def test_an_operator_that_begins_to_look_counts_from_then():
    """It may have lost its Lease by the same outage: what it did not see is no reason."""
    lost = LostNodes()
    nodes = {"a": UP, "b": UP, "x": silent(500.0)}
    assert decide(nodes, lost=lost, now_seconds=1000).given_up == frozenset()
    assert decide(nodes, lost=lost, now_seconds=1030).given_up == frozenset()
    assert decide(nodes, lost=lost, now_seconds=1031).given_up == {"x"}


def test_a_kubelet_that_says_it_is_not_ready_is_there():
    """A runtime that restarts: Kubernetes has not waited for it, so we do."""
    others = {f"n{i}": silent(0.0, is_ready=True) for i in range(4)}
    there = NodeSight(exists=True, is_ready=False, is_silent=False, silent_seconds=41.0)
    assert decide(others | {"x": there}).given_up == frozenset()


def test_who_renews_less_often_is_not_late_for_that():
    """``nodeLeaseDurationSeconds: 120``: with all of them late, nothing would ever be given up."""
    sights = {
        f"n{i}": NodeSight(exists=True, is_ready=True, silent_seconds=29.0, renewal_seconds=30.0)
        for i in range(4)
    }
    assert decide(sights | {"x": silent(50.0)}).given_up == {"x"}


def test_who_renews_less_often_may_have_fallen_silent_with_the_others():
    """Its last renewal may be 30 s older than theirs, and is told 10 s too short at most."""
    others = {f"n{i}": silent(5.0, is_ready=True) for i in range(4)}
    slow = replace(silent(44.0), renewal_seconds=30.0)
    assert decide(others | {"x": slow}).given_up == frozenset()
    assert decide(others | {"x": replace(slow, silent_seconds=45.0)}).given_up == {"x"}


def test_a_lease_that_nobody_renews_is_no_sign():
    """Virtual kubelets report by the node's status alone, and stay ready.

    They are no reason to give nothing up, and none to do so at once.
    """
    lost = LostNodes()
    sights = {f"n{i}": silent(500.0, is_ready=True) for i in range(4)} | {"x": silent(500.0)}
    assert decide(sights, lost=lost, now_seconds=1000).given_up == frozenset()
    assert decide(sights, lost=lost, now_seconds=1030).given_up == frozenset()
    assert decide(sights, lost=lost, now_seconds=1031).given_up == {"x"}


def test_without_leases_it_is_as_it_was():
    """No right to read them, or the first minute of an operator."""
    lost, nodes = LostNodes(), {"a": UP, "b": UP, "x": silent(None)}
    assert decide(nodes, lost=lost, now_seconds=1.0).given_up == frozenset()
    assert decide(nodes, lost=lost, now_seconds=31.0).given_up == frozenset()
    assert decide(nodes, lost=lost, now_seconds=31.1).given_up == {"x"}


def lease(name):
    spec = {"leaseDurationSeconds": 40}
    return {"metadata": {"namespace": "kube-node-lease", "name": name}, "spec": spec}


NAMES = ("a", "b", "c", "d")


async def silent_cluster(rig, *, renewing, seconds=45):
    """Marks and renewals every ten seconds; then ``a`` is called silent. As Kubernetes does it."""
    for name in NAMES:
        rig.cluster.put("leases", lease(name))
    for _ in range(seconds // 5):
        await rig.reconciler.leases.mark()
        for name in renewing:
            rig.cluster.put("leases", lease(name))
        await rig.step(5.0)
    rig.cluster.put("nodes", node("a", ready=False))
    rig.cluster.cut_off.add("a")


@pytest.mark.slow
async def test_a_dead_node_is_replaced_within_seconds_of_kubernetes_word():
    """With defaults: the replica is made again two steps after its node is called silent."""
    async with operator_rig(nodes=[node(n) for n in NAMES], mdeps=[mdep("m")]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        (pod,) = rig.cluster.pods()
        assert pod["spec"]["nodeName"] == "a"
        await silent_cluster(rig, renewing=("b", "c", "d"))
        steps = await rig.until(
            "a successor elsewhere",
            lambda: [p["spec"].get("nodeName") for p in rig.cluster.pods()] == ["b"],
        )
        assert steps <= 5


@pytest.mark.slow
async def test_an_outage_deletes_nothing_however_long_it_lasts():
    """The first node is called silent a while before the others: by its Lease it is not alone."""
    async with operator_rig(nodes=[node(n) for n in NAMES], mdeps=[mdep("m")]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        await silent_cluster(rig, renewing=())
        await rig.steps(14)
        for name in NAMES:
            rig.cluster.put("nodes", node(name, ready=False))
        await rig.steps(100)
        assert rig.cluster.count("DELETE", "pods") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [refuse(403, "Forbidden"), refuse(500, "InternalError"), refuse(404, "NotFound")],
    ids=["forbidden", "error", "none"],
)
async def test_leases_that_cannot_be_read_are_waited_without(fault):
    """An older chart's role has no such right: nothing else of the step may suffer."""
    async with operator_rig(nodes=[node(n) for n in NAMES], mdeps=[mdep("m")]) as rig:
        rig.cluster.fault = lambda call: fault if call.plural == "leases" else None
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        await silent_cluster(rig, renewing=("b", "c", "d"))
        await rig.steps(20)
        assert rig.cluster.count("DELETE", "pods") == 0
        steps = await rig.until(
            "a successor elsewhere",
            lambda: [p["spec"].get("nodeName") for p in rig.cluster.pods()] == ["b"],
        )
        assert 8 <= steps <= 15, "30 s after it was seen"


@pytest.mark.slow
async def test_leases_are_listed_only_while_a_node_is_waited_for():
    """5,000 Leases that change every 10 s: neither watched nor listed for nothing."""
    async with operator_rig(nodes=[node(n) for n in NAMES], mdeps=[mdep("m")]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        await rig.steps(50)
        assert rig.cluster.count("GET", "leases") == 0
        rig.cluster.put("nodes", node("d", ready=False))
        await rig.steps(20)
        assert 2 <= rig.cluster.count("GET", "leases") <= 5, "every five seconds"


@pytest.mark.parametrize("answer", [{}, {"metadata": {"resourceVersion": "x"}}, {"metadata": 5}])
async def test_an_answer_that_makes_no_sense_is_no_mark(answer):
    async with operator_rig(nodes=[node("a")]) as rig:

        async def request(*_args, **_options):
            return answer

        rig.reconciler.leases.client = type("Client", (), {"request": staticmethod(request)})()
        await rig.reconciler.leases.mark()
        assert rig.reconciler.leases._marks == []


async def test_versions_that_go_back_are_of_another_etcd():
    """After a restore from a backup every Lease would look renewed, or none."""
    async with operator_rig(nodes=[node("a")]) as rig:
        leases = rig.reconciler.leases
        await leases.mark()
        leases._marks.insert(0, (1, 0.0))
        leases._marks.append((10**9, rig.now))
        await leases.mark()
        assert len(leases._marks) == 1
