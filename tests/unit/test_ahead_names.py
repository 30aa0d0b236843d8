"""The name of a pod that should go ahead, and what has it already."""

import copy
from types import SimpleNamespace

import pytest

from memroute_kube import ApiError
from memroute_operator.actions.aheads import AheadApplier
from memroute_operator.plan import FetchAhead
from memroute_operator.spec.deployment import read_deployment
from operator_rig import mdep

DEPLOYMENT = read_deployment(mdep("m"))
GOAL = SimpleNamespace(key="goal", revision="revision")
POD = {
    "metadata": {
        "namespace": "default",
        "name": "m-1-ahead-2",
        "annotations": {"memroute.dev/ahead": "for this"},
        "ownerReferences": [
            {"controller": True, "kind": "ModelDeployment", "apiVersion": "memroute.dev/v1alpha1"}
        ],
    },
    "spec": {},
}


class Server:
    """An API server in which the name is taken."""

    def __init__(self, holder):
        self.holder = holder

    async def create(self, *_):
        raise ApiError(409, "AlreadyExists", "taken")

    async def request(self, method, path, *, query):
        """As the operator's rights allow: it may list pods, and get none."""
        assert (method, path) == ("GET", "/api/v1/namespaces/default/pods")
        assert query == {"fieldSelector": "metadata.name=m-1-ahead-2"}
        return {"items": [one for one in (self.holder,) if one is not None]}


async def begin(holder):
    taken = []
    store = SimpleNamespace(pods={})
    templates = SimpleNamespace(ahead=lambda *_: copy.deepcopy(POD))
    applier = AheadApplier(Server(holder), store, templates, taken.append)
    replica = SimpleNamespace(key="default/m-0")
    action = FetchAhead(deployment=DEPLOYMENT, goal=GOAL, node="a", replica=replica)
    return await applier.apply(action), taken


async def test_one_that_was_made_in_an_earlier_term_is_taken_for_what_it_is():
    """Its event may be late: it must be neither made twice nor called refused."""
    assert await begin(POD) == (False, [POD])


@pytest.mark.parametrize(
    "more", [{"ownerReferences": []}, {"annotations": {"memroute.dev/ahead": "for that"}}]
)
async def test_a_name_that_somebody_else_has_is_refused_and_not_waited_for_for_ever(more):
    """The rollout goes on without it, and says so."""
    with pytest.raises(ApiError) as raised:
        await begin({**POD, "metadata": POD["metadata"] | more})
    assert raised.value.status == 409
    assert "default/" in raised.value.message


async def test_a_name_that_is_free_by_then_is_tried_again():
    assert await begin(None) == (False, [])
