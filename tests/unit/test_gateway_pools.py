"""What the operator writes for gateways, decided on what is there."""

import copy
from dataclasses import replace

import pytest

from memroute_kube.gateway import (
    asks_for_picker,
    deployment_of_pool,
    picker_service_of,
    service_in_authority,
)
from memroute_kube.resources import object_key
from memroute_operator.gateway.deciding import (
    Existing,
    Verb,
    failure_mode,
    plan_gateway,
    wish_for,
    wish_of,
)
from memroute_operator.gateway.differences import is_as_wanted, removal
from memroute_operator.gateway.pickers import Pickers, find_pickers
from memroute_operator.gateway.telling import pool_view
from memroute_operator.readings.sources import parse_pod_selector
from memroute_operator.spec.deployment import read_deployment
from planned_objects import deployment

PICKERS = Pickers(
    namespace="memroute-system", labels={"app": "picker"}, port=9002, addresses=("10.0.0.5",)
)
NOTHING = Existing(pools={}, services={}, slices={})


def asking(name="chat", *, uid="u1", **gateway):
    obj = copy.deepcopy(deployment(name, uid=uid).obj)
    obj["spec"]["routing"]["gateway"] = gateway
    return read_deployment(obj)


def there(*wishes, **changed):
    """What those wishes have led to, as the API server has it."""
    found = {"pools": {}, "services": {}, "slices": {}}
    for number, wish in enumerate(wishes):
        bodies = {"services": [wish.service], "slices": wish.slices}
        bodies["pools"] = [wish.pool] if wish.pool else []
        for kind, some in bodies.items():
            for one in some:
                obj = copy.deepcopy(one)
                obj["metadata"]["uid"] = f"{kind}-{number}"
                found[kind][object_key(obj)] = obj
    return Existing(**(found | changed))


def told(plan):
    return [
        (str(change.verb), change.resource.kind, change.key)
        for changes in plan.changes.values()
        for change in changes
    ]


def foreign(name="own", *, label="serve", service="own-picker", uid="p1", **metadata):
    return {
        "metadata": {
            "namespace": "default", "name": name, "uid": uid,
            "labels": {"memroute.dev/picker": label} if label else {},
        } | metadata,
        "spec": {
            "selector": {"matchLabels": {"app": "own"}},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": service, "port": {"number": 9005}},
        },
    }  # fmt: skip


def test_who_asks_gets_a_pool_its_service_first_and_who_does_not_gets_none():
    """A gateway looks for the Service as soon as it sees the pool."""
    assert plan_gateway([deployment("plain")], NOTHING, PICKERS).changes == {}
    asked = asking(failureMode="FailOpen")
    plan = plan_gateway([asked], NOTHING, PICKERS)
    assert told(plan) == [
        ("CreateForGateway", "Service", "default/picker-chat"),
        ("CreateForGateway", "EndpointSlice", "default/picker-chat-ipv4"),
        ("CreateForGateway", "InferencePool", "default/chat"),
    ]
    service, slices, pool = (change.body for change in plan.changes["default/chat/gateway"])
    assert "selector" not in service["spec"]
    assert slices["endpoints"][0]["addresses"] == ["10.0.0.5"]
    assert slices["metadata"]["labels"]["kubernetes.io/service-name"] == "picker-chat"
    assert pool["spec"]["selector"] == {"matchLabels": {"memroute.dev/model-deployment": "chat"}}
    reference = pool["spec"]["endpointPickerRef"]
    assert (reference["name"], reference["failureMode"]) == ("picker-chat", "FailOpen")
    assert all(
        body["metadata"]["ownerReferences"][0]["uid"] == "u1" for body in (service, slices, pool)
    )


def test_nothing_said_of_failures_is_what_the_schema_of_pools_takes():
    assert failure_mode(asking()) == "FailClose"
    assert failure_mode(deployment("plain")) is None


def test_a_picker_in_the_pools_own_namespace_is_selected_and_not_listed():
    """Kubernetes itself keeps the endpoints then, whether an operator runs or not."""
    beside = Pickers(namespace="default", labels={"app": "picker"}, port=9002, addresses=("10.1",))
    wish = wish_of(asking(), "FailClose", beside)
    assert wish.service["spec"]["selector"] == {"app": "picker"}
    assert wish.slices == []


def test_addresses_of_both_families_have_a_slice_each():
    both = Pickers(namespace="x", labels=None, port=9002, addresses=("10.0.0.5", "fd00::5"))
    slices = wish_of(asking(), "FailClose", both).slices
    assert [one["addressType"] for one in slices] == ["IPv4", "IPv6"]
    assert len({one["metadata"]["name"] for one in slices}) == 2


def test_what_is_as_it_should_be_is_left_alone_whatever_the_api_server_has_added():
    asked = asking()
    existing = there(wish_of(asked, "FailClose", PICKERS))
    service = existing.services["default/picker-chat"]
    service["spec"] |= {"clusterIP": "10.9.0.1", "type": "ClusterIP"}
    service["metadata"]["resourceVersion"] = "7"
    existing.pools["default/chat"]["spec"]["appProtocol"] = "http"
    assert told(plan_gateway([asked], existing, PICKERS)) == []


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("InferencePool", lambda pool: pool["spec"]["targetPorts"].append({"number": 9})),
        ("InferencePool", lambda pool: pool["spec"]["selector"]["matchLabels"].update(a="b")),
        ("InferencePool", lambda pool: pool["metadata"].pop("labels")),
    ],
)
def test_what_somebody_changed_is_put_right(kind, spoil):
    asked = asking()
    existing = there(wish_of(asked, "FailClose", PICKERS))
    spoil(existing.pools["default/chat"])
    assert told(plan_gateway([asked], existing, PICKERS)) == [
        (str(Verb.APPLY), kind, "default/chat")
    ]


def test_a_label_that_somebody_put_into_a_selector_is_taken_out_by_name():
    """Server-side apply leaves it there, and it selects other pods."""
    wanted = {"spec": {"selector": {"matchLabels": {"a": "1"}}}}
    found = {"spec": {"selector": {"matchLabels": {"a": "1", "b": "2"}}}}
    assert not is_as_wanted(found, wanted)
    assert removal(found, wanted) == {"spec": {"selector": {"matchLabels": {"b": None}}}}
    assert removal(wanted, wanted) is None
    service = {"spec": {"ports": []}}
    assert removal({"spec": {"ports": [], "selector": {"app": "x"}}}, service) == {
        "spec": {"selector": {"app": None}}
    }


def test_a_service_with_a_port_too_many_is_made_anew():
    """Apply would leave the port where it is, and be tried for ever."""
    asked = asking()
    existing = there(wish_of(asked, "FailClose", PICKERS))
    existing.services["default/picker-chat"]["spec"]["ports"].append({"port": 1})
    assert told(plan_gateway([asked], existing, PICKERS)) == [
        (str(Verb.DELETE), "Service", "default/picker-chat"),
        (str(Verb.CREATE), "Service", "default/picker-chat"),
    ]


def test_a_picker_that_serves_by_tls_from_now_on_is_not_spoken_to_without():
    """What a port speaks is told by the absence of h2c: every request would be refused."""
    asked = asking()
    existing = there(wish_of(asked, "FailClose", PICKERS))
    by_tls = replace(PICKERS, is_tls=True)
    wish = wish_of(asked, "FailClose", by_tls)
    (port,) = wish.slices[0]["ports"]
    assert "appProtocol" not in port
    assert told(plan_gateway([asked], existing, by_tls)) == [
        (str(Verb.DELETE), "Service", "default/picker-chat"),
        (str(Verb.CREATE), "Service", "default/picker-chat"),
        (str(Verb.APPLY), "EndpointSlice", "default/picker-chat-ipv4"),
    ]
    assert told(plan_gateway([asked], there(wish), by_tls)) == []


def test_an_owner_that_somebody_added_is_theirs():
    """Apply leaves it there, and would be tried at every step."""
    asked = asking()
    existing = there(wish_of(asked, "FailClose", PICKERS))
    other = {"apiVersion": "v1", "kind": "ConfigMap", "name": "app", "uid": "u9"}
    existing.services["default/picker-chat"]["metadata"]["ownerReferences"].append(other)
    assert told(plan_gateway([asked], existing, PICKERS)) == []


def test_a_service_whose_pool_asks_no_more_goes_though_another_pool_names_it():
    """It was written for the one; the other then gets its own."""
    first, second = foreign("first", uid="p1"), foreign("second", uid="p2")
    both = {object_key(one): one for one in (first, second)}
    existing = there(wish_for(first, PICKERS), pools=both)
    plan = plan_gateway([], existing, PICKERS)
    assert (plan.changes, list(plan.taken)) == ({}, ["default/second/gateway-pool"])
    del first["metadata"]["labels"]["memroute.dev/picker"]
    assert told(plan_gateway([], existing, PICKERS)) == [
        (str(Verb.DELETE), "EndpointSlice", "default/own-picker-ipv4"),
        (str(Verb.DELETE), "Service", "default/own-picker"),
    ]
    gone = Existing(pools=both, services={}, slices={})
    assert told(plan_gateway([], gone, PICKERS)) == [
        (str(Verb.CREATE), "Service", "default/own-picker"),
        (str(Verb.CREATE), "EndpointSlice", "default/own-picker-ipv4"),
    ]


def test_slices_that_kubernetes_wrote_by_somebodys_selector_go_with_it():
    """It leaves them, and they lead the gateway to pods that are no picker."""
    asked = asking()
    existing = there(wish_of(asked, "FailClose", PICKERS))
    service = existing.services["default/picker-chat"]
    owner = {"kind": "Service", "name": "picker-chat", "uid": service["metadata"]["uid"]}
    theirs = copy.deepcopy(existing.slices["default/picker-chat-ipv4"])
    theirs["metadata"] |= {"name": "picker-chat-x7", "uid": "x", "ownerReferences": [owner]}
    existing.slices["default/picker-chat-x7"] = theirs
    assert told(plan_gateway([asked], existing, PICKERS)) == [
        (str(Verb.DELETE), "EndpointSlice", "default/picker-chat-x7")
    ]
    # Where the picker is beside the pool, Kubernetes' slices are those that lead to it.
    beside = Pickers(namespace="default", labels={"app": "picker"}, port=9002)
    existing = there(wish_of(asked, "FailClose", beside))
    existing.slices["default/picker-chat-x7"] = theirs
    assert told(plan_gateway([asked], existing, beside)) == []


def test_other_pods_of_the_picker_change_the_slice_alone():
    asked = asking()
    existing = there(wish_of(asked, "FailClose", PICKERS))
    moved = Pickers(
        namespace="memroute-system", labels={"app": "picker"}, port=9002, addresses=("10.0.0.6",)
    )
    assert told(plan_gateway([asked], existing, moved)) == [
        (str(Verb.APPLY), "EndpointSlice", "default/picker-chat-ipv4")
    ]
    gone = Pickers(namespace="memroute-system", labels={"app": "picker"}, port=9002)
    assert told(plan_gateway([asked], existing, gone)) == [
        (str(Verb.DELETE), "EndpointSlice", "default/picker-chat-ipv4")
    ]


def test_who_asks_no_more_loses_what_was_written_and_nothing_else():
    """A pool that its users made of the same ModelDeployment, by hand, is theirs."""
    existing = there(wish_of(asking(), "FailClose", PICKERS))
    by_hand = copy.deepcopy(existing.pools["default/chat"])
    by_hand["metadata"] |= {"name": "chat-2", "uid": "hand", "labels": {}}
    existing.pools["default/chat-2"] = by_hand
    existing.services["default/other"] = {
        "metadata": {"namespace": "default", "name": "other", "uid": "o"},
        "spec": {},
    }
    plain = deployment("chat", uid="u1")
    assert told(plan_gateway([plain], existing, PICKERS)) == [
        (str(Verb.DELETE), "InferencePool", "default/chat"),
        (str(Verb.DELETE), "EndpointSlice", "default/picker-chat-ipv4"),
        (str(Verb.DELETE), "Service", "default/picker-chat"),
    ]
    # Of one that is deleted, Kubernetes collects them.
    assert told(plan_gateway([], existing, PICKERS)) == []


def test_a_modeldeployment_that_cannot_be_read_keeps_its_pool():
    existing = there(wish_of(asking(), "FailClose", PICKERS))
    broken = copy.deepcopy(deployment("chat", uid="u1").obj)
    broken["spec"]["memory"] = 7
    assert told(plan_gateway([read_deployment(broken)], existing, PICKERS)) == []


def test_somebody_elses_pool_of_that_name_is_told_and_nothing_is_written():
    existing = Existing(pools={"default/chat": foreign("chat", label="")}, services={}, slices={})
    plan = plan_gateway([asking()], existing, PICKERS)
    assert told(plan) == []
    assert "InferencePool default/chat" in plan.taken["default/chat/gateway"]


def test_a_pool_that_others_wrote_gets_the_service_that_it_names():
    """Engines that memroute has not deployed; their pool stays as they wrote it."""
    existing = Existing(pools={"default/own": foreign()}, services={}, slices={})
    plan = plan_gateway([], existing, PICKERS)
    assert told(plan) == [
        (str(Verb.CREATE), "Service", "default/own-picker"),
        (str(Verb.CREATE), "EndpointSlice", "default/own-picker-ipv4"),
    ]
    service = plan.changes["default/own/gateway-pool"][0].body
    assert service["spec"]["ports"][0]["port"] == 9005
    assert service["spec"]["ports"][0]["targetPort"] == 9002
    (owner,) = service["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("InferencePool", "p1")
    assert "controller" not in owner
    for unasked in (foreign(label=""), foreign(label="no")):
        existing = Existing(pools={"default/own": unasked}, services={}, slices={})
        assert told(plan_gateway([], existing, PICKERS)) == []


def test_a_pool_that_asks_no_more_loses_its_service():
    plan = plan_gateway([], Existing(pools={"default/own": foreign()}, services={}, slices={}),
                        PICKERS)  # fmt: skip
    service, slices = (change.body for change in plan.changes["default/own/gateway-pool"])
    for body in (service, slices):
        body["metadata"]["uid"] = f"uid-{body['kind']}"
    existing = Existing(
        pools={"default/own": foreign(label="")},
        services={"default/own-picker": service},
        slices={"default/own-picker-ipv4": slices},
    )
    assert told(plan_gateway([], existing, PICKERS)) == [
        (str(Verb.DELETE), "EndpointSlice", "default/own-picker-ipv4"),
        (str(Verb.DELETE), "Service", "default/own-picker"),
    ]


def test_a_pool_says_whose_it_is_and_whom_it_asks():
    pool = foreign()
    assert asks_for_picker(pool)
    assert picker_service_of(pool).port == 9005
    written = wish_of(asking(), "FailClose", PICKERS).pool
    assert deployment_of_pool(written) == "chat"
    assert not asks_for_picker(written)
    for odd in (
        {}, {"kind": "Deployment", "name": "x", "port": {"number": 1}}, {"name": "x"},
        {"group": "g", "name": "x", "port": {"number": 1}}, {"name": "x", "port": {"number": True}},
    ):  # fmt: skip
        pool["spec"]["endpointPickerRef"] = odd
        assert picker_service_of(pool) is None


@pytest.mark.parametrize(
    ("authority", "service"),
    [
        (b"picker-chat.models.svc:9002", ("models", "picker-chat")),
        (b"outbound|9002||picker-chat.models.svc.cluster.local", ("models", "picker-chat")),
        (b"picker-chat.models.svc.cluster.local:9002", ("models", "picker-chat")),
        (b"10.0.0.5:9002", None),
        (b"endpointpicker_chat_models_ext_proc", None),
        (b"a.picker-chat.models.svc", None),
        (b"", None),
    ],
)
def test_the_service_that_a_gateway_has_called_is_in_what_it_calls_it(authority, service):
    assert service_in_authority(authority) == service


def picker_pod(name, address, *, ready="True", **metadata):
    return {
        "metadata": {"namespace": "memroute-system", "name": name, "labels": {"app": "picker"}}
        | metadata,
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": ready}]},
    }


def test_gateways_are_led_to_the_pods_of_the_picker_that_are_ready():
    selector = parse_pod_selector("memroute-system/app=picker")
    found = find_pickers(
        [
            picker_pod("b", "10.0.0.2"), picker_pod("a", "10.0.0.1"),
            picker_pod("c", "10.0.0.3", ready="False"), picker_pod("d", None),
            picker_pod("e", "10.0.0.4", deletionTimestamp="now"),
            picker_pod("f", "10.0.0.5", namespace="elsewhere"),
        ],
        selector,
    )  # fmt: skip
    assert found == Pickers(
        namespace="memroute-system", labels={"app": "picker"}, port=9002,
        addresses=("10.0.0.1", "10.0.0.2"),
    )  # fmt: skip
    wide = parse_pod_selector("memroute-system/app in (a, b):9100")
    assert (find_pickers([], wide).labels, find_pickers([], wide).port) == (None, 9100)


def parent(accepted=None, resolved=None, **reference):
    conditions = []
    for kind, status in (("Accepted", accepted), ("ResolvedRefs", resolved)):
        if status is not None:
            conditions.append(
                {"type": kind, "status": status, "reason": f"{kind}Reason", "message": "words"}
            )
    return {"parentRef": {"name": "main"} | reference, "conditions": conditions}


@pytest.mark.parametrize(
    ("parents", "reason"),
    [
        ([], "NoGateway"),
        ([{"parentRef": {"kind": "Status", "name": "default"}}], "NoGateway"),
        ([parent()], "NoGateway"),
        ([parent("True", "True", namespace="infra")], None),
        ([parent("True")], None),
        ([parent("False")], "PoolNotAccepted"),
        ([parent("True", "False")], "PickerNotResolved"),
        ([parent("True", "True"), parent("False", "True", name="other")], "PoolNotAccepted"),
    ],
)
def test_what_gateways_say_is_told_in_their_words(parents, reason):
    pool = {"status": {"parents": parents}}
    view = pool_view(asking(), pool, 1)
    assert (view.condition or (None, None, None))[1] == reason
    if reason in ("PoolNotAccepted", "PickerNotResolved"):
        assert "Reason: words" in view.condition[2]
    assert view.part["service"] == "picker-chat"


def test_what_a_gateway_said_of_an_older_pool_is_not_known_any_more():
    """It may not have taken the newer one; one that names no generation is believed."""
    said = parent("False", "True")
    pool = {"metadata": {"generation": 3}, "status": {"parents": [said]}}
    for generation, reason in ((3, "PoolNotAccepted"), (2, "NoGateway"), (None, "PoolNotAccepted")):
        for one in said["conditions"]:
            one["observedGeneration"] = generation
        assert pool_view(asking(), pool, 1).condition[1] == reason


def test_a_status_lists_eight_gateways_and_says_when_no_picker_is_ready():
    pool = {"status": {"parents": [parent("True", "True", name=f"g{n}") for n in range(20)]}}
    view = pool_view(asking(), pool, 0)
    assert len(view.part["parents"]) == 8
    assert view.condition[1] == "NoPickerReady"
    named = pool_view(asking(), {"status": {"parents": [parent("True", namespace="infra")]}}, 1)
    assert named.part["parents"] == [
        {"gateway": "infra/main", "accepted": "True", "resolvedRefs": "Unknown"}
    ]
    assert pool_view(asking(), None, 1).condition[1] == "NoGateway"
