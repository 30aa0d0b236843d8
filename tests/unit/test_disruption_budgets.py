"""PodDisruptionBudgets of ModelDeployments: which there are, and what happens when they fail."""

import asyncio

import pytest

from cluster_stub import refuse
from memroute_operator.actions.budgets import BUDGET_REFUSED, read_budget, selects
from operator_rig import mdep, node, operator_rig

LABEL = "memroute.dev/model-deployment"


def budget(name="theirs", namespace="default", *, selector, owner=None):
    owners = [{"uid": owner, "controller": True, "kind": "ModelDeployment"}] if owner else []
    return {
        "metadata": {"namespace": namespace, "name": name, "ownerReferences": owners},
        "spec": {"maxUnavailable": 1, "selector": selector},
    }


def budgets(rig):
    return rig.cluster.objects["poddisruptionbudgets"]


def scale(rig, key, replicas):
    rig.cluster.change("modeldeployments", key, lambda obj: obj["spec"].update(replicas=replicas))


@pytest.mark.slow
async def test_several_replicas_have_a_budget_that_takes_one_at_a_time():
    """Without one, ``kubectl drain`` of a node ends all replicas that are on it at once."""
    mdeps = [mdep("two", replicas=2), mdep("one"), mdep("none", replicas=0)]
    async with operator_rig(nodes=[node(gpus=2)], mdeps=mdeps) as rig:
        await rig.list_and_step(2)
        await rig.until("the budget", lambda: budgets(rig))
        (only,) = budgets(rig).values()
        assert only["metadata"]["name"] == "two"
        assert only["metadata"]["ownerReferences"][0]["uid"] == "uid-default-two"
        assert only["spec"]["minAvailable"] == 1
        assert only["spec"]["selector"] == {"matchLabels": {LABEL: "two"}}
        await rig.steps(3)
        assert rig.cluster.count("POST", "poddisruptionbudgets") == 1


@pytest.mark.slow
async def test_a_budget_comes_and_goes_with_the_number_of_replicas():
    async with operator_rig(nodes=[node()], mdeps=[mdep("m", replicas=2)]) as rig:
        await rig.list_and_step()
        await rig.until("the budget", lambda: budgets(rig))
        assert set(budgets(rig)) == {"default/m"}
        scale(rig, "default/m", 1)
        await rig.until("no budget", lambda: not budgets(rig))
        scale(rig, "default/m", 3)
        await rig.until("a budget again", lambda: budgets(rig))
        scale(rig, "default/m", 4)
        await rig.until(
            "another number",
            lambda: [b["spec"]["minAvailable"] for b in budgets(rig).values()] == [3],
        )
        assert rig.cluster.count("PATCH", "poddisruptionbudgets") == 0


async def test_an_operator_that_starts_anew_leaves_budgets_as_they_are():
    """Also one that somebody has edited: ours are made and removed, never changed."""
    edited = budget("m", selector={"matchLabels": {LABEL: "m"}}, owner="uid-default-m")
    edited["spec"]["maxUnavailable"] = 2
    async with operator_rig(nodes=[node()], mdeps=[mdep("m", replicas=2)]) as rig:
        rig.cluster.put("poddisruptionbudgets", edited)
        await rig.list_and_step(5)
        assert budgets(rig)["default/m"]["spec"]["maxUnavailable"] == 2
        assert rig.cluster.count("POST", "poddisruptionbudgets") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "selector",
    [
        {},
        {"matchLabels": {"app.kubernetes.io/managed-by": "memroute"}},
        {"matchExpressions": [{"key": LABEL, "operator": "In", "values": ["m", "n"]}]},
        {"matchExpressions": [{"key": LABEL, "operator": "Exists"}]},
    ],
)
async def test_somebody_elses_budget_is_the_only_one(selector):
    """The API server answers an eviction of a pod with two budgets with an error, always."""
    async with operator_rig(nodes=[node()], mdeps=[mdep("m", replicas=2)]) as rig:
        await rig.list_and_step(3)
        rig.cluster.put("poddisruptionbudgets", budget(selector=selector))
        await rig.list_and_step(3)
        await rig.until("ours to go", lambda: set(budgets(rig)) == {"default/theirs"})
        rig.cluster.remove("poddisruptionbudgets", "default/theirs")
        await rig.list_and_step(3)
        await rig.until("ours again", lambda: set(budgets(rig)) == {"default/m"})


async def test_budgets_of_other_pods_and_namespaces_do_not_count():
    async with operator_rig(nodes=[node()], mdeps=[mdep("m", replicas=2)]) as rig:
        rig.cluster.put("poddisruptionbudgets", budget("a", "other", selector={}))
        rig.cluster.put("poddisruptionbudgets", budget("b", selector=None))
        rig.cluster.put("poddisruptionbudgets", budget("c", selector={"matchLabels": {LABEL: "n"}}))
        await rig.list_and_step()
        await rig.until("the budget", lambda: "default/m" in budgets(rig))


@pytest.mark.slow
async def test_a_budget_that_is_refused_holds_up_nothing_and_is_told():
    """A quota of objects or a policy: replicas serve, and an Event says what is missing."""
    async with operator_rig(nodes=[node()], mdeps=[mdep("m", replicas=2)]) as rig:
        rig.cluster.fault = lambda call: (
            refuse(403, "Forbidden", "exceeded quota")
            if (call.method, call.plural) == ("POST", "poddisruptionbudgets")
            else None
        )
        await rig.list_and_step()
        await rig.until("it to serve", lambda: rig.is_ready("default/m"))
        assert "exceeded quota; tried again in 1 s" in rig.events(BUDGET_REFUSED)[0]
        assert rig.cluster.count("POST", "poddisruptionbudgets") <= 5
        rig.cluster.fault = lambda _call: None
        await rig.until("the budget", lambda: budgets(rig))


async def test_a_list_that_began_before_a_budget_was_made_does_not_undo_it():
    """Else it is made again, refused as taken, and an Event tells of a trouble that is none."""
    async with operator_rig(nodes=[node()], mdeps=[mdep("m", replicas=2)]) as rig:
        await rig.list_and_step()
        await rig.until("the budget", lambda: budgets(rig))
        own = budgets(rig).pop("default/m")
        gate = asyncio.Event()
        list_pages = rig.reconciler._budgets.client.list_pages

        async def slowly(resource):
            pages = [page async for page in list_pages(resource)]
            await gate.wait()
            for page in pages:
                yield page

        rig.reconciler._budgets.client.list_pages = slowly
        rig.reconciler._budgets._known = {}
        listing = asyncio.create_task(rig.reconciler._budgets.list_all())
        await rig.until("it to be made", lambda: budgets(rig))
        gate.set()
        await listing
        await rig.steps(3)
        assert rig.events(BUDGET_REFUSED) == []
        assert budgets(rig)["default/m"]["spec"] == own["spec"]


async def test_without_the_right_to_list_budgets_all_else_goes_on():
    """Roles of the release before do not have it: nothing is done on what is unknown."""
    async with operator_rig(nodes=[node()], mdeps=[mdep("m", replicas=2)]) as rig:
        rig.cluster.fault = lambda call: (
            refuse(403, "Forbidden") if call.plural == "poddisruptionbudgets" else None
        )
        await rig.list_and_step()
        await rig.until("it to serve", lambda: rig.is_ready("default/m"))
        assert rig.cluster.count("POST", "poddisruptionbudgets") == 0


async def test_the_budget_of_an_object_that_cannot_be_read_stays():
    async with operator_rig(nodes=[node()], mdeps=[mdep("m", replicas=2)]) as rig:
        await rig.list_and_step()
        await rig.until("the budget", lambda: budgets(rig))
        rig.cluster.change(
            "modeldeployments", "default/m", lambda obj: obj["spec"].update(replicas="many")
        )
        await rig.steps(5)
        assert set(budgets(rig)) == {"default/m"}


async def test_a_budget_that_cannot_be_read_is_nobodys():
    """One odd object of one tenant ends the plan of nobody."""
    async with operator_rig(nodes=[node()], mdeps=[mdep("m", replicas=2)]) as rig:
        for number, selector in enumerate(
            ["all", {"matchExpressions": ["all"]}, {"matchLabels": 1}]
        ):
            rig.cluster.put("poddisruptionbudgets", budget(f"b{number}", selector=selector))
        await rig.list_and_step(3)
        await rig.until("the budget", lambda: "default/m" in budgets(rig))


@pytest.mark.parametrize(
    ("expression", "is_met"),
    [
        ({"key": "a", "operator": "In", "values": ["1"]}, True),
        ({"key": "a", "operator": "NotIn", "values": ["1"]}, False),
        ({"key": "b", "operator": "NotIn", "values": ["1"]}, True),
        ({"key": "b", "operator": "Exists"}, False),
        ({"key": "b", "operator": "DoesNotExist"}, True),
        ({"key": "a", "operator": "Unheard"}, False),
    ],
)
def test_expressions_of_selectors_are_read_as_kubernetes_reads_them(expression, is_met):
    assert selects({"matchExpressions": [expression]}, {"a": "1"}) is is_met


def test_an_owner_that_does_not_control_it_does_not_make_it_ours():
    obj = budget(selector={}, owner="u")
    obj["metadata"]["uid"] = "b"
    obj["metadata"]["ownerReferences"][0]["controller"] = False
    assert read_budget(obj).owner_uid is None
