"""The live map: what the operator writes of devices, what a router adds, and how it is served."""

import asyncio
import base64
import json
import re
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from cluster_stub import cluster_stub, refuse
from map_rig import MODELS
from memroute.traffic.replica import ReplicaReading
from memroute.units import GIB
from memroute_kube.fleet_map import MAP_NAME, UnreadableMapError, read_map
from memroute_kube.packed import MAX_TEXT_BYTES, packed_text
from memroute_operator.readings.fleet_map import (
    MAX_DEVICES,
    MAX_MESSAGE,
    Sight,
    fleet_map,
    written_map,
)
from memroute_operator.store.notices import CHANGED_SECONDS, UNCHANGED_SECONDS
from memroute_router.live_map.files import page_files
from memroute_router.live_map.fleet import NO_KUBERNETES, REFRESH_SECONDS, FleetReader
from memroute_router.live_map.live import NUM_DECISIONS, REPLICA_COLUMNS
from memroute_router.live_map.live_map import MAX_LOOKING
from operator_rig import mdep, node, operator_rig
from planned_objects import GPU, SHARED, deployment, facts, pod_of
from router_rig import Rig, body, exchange, held, raw, until, whole

AT = datetime(2026, 1, 1, tzinfo=UTC)


def sight(deployments=(), pods=(), nodes=(SHARED,), **more):
    return Sight(facts=facts(deployments, pods, nodes), at=AT, **more)


def get(path):
    return b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path


def devices(document):
    return [device for one in document["nodes"] for device in one["devices"]]


# What the operator writes.


def test_bytes_of_a_device_are_told_by_owner():
    """16.4e9 bytes of weights are Qwen3-8B's; the sum of all parts is what the device has."""
    of = deployment()
    document = fleet_map(sight([of], [pod_of(of)]))
    (device,) = devices(document)
    (holder,) = device["holders"]
    assert (holder["pod"], holder["model"]) == ("default/m-0", "default/m")
    assert holder["weights"] == of.footprint.weights_bytes
    assert holder["kv"] > 0
    promised = holder["weights"] + holder["overhead"] + holder["kv"] + holder["other"]
    assert promised == device["promised"]
    assert device["usable"] == promised + device["free"]
    assert device["otherPromised"] == 0


def test_what_nobody_has_read_is_null_and_not_zero():
    document = fleet_map(sight())
    (device,) = devices(document)
    assert device["observed"] is None
    assert device["foreign"] is None
    assert device["observedAgeSeconds"] is None


def test_use_of_others_is_told_apart():
    """An exporter shows 30 GiB in use where nothing is promised: 30 GiB are somebody else's."""
    read = replace(GPU, live_free_bytes=GPU.usable_bytes - 30 * GIB, live_age_seconds=2.0)
    document = fleet_map(sight(nodes=(replace(SHARED, devices=(read,)),)))
    (device,) = devices(document)
    assert (device["observed"], device["foreign"]) == (30 * GIB, 30 * GIB)
    assert device["free"] == device["usable"] - 30 * GIB


def test_a_replica_whose_model_is_gone_has_bytes_for_nobody_knows_what():
    of = deployment()
    (device,) = devices(fleet_map(sight([], [pod_of(of)])))
    (holder,) = device["holders"]
    assert (holder["weights"], holder["kv"]) == (None, None)
    assert holder["other"] == device["promised"]


def test_a_release_for_some_namespaces_names_no_pod_of_others():
    """Who may look at one team's router does not learn by it what another team runs."""
    of = deployment()
    document = fleet_map(sight([of], [pod_of(of)], watched=("models",)))
    assert "m-0" not in json.dumps(document["nodes"])
    assert devices(document)[0]["holders"][0]["kv"] > 0, "the bytes are taken, whoever has them"


def test_a_model_says_why_it_waits():
    """``Placed`` has the reason while it is False; else ``Ready`` has. Long texts are cut."""
    of = deployment(replicas=2)
    conditions = [
        {"type": "Ready", "status": "False", "reason": "InsufficientHBM", "message": "later"},
        {"type": "Placed", "status": "False", "reason": "InsufficientHBM", "message": "x" * 900,
         "lastTransitionTime": "2026-01-01T00:00:00Z"},
    ]  # fmt: skip
    (model,) = fleet_map(sight([of], conditions={of.key: conditions}))["models"]
    assert (model["wanted"], model["ready"], model["isReady"]) == (2, 0, False)
    assert model["message"] == "x" * MAX_MESSAGE + "…"
    assert model["since"] == "2026-01-01T00:00:00Z"
    conditions[1]["status"] = "True"
    conditions[0] |= {"status": "True", "reason": "Serving"}
    (model,) = fleet_map(sight([of], conditions={of.key: conditions}))["models"]
    assert model["isReady"]
    assert model["reason"] == "Serving"


def test_a_map_is_bounded_and_says_what_it_leaves_out():
    """10,000 devices would be 4 MB for a page that nobody can read."""
    nodes = [
        replace(
            SHARED, name=f"n{number}",
            devices=tuple(
                replace(GPU, node=f"n{number}", index=index, uuid=f"GPU-{number}-{index}")
                for index in range(8)
            ),
        )
        for number in range(MAX_DEVICES // 8 + 3)
    ]  # fmt: skip
    document = fleet_map(sight(nodes=nodes))
    assert len(devices(document)) == MAX_DEVICES
    assert document["leftOut"] == {"devices": 24, "models": 0}


def test_a_map_that_only_grew_older_is_no_new_one():
    """Every write is an event for whoever watches ConfigMaps: an age alone is worth none."""
    of = deployment()
    read = replace(GPU, live_free_bytes=40 * GIB, live_age_seconds=2.0)
    older = replace(read, live_age_seconds=9.0)
    first, second = (
        written_map(sight([of], [pod_of(of)], (replace(SHARED, devices=(one,)),)))
        for one in (read, older)
    )
    assert first.text != second.text
    assert first.content == second.content


async def test_the_operator_keeps_the_map_and_writes_it_when_it_changes():
    """At most every 15 s, and every minute that it is still so."""
    async with operator_rig(nodes=[node("a", gpus=2)], mdeps=[mdep("chat")]) as rig:
        await rig.list_and_step(4)
        await rig.reconciler.tell_map()
        found = rig.cluster.objects["configmaps"][f"memroute-system/{MAP_NAME}"]
        (model,) = json.loads(read_map(found))["models"]
        assert (model["model"], model["ready"]) == ("default/chat", 1)

        def writes():
            return rig.cluster.count("PATCH", "configmaps", name=MAP_NAME)

        before = writes()
        rig.now += CHANGED_SECONDS + 1
        await rig.reconciler.tell_map()
        assert writes() == before, "nothing has changed"
        rig.now += UNCHANGED_SECONDS
        await rig.reconciler.tell_map()
        assert writes() == before + 1


async def test_a_map_that_cannot_be_written_is_tried_again(caplog):
    async with operator_rig(nodes=[node("a")]) as rig:
        await rig.list_and_step(2)
        rig.cluster.fault = lambda call: refuse(403, "Forbidden") if call.name == MAP_NAME else None
        await rig.reconciler.tell_map()
        assert "notice not written configmap=memroute-system/memroute-map" in caplog.text
        rig.recover()
        rig.now += 61
        await rig.reconciler.tell_map()
        assert f"memroute-system/{MAP_NAME}" in rig.cluster.objects["configmaps"]


# Between them.


@pytest.mark.parametrize("size", [100, MAX_TEXT_BYTES + 1])
def test_a_text_survives_its_packing(size):
    """Small ones can be read with kubectl; large ones fit into a ConfigMap."""
    text = json.dumps({"version": 1, "nodes": [], "models": [], "filler": "x" * size})
    content = packed_text("map", text)
    assert len(json.dumps(content)) < 1024**2
    kept = {kind: {k: v for k, v in own.items() if v} for kind, own in content.items()}
    assert read_map(kept) == text.encode()


# 64 MiB of zeros and more, in 100 KB: what is unpacked is bounded.
BOMB = base64.b64encode(zlib.compress(b"0" * (65 * 1024**2))).decode()


def a_map(**parts):
    return {"data": {"map": json.dumps({"version": 1, "nodes": [], "models": [], **parts})}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("obj", "why"),
    [
        ({}, "it has no map"),
        ({"data": {"map": "{"}}, "no JSON"),
        ({"data": {"map": '{"version": 2}'}}, "another release"),
        ({"data": {"map": "[" * 100_000}}, "no JSON"),
        ({"binaryData": {"map.zlib": "eJw="}}, "no JSON"),
        ({"binaryData": {"map.zlib": "AAAA"}}, "cannot be unpacked"),
        ({"binaryData": {"map.zlib": BOMB}}, "67108864 characters"),
        (a_map(nodes=5), "int where it has a list"),
        (a_map(nodes=["a"]), "list where it has a list of objects"),
        (a_map(models=None), "NoneType where"),
        (a_map(nodes=[{"node": "a", "devices": {}}]), "dict where"),
        (a_map(nodes=[{"node": "a", "devices": [{"usable": 1, "strangers": []}]}]), "NoneType"),
        (a_map(nodes=[{"node": ["a"], "devices": []}]), "other parts"),
        (a_map(models=[{"model": 1}]), "other parts"),
        (a_map(leftOut=3), "other parts"),
        (a_map(at=float("nan")), "NaN is no number"),
        ({"data": {"map": '{"version": 1, "nodes": [], "at": "\ud800"}'}}, "no JSON"),
    ],
)
def test_what_is_no_map_is_said_to_be_none(obj, why):
    """A page that gets another shape than it draws shows no replicas and no queue either."""
    with pytest.raises(UnreadableMapError, match=why):
        read_map(obj)


# What the router reads, and when.


@pytest.fixture
async def api():
    async with cluster_stub() as (cluster, client):
        text = json.dumps({"version": 1, "nodes": [], "models": []})
        cluster.put(
            "configmaps",
            {"metadata": {"name": MAP_NAME, "namespace": "ns"}, "data": {"map": text}},
        )
        yield cluster, client


@pytest.fixture
def pauses(monkeypatch):
    """Pauses of the reader, which end when the test says so."""
    found = asyncio.Queue()

    async def sleep(seconds):
        ended = asyncio.Event()
        await found.put((seconds, ended))
        await ended.wait()

    monkeypatch.setattr("memroute_router.live_map.fleet.pause", sleep)
    return found


async def test_the_api_server_is_asked_only_while_somebody_looks(api, pauses):
    """A hundred routers would else ask for a page that nobody has open."""
    cluster, client = api
    reader = FleetReader("ns")
    following = asyncio.create_task(reader.follow(client))
    await asyncio.sleep(0)
    assert cluster.calls == []
    reader.want()
    reader.want()
    seconds, ended = await pauses.get()
    assert seconds == REFRESH_SECONDS
    assert len(cluster.calls) == 1
    assert reader.why_unknown is None
    assert json.loads(reader.text)["version"] == 1
    ended.set()
    await asyncio.sleep(0)
    assert len(cluster.calls) == 1, "nobody has looked since"
    following.cancel()


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (404, "the operator has not written ConfigMap ns/memroute-map"),
        (403, "this router's service account may not get ConfigMap ns/memroute-map"),
        (500, "ConfigMap ns/memroute-map cannot be read"),
    ],
)
async def test_why_there_is_no_map_is_told_and_the_last_one_stays(api, pauses, status, why):
    cluster, client = api
    reader = FleetReader("ns")
    following = asyncio.create_task(reader.follow(client))
    reader.want()
    _, ended = await pauses.get()
    before = reader.text
    cluster.fault = lambda _: refuse(status, "No")
    reader.want()
    ended.set()
    await pauses.get()
    assert why in reader.why_unknown
    assert reader.text == before
    following.cancel()


async def test_without_kubernetes_nothing_is_asked_and_that_is_said():
    reader = FleetReader("ns")
    following = asyncio.create_task(reader.follow(None))
    await asyncio.sleep(0)
    assert reader.document() == {"version": None, "why": NO_KUBERNETES, "isBeingRead": False}
    following.cancel()


# What the router serves.


@pytest.fixture
async def rig():
    it = Rig("--router-name", "router-0")
    await it.start()
    yield it
    await it.stop()


async def live(rig):
    status, headers, content = await exchange(rig.ops_port, get(b"/map/live.json"))
    assert status == 200
    assert headers["cache-control"] == "no-store"
    return json.loads(content)


def rows(document):
    return [dict(zip(REPLICA_COLUMNS, row, strict=True)) for row in document["replicas"]]


async def test_what_is_unknown_of_a_replica_is_null(rig, engine_factory):
    """Before its first reading nobody knows how full it is: an empty bar would be a lie."""
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    (replica,) = rows(await live(rig))
    assert replica["replica"] == "default/a"
    assert replica["capacityTokens"] == 10_000
    for name in ("heldTokens", "projectedTokens", "numThere", "readingAgeSeconds"):
        assert replica[name] is None
    assert replica["numInFlight"] == 0
    assert replica["ceilingRatio"] == 0.95, "the watermark, below the ceiling that is learned"


async def test_how_full_a_replica_is_is_told_in_tokens(rig, engine_factory):
    """Half of 1,000 tokens are in use there, by nobody that this router knows."""
    engine = await engine_factory(whole())
    replica = rig.add("a", engine.port)
    reading = ReplicaReading(
        taken_at_seconds=rig.pools.now_seconds(), kv_cache_utilization_ratio=0.5,
        kv_capacity_tokens=1_000, num_requests_running=3, num_requests_waiting=0,
    )  # fmt: skip
    rig.pools.apply_reading(replica, reading)
    (told,) = rows(await live(rig))
    assert (told["heldTokens"], told["capacityTokens"], told["numThere"]) == (500, 1_000, 3)


@pytest.mark.slow
async def test_requests_are_seen_as_they_wait_and_as_they_end(rig, engine_factory):
    release = asyncio.Event()
    engine = await engine_factory(held(release))
    rig.add("a", engine.port, capacity=100)
    first = asyncio.create_task(exchange(rig.port, raw(body(max_tokens=50))))
    await until(lambda: engine.requests)
    asked = [first, asyncio.create_task(exchange(rig.port, raw(body(max_tokens=50))))]
    await until(lambda: rig.num_held == 1)
    document = await live(rig)
    assert document["numWaiting"] == 1
    (waiting,) = document["queue"]
    assert waiting["waits_for"] == "room"
    assert waiting["why"] == "default/a is the cheapest, and closed to it: memory"
    assert rows(document)[0]["numInFlight"] == 1
    release.set()
    await asyncio.gather(*asked)
    document = await live(rig)
    assert document["ended"]["served"] == 2
    assert [one["kind"] for one in document["decisions"]] == ["served", "served"]
    assert document["decisions"][0]["replica"] == "default/a"


async def test_no_prompt_no_key_and_no_clients_address_is_shown(rig, engine_factory):
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    content = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "s3cret words"}]}
    ).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer s3cret-key\r\n"
    head += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content)
    await exchange(rig.port, head + content)
    document = await live(rig)
    assert len(document["decisions"]) == 1
    text = json.dumps(document)
    assert "s3cret" not in text
    assert "127.0.0.1" not in text


@pytest.mark.parametrize(
    "sent",
    [
        b'{"model": "\\ud800", "messages": []}',
        b'{"model": "m", "messages": [], "max_tokens": 1%b}' % (b"0" * 30),
        b'{"model": "<img src=x onerror=alert(1)>", "messages": []}',
        b'{"model": "m\xff", "messages": []}',
        b'{"model": "%b", "messages": []}' % (b"m" * 12_000),
    ],
)
async def test_no_client_can_take_the_map_away(rig, engine_factory, sent):
    """What clients send is shown; what cannot be shown may not hide all else."""
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-request-id: \xff\xfe\r\n"
    head += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(sent)
    await exchange(rig.port, head + sent)
    assert len(json.dumps(await live(rig))) < 20_000
    assert (await exchange(rig.ops_port, get(b"/debug/decisions")))[0] == 200


async def test_a_flood_makes_no_longer_page(rig):
    """Refusals of one kind push out neither the others nor the page's bound."""
    for _ in range(3 * NUM_DECISIONS):
        await exchange(rig.port, raw(body(model="nobody")))
    document = await live(rig)
    assert len(document["decisions"]) == NUM_DECISIONS
    assert document["ended"]["mistaken"] == 3 * NUM_DECISIONS


@pytest.mark.slow
async def test_many_who_look_get_one_page_and_too_many_are_told(rig):
    """Each page that is sent is work of the process that serves requests."""
    await live(rig)
    rendered = rig.router.operations._map._live.num_rendered
    answers = await asyncio.gather(
        *(exchange(rig.ops_port, get(b"/map/live.json")) for _ in range(MAX_LOOKING + 4))
    )
    assert sorted(status for status, _, _ in answers) == [200] * MAX_LOOKING + [503] * 4
    assert rig.router.operations._map._live.num_rendered == rendered + 1


async def test_the_map_is_on_the_operations_port_alone(rig):
    for path in (b"/map", b"/map/", b"/map/main.js", b"/map/live.json", b"/map/fleet.json"):
        assert (await exchange(rig.port, get(path)))[0] == 404
        assert (await exchange(rig.ops_port, get(path)))[0] in (200, 308)
    status, headers, _ = await exchange(rig.ops_port, get(b"/map"))
    assert (status, headers["location"]) == (308, "map/"), "relative, for proxies with a path"
    assert (await exchange(rig.ops_port, get(b"/map/../settings.py")))[0] == 404
    assert (await exchange(rig.ops_port, get(b"/map/nothing.js")))[0] == 404


async def test_a_page_is_served_with_a_policy_that_lets_nothing_else_in(rig):
    for path, kind in ((b"/map/", "text/html"), (b"/map/main.js", "text/javascript")):
        _, headers, content = await exchange(rig.ops_port, get(path))
        assert headers["content-type"].startswith(kind)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-cache"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert content


class _Parts(HTMLParser):
    """What a page loads, and what it holds that its policy forbids."""

    def __init__(self):
        super().__init__()
        self.loaded, self.forbidden, self._script = [], [], False

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        self._script = tag in ("script", "style")
        if tag in ("script", "img"):
            self.loaded.append(own["src"])
        elif tag == "link":
            self.loaded.append(own["href"])
        self.forbidden += [name for name in own if name == "style" or name.startswith("on")]

    def handle_endtag(self, tag):
        self._script = False

    def handle_data(self, text):
        if self._script and text.strip():
            self.forbidden.append(text)


def test_everything_that_the_page_loads_is_its_own():
    """No asset of elsewhere, nothing inline: the policy would block both, and the page be blank."""
    files = page_files()
    names = {path.removeprefix(b"/map/").decode() for path in files}
    page = _Parts()
    page.feed(files[b"/map/"].body.decode())
    assert page.forbidden == []
    assert set(page.loaded) <= names
    used = set(page.loaded)
    for name in names:
        text = files[b"/map/" + name.encode()].body.decode()
        if name.endswith(".js"):
            imports = set(re.findall(r'from "\./([^"]+)"', text))
            assert imports <= names, name
            used |= imports
        assert "innerHTML" not in text
        if not name.endswith(".svg"):
            assert not re.search(r"https?://|url\(", text), name
    assert names - {""} == used, "no file that nothing loads"


def test_the_rig_of_the_browsers_tests_knows_models_of_the_catalogue():
    """``make map-test`` is opt-in: what it stands on is at least imported each time."""
    assert set(MODELS) == {"chat", "code", "draft", "search"}
