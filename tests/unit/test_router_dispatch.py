"""What the dispatcher decides, seen over real sockets."""

import asyncio
import json
import re

import pytest

from memroute.traffic.dispatch import AdmissionMode
from memroute_router.replicas.pool_settings import PoolSettings
from router_rig import Rig, body, exchange, held, raw, until, whole


@pytest.fixture
async def rig():
    rig = Rig()
    await rig.start()
    yield rig
    await rig.stop()


def explained(data, *lines):
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-memroute-explain: 1\r\n"
    for line in lines:
        head += line + b"\r\n"
    return head + b"content-length: %d\r\n\r\n%s" % (len(data), data)


async def test_the_next_turn_goes_where_the_last_one_went(rig, engine_factory):
    """Else its whole history is computed, and held, a second time."""
    for name in "abcd":
        rig.add(name, (await engine_factory(whole())).port, capacity=100_000)
    rig.trust_all()
    first = [{"role": "user", "content": "once upon a time " * 400}]
    then = [*first, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}]
    _, headers, _ = await exchange(rig.port, explained(body(messages=first)))
    for _ in range(4):
        _, later, _ = await exchange(rig.port, explained(body(messages=then)))
        assert later["x-memroute-replica"] == headers["x-memroute-replica"]
    cached = int(re.search(r"(\d+) tokens cached", later["x-memroute-decision"])[1])
    assert 1300 < cached <= 1700, "all of the first question: 6,800 characters of 400 x 4 words"


async def test_what_waits_at_a_replica_that_hangs_goes_elsewhere(rig, engine_factory):
    """It accepts connections and reports itself idle; its clients are served by another."""
    never = asyncio.Event()
    hung, well = await engine_factory(held(never)), await engine_factory(whole())
    rig.add("hung", hung.port)
    rig.add("well", well.port)
    rig.trust_all()
    rig.prefer("hung")
    asked = asyncio.create_task(exchange(rig.port, raw(body(stream=True))))
    await until(lambda: hung.requests)
    (replica,) = [r for r in rig.replicas if r.info.pod == "hung"]
    for lease in replica.ledger.leases:
        lease.sent_at_seconds -= 40.0
    status, _, answer = await asked
    assert (status, json.loads(answer)) == (200, {"ok": True})
    assert len(well.requests) == 1
    assert replica.health.is_out
    await until(lambda: rig.num_leases == 0)
    never.set()


async def test_the_only_replica_is_waited_for_however_long_it_takes(rig, engine_factory):
    """There is nobody else to ask: giving up would help no one."""
    release = asyncio.Event()
    engine = await engine_factory(held(release))
    rig.add("only", engine.port)
    asked = asyncio.create_task(exchange(rig.port, raw(body(stream=True))))
    await until(lambda: engine.requests)
    for replica in rig.replicas:
        for lease in replica.ledger.leases:
            lease.sent_at_seconds -= 40.0
    await asyncio.sleep(0.4)
    assert not asked.done()
    release.set()
    assert (await asked)[0] == 200


async def test_observing_sends_what_it_would_have_held(rig, engine_factory):
    release = asyncio.Event()
    rig.pools.configure(
        {"m": PoolSettings(namespace="", deployment="m", admission=AdmissionMode.OBSERVE)}
    )
    engine = await engine_factory(held(release))
    rig.add("a", engine.port, capacity=100)
    asked = [asyncio.create_task(exchange(rig.port, raw(body(max_tokens=60)))) for _ in range(3)]
    await until(lambda: len(engine.requests) == 3)
    assert rig.pools.by_model["m"].dispatcher.num_would_hold == 2
    release.set()
    assert [(await task)[0] for task in asked] == [200, 200, 200]


@pytest.mark.parametrize("admission", list(AdmissionMode))
async def test_a_published_policy_chooses_whatever_admission_does(rig, engine_factory, admission):
    """With admission at its default it was ignored, and its name put to memroute's choice."""
    rig.pools.configure(
        {"m": PoolSettings(namespace="", deployment="m", policy="round-robin", admission=admission)}
    )
    for name in "ab":
        rig.add(name, (await engine_factory(whole())).port)
    chosen = []
    for _ in range(4):
        _, headers, _ = await exchange(rig.port, explained(body()))
        chosen.append(headers["x-memroute-replica"])
        assert headers["x-memroute-decision"].startswith("round-robin: its pick of 2 ")
    assert chosen[0] == chosen[2] != chosen[1] == chosen[3]


async def test_a_request_of_a_billion_choices_is_refused_and_stops_nobody(rig, engine_factory):
    """Before: 93 of 93 of the others got 429 for ten seconds, with both replicas nearly empty."""
    release = asyncio.Event()
    for name in "ab":
        rig.add(name, (await engine_factory(held(release))).port, capacity=100_000)
    busy = [asyncio.create_task(exchange(rig.port, raw(body()))) for _ in range(2)]
    await until(lambda: rig.num_leases == 2)
    for replica in rig.replicas:
        assert replica.ledger.num_in_flight == 1
    status, headers, answer = await exchange(rig.port, raw(body(n=10**9, max_tokens=16)))
    assert status in {400, 429}
    if status == 429:
        assert headers["x-memroute-reason"] == "saturated"
        assert b"larger than all that may wait" in answer
    others = [asyncio.create_task(exchange(rig.port, raw(body()))) for _ in range(5)]
    await until(lambda: rig.num_leases == 7)
    assert rig.num_held == 0
    release.set()
    assert [(await task)[0] for task in (*busy, *others)] == [200] * 7


async def test_what_is_pushed_out_of_a_full_queue_loses_nobody_elses_verdict(engine_factory):
    """Its client leaves before it is told; then the turns are given out: nothing leaks."""
    rig = Rig("--tenants", "header", "--max-queued-requests", "2")
    await rig.start()
    release = asyncio.Event()
    engine = await engine_factory(held(release))
    rig.add("a", engine.port, capacity=400)

    def asks(tenant, **facts):
        return asyncio.create_task(
            exchange(rig.port, explained(body(**facts), b"x-memroute-tenant: " + tenant))
        )

    first = asks(b"x", max_tokens=300)
    await until(lambda: rig.num_leases == 1)
    flood = []
    for number in range(2):
        flood.append(asks(b"flood", max_tokens=300 + number))
        await until(lambda number=number: rig.num_held == number + 1)
    quiet = asks(b"quiet", max_tokens=20)
    status, _, answer = await flood[1]
    assert status == 429
    assert b"need its place" in answer
    flood[0].cancel()
    release.set()
    assert (await first)[0] == (await quiet)[0] == 200
    await until(lambda: rig.num_leases == rig.num_held == rig.reserved == 0)
    await rig.stop()


async def test_those_who_are_trusted_to_be_urgent_go_first(engine_factory):
    """Three wait for one place; the one with the greatest priority came last."""
    rig = Rig("--trust-headers", "--tenants", "header")
    await rig.start()
    release = asyncio.Event()
    engine = await engine_factory(held(release))
    rig.add("a", engine.port, capacity=100)
    tasks = [asyncio.create_task(exchange(rig.port, raw(body(max_tokens=60, user="first"))))]
    await until(lambda: engine.requests)
    for number, priority in enumerate((b"0", b"-5", b"7")):
        data = body(max_tokens=60, user=priority.decode())
        line = b"x-memroute-priority: " + priority
        tasks.append(asyncio.create_task(exchange(rig.port, explained(data, line))))
        await until(lambda number=number: rig.num_held == number + 1)
    release.set()
    assert [(await task)[0] for task in tasks] == [200] * 4
    order = [json.loads(data)["user"] for _, data in engine.requests]
    assert order == ["first", "7", "0", "-5"]
    await rig.stop()


async def test_a_claim_is_not_believed_without_being_told_to(rig, engine_factory):
    release = asyncio.Event()
    engine = await engine_factory(held(release))
    rig.add("a", engine.port, capacity=100)
    tasks = [asyncio.create_task(exchange(rig.port, raw(body(max_tokens=60, user="first"))))]
    await until(lambda: engine.requests)
    for number, priority in enumerate((b"0", b"7")):
        data = body(max_tokens=60, user=priority.decode())
        line = b"x-memroute-priority: " + priority
        tasks.append(asyncio.create_task(exchange(rig.port, explained(data, line))))
        await until(lambda number=number: rig.num_held == number + 1)
    release.set()
    assert [(await task)[0] for task in tasks] == [200] * 3
    assert [json.loads(data)["user"] for _, data in engine.requests] == ["first", "0", "7"]


async def test_a_request_can_wait_for_the_first_replica(engine_factory):
    rig = Rig("--hold-without-replicas")
    await rig.start()
    rig.pools.configure({"m": PoolSettings(namespace="", deployment="m")})
    asked = asyncio.create_task(exchange(rig.port, raw(body())))
    await until(lambda: rig.num_held == 1)
    rig.add("a", (await engine_factory(whole())).port)
    assert (await asked)[0] == 200
    await rig.stop()


async def test_prompts_are_measured_by_what_engines_say_they_were(rig, engine_factory):
    """Taken to be of a quarter of their bytes; each turns out to have twice as many tokens."""
    answer = b'{"usage":{"prompt_tokens":%d,"completion_tokens":1}}'
    rig.add("a", (await engine_factory(whole(answer % 2008))).port, capacity=100_000)
    messages = [{"role": "user", "content": "x" * 4000}]
    for _ in range(20):
        await exchange(rig.port, raw(body(messages=messages)))
    assert rig.pools.by_model["m"].prompts.ratio == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("named", [b"x-session-id: s1", None])
async def test_a_session_that_is_named_stays(rig, engine_factory, named):
    """By a header, or by the body's prompt_cache_key, whatever its messages say."""
    answer = json.dumps({"usage": {"prompt_tokens": 4000, "completion_tokens": 9}}).encode()
    for name in "abcd":
        rig.add(name, (await engine_factory(whole(answer))).port, capacity=100_000)
    rig.trust_all()
    seen = set()
    for turn in range(4):
        messages = [{"role": "user", "content": f"{turn} " * 4000}]
        extra = {} if named else {"prompt_cache_key": "s1"}
        data = explained(body(messages=messages, **extra), *([named] if named else []))
        _, headers, _ = await exchange(rig.port, data)
        seen.add(headers["x-memroute-replica"])
    assert len(seen) == 1


async def test_an_adapter_is_asked_for_by_its_name(rig, engine_factory):
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    rig.pools.configure({"m": PoolSettings(namespace="", deployment="m", adapters=("sql",))})
    rig.trust_all()
    status, _, _ = await exchange(rig.port, raw(body(model="sql")))
    assert status == 200
    assert json.loads(engine.requests[-1][1])["model"] == "sql"
    _, _, listed = await exchange(rig.port, b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
    told = {model["id"]: model.get("parent") for model in json.loads(listed)["data"]}
    assert told == {"m": None, "sql": "m"}
    status, _, _ = await exchange(rig.port, raw(body(model="other")))
    assert status == 404


async def test_an_adapter_is_asked_for_where_it_is_loaded(rig, engine_factory):
    """An engine that has it not would answer 404: the other replica is as near."""
    with_it, without = await engine_factory(whole()), await engine_factory(whole())
    rig.add("a", with_it.port, adapters=frozenset({"sql"}))
    rig.add("b", without.port, adapters=frozenset())
    rig.pools.configure({"m": PoolSettings(namespace="", deployment="m", adapters=("sql", "law"))})
    rig.trust_all()
    rig.prefer("b")
    for _ in range(4):
        status, _, _ = await exchange(rig.port, raw(body(model="sql")))
        assert status == 200
    assert len(with_it.requests) == 4
    status, headers, answer = await exchange(rig.port, raw(body(model="law")))
    assert status == 503
    assert headers["retry-after"]
    assert headers["x-memroute-reason"] == "no-ready-replica"
    assert "no replica of this model has the LoRA adapter law loaded now" in answer.decode()
    # Requests for the model itself go where they always went.
    await exchange(rig.port, raw(body()))
    assert len(without.requests) == 1
    # What the operator tells next counts at once, for an engine that goes on.
    rig.add("b", without.port, adapters=frozenset({"law"}))
    status, _, _ = await exchange(rig.port, raw(body(model="law")))
    assert status == 200
    assert len(without.requests) == 2


@pytest.mark.slow
async def test_a_canary_gets_its_share_and_keeps_its_sessions(rig, engine_factory):
    stable, canary = await engine_factory(whole()), await engine_factory(whole())
    rig.add("s", stable.port, version="stable")
    rig.add("c", canary.port, version="canary")
    shares = {"stable": 80.0, "canary": 20.0}
    rig.pools.configure({"m": PoolSettings(namespace="", deployment="m", shares=shares)})
    rig.trust_all()
    for number in range(60):
        await exchange(rig.port, explained(body(), b"x-session-id: s%d" % (number % 30)))
    assert 2 <= len(canary.requests) <= 24
    assert len(canary.requests) % 2 == 0, "each session came twice to the same version"
    assert len(canary.requests) + len(stable.requests) == 60
