"""Models that sleep, at a router: what a status says, and what clients, pages and engines see."""

import asyncio
import json
from dataclasses import replace

import pytest

from gateway_rig import Stream, picker
from memroute.traffic.replica import SleepPhase
from memroute_router.live_map.live import REPLICA_COLUMNS
from router_objects import BeliefsRig, deployment, pod, told
from router_rig import Rig, begin_stream, body, exchange, held, raw, send_chunk, until, whole

ASLEEP, FALLING, WAKING = SleepPhase.ASLEEP, SleepPhase.FALLING_ASLEEP, SleepPhase.WAKING
METRICS = b"vllm:num_requests_running 0\nvllm:kv_cache_usage_perc 0\n"


@pytest.fixture
async def rig():
    rig = Rig("--router-name", "router-0")
    await rig.start()
    yield rig
    await rig.stop()


def sleeps(rig, replica, phase, wake=3.0):
    """As discovery says it; None: it is awake."""
    info = replace(replica.info, is_routable=phase is None, sleep=phase, wake_seconds=wake)
    rig.router.scraper.follow(rig.pools.upsert_replica(info))


def get(path):
    return b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path


async def page(rig, path):
    status, _, content = await exchange(rig.ops_port, get(path))
    assert status == 200
    return content.decode()


def explained(data):
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-memroute-explain: 1\r\n"
    return head + b"content-length: %d\r\n\r\n%s" % (len(data), data)


async def value(rig, name):
    """Of the model's only series of that name, its labels aside."""
    lines = (await page(rig, b"/metrics")).splitlines()
    (found,) = [line for line in lines if line.startswith(f"memroute_router_{name}{{")]
    return float(found.rsplit(" ", 1)[1])


@pytest.mark.slow
async def test_a_request_is_held_for_the_wake_and_served_then(rig, engine_factory):
    engine = await engine_factory(whole())
    replica = rig.add("a", engine.port)
    sleeps(rig, replica, ASLEEP)
    asked = asyncio.create_task(exchange(rig.port, explained(body())))
    await until(lambda: rig.num_held == 1)
    assert await value(rig, "queue_requests") == 1
    assert await value(rig, "arrivals_total") == 1
    (waiting,) = json.loads(await page(rig, b"/debug/queue"))
    assert waiting["waits_for"] == "asleep"
    assert waiting["why"].startswith("all replicas that could hold it sleep; the first should")
    sleeps(rig, replica, WAKING)
    (waiting,) = json.loads(await page(rig, b"/debug/queue"))
    assert waiting["waits_for"] == "waking"
    assert not engine.requests
    sleeps(rig, replica, None)
    status, headers, _ = await asked
    assert status == 200
    assert headers["x-memroute-decision"].endswith("; it was asleep")
    assert float(headers["x-memroute-queue-seconds"]) > 0
    rig.router.journal.flush()
    (line,) = [line for line in rig.lines if "outcome=served" in line]
    assert "it was asleep" in line
    assert rig.num_leases == 0


@pytest.mark.slow
async def test_whoever_has_no_time_for_the_wake_is_told_when_to_come_back(rig, engine_factory):
    """And counts among those who asked: the operator wakes the model for whoever comes back."""
    sleeps(rig, rig.add("a", (await engine_factory(whole())).port), ASLEEP, wake=40.5)
    status, headers, answer = await exchange(rig.port, raw(body()))
    assert (status, headers["x-memroute-reason"]) == (503, "model-asleep")
    assert headers["retry-after"] == "42", "a second's look, and the wake"
    assert json.loads(answer)["error"]["code"] == "model-asleep"
    assert await value(rig, "arrivals_total") == 1
    assert await value(rig, "queue_requests") == 0
    rig.router.journal.flush()
    (line,) = [line for line in rig.lines if "model-asleep" in line]
    assert "outcome=model-asleep status=503 cause=wait-too-long" in line


async def test_the_time_to_wait_for_replicas_is_that_for_wakes_too(engine_factory):
    """A person who lets requests wait for minutes while one starts means a wake as well."""
    rig = Rig("--hold-without-replicas", "--replica-wait-seconds", "120")
    await rig.start()
    try:
        replica = rig.add("a", (await engine_factory(whole())).port)
        sleeps(rig, replica, ASLEEP, wake=40.0)
        asked = asyncio.create_task(exchange(rig.port, raw(body())))
        await until(lambda: rig.num_held == 1)
        sleeps(rig, replica, None)
        assert (await asked)[0] == 200
    finally:
        await rig.stop()


async def test_what_runs_where_it_falls_asleep_ends_there(rig, engine_factory):
    release = asyncio.Event()
    engine = await engine_factory(held(release))
    replica = rig.add("a", engine.port)
    asked = asyncio.create_task(exchange(rig.port, raw(body())))
    await until(lambda: engine.requests)
    sleeps(rig, replica, FALLING)
    later = asyncio.create_task(exchange(rig.port, raw(body())))
    await until(lambda: rig.num_held == 1)
    release.set()
    assert (await asked)[0] == 200
    assert len(engine.requests) == 1
    assert not later.done()
    # The operator has seen who waits, and lets it be.
    sleeps(rig, replica, None)
    assert (await later)[0] == 200
    assert await value(rig, "arrivals_total") == 2


async def test_the_awake_serve_while_others_sleep(rig, engine_factory):
    tired, awake = await engine_factory(whole()), await engine_factory(whole())
    sleeps(rig, rig.add("a", tired.port), ASLEEP)
    rig.add("b", awake.port)
    for _ in range(5):
        assert (await exchange(rig.port, raw(body())))[0] == 200
    assert (len(tired.requests), len(awake.requests)) == (0, 5)


async def test_a_sleeper_is_not_read_is_not_stale_and_is_read_at_once_when_it_wakes(engine_factory):
    rig = Rig("--scrape-seconds", "0.1")
    await rig.start()
    try:
        engine = await engine_factory(whole(METRICS))
        replica = rig.add("a", engine.port)
        rig.router.scraper.follow(replica)
        await until(lambda: replica.ledger.reading is not None)
        pool = rig.pools.get("m")
        sleeps(rig, replica, ASLEEP)
        await until(lambda: not rig.router.scraper._readers["default/a"].is_asking)
        num_read = len(engine.requests)
        reader = rig.router.scraper._readers["default/a"]
        await until(lambda: reader._is_skipped)
        assert len(engine.requests) == num_read
        long_after = rig.pools.now_seconds() + 1000
        assert pool.num_stale(now_seconds=long_after) == 0
        assert (replica.num_failed_readings, replica.health.is_out) == (0, False)
        reader.due_at_seconds = long_after
        sleeps(rig, replica, None)
        assert pool.num_stale(now_seconds=rig.pools.now_seconds()) == 0
        await until(lambda: len(engine.requests) > num_read)
    finally:
        await rig.stop()


async def test_no_target_is_missed_by_waiting_for_a_wake(rig, engine_factory):
    """Whoever lets a model sleep has chosen so: no alert."""

    async def stream(_engine, writer):
        begin_stream(writer)
        send_chunk(writer)
        send_chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    replica = rig.add("a", (await engine_factory(stream)).port)
    sleeps(rig, replica, ASLEEP)
    asked = asyncio.create_task(exchange(rig.port, raw(body(stream=True))))
    await until(lambda: rig.num_held == 1)
    sleeps(rig, replica, None)
    assert (await asked)[0] == 200
    statistics = rig.router.metrics.of(rig.pools.get("m"))
    assert (statistics.within, statistics.missed) == ([0, 0, 0], [0, 0, 0])
    assert (await exchange(rig.port, raw(body(stream=True))))[0] == 200
    await until(lambda: sum(statistics.within) + sum(statistics.missed) > 0)


@pytest.mark.slow
async def test_pages_say_who_sleeps(rig, engine_factory):
    replica = rig.add("a", (await engine_factory(whole())).port)
    for phase, word in ((ASLEEP, "asleep"), (WAKING, "waking"), (FALLING, "falling-asleep")):
        sleeps(rig, replica, phase)
        document = json.loads(await page(rig, b"/map/live.json"))
        (row,) = document["replicas"]
        assert dict(zip(REPLICA_COLUMNS, row, strict=True))["sleep"] == word
        (model,) = document["models"]
        assert (model["sleep"], model["numRoutable"]) == (word, 0)
        (told_of,) = json.loads(await page(rig, b"/debug/replicas"))
        assert told_of["sleep"] == word
    rig.add("b", (await engine_factory(whole())).port)
    (model,) = json.loads(await page(rig, b"/map/live.json"))["models"]
    assert model["sleep"] is None


async def test_every_model_has_a_counter_of_arrivals_before_the_first(rig, engine_factory):
    """A counter that is not there reads as a router that does not count: nothing would sleep."""
    rig.add("a", (await engine_factory(whole())).port)
    assert await value(rig, "arrivals_total") == 0


async def test_a_picker_holds_for_the_wake_as_a_router_does():
    """Its gateway waits for the answer; the endpoint that it names is awake."""
    async with picker(replicas=("a",)) as (rig, gateway):
        (replica,) = rig.replicas
        sleeps(rig, replica, ASLEEP)
        stream = Stream(gateway)
        stream.ask(body())
        await until(lambda: rig.num_held == 1)
        assert await value(rig, "arrivals_total") == 1
        sleeps(rig, replica, None)
        assert (await stream.next()).endpoint == replica.info.endpoint.authority.decode()
        sleeps(rig, replica, ASLEEP, wake=50.0)
        refused = Stream(gateway)
        refused.ask(body())
        answer = await refused.next()
        assert (answer.status, answer.sets["x-memroute-reason"]) == (503, "model-asleep")
        assert answer.sets["retry-after"] == "51"


# By what is read of the cluster.


def asleep(obj, word="Asleep", **facts):
    """The status with all of its replicas asleep."""
    status = obj["status"]
    routing = status["routing"]
    replicas = [one | {"sleep": word} | facts for one in routing["replicas"]]
    return obj | {"status": status | {"routing": routing | {"replicas": replicas}}}


@pytest.mark.parametrize(
    ("word", "phase"),
    [("FallingAsleep", FALLING), ("Asleep", ASLEEP), ("Waking", WAKING), ("Hibernating", ASLEEP)],
)
def test_a_status_says_what_a_replica_does(word, phase):
    """A word of a newer operator is not awake either."""
    rig = BeliefsRig(told(deployment(), pod()), pods=[pod()])
    assert rig.replicas() == ["a/chat-0"]
    (replica,) = rig.pools.get("chat").replicas.values()
    ledger = replica.ledger
    rig.see(asleep(told(deployment(), pod()), word, wakeSeconds=7))
    assert rig.replicas() == []
    assert (replica.info.sleep, replica.info.wake_seconds) == (phase, 7)
    assert replica.backend.sleep.phase is phase
    assert rig.pools.get("chat").sleep is phase
    assert rig.reasons() == {}
    rig.see(told(deployment(), pod()))
    assert rig.replicas() == ["a/chat-0"]
    (again,) = rig.pools.get("chat").replicas.values()
    assert (again.ledger, again.backend.sleep) == (ledger, None), "what was learned stays"


def test_a_sleeper_whose_pod_is_not_well_will_not_wake():
    """Requests that wait for it would wait in vain."""
    rig = BeliefsRig(asleep(told(deployment(), pod())), pods=[pod()])
    (replica,) = rig.pools.get("chat").replicas.values()
    assert replica.info.sleep is ASLEEP
    ill = pod() | {"status": {"podIP": "10.0.0.7"}}
    for gone in (ill, pod(deletionTimestamp="2026-01-01T00:00:00Z")):
        rig.see_pods(gone)
        assert (replica.info.sleep, replica.info.is_routable) == (None, False)
        assert replica.backend.sleep is None
        rig.see_pods(pod())
        assert replica.info.sleep is ASLEEP
