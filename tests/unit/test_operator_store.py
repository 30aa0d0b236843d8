"""What the store keeps, what it forgets, and which changes wake the reconciler up."""

import asyncio
import copy
import json

import kopf
import pytest

from cluster_stub import cluster_stub, refuse
from memroute_kube import PODS, ApiError
from memroute_kube.client import PAGE_SIZE
from memroute_operator.store import listing
from memroute_operator.store.handlers import build_registry
from memroute_operator.store.listing import Lister
from memroute_operator.store.projections import POD_PROJECTION, project_node, project_pod
from memroute_operator.store.sharing import shared
from memroute_operator.store.store import Collection, Listing, Store
from operator_rig import mdep, node


def foreign(i=0, version=5, **status):
    """A pod as a cluster has them by the thousand: 10 KB of JSON."""
    fields = {f"f:f{n}": {f"f:g{m}": {} for m in range(6)} for n in range(40)}
    container = {
        "name": "app", "image": "registry.example.com/team/app:v1.2.3",
        "env": [{"name": f"VARIABLE_{n}", "value": f"value {n} of it"} for n in range(20)],
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}},
        "volumeMounts": [{"name": f"v{n}", "mountPath": f"/m/{n}"} for n in range(5)],
    }  # fmt: skip
    return {
        "metadata": {
            "namespace": f"team-{i % 50}", "name": f"service-{i}", "uid": f"uid-{i}",
            "resourceVersion": str(version), "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": f"service-{i}", "pod-template-hash": "7d9c7b9f5d"},
            "managedFields": [{"manager": "kubelet", "fieldsV1": fields}],
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"service-{i}", "uid": "r",
                 "controller": True, "blockOwnerDeletion": True}
            ],
        },
        "spec": {"nodeName": f"n{i % 200}", "containers": [container], "volumes": [{"name": "v"}]},
        "status": {
            "phase": "Running", "podIP": "10.1.2.3",
            "conditions": [
                {"type": kind, "status": "True", "lastProbeTime": None}
                for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
            ],
        } | status,
    }  # fmt: skip


def small(i):
    return {
        "metadata": {"namespace": "n", "name": f"p{i}"},
        "spec": {"nodeName": "a"},
        "status": {},
    }


def holding(amount="1", **status):
    pod = foreign(**status)
    pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = amount
    return pod


def test_of_foreign_pods_only_what_is_read_is_kept():
    """r16: 55 KiB each, managedFields included; 10,000 of anybody's took 541 MiB."""
    whole, kept = json.dumps(foreign()), json.dumps(project_pod(foreign()))
    assert len(kept) < 800 < len(whole) / 5
    for gone in ("managedFields", "env", "cpu", "volumes", 'blockOwnerDeletion": true,'):
        assert gone not in kept
    assert "nvidia.com/gpu" in json.dumps(project_pod(holding()))


def test_nobodys_managed_fields_are_kept():
    store = Store()
    for collection, obj in (
        (store.pods, holding()), (store.nodes, node()), (store.model_deployments, mdep("m")),
    ):  # fmt: skip
        metadata = obj["metadata"] | {"managedFields": [{"manager": "x"}], "resourceVersion": "5"}
        collection.upsert(obj | {"metadata": metadata})
        assert all("managedFields" not in json.dumps(one) for one in collection.values())
        assert len(collection) == 1


def test_what_others_write_on_a_node_for_themselves_wakes_nobody_up():
    """Network plugins, feature discovery and autoscalers annotate nodes all the time."""
    store, obj = Store(), node()
    obj["metadata"] |= {"resourceVersion": "1", "annotations": {"memroute.dev/device-count": "4"}}
    assert store.nodes.upsert(obj)
    later = copy.deepcopy(obj)
    later["metadata"]["resourceVersion"] = "2"
    later["metadata"]["annotations"]["projectcalico.org/IPv4Address"] = "10.0.0.1/24"
    later["status"]["addresses"] = [{"type": "InternalIP", "address": "10.0.0.1"}]
    assert not store.nodes.upsert(later)
    ours = copy.deepcopy(later)
    ours["metadata"]["resourceVersion"] = "3"
    ours["metadata"]["annotations"]["memroute.dev/device-count"] = "8"
    assert store.nodes.upsert(ours)


def test_a_node_is_kept_without_its_images_and_heartbeats():
    obj = node()
    obj["status"]["images"] = [{"names": ["x"] * 5}] * 50
    obj["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-01-01T00:00:00Z"
    kept = json.dumps(project_node(obj))
    assert "images" not in kept
    assert "Heartbeat" not in kept


@pytest.mark.parametrize(
    ("before", "after", "matters"),
    [
        (foreign(), foreign(version=6, podIP="10.9.9.9"), False),
        (None, foreign(), False),
        (None, holding(), True),
        (holding(), holding("2", version=6), True),
        (holding(), holding(version=6, podIP="10.9.9.9"), False),
        (holding(), holding(version=6, phase="Succeeded"), True),
        (holding(), None, True),
        (foreign(), None, False),
    ],
)
def test_a_foreign_pod_wakes_the_reconciler_only_by_what_it_holds(before, after, matters):
    """Any pod event in the cluster did: a busy cluster reconciled back to back."""
    pods = Collection(POD_PROJECTION)
    if before is not None:
        pods.upsert(before)
    if after is None:
        gone = copy.deepcopy(before)
        gone["metadata"]["resourceVersion"] = "9"
        assert pods.delete(gone) == matters
    else:
        assert pods.upsert(after) == matters
        assert len(pods) == 1


def test_a_heartbeat_and_a_status_that_we_wrote_wake_nobody():
    store = Store()
    one, of = node(), mdep("m")
    one["metadata"]["resourceVersion"] = of["metadata"]["resourceVersion"] = "5"
    assert store.nodes.upsert(one)
    assert store.model_deployments.upsert(of)
    later, written = copy.deepcopy(one), copy.deepcopy(of)
    later["metadata"]["resourceVersion"] = written["metadata"]["resourceVersion"] = "6"
    later["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-01-01T00:05:00Z"
    written["status"] = {"summary": "1/1"}
    assert not store.nodes.upsert(later)
    assert not store.model_deployments.upsert(written)
    assert store.model_deployments.get("default/m")["status"] == {"summary": "1/1"}
    written = copy.deepcopy(written)
    written["metadata"]["resourceVersion"] = "7"
    written["spec"]["replicas"] = 2
    assert store.model_deployments.upsert(written)


def versioned(version, name="p"):
    labels = {"memroute.dev/model-deployment": "m"}
    return {
        "metadata": {
            "namespace": "n", "name": name, "uid": name, "resourceVersion": str(version),
            "labels": labels,
        }
    }  # fmt: skip


def test_after_a_restore_of_etcd_nothing_of_the_future_stays():
    """Versions went back: what was kept as newer stayed until the operator was restarted."""
    pods = Collection(POD_PROJECTION)
    pods.replace([versioned(900, "old"), versioned(950, "both")], 1000)
    assert pods.replace([versioned(40, "both")], 50)
    assert [p["metadata"]["name"] for p in pods.values()] == ["both"]
    assert pods.get("n/both")["metadata"]["resourceVersion"] == "40"


def test_what_the_api_server_says_is_gone_is_forgotten():
    pods = Collection(POD_PROJECTION)
    pods.upsert(versioned(5))
    assert not pods.forget("n/p", "another uid")
    assert pods.forget("n/p", "p")
    assert not pods.forget("n/p", "p")
    assert not pods.upsert(versioned(5)), "its last version does not come back"


@pytest.mark.parametrize(
    "odd", [{}, {"metadata": None}, {"metadata": {"name": "x"}}, {"metadata": {"name": None}}, None]
)
def test_what_has_no_name_or_version_is_left_out(odd):
    pods = Collection(POD_PROJECTION)
    assert not pods.upsert(odd)
    assert not pods.delete(odd)
    listing = Listing(pods, 7)
    listing.take([odd, versioned(5)])
    assert listing.end()
    assert len(pods) == 1


def handlers_of(store):
    """What kopf would call, by kind."""
    registry = build_registry(store)
    found = {}
    for handler in registry._watching.get_all_handlers():
        found[handler.selector.plural or handler.selector.any_name] = handler.fn
    return found, registry


async def test_events_of_kopf_reach_the_store_and_wake_the_reconciler():
    store = Store()
    handlers, _ = handlers_of(store)
    assert set(handlers) == {"pods", "nodes", "modeldeployments"}
    one = node()
    one["metadata"]["resourceVersion"] = "5"
    await handlers["nodes"](event={"type": "ADDED", "object": one})
    assert store.nodes.get("a")
    await store.wait_dirty(0.01)
    assert not store._dirty.is_set()
    await handlers["pods"](event={"type": "ADDED", "object": foreign()})
    assert len(store.pods) == 1
    assert not store._dirty.is_set(), "it holds nothing"
    of = mdep("m")
    of["metadata"]["resourceVersion"] = "3"
    await handlers["modeldeployments"](event={"type": "MODIFIED", "object": of})
    assert store._dirty.is_set()
    gone = copy.deepcopy(one)
    gone["metadata"]["resourceVersion"] = "8"
    await handlers["nodes"](event={"type": "DELETED", "object": gone})
    assert store.nodes.get("a") is None
    await handlers["nodes"](event={"type": None, "object": {"metadata": None}})


async def test_kopf_writes_nothing_and_logs_in_as_the_pod_does(monkeypatch):
    store = Store()
    registry = build_registry(store)
    given = kopf.OperatorSettings()
    by_name = {
        handler.fn.__name__: handler.fn for handler in registry._activities.get_all_handlers()
    }
    await by_name["configure"](settings=given)
    assert given.posting.enabled is False
    assert given.peering.standalone is True
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: None)
    monkeypatch.setattr(kopf, "login_with_kubeconfig", lambda **_: "from kubeconfig")
    assert await by_name["login"]() == "from kubeconfig"


async def test_kopf_looks_for_no_differences():
    """Nobody asks for them, and each event of a pod cost three deep copies on the event loop."""
    registry, given = build_registry(Store()), kopf.OperatorSettings()
    (configure,) = [
        handler.fn
        for handler in registry._activities.get_all_handlers()
        if handler.fn.__name__ == "configure"
    ]
    await configure(settings=given)
    body, patch = kopf.Body(mdep("m")), kopf.Patch()
    diffs, progress = given.persistence.diffbase_storage, given.persistence.progress_storage
    essence = diffs.build(body=body, extra_fields=())
    assert not essence
    assert progress.clear(essence=essence) is essence
    diffs.store(body=body, patch=patch, essence=essence)
    progress.store(key="x", record={}, body=body, patch=patch)
    progress.touch(body=body, patch=patch, value="x")
    progress.purge(key="x", body=body, patch=patch)
    progress.flush()
    assert not patch
    assert diffs.fetch(body=body) is None
    assert progress.fetch(key="x", body=body) is None


async def test_a_resync_never_holds_a_whole_list(monkeypatch):
    """r16: old and new lists together were twice the memory, once a minute."""
    async with cluster_stub() as (cluster, client):
        for i in range(1200):
            cluster.put("pods", small(i))
        store = Store()
        sizes = []
        take = listing._take

        async def counting(listed, items):
            sizes.append(len(items))
            await take(listed, items)

        monkeypatch.setattr(listing, "_take", counting)
        await Lister(client, store, lambda: 0.0).list_all()
        assert len(store.pods) == 1200
        assert max(sizes) == PAGE_SIZE


async def test_an_older_list_that_ends_later_brings_nothing_back():
    """A new term lists everything while a resync is under way, and a pod is deleted meanwhile.

    It counted for five minutes, and nobody made it again.
    """
    half, may_end = asyncio.Event(), asyncio.Event()
    lists = [
        [([small(1)], "100"), ([small(2)], "100")],
        [([small(1)], "110")],
    ]

    class Slow:
        async def list_pages(self, resource):
            if resource is not PODS:
                return
            pages = lists.pop(0)
            yield pages[0]
            half.set()
            for page in pages[1:]:
                await may_end.wait()
                yield page

    for pages in lists:
        for items, _ in pages:
            for obj in items:
                obj["metadata"]["resourceVersion"] = "50"
    store = Store()
    lister = Lister(Slow(), store, lambda: 0.0)
    older = asyncio.create_task(lister.list_all())
    await half.wait()
    newer = asyncio.create_task(lister.list_all())
    for _ in range(20):
        await asyncio.sleep(0)
    may_end.set()
    await asyncio.gather(older, newer)
    assert [obj["metadata"]["name"] for obj in store.pods.values()] == [
        small(1)["metadata"]["name"]
    ]


async def test_a_list_that_expires_half_way_begins_anew():
    async with cluster_stub() as (cluster, client):
        for i in range(700):
            cluster.put("pods", small(i))
        num_expired = 0

        def expire(call):
            nonlocal num_expired
            if call.plural == "pods" and num_expired < 2 and len(cluster.calls) % 2 == 1:
                num_expired += 1
                return refuse(410, "Expired")
            return None

        cluster.fault = expire
        store = Store()
        await Lister(client, store, lambda: 0.0).list_all()
        assert len(store.pods) == 700
        cluster.fault = lambda call: refuse(410, "Expired") if call.plural == "pods" else None
        with pytest.raises(ApiError):
            await Lister(client, store, lambda: 0.0).list_all()
        assert len(store.pods) == 700, "half a list drops nothing"


async def test_a_list_out_of_turn_is_taken_when_it_is_wanted():
    async with cluster_stub() as (_, client):
        lister = Lister(client, Store(), lambda: 0.0)
        lister.want()
        assert lister.is_wanted
        await asyncio.wait_for(lister.wait_due(0.01), 30)
        assert not lister.is_wanted


def test_what_is_the_same_in_many_pods_is_kept_once():
    """A fleet's pods repeat each other: each copy of a part took hundreds of bytes."""

    def pod(number, node):
        return json.loads(json.dumps({
            "metadata": {"namespace": "d", "name": f"p-{number}", "uid": f"u{number}",
                         "resourceVersion": "1", "labels": {"app": "a"}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running", "podIP": f"10.0.0.{number}"},
        }))  # fmt: skip

    one, two, elsewhere = (project_pod(pod(*of)) for of in ((1, "a"), (2, "a"), (3, "b")))
    assert one["metadata"]["labels"] is two["metadata"]["labels"]
    assert one["spec"] is two["spec"]
    assert elsewhere["spec"] == {"nodeName": "b", "containers": []}
    assert one["status"]["podIP"] != two["status"]["podIP"]


@pytest.mark.parametrize("odd", [{"a": True}, {"a": 1}, {"a": 1.0}, {"a": None}, [1], "text", 5])
def test_a_part_that_is_shared_keeps_its_types(odd):
    """``True``, ``1`` and ``1.0`` are equal and hash alike: one must not become the other."""
    for value in ({"a": 1}, {"a": True}, {"a": 1.0}, odd):
        assert repr(shared(value)) == repr(value)
    strange = {"a": object()}
    assert shared(strange) is strange
