"""What watches tell of pools while a call about them is under way."""

import asyncio
import copy
import itertools
import random
from types import SimpleNamespace

from memroute_kube.resources import object_key
from memroute_operator.actions.lanes import Lanes
from memroute_operator.gateway.deciding import wish_of
from memroute_operator.gateway.keeper import GatewayKeeper
from memroute_operator.gateway.pickers import find_pickers
from memroute_operator.metrics import OperatorMetrics
from memroute_operator.readings.sources import parse_pod_selector
from memroute_operator.spec.deployment import read_deployment
from planned_objects import deployment


class SlowClient:
    """An API server whose answers come when the test lets them."""

    def __init__(self):
        self.calls = []
        self.may_answer = asyncio.Event()

    async def delete(self, resource, namespace, name, **_):
        self.calls.append(("delete", resource.kind, f"{namespace}/{name}"))
        await self.may_answer.wait()

    async def create(self, resource, _namespace, body):
        self.calls.append(("create", resource.kind, object_key(body)))


def asking(name="chat"):
    obj = copy.deepcopy(deployment(name, uid="u1").obj)
    obj["spec"]["routing"]["gateway"] = {}
    return read_deployment(obj)


def followed(*objects):
    """What a watch has told."""
    known = {object_key(obj): copy.deepcopy(obj) for obj in objects}
    for obj in known.values():
        obj["metadata"].setdefault("uid", f"uid of {object_key(obj)}")
    return SimpleNamespace(is_listed=True, is_missing=False, trouble=None, objects=known)


async def test_what_is_told_before_a_calls_answer_is_acted_upon_after_it():
    """Nothing is told again: a Service stayed away for a minute, and its requests got 5xx."""
    client, lanes, woken = SlowClient(), Lanes(on_error=lambda *_: None), []
    seconds = itertools.count(step=10.0)
    selector = parse_pod_selector("elsewhere/app=picker", own_namespace="memroute-system")
    keeper = GatewayKeeper(
        client=client, lanes=lanes, metrics=OperatorMetrics(), selector=selector,
        pods=SimpleNamespace(num_changes=1, values=list),
        on_change=lambda: woken.append(1), on_bug=lambda *_: None,
        clock=lambda: next(seconds), rng=random.Random(1),
    )  # fmt: skip
    asked = asking()
    wish = wish_of(asked, "FailClose", find_pickers([], selector))
    wish.service["spec"]["ports"].append({"port": 1})
    services = followed(wish.service)
    keeper._watches = (followed(wish.pool), services, followed(*wish.slices))
    keeper.start([asked])
    await asyncio.sleep(0)
    assert client.calls == [("delete", "Service", "default/picker-chat")]
    services.objects.clear()
    woken.clear()
    keeper.start([asked])  # the step of that event: its lane is busy
    assert len(client.calls) == 1
    client.may_answer.set()
    while lanes.busy:
        await asyncio.sleep(0)
    assert woken == [1]
    keeper.start([asked])
    while lanes.busy:
        await asyncio.sleep(0)
    assert client.calls[1:] == [("create", "Service", "default/picker-chat")] * 2
    assert woken == [1], "no step for a call that nothing came in between"
