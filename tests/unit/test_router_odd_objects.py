"""Whatever pods and ModelDeployments look like, nothing leaves discovery and nobody else pays.

500 examples by default; ``make odd-objects`` tries 10,000.
"""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memroute_kube.routing import read_claimed_names, read_routing_status
from memroute_operator.status.served_names import NameClaim, decide_names
from memroute_router.discovery.kube_objects import read_model_deployment
from memroute_router.discovery.name_book import NameBook, serving
from router_objects import BORN, CONTEXT, BeliefsRig, deployment, pod, told, told_by_0_1
from sizes import examples
from spoiled_objects import spoiled

EXAMPLES = examples()
ROUTING = {
    "kvWatermarkPercent": 90, "assumedOutputTokens": 1, "policy": "llm-d", "weight": 1,
    "prefillTokensPerSecond": 1, "admission": "Enforce", "ttftTargetMilliseconds": 1,
    "tpotTargetMilliseconds": 1, "overloadObjective": "Sizes",
}  # fmt: skip


def whole_pod():
    """A pod with every field that a router reads."""
    found = pod("evil", "m-0", of="m", address="10.6.6.6")
    found["metadata"]["annotations"] |= {CONTEXT: "8192", "memroute.dev/draining": BORN}
    found["spec"]["containers"] = [{"ports": [{"name": "http", "containerPort": 8000}]}]
    conditions = [{"type": "Ready", "status": "False"}, {"type": "ContainersReady"}]
    found["status"]["conditions"] += [*conditions, {"reason": "x"}]
    return found


def whole_deployment():
    """A ModelDeployment of somebody else, with a status of each age."""
    found = told(deployment("evil", "m", served="m", routing=dict(ROUTING)), whole_pod())
    found["status"]["placements"] = told_by_0_1(found, whole_pod())["status"]["placements"]
    found["status"]["conditions"] = [{"type": "Ready", "status": "False", "reason": "Starting"}]
    return found


def victim():
    """A model of another namespace that serves."""
    return BeliefsRig(told(deployment(), pod()), pods=[pod()])


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(
    pods=st.lists(spoiled(whole_pod), max_size=3),
    deployments=st.lists(spoiled(whole_deployment), max_size=2),
)
@example(pods=[{}], deployments=[{}])
@example(pods=[{"metadata": None}], deployments=[{"metadata": []}])
def test_no_object_ends_discovery_and_nobody_elses_pool_changes(pods, deployments):
    """They come under the key of their name, as the API server has it, in any order, again."""
    rig = victim()
    before = rig.picture()["chat"]
    for obj in [*deployments, None, *reversed(deployments)]:
        if obj is not None:
            rig.beliefs.deployment_seen("evil/m", obj)
        for number, one in enumerate(pods):
            rig.beliefs.pod_seen(f"evil/m-{number}", one)
    assert rig.picture()["chat"] == before
    assert rig.replicas() == ["a/chat-0"]
    assert not [reason for reason in rig.reasons() if "internal-error" in reason]
    for number in range(len(pods)):
        rig.beliefs.pod_gone(f"evil/m-{number}")
    rig.beliefs.deployment_gone("evil/m")
    assert rig.picture() == {"chat": before}
    assert rig.reasons() == {}


NAMES = st.sampled_from(["chat", "sql", "evil", "more"])


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(
    edits=st.lists(
        st.tuples(
            st.sampled_from(["one", "two"]),
            NAMES,
            st.lists(NAMES, max_size=3, unique=True),
            st.sampled_from(["2020-01-01T00:00:00Z", BORN, "2027-01-01T00:00:00Z"]),
            NAMES,
        ),
        max_size=6,
    )
)
def test_no_edit_of_a_deployment_takes_a_name_that_another_namespace_has(edits):
    """Edits of any age, adapters, replicas started under any name: the operator decides in between.

    With what it has decided so far in the statuses, as it is. The victim asks for ``chat`` and
    ``sql``.
    """
    ours = told(deployment(adapters=["sql"]), names=["chat", "sql"])
    objects = {"a/chat": ours}
    for name, served, adapters, born, running in edits:
        key = f"evil/{name}"
        known = objects.get(key)
        obj = deployment("evil", name, served=served, born=born, adapters=adapters)
        if known is not None:
            obj["metadata"]["creationTimestamp"] = known["metadata"]["creationTimestamp"]
            obj["status"] = known["status"]
        objects[key] = obj
        claims = [
            NameClaim(
                key=key,
                namespace=key.partition("/")[0],
                created_at=one["metadata"]["creationTimestamp"],
                names=read_claimed_names(one),
                before=read_routing_status(one),
                running=frozenset({running}),
            )
            for key, one in objects.items()
        ]
        decided = decide_names(claims, {}, now="2026-06-01T00:00:00Z")
        assert {held.name for held in decided["a/chat"].held} == {"chat", "sql"}
        for key, decision in decided.items():
            if key != "a/chat":
                assert not {held.name for held in decision.held} & {"chat", "sql"}
                objects[key] = told(objects[key], names=[held.name for held in decision.held])
    rig = BeliefsRig(*objects.values())
    assert rig.pools.get("chat").settings.namespace == "a"
    assert rig.pools.get("sql") is rig.pools.get("chat")


NAMES_OR_NONE = st.none() | st.lists(NAMES, max_size=3, unique=True)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["a/x", "a/y", "b/x", "c/z"]),
        st.booleans(),
        NAMES,
        st.lists(NAMES, max_size=2, unique=True),
        NAMES_OR_NONE,
        st.sampled_from([BORN, "2027-01-01T00:00:00Z"]),
    ),
    max_size=12,
)


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(events=EVENTS)
def test_what_is_kept_one_change_at_a_time_is_what_all_of_it_says(events):
    """Who serves what must not depend on the order in which a router has heard of it."""
    book, last = NameBook(), {}
    applied = {}
    for key, is_there, served, adapters, held, born in events:
        namespace, name = key.split("/")
        facts = None
        if is_there:
            obj = deployment(namespace, name, served=served, born=born, adapters=adapters)
            facts = read_model_deployment(obj if held is None else told(obj, names=held))
        _, models = book.put(key, facts)
        applied |= {model: book.settings(model) for model in models}
        last[key] = facts
    there = {key: facts for key, facts in last.items() if facts is not None}
    for name in ("chat", "sql", "evil", "more"):
        touching = [one for one in there.values() if name in one.touched_names]
        may = {key for key in last if book.may_serve(key, name)}
        assert may == serving(name, touching)
        assert applied.get(name) == book.settings(name)
    fresh = NameBook()
    for key, facts in reversed(there.items()):
        fresh.put(key, facts)
    assert {m: fresh.settings(m) for m in fresh.models()} == {
        m: book.settings(m) for m in book.models()
    }
