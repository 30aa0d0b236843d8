"""Adapters while engines run: a hub, the container that fetches, an engine, real sockets."""

import asyncio
import contextlib
import json
import random
import socket
import threading
import time
from dataclasses import replace

import httpx2
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import fake_hub
from engine_probe import FLAGS, TINY
from fake_hub import GOOD_TOKEN, FakeHub, Repository, adapter_files
from fetching import loopback_client, without_waits
from memroute_fetch import program, serving
from memroute_fetch.disk.cache import ModelFolder
from memroute_fetch.disk.eviction import noted_users
from memroute_fetch.failures import ExitCode
from memroute_fetch.kept_adapters import Fetched, KeptAdapters, read_wanted
from memroute_operator.adapters import pod_calls
from memroute_operator.adapters.caller import open_caller
from memroute_operator.adapters.keeper import AdapterKeeper
from memroute_operator.adapters.telling import View, failing_adapters, told_adapters
from memroute_operator.replicas.reading import read_replica
from memroute_operator.spec.deployment import read_deployment
from memroute_simulator.engine.arguments import parse_arguments
from memroute_simulator.engine.dialect import MetricsDialect
from memroute_simulator.engine.http.app import EngineServer
from operator_rig import mdep
from planned_objects import pod_of
from ports import free_port

SQL, LARGE, GATED = "org/sql", "org/large", "org/gated"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    without_waits(monkeypatch)
    monkeypatch.setattr(serving, "new_client", loopback_client)
    with fake_hub.loopback_sessions():
        yield


@pytest.fixture
def hub(monkeypatch):
    repositories = {
        SQL: Repository(adapter_files()),
        LARGE: Repository(adapter_files(rank=64)),
        GATED: Repository(adapter_files(), is_gated=True),
    }
    with FakeHub(repositories) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def container(cache):
    """``memroute-fetch adapters``, in a thread of this process; its port."""
    port, stopping = free_port(), threading.Event()
    words = ["adapters", "--cache", str(cache), "--port", str(port)]
    environment = {"MEMROUTE_BIND_ADDRESS": "127.0.0.1", "POD_UID": "pod-1"}
    codes = []
    thread = threading.Thread(
        target=lambda: codes.append(program.run(words, environment, stopping))
    )
    thread.start()
    deadline = time.monotonic() + 30
    while not is_open(port) and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield port
    finally:
        stopping.set()
        thread.join(30)
    assert codes == [ExitCode.COMPLETE]


@contextlib.asynccontextmanager
async def engine(folder, *flags, dialect=MetricsDialect.VLLM):
    """The port of a simulated engine with slots of rank 16, and the engine."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY))
    arguments = parse_arguments(["--model", str(folder), *FLAGS, "--enable-lora", *flags])
    arguments = replace(arguments, dialect=dialect)
    server = EngineServer(arguments, arguments.standalone_spec())
    stepping = asyncio.create_task(server.run())
    running = TestServer(server.application(), handler_cancellation=True)
    await running.start_server()
    try:
        yield running.port, server.generation
    finally:
        await running.close()
        stepping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stepping


class Kept:
    """A ModelDeployment with one replica, and what keeps its adapters."""

    def __init__(self, caller):
        self.now = 0.0
        self.changes = 0
        self.bugs = []
        self.keeper = AdapterKeeper(
            caller, clock=lambda: self.now, rng=random.Random(1), on_change=self._changed,
            on_bug=lambda where, error: self.bugs.append((where, error)),
        )  # fmt: skip
        self.status = {}
        self.is_ready = True
        self.num_restarts = 0
        self.adapters = []
        self.engine = {"maxAdapters": 2}
        self.is_paused = False

    def _changed(self):
        self.changes += 1

    def want(self, *adapters):
        self.adapters = [
            {"name": name, "source": {"hub": {"repository": repository}}}
            for name, repository in adapters
        ]

    def look(self):
        obj = mdep("m", mode="Exclusive")
        obj["spec"]["engine"] |= self.engine
        obj["spec"]["adapters"] = self.adapters
        obj["spec"]["paused"] = self.is_paused
        obj["spec"]["model"]["servedName"] = "tiny"
        obj["status"] = self.status
        deployment = read_deployment(obj)
        pod = pod_of(deployment, ready=self.is_ready)
        pod["status"]["podIP"] = "127.0.0.1"
        replica = replace(read_replica(pod), num_restarts=self.num_restarts)
        self.keeper.want([deployment], [replica])
        view = self.keeper.views.get(replica.uid)
        loaded = {replica.uid: view.loaded or frozenset()} if view else {}
        told = told_adapters(deployment, [replica], self.keeper.views, loaded)
        self.status = {"adapters": told}
        return {one["name"]: one for one in told or ()}

    async def until(self, what):
        """Go on until the status says so. Waits for the container's thread, in real time."""
        async with asyncio.timeout(60):
            while not what(found := self.look()):
                await self.keeper.round()
                self.now += 1.0
                await asyncio.sleep(0.01)
        assert self.bugs == []
        return found

    async def until_states(self, **states):
        return await self.until(
            lambda found: {name: one["state"] for name, one in found.items()} == states
        )


@contextlib.asynccontextmanager
async def kept(tmp_path, monkeypatch, **options):
    """All of it: ``Kept``, and the engine's adapters."""
    cache = tmp_path / "cache"
    mounts = {"/adapters/fetched": str(cache / "adapters")}
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    monkeypatch.setenv("MEMROUTE_SIMULATOR_MOUNTS", json.dumps(mounts))
    async with engine(tmp_path / "model", **options) as (port, generation), open_caller() as caller:
        with container(cache) as own_port:
            monkeypatch.setattr(pod_calls, "ENGINE_PORT", port)
            monkeypatch.setattr(pod_calls, "ADAPTERS_PORT", own_port)
            yield Kept(caller), generation


async def test_an_adapter_is_fetched_loaded_and_unloaded(hub, tmp_path, monkeypatch):
    """Nothing is begun again that is as it should be: a status is written for news alone."""
    async with kept(tmp_path, monkeypatch) as (it, generation):
        it.want(("sql", SQL))
        found = await it.until_states(sql="Loaded")
        commit = hub.repositories[SQL].commit
        assert found["sql"] == {
            "name": "sql", "state": "Loaded", "loadedReplicas": 1, "readyReplicas": 1,
            "source": f"hf://{SQL}@main", "commit": commit,
        }  # fmt: skip
        assert list(generation.adapters) == ["sql"]
        changes, asked = it.changes, len(hub.requests)
        for _ in range(40):
            it.look()
            it.now += 1.0
            await it.keeper.round()
        assert (it.changes, len(hub.requests)) == (changes, asked)
        it.want()
        await it.until(lambda _: not generation.adapters)


async def test_a_commit_that_was_read_once_is_what_later_replicas_load(hub, tmp_path, monkeypatch):
    """A branch moves, and replicas of one model must not answer by two adapters."""
    async with kept(tmp_path, monkeypatch) as (it, generation):
        first = hub.repositories[SQL].commit
        it.want(("sql", SQL))
        await it.until_states(sql="Loaded")
        old = hub.repositories[SQL]
        hub.repositories[SQL] = Repository(adapter_files(rank=4), older={old.commit: old.files})
        it.keeper.forget()
        found = await it.until_states(sql="Loaded")
        assert found["sql"]["commit"] == first
        assert list(generation.adapters) == ["sql"]


@pytest.mark.usefixtures("hub")
async def test_a_bad_adapter_says_why_and_disturbs_no_other(tmp_path, monkeypatch):
    async with kept(tmp_path, monkeypatch) as (it, generation):
        it.want(("sql", SQL), ("large", LARGE), ("gated", GATED), ("none", "org/none"))
        found = await it.until_states(sql="Loaded", large="Failed", gated="Failed", none="Failed")
        assert "its rank is 64, and the engine's slots take 16" in found["large"]["message"]
        assert "gated" in found["gated"]["message"]
        assert "tried again within 300 s" in found["none"]["message"]
        assert list(generation.adapters) == ["sql"]
        # What was wrong is mended: nobody has to do anything else.
        it.want(("sql", SQL), ("large", SQL))
        await it.until_states(sql="Loaded", large="Loaded")


@pytest.mark.usefixtures("hub")
async def test_an_engine_that_was_restarted_gets_what_it_had(tmp_path, monkeypatch):
    """Its list is empty then; routers are told so at once, by its readiness."""
    async with kept(tmp_path, monkeypatch) as (it, generation):
        it.want(("sql", SQL))
        await it.until_states(sql="Loaded")
        generation.adapters.clear()
        it.is_ready = False
        it.look()
        (view,) = it.keeper.views.values()
        assert view.loaded is None
        it.is_ready, it.num_restarts = True, 1
        await it.until_states(sql="Loaded")
        assert list(generation.adapters) == ["sql"]


async def test_a_paused_list_is_held(hub, tmp_path, monkeypatch):
    """Somebody pauses a model that must not change now, and edits what comes later."""
    async with kept(tmp_path, monkeypatch) as (it, generation):
        it.want(("sql", SQL))
        commit = (await it.until_states(sql="Loaded"))["sql"]["commit"]
        it.look()
        it.is_paused = True
        it.want(("other", SQL))
        found = await it.until_states(other="Pending")
        assert "spec.paused is true" in found["other"]["message"]
        for _ in range(40):
            it.look()
            it.now += 1.0
            await it.keeper.round()
        assert list(generation.adapters) == ["sql"]
        # An engine that starts again gets back what it had, and nothing else: also its commit.
        old = hub.repositories[SQL]
        hub.repositories[SQL] = Repository(adapter_files(rank=4), older={old.commit: old.files})
        before = dict(generation.adapters)
        generation.adapters.clear()
        it.num_restarts = 1
        await it.until(lambda _: generation.adapters)
        assert dict(generation.adapters) == before, commit
        # Another operator has never seen the list of before: it leaves all as it is.
        it.keeper.forget()
        for _ in range(40):
            it.look()
            it.now += 1.0
            await it.keeper.round()
        assert dict(generation.adapters) == before
        (view,) = it.keeper.views.values()
        assert view.loaded == {"sql"}
        it.is_paused = False
        await it.until_states(other="Loaded")
        await it.until(lambda _: list(generation.adapters) == ["other"])


@pytest.mark.usefixtures("hub")
async def test_what_an_engine_refuses_is_tried_again_later_and_later(tmp_path, monkeypatch):
    async with kept(tmp_path, monkeypatch) as (it, generation):
        monkeypatch.setenv("MEMROUTE_SIMULATOR_MOUNTS", "{}")
        it.want(("sql", SQL))
        found = await it.until_states(sql="Failed")
        assert "No adapter found" in found["sql"]["message"]
        assert "made for Qwen/Qwen3-0.6B" in found["sql"]["message"]
        assert "tried again in 5 s" in found["sql"]["message"]
        await it.until(lambda found: "in 10 s" in found["sql"]["message"])
        cache = {"/adapters/fetched": str(tmp_path / "cache" / "adapters")}
        monkeypatch.setenv("MEMROUTE_SIMULATOR_MOUNTS", json.dumps(cache))
        await it.until_states(sql="Loaded")
        assert list(generation.adapters) == ["sql"]


@pytest.mark.usefixtures("hub")
async def test_adapters_of_its_owner_are_left_alone(tmp_path, monkeypatch):
    async with kept(tmp_path, monkeypatch) as (it, generation):
        generation.adapters["own"] = "/data/own"
        it.want(("sql", SQL))
        await it.until_states(sql="Loaded")
        it.want()
        await it.until(lambda _: "sql" not in generation.adapters)
        assert list(generation.adapters) == ["own"]


@pytest.mark.usefixtures("hub")
async def test_a_name_that_its_owner_has_taken_is_told(tmp_path, monkeypatch):
    async with kept(tmp_path, monkeypatch) as (it, generation):
        generation.adapters["sql"] = "/data/own"
        it.want(("sql", SQL))
        found = await it.until_states(sql="Failed")
        assert "another adapter of that name, from /data/own" in found["sql"]["message"]
        assert generation.adapters == {"sql": "/data/own"}


async def test_an_engine_that_asks_for_a_key_is_told():
    async def refuse(_request):
        return web.Response(status=401)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", refuse)
    server = TestServer(application)
    await server.start_server()
    async with open_caller() as caller:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pod_calls, "ENGINE_PORT", server.port)
            patch.setattr(pod_calls, "ADAPTERS_PORT", server.port)
            it = Kept(caller)
            it.want(("sql", SQL))
            found = await it.until_states(sql="Failed")
            assert "(HTTP 401): memroute has no key for it" in found["sql"]["message"]
    await server.close()


@pytest.mark.usefixtures("hub")
async def test_sglang_is_told_in_its_own_words(tmp_path, monkeypatch):
    async with kept(tmp_path, monkeypatch, dialect=MetricsDialect.SGLANG) as (it, generation):
        it.engine = {"type": "SGLang", "image": "lmsysorg/sglang:v1", "maxAdapters": 2}
        it.want(("tiny:sql", SQL), ("tiny:large", LARGE))
        await it.until_states(**{"tiny:sql": "Loaded", "tiny:large": "Failed"})
        assert generation.models == [*generation.models[:1], f"{generation.models[0]}:sql"]
        it.want()
        await it.until(lambda _: not generation.adapters)


@pytest.mark.usefixtures("hub")
async def test_without_the_container_it_says_where_to_look(tmp_path, monkeypatch):
    """What the engine has already goes on serving."""
    async with kept(tmp_path, monkeypatch) as (it, generation):
        it.want(("sql", SQL))
        await it.until_states(sql="Loaded")
        monkeypatch.setattr(pod_calls, "ADAPTERS_PORT", free_port())
        it.keeper.forget()
        await it.until_states(sql="Loaded")
        found = await it.until_states(sql="Failed")
        assert "kubectl logs m-0 -c memroute-adapters" in found["sql"]["message"]
        assert list(generation.adapters) == ["sql"]


def test_what_is_sent_is_checked():
    for odd in (None, "", "9" * 5000, "-1", "x", "1048577", "1e3"):
        assert serving._length(odd) is None
    assert serving._length("1048576") == 2**20
    assert read_wanted({"a": "hf://a/b@main"}) == {"a": "hf://a/b@main"}
    for odd in (
        None,
        [],
        {"a": 3},
        {"": "x"},
        {"a": "x" * 3000},
        {str(n): "x" for n in range(300)},
    ):
        assert read_wanted(odd) is None


def test_the_container_answers_nothing_but_what_it_is_for(tmp_path):
    with container(tmp_path / "cache") as port:
        url = f"http://127.0.0.1:{port}"
        with loopback_client() as client:
            assert client.get(f"{url}/adapters").json() == {"adapters": {}}
            assert client.get(f"{url}/progress").status_code == 404
            assert client.put(f"{url}/adapters", content=b"[1]").status_code == 400
            assert client.put(f"{url}/other", content=b"{}").status_code == 400
            told = client.put(f"{url}/adapters", json={"a": "hf://org/x"}).json()
            assert told["adapters"]["a"]["wanted"] == "hf://org/x"
    with pytest.raises(httpx2.HTTPError), loopback_client() as client:
        client.get(f"{url}/adapters")


def test_a_port_that_another_container_has_taken_is_told(tmp_path, caplog):
    """A sidecar of the template, say: a trace of Python helps nobody."""
    words = ["adapters", "--cache", str(tmp_path), "--port"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = {"MEMROUTE_BIND_ADDRESS": "127.0.0.1"}
        code = program.run([*words, str(port)], environment, threading.Event())
    assert code == ExitCode.USAGE
    assert "another container of the pod may listen on it" in caplog.text


def test_a_source_that_fails_waits_longer_each_time_and_is_not_forgotten():
    """5, 10, 20 s: what is wanted again is not begun again."""
    now = 0.0
    it = KeptAdapters(lambda: now)
    it.want({"a": "s", "b": "s"})
    assert it.next_due() == ("s", None)
    assert it.next_due() == (None, None), "nothing is fetched twice"
    it.failed("s", 66, "not there")
    assert it.next_due() == (None, 5.0)
    it.want({"a": "s", "b": "s"})
    assert it.next_due() == (None, 5.0)
    now = 5.0
    assert it.next_due() == ("s", None)
    it.failed("s", 66, "not there")
    assert it.next_due() == (None, 10.0)
    assert it.document()["adapters"]["b"] == {
        "wanted": "s", "state": "failed", "code": 66, "message": "not there", "retrySeconds": 10,
    }  # fmt: skip
    now = 15.0
    it.next_due()
    it.complete("s", Fetched(source="s@1", directory="adapters/x"))
    assert it.next_due() == (None, None)
    assert it.document()["adapters"]["a"]["directory"] == "adapters/x"
    it.want({})
    it.failed("s", 66, "late")
    assert it.document() == {"adapters": {}}


def test_what_is_wanted_no_more_is_given_up_once_all_else_has_been_there_for_long():
    """Meanwhile an engine may serve the old source of a name whose new one is being fetched."""
    now = 0.0
    it = KeptAdapters(lambda: now)
    assert it.settled() is None, "nobody has said yet what is wanted"
    it.want({"a": "s"})
    now = 1000.0
    assert it.settled() is None, "it is not there"
    it.next_due()
    it.complete("s", Fetched(source="s@1", directory="adapters/x"))
    assert it.settled() is None, "the engine has to be told first"
    now = 1500.0
    it.want({"a": "s"})
    now = 1600.0
    assert it.settled() == {"adapters/x"}
    assert it.settled() is None, "once is enough"
    it.want({})
    it.want({})
    now = 2200.0
    assert it.settled() == set()


def test_the_cache_may_evict_what_a_pod_uses_no_more(tmp_path):
    """A pod lives for weeks: what it ever had would fill the disk."""
    folders = [ModelFolder(tmp_path, name) for name in ("adapters/x", "adapters/y", "weights")]
    for one in folders:
        one.begin()
        one.note_use("pod-1")
        one.note_use("pod-2")
    serving._give_up_others(None, tmp_path, "pod-1")
    assert all(set(noted_users(one)) == {"pod-1", "pod-2"} for one in folders)
    serving._give_up_others(frozenset({"adapters/x"}), tmp_path, "pod-1")
    assert [set(noted_users(one)) for one in folders] == [
        {"pod-1", "pod-2"}, {"pod-2"}, {"pod-1", "pod-2"},
    ]  # fmt: skip


@pytest.mark.usefixtures("hub")
async def test_a_gated_adapter_is_fetched_with_the_token(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    async with kept(tmp_path, monkeypatch) as (it, _):
        it.want(("gated", GATED))
        await it.until_states(gated="Loaded")


def test_a_view_of_several_replicas_is_one_line():
    """Two pods with one trouble are told once, and what waits for a rollout says so."""
    obj = mdep("m", mode="Exclusive", replicas=3)
    obj["spec"]["adapters"] = [{"name": "a", "source": {"hub": {"repository": "x/y"}}}]
    deployment = read_deployment(obj)
    replicas = [read_replica(pod_of(deployment, index)) for index in range(3)]
    uids = [one.uid for one in replicas]

    def told(views, loaded):
        (one,) = told_adapters(deployment, replicas, views, loaded)
        return one["state"], one["loadedReplicas"], one.get("message", "")

    trouble = View(loaded=frozenset(), troubles={"a": "gated"})
    views = {uids[0]: trouble, uids[2]: trouble}
    assert told(views, {}) == ("Failed", 0, "m-0, m-2: gated")
    condition = failing_adapters(told_adapters(deployment, replicas, views, {}))
    assert condition[:2] == ("True", "AdapterFailed")
    assert "1 of 1 adapter(s) could not be loaded everywhere" in condition[2]
    assert condition[2].endswith("a: m-0, m-2: gated")
    assert failing_adapters(told_adapters(deployment, replicas, {}, {})) is None
    assert told({}, {uids[0]: frozenset("a")}) == ("Loading", 1, "")
    fetching = View(loaded=frozenset(), fetching=frozenset("a"))
    assert told({uids[1]: fetching}, {}) == ("Fetching", 0, "")
    assert told({}, dict.fromkeys(uids, frozenset("a"))) == ("Loaded", 3, "")
    old = read_deployment(mdep("m", mode="Exclusive", replicas=3))
    replicas[1] = read_replica(pod_of(old, 1))
    state, _, message = told({}, {})
    assert state == "Pending"
    assert message.startswith("1 replica(s) were started without slots")
    replicas.clear()
    assert told({}, {}) == ("Pending", 0, "no replica serves yet")
