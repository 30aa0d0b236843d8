import json
import os
import random
import signal
import time
from datetime import timedelta

import pytest

from cluster_support import Recorder, apply, pods_of, wait_gone, wait_program, wait_ready
from memroute_kube.resources import LABEL_DEPLOYMENT
from two_operators import (
    Cable,
    Operator,
    longest_gap_seconds,
    looks,
    turns_and_trespasses,
    writes,
)

SYSTEM = "memroute-system"
NUM_HISTORIES = int(os.environ.get("MEMROUTE_CHAOS_HISTORIES", "2"))
SEED = os.environ.get("MEMROUTE_CHAOS_SEED", "18")
# The defaults, a third of them: a history takes half a minute instead of one and a half.
SHORT = ["--lease-duration-seconds=5", "--lease-renew-seconds=3", "--lease-retry-seconds=0.6"]
# What the Lease lasts longer than its holder writes: so late may a write come, and no later. A busy
# API server begins with one a second after it was sent.
DELIVERS_SECONDS = 2.0
# How often the one who leads is disturbed, and how often the other one is well meanwhile.
LEADER_SHARE = 0.7
ARGUMENTS = ["--scrape-seconds=1", "--resync-seconds=10", "--drain-timeout-seconds=3"]


@pytest.fixture
def no_operator(cluster):
    """The chart's own operator is away meanwhile."""
    cluster.kubectl("scale", "deployment/memroute-operator", "--replicas=0", "-n", SYSTEM)
    wait_gone(cluster, "operator")
    yield
    cluster.kubectl("scale", "deployment/memroute-operator", "--replicas=1", "-n", SYSTEM)
    wait_program(cluster, "operator")


@pytest.fixture
def two_operators(cluster, no_operator):  # noqa: ARG001 - it must be away before these come
    """Two of them, each behind a cable; started by the test with the arguments that it wants."""
    api_port = int(
        json.loads(cluster.kubectl("config", "view", "-o", "json"))["clusters"][0]["cluster"][
            "server"
        ].rpartition(":")[2]
    )
    target = (cluster.address, api_port)
    cables = [Cable(cluster.address, target, delivers_seconds=DELIVERS_SECONDS) for _ in range(2)]
    with cables[0] as left, cables[1] as right:
        made = []

        def make(arguments, skews=(0.0, 0.0)):
            for index, (cable, skew) in enumerate(zip((left, right), skews, strict=True)):
                operator = Operator(
                    cluster,
                    f"operator-{index}",
                    f"127.{cluster.network}.0.{2 + index}",
                    cable,
                    skew_seconds=skew,
                    arguments=arguments,
                )
                operator.cable = cable
                made.append(operator)
                operator.start()
            return made

        yield make
        for operator in made:
            operator.end()
            # Shown by pytest where the test has failed.
            print(f"--- {operator.host}", operator.log(), sep="\n")  # noqa: T201


def lease(cluster):
    found = [o for o in cluster.get("leases", "-n", SYSTEM) if "memroute" in o["metadata"]["name"]]
    return found[0]["spec"] if found else {}


def spec(rng):
    return {
        "placement": {"mode": rng.choice(["Shared", "Shared", "Exclusive"])},
        "replicas": rng.randint(0, 2),
        "memory": {"maxContextTokens": rng.choice([2048, 4096, 8192])},
    }


def leader_of(cluster, operators, since):
    """Who wrote the Lease last; the first one if nobody has."""
    leases = [w for w in writes(cluster.audit_log, since=since) if w.is_lease]
    holder = leases[-1].credential if leases else None
    return next((one for one in operators if one.credential == holder), operators[0])


def disturb(cluster, rng, operators, since):
    """Stop one, cut one off, or wake and heal; mostly the leader, and both may be away at once."""
    is_about_leader = rng.random() < LEADER_SHARE
    one = leader_of(cluster, operators, since) if is_about_leader else rng.choice(operators)
    for other in operators:
        if other is not one and rng.random() < LEADER_SHARE:
            recover(other)
    what = rng.random()
    if what < 0.45:
        one.signal(signal.SIGSTOP)
    elif what < 0.9:
        one.cable.cut()
    else:
        recover(one)


def recover(one):
    # In either order: a process that wakes up behind a cut cable, and one that does not.
    one.signal(signal.SIGCONT)
    one.cable.heal()


def play(cluster, namespace, rng, operators, wanted, since):
    """One history: edits all the time, and a disturbance every few seconds."""
    for _ in range(rng.randint(4, 7)):
        disturb(cluster, rng, operators, since)
        # From a blink to well past the Lease's duration.
        until = time.monotonic() + rng.choice([0.3, 1.0, 2.5, 4.0, 6.0, 8.0])
        while time.monotonic() < until:
            name = f"m{rng.randint(0, 3)}"
            wanted[name] = spec(rng)
            apply(cluster, namespace, name, **wanted[name])
            time.sleep(rng.uniform(0, 0.3))
    change_hands(cluster, rng, operators, since)
    for one in operators:
        recover(one)


def change_hands(cluster, rng, operators, since):
    """The leader is away until the other one, who is well, leads: no history without a turn.

    By chance alone a history may disturb standbys only, or both at once.
    """
    for one in operators:
        recover(one)
    leader = leader_of(cluster, operators, since)
    rng.choice([lambda: leader.signal(signal.SIGSTOP), leader.cable.cut])()
    cluster.wait_for(
        "the other one to lead",
        lambda: leader_of(cluster, operators, since) is not leader,
    )


@pytest.mark.timeout(900 + 90 * NUM_HISTORIES)
def test_two_operators_are_never_two_writers(cluster, namespace, two_operators, fleet):
    """SIGSTOP and SIGCONT, cut networks that heal, and wall clocks that are minutes apart.

    Judged by the API server's audit log: see ``two_operators``. And no device is ever promised
    more than it has, at no recorded moment. ``make chaos`` plays 50 histories.
    """
    rng = random.Random(SEED)
    since = cluster.audit_log.stat().st_size
    wanted, num_turns, num_writes = {}, 0, 0
    with Recorder(cluster, fleet) as recorder:
        operators = two_operators([*ARGUMENTS, *SHORT], skews=(-300.0, 300.0))
        cluster.wait_for("one of them to lead", lambda: lease(cluster).get("holderIdentity"))
        for _ in range(NUM_HISTORIES):
            play(cluster, namespace, rng, operators, wanted, since)
            for operator in operators:
                assert operator.process.poll() is None, operator.log()
        wanted = {"m0": {"replicas": 2}, "m1": {"replicas": 1}}
        for name in ("m2", "m3"):
            cluster.kubectl("delete", "mdep", name, "-n", namespace, "--ignore-not-found")
        for name, facts in wanted.items():
            apply(cluster, namespace, name, **facts)
        for name in wanted:
            wait_ready(cluster, namespace, name)
        # Which of its replicas a smaller one keeps is the plan's to choose.
        expected = sorted(name for name, facts in wanted.items() for _ in range(facts["replicas"]))
        cluster.wait_for(
            "exactly the wanted pods",
            lambda: (
                sorted(
                    pod["metadata"]["labels"][LABEL_DEPLOYMENT]
                    for pod in pods_of(cluster, namespace)
                )
                == expected
            ),
        )
    found = writes(cluster.audit_log, since=since)
    turns, trespasses = turns_and_trespasses(found)
    num_turns, num_writes = len(turns), sum(not write.is_lease for write in found)
    # What a run of 50 is played for.
    print(f"{NUM_HISTORIES} histories: {num_turns} turns, {num_writes} writes")  # noqa: T201
    assert trespasses == []
    assert recorder.overbooked == []
    # Otherwise the test has shown nothing. One leader before the histories, one more in each, and
    # in the end three replicas that somebody made.
    assert num_turns > NUM_HISTORIES
    assert num_writes > NUM_HISTORIES + 3


def serving_leader(cluster, namespace, operators):
    """Who leads, once "m" serves; and where in the audit log that was seen."""
    cluster.wait_for("one of them to lead", lambda: lease(cluster).get("holderIdentity"))
    apply(cluster, namespace, "m")
    wait_ready(cluster, namespace, "m")
    since = cluster.audit_log.stat().st_size
    cluster.wait_for("a renewal", lambda: writes(cluster.audit_log, since=since))
    holder = writes(cluster.audit_log, since=since)[0].credential
    leader = next(one for one in operators if one.credential == holder)
    return leader, since


def test_a_standby_takes_over_as_soon_as_the_lease_has_ended(cluster, namespace, two_operators):
    """With the times that are shipped: the leader's machine is gone, nothing is given back.

    How long nobody led is printed: 15 s at the most, by the times that are shipped.
    """
    operators = two_operators(ARGUMENTS)
    leader, since = serving_leader(cluster, namespace, operators)
    (standby,) = (one for one in operators if one is not leader)
    killed = time.monotonic()
    leader.process.kill()
    apply(cluster, namespace, "m", replicas=2)
    cluster.wait_for(
        "the standby to place the second replica",
        lambda: len(pods_of(cluster, namespace, "m")) == 2,
    )
    seconds = time.monotonic() - killed
    found = writes(cluster.audit_log, since=since)
    gap = longest_gap_seconds(found)
    print(f"placed {seconds:.1f} s after the kill, {gap:.1f} s between two leaders")  # noqa: T201
    last = max(one.answered for one in found if one.credential == leader.credential)
    taken = min(one.received for one in found if one.credential == standby.credential)
    seen = [
        one for one in looks(cluster.audit_log, standby.credential, since=since)
        if last < one.received < taken
    ]  # fmt: skip
    # It takes the Lease at the first look after its end. The end counts from when the standby had
    # read the first answer: that was before its second look, however slow this machine is.
    ends = seen[1].received + timedelta(seconds=lease(cluster)["leaseDurationSeconds"])
    assert sum(one.received >= ends for one in seen) <= 1, seen


def test_a_leader_that_is_asked_to_go_is_followed_at_once(cluster, namespace, two_operators):
    """An upgrade or a drain of its node: the Lease is given back, nobody waits for its end."""
    operators = two_operators(ARGUMENTS)
    leader, _ = serving_leader(cluster, namespace, operators)
    (standby,) = (one for one in operators if one is not leader)
    before = len(standby.log())  # it may have led, on a machine so slow that a lease was lost
    leader.process.terminate()
    leader.process.wait()
    cluster.wait_for("the other one to lead", lambda: "state='leading: " in standby.log()[before:])
    assert "state='leading: its last holder gave it back'" in standby.log()[before:]
