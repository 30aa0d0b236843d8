"""The router with keys, over real sockets."""

import asyncio
import json
import re

import pytest

from access_rig import ALICE, BOB, EVE, ask, get, keyed_rig, request, tenant, write_keys
from memroute_router.access.keyfile import KeysError
from memroute_router.replicas.pool_settings import PoolSettings
from router_rig import CHUNK, Rig, begin_stream, body, exchange, held, send_chunk, until, whole

USED = b'{"id":"x","choices":[],"usage":{"prompt_tokens":40,"completion_tokens":60}}'


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, "no-key"),
        ("", "no-key"),
        ("mr-nobody-0123456789abcdefghij", "unknown-key"),
        (ALICE.upper(), "unknown-key"),
        (ALICE + "x", "unknown-key"),
        ("x" * 60_000, "unknown-key"),
    ],
)
async def test_who_has_no_key_of_the_file_gets_401_and_reaches_nothing(
    tmp_path, engine_factory, key, reason
):
    """In the words of OpenAI's API, which its clients' libraries turn into AuthenticationError."""
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE))
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    status, headers, answer = await ask(rig, key)
    assert (status, headers["x-memroute-reason"]) == (401, reason)
    assert answer["error"]["code"] == "invalid_api_key"
    assert answer["error"]["type"] == "invalid_request_error"
    assert headers["www-authenticate"] == "bearer"
    assert not engine.requests
    assert key is None or len(key) < 5 or key not in json.dumps(answer)
    await rig.stop()
    assert not any(ALICE in line for line in rig.lines)


async def test_anthropics_clients_get_their_own_words_and_bring_their_own_field(
    tmp_path, engine_factory
):
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE))
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    data = json.dumps(
        {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    ).encode()
    status, _, answer = await ask(rig, None, data, path=b"/v1/messages")
    assert (status, answer["error"]["type"]) == (401, "authentication_error")
    field = b"x-api-key: %b\r\n" % ALICE.encode()
    assert (await ask(rig, None, data, path=b"/v1/messages", lines=field))[0] == 200
    await rig.stop()


async def test_a_large_body_without_a_key_need_not_come(tmp_path):
    """Else anybody could make the router hold as many bodies as it takes connections."""
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE), flags=["--max-body-bytes", "90000000"])
    for framing in (b"content-length: 80000000", b"transfer-encoding: chunked"):
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n" % framing
        status, headers, content = await exchange(rig.port, head)
        assert (status, headers["connection"]) == (401, "close")
        assert json.loads(content)["error"]["code"] == "invalid_api_key"
    assert rig.router.gate.refused == {"no-key": 2}
    rig.router.journal.flush()
    lines = "".join(rig.lines).splitlines()
    assert len(lines) == 2, "each is accounted for once"
    assert all(" outcome=unauthorized status=401 cause=no-key " in line for line in lines)
    await rig.stop()


async def test_what_is_refused_at_the_routers_own_paths_says_why_in_the_log(tmp_path):
    """A key that is refused there has its cause too; a model that is not there is no path."""
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE))
    assert (await get(rig, b"/v1/models", BOB))[0] == 401
    assert (await get(rig, b"/v1/models/x", ALICE))[0] == 404
    rig.router.journal.flush()
    first, second = "".join(rig.lines).splitlines()
    assert " outcome=unauthorized status=401 cause=unknown-key " in first
    assert " outcome=unknown-model status=404 cause=- " in second
    await rig.stop()


async def test_an_adapters_base_model_is_named_to_those_alone_who_may_use_it(
    tmp_path, engine_factory
):
    """``parent`` is the name of another model."""
    rig = await keyed_rig(
        tmp_path, tenant("alice", ALICE, models=["m", "sql"]), tenant("bob", BOB, models=["sql"])
    )
    rig.add("a", (await engine_factory(whole())).port)
    rig.pools.configure({"m": PoolSettings(namespace="", deployment="m", adapters=("sql",))})
    for key, parent in ((ALICE, "m"), (BOB, None)):
        _, _, listed = await get(rig, b"/v1/models", key)
        (adapter,) = [each for each in json.loads(listed)["data"] if each["id"] == "sql"]
        assert adapter.get("parent") == parent
        _, _, one = await get(rig, b"/v1/models/sql", key)
        assert json.loads(one).get("parent") == parent
    await rig.stop()


async def test_a_key_learns_nothing_of_models_that_it_may_not_use(tmp_path, engine_factory):
    """The same words whether a model is somebody else's or nobody's."""
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE), tenant("bob", BOB, models=["other*"]))
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    told = []
    for model in ("m", "n"):
        status, headers, answer = await ask(rig, BOB, body(model=model))
        assert (status, answer["error"]["code"]) == (403, "model_not_found")
        assert headers["x-memroute-reason"] == "model-forbidden"
        told.append(json.dumps(answer).replace(f"'{model}'", "?"))
    assert told[0] == told[1]
    status, _, answer = await ask(rig, BOB, body(model="other-model"))
    assert status == 404
    assert answer["error"]["message"].endswith("models: none")
    assert not engine.requests
    await rig.stop()


async def test_engines_get_the_routers_own_credential_and_never_the_clients(
    tmp_path, engine_factory
):
    (tmp_path / "engine").write_text("engine-secret\n")
    rig = await keyed_rig(
        tmp_path,
        tenant("alice", ALICE),
        flags=["--engine-key-file", str(tmp_path / "engine")],
    )
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    more = b"api-key: azure\r\ncookie: session=1\r\nx-goog-api-key: g\r\n"
    assert (await ask(rig, ALICE, lines=more))[0] == 200
    head = engine.requests[0][0].lower()
    assert head.count(b"authorization:") == 1
    assert b"authorization: bearer engine-secret\r\n" in head
    for secret in (ALICE.encode(), b"azure", b"session=1", b"x-goog-api-key"):
        assert secret not in head
    (tmp_path / "engine").write_text("rotated")
    assert rig.router.watched[1].look()
    assert (await ask(rig, ALICE))[0] == 200
    assert b"authorization: bearer rotated\r\n" in engine.requests[1][0].lower()
    await rig.stop()


async def test_without_keys_a_clients_key_goes_to_its_engine_unless_the_router_has_its_own(
    tmp_path, engine_factory
):
    """Engines that check keys went on doing so; the router's own takes the place of all of them."""
    (tmp_path / "engine").write_text("engine-secret")
    for flags, seen in (
        ([], b"authorization: Bearer theirs\r\n"),
        (["--engine-key-file", str(tmp_path / "engine")], b"authorization: Bearer engine-secret"),
    ):
        rig = Rig(*flags)
        await rig.start()
        engine = await engine_factory(whole())
        rig.add("a", engine.port)
        assert (await ask(rig, "theirs"))[0] == 200
        head = engine.requests[0][0]
        assert seen in head
        assert head.lower().count(b"authorization") == 1
        await rig.stop()


async def test_what_clients_say_of_their_way_and_urgency_ends_at_the_boundary(
    tmp_path, engine_factory
):
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE, priority=-2))
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    names = (
        "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-user",
        "x-forwarded-client-cert", "forwarded", "x-real-ip", "x-memroute-tenant",
        "x-memroute-priority", "x-memroute-ttft-ms",
    )  # fmt: skip
    lines = b"".join(b"%b: 77.7.7.7\r\n" % name.encode() for name in names)
    assert (await ask(rig, ALICE, lines=lines))[0] == 200
    assert b"77.7.7.7" not in engine.requests[0][0]
    assert b"x-forwarded-for: 127.0.0.1\r\n" in engine.requests[0][0]
    await rig.stop()


@pytest.mark.parametrize(
    ("flags", "tenant_of_line"),
    [
        ([], "theirs"),
        (["--trusted-proxies", "127.0.0.1"], "theirs"),
        (["--trusted-proxies", "10.0.0.0/8"], "-"),
        (["--trusted-proxies", "10.0.0.0/8", "--trust-headers"], "theirs"),
    ],
)
async def test_where_proxies_are_named_they_alone_name_tenants(
    engine_factory, flags, tenant_of_line
):
    """Whoever comes past the proxy would choose whose share he takes."""
    rig = Rig("--tenants", "header", *flags)
    await rig.start()
    rig.add("a", (await engine_factory(whole())).port)
    assert (await ask(rig, lines=b"x-memroute-tenant: theirs\r\n"))[0] == 200
    rig.router.journal.flush()
    assert f" tenant={tenant_of_line} " in "".join(rig.lines)
    await rig.stop()


async def test_requests_per_minute_are_429_with_a_time_to_come_back(tmp_path, engine_factory):
    """By all keys of the tenant together: ten keys of one tenant are one tenant."""
    rig = await keyed_rig(
        tmp_path, tenant("alice", ALICE, EVE, requestsPerMinute=3), tenant("bob", BOB)
    )
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    left = []
    for key in (ALICE, EVE, ALICE):
        status, headers, _ = await ask(rig, key)
        assert (status, headers["x-ratelimit-limit-requests"]) == (200, "3")
        left.append(headers["x-ratelimit-remaining-requests"])
    assert left == ["2", "1", "0"]
    status, headers, answer = await ask(rig, EVE)
    assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    assert answer["error"]["type"] == "requests"
    assert headers["x-memroute-reason"] == "requests-per-minute"
    assert 50 < int(headers["retry-after"]) <= 61
    assert re.fullmatch(r"\d+\.\ds", headers["x-ratelimit-reset-requests"])
    status, headers, _ = await ask(rig, BOB)
    assert status == 200
    assert not any(name.startswith("x-ratelimit") for name in headers)
    assert len(engine.requests) == 4
    await rig.stop()


def streaming(*pieces):
    async def script(_engine, writer):
        begin_stream(writer)
        for piece in pieces:
            send_chunk(writer, piece)
        send_chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    return script


@pytest.mark.parametrize("is_together", [False, True])
async def test_the_usage_of_a_stream_is_asked_for_and_taken_out_again(
    tmp_path, engine_factory, is_together
):
    """A client that did not ask gets the bytes that it would have had without the router."""
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE, tokensPerMinute=100_000))
    usage = b"data: " + USED + b"\n\n"
    pieces = [CHUNK + CHUNK + usage] if is_together else [CHUNK, CHUNK, usage[:30], usage[30:]]
    engine = await engine_factory(streaming(*pieces))
    rig.add("a", engine.port)
    status, _, content = await exchange(rig.port, request(ALICE, body(stream=True)))
    assert (status, content) == (200, CHUNK + CHUNK + b"data: [DONE]\n\n")
    sent = json.loads(engine.requests[0][1])
    assert sent == json.loads(body(stream=True)) | {"stream_options": {"include_usage": True}}
    use = rig.router.gate.quotas.by_tenant["alice"]
    assert (use.tokens.total, use.settled_tokens) == (100, 100)
    await rig.stop()


async def test_a_client_that_asks_for_the_usage_gets_it(tmp_path, engine_factory):
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE, tokensPerMinute=100_000))
    usage = b"data: " + USED + b"\n\n"
    engine = await engine_factory(streaming(CHUNK, usage))
    rig.add("a", engine.port)
    data = body(stream=True, stream_options={"include_usage": True})
    _, _, content = await exchange(rig.port, request(ALICE, data))
    assert usage in content
    assert json.loads(engine.requests[0][1]) == json.loads(data)
    data = body(stream=True, stream_options={"other": 1})
    _, _, content = await exchange(rig.port, request(ALICE, data))
    assert usage not in content
    assert json.loads(engine.requests[1][1])["stream_options"] == {
        "other": 1, "include_usage": True,
    }  # fmt: skip
    await rig.stop()


async def test_tokens_are_reserved_and_settled_by_what_the_engine_counted(tmp_path, engine_factory):
    """The estimate holds while a request runs; what it was wrong by is corrected when it ends."""
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE, tokensPerMinute=300))
    release = asyncio.Event()

    async def script(_engine, writer):
        await release.wait()
        text = b'{"usage":{"prompt_tokens":70,"completion_tokens":80}}'
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(text) + text)

    engine = await engine_factory(script)
    rig.add("a", engine.port)
    use = rig.router.gate.quotas.by_tenant["alice"]
    first = asyncio.create_task(ask(rig, ALICE, body(max_tokens=200)))
    async with asyncio.timeout(30):
        while not use.tokens.total:
            await asyncio.sleep(0.002)
    assert 200 < use.tokens.total < 250
    status, headers, answer = await ask(rig, ALICE, body(max_tokens=200))
    assert (status, answer["error"]["type"]) == (429, "tokens")
    assert headers["x-memroute-reason"] == "tokens-per-minute"
    assert int(headers["retry-after"]) > 50
    release.set()
    assert (await first)[0] == 200
    assert (use.tokens.total, use.num_requests) == (150, 0)
    status, headers, answer = await ask(rig, ALICE, body(max_tokens=400))
    assert (status, headers["x-memroute-reason"]) == (429, "request-too-large")
    assert "retry-after" not in headers, "it can never be had"
    await rig.stop()


async def test_a_tenant_holds_no_more_than_its_share_of_the_memory_at_once(
    tmp_path, engine_factory
):
    """A quarter of 10,000 tokens: two requests of 1,000 and some fit, a third has to wait.

    It waits as for room, and nobody else waits for it; what is larger than all that it may have is
    told so at once.
    """
    rig = await keyed_rig(
        tmp_path, tenant("alice", ALICE, maxKVShareRatio=0.25), tenant("bob", BOB)
    )
    release = asyncio.Event()

    async def script(_engine, writer):
        await release.wait()
        await whole()(_engine, writer)

    engine = await engine_factory(script)
    rig.add("a", engine.port)
    rig.trust_all()
    text = "word " * 900
    data = body(messages=[{"role": "user", "content": text}], max_tokens=100)
    running = [asyncio.create_task(ask(rig, ALICE, data)) for _ in range(2)]
    async with asyncio.timeout(30):
        while len(engine.requests) < 2:
            await asyncio.sleep(0.002)
    running.append(asyncio.create_task(ask(rig, ALICE, data)))
    lines = rig.router.gate.lines
    await until(lambda: len(lines) == 1)
    _, _, page = await exchange(rig.ops_port, b"GET /debug/queue HTTP/1.1\r\nhost: x\r\n\r\n")
    (waiting,) = json.loads(page)
    assert (waiting["tenant"], waiting["waits_for"]) == ("alice", "kv-share")
    large = body(messages=[{"role": "user", "content": text}], max_tokens=200, n=10)
    status, headers, answer = await ask(rig, ALICE, large)
    assert (status, headers["x-memroute-reason"]) == (429, "kv-share")
    assert "retry-after" not in headers
    assert "25% of what the model's replicas hold" in answer["error"]["message"]
    other = asyncio.create_task(ask(rig, BOB, data))
    await until(lambda: len(engine.requests) == 3)
    release.set()
    assert [result[0] for result in await asyncio.gather(*running, other)] == [200] * 4
    assert rig.router.gate.quotas.by_tenant["alice"].kv_tokens == {}
    assert rig.pools.get("m").dispatcher.num_apart == len(lines) == 0
    assert (await ask(rig, ALICE, data))[0] == 200
    await rig.stop()


async def sharing(tmp_path, engine_factory, *flags):
    """Alice may have one request of about 1,000 tokens under way; it does not end by itself."""
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE, maxKVShareRatio=0.15), flags=flags)
    release = asyncio.Event()
    engine = await engine_factory(held(release))
    rig.add("a", engine.port)
    rig.trust_all()
    data = body(messages=[{"role": "user", "content": "word " * 900}], max_tokens=100)
    first = asyncio.create_task(ask(rig, ALICE, data))
    await until(lambda: len(engine.requests) == 1)
    return rig, engine, release, data, first


async def test_who_waits_for_a_share_in_vain_is_told_so(tmp_path, engine_factory):
    """As long as for room, no longer, and it says which limit it was."""
    rig, _, release, data, first = await sharing(
        tmp_path, engine_factory, "--max-queue-seconds", "0.2"
    )
    status, headers, answer = await ask(rig, ALICE, data)
    assert (status, headers["x-memroute-reason"], headers["retry-after"]) == (429, "kv-share", "1")
    assert answer["error"]["code"] == "rate_limit_exceeded"
    assert rig.router.gate.refused == {"kv-share": 1}
    release.set()
    assert (await first)[0] == 200
    assert rig.router.gate.quotas.by_tenant["alice"].kv_tokens == {}
    rig.router.journal.flush()
    assert "outcome=rate-limited status=429 cause=kv-share" in "".join(rig.lines)
    await rig.stop()


@pytest.mark.parametrize(
    "flags", [("--max-queue-seconds", "0"), ("--max-queued-requests", "0")], ids=["time", "places"]
)
async def test_where_nothing_may_wait_nothing_waits_for_a_share(tmp_path, engine_factory, flags):
    rig, _, release, data, first = await sharing(tmp_path, engine_factory, *flags)
    status, headers, _ = await ask(rig, ALICE, data)
    assert (status, headers["x-memroute-reason"], headers["retry-after"]) == (429, "kv-share", "1")
    release.set()
    assert (await first)[0] == 200
    await rig.stop()


async def test_a_client_that_leaves_while_it_waits_for_a_share_leaves_nothing(
    tmp_path, engine_factory
):
    """And whoever is behind it moves up: a small one that fits beside what is under way."""
    rig, engine, release, data, first = await sharing(tmp_path, engine_factory)
    lines = rig.router.gate.lines
    _, gone = await asyncio.open_connection("127.0.0.1", rig.port)
    gone.write(request(ALICE, data))
    await until(lambda: len(lines) == 1)
    behind = asyncio.create_task(ask(rig, ALICE))
    await until(lambda: len(lines) == 2)
    assert len(engine.requests) == 1
    gone.close()
    await until(lambda: len(engine.requests) == 2)
    release.set()
    assert [answer[0] for answer in await asyncio.gather(first, behind)] == [200, 200]
    assert not lines._lines
    assert not lines._by_permit
    assert rig.pools.get("m").dispatcher.num_apart == 0
    assert rig.router.gate.quotas.by_tenant["alice"].kv_tokens == {}
    assert rig.router.gate.quotas.by_tenant["alice"].num_requests == 0
    await rig.stop()


async def test_what_was_taken_is_given_back_however_a_request_ends(tmp_path, engine_factory):
    """A client that leaves, an engine that dies: nothing stays under way, nothing is lost."""
    rig = await keyed_rig(
        tmp_path, tenant("alice", ALICE, maxRequests=1, maxKVShareRatio=0.9, tokensPerMinute=9999)
    )

    async def dies(_engine, writer):
        writer.transport.abort()
        return False

    async def hangs(_engine, _writer):
        await asyncio.Event().wait()

    use = rig.router.gate.quotas.by_tenant["alice"]
    for script in (dies, hangs):
        engine = await engine_factory(script)
        rig.add("a", engine.port)
        rig.trust_all()
        if script is dies:
            assert (await ask(rig, ALICE))[0] == 502
        else:
            _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(request(ALICE))
            async with asyncio.timeout(30):
                while not engine.requests:
                    await asyncio.sleep(0.002)
                assert (await ask(rig, ALICE))[1]["x-memroute-reason"] == "requests-in-flight"
                writer.close()
                while use.num_requests:
                    await asyncio.sleep(0.002)
        assert (use.num_requests, use.kv_tokens) == (0, {})
    assert (await ask(rig, ALICE, body(model="m", n="two")))[0] == 400
    assert use.num_requests == 0
    await rig.stop()


async def test_a_revoked_key_is_refused_and_a_broken_file_changes_nothing(tmp_path, engine_factory):
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE), tenant("bob", BOB))
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    file, path = rig.router.watched[0], tmp_path / "keys.json"
    assert not file.look(), "it has not changed"
    path.write_text("{broken")
    assert file.look()
    assert [(await ask(rig, key))[0] for key in (ALICE, BOB)] == [200, 200]
    path.unlink()
    assert file.look()
    assert (await ask(rig, ALICE))[0] == 200
    write_keys(path, tenant("alice", EVE))
    assert file.look()
    assert [(await ask(rig, key))[0] for key in (ALICE, BOB, EVE)] == [401, 401, 200]
    counted = rig.router.metrics.access_reloads
    assert counted.labels("keys", "refused")._value.get() == 2
    assert counted.labels("keys", "applied")._value.get() == 1
    await rig.stop()


@pytest.mark.slow
async def test_a_bug_in_reading_a_file_ends_nothing_and_quotes_nothing(tmp_path, caplog):
    """Whatever is wrong with a file, the router goes on with the last good one."""
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE))
    file = rig.router.watched[0]

    def read():
        raise RuntimeError(ALICE)

    file._read = read
    (tmp_path / "keys.json").write_text("anything")
    following = asyncio.create_task(file.follow())
    refused = rig.router.metrics.access_reloads.labels("keys", "refused")
    async with asyncio.timeout(10):
        while not refused._value.get():
            await asyncio.sleep(0.01)
    assert not following.done()
    following.cancel()
    assert "error=RuntimeError" in caplog.text
    assert ALICE not in caplog.text
    assert rig.router.gate.num_keys == 1
    await rig.stop()


async def test_limits_that_change_apply_at_once_and_what_was_used_stays(tmp_path, engine_factory):
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE, requestsPerMinute=5))
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    assert [(await ask(rig, ALICE))[0] for _ in range(2)] == [200, 200]
    write_keys(tmp_path / "keys.json", tenant("alice", ALICE, requestsPerMinute=2))
    rig.router.watched[0].look()
    assert (await ask(rig, ALICE))[0] == 429
    await rig.stop()


@pytest.mark.parametrize("content", [None, "", "{}", "tenants: []", "\xff"])
async def test_a_router_that_was_told_to_have_keys_never_starts_without(tmp_path, content):
    """It would let everybody in, or nobody, and in both cases look well."""
    if content is not None:
        (tmp_path / "keys").write_bytes(content.encode("latin-1"))
    with pytest.raises(KeysError):
        Rig("--keys", str(tmp_path / "keys"))


async def test_limits_are_divided_by_the_routers_that_are_known(tmp_path, engine_factory):
    """Each of two routers takes half: together never more than the limit."""
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE, requestsPerMinute=4))
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    rig.pools.peers.set_peers({"10.0.0.2:8001"}, now_seconds=0.0)
    assert [(await ask(rig, ALICE))[0] for _ in range(3)] == [200, 200, 429]
    await rig.stop()


async def test_nobody_is_told_what_others_have_sent(tmp_path, engine_factory):
    """``d36``: the tokens that count as cached are those that the tenant itself has sent."""
    text = "The merger with Example Corp closes on Friday. " * 60
    data = body(messages=[{"role": "user", "content": text}])
    cached = {}
    rig = await keyed_rig(
        tmp_path, tenant("alice", ALICE, explain=True), tenant("eve", EVE, explain=True)
    )
    plain = Rig("--tenants", "key")
    await plain.start()
    for router in (rig, plain):
        engine = await engine_factory(whole())
        router.add("a", engine.port, capacity=100_000)
        router.trust_all()
        for who, key in (("first", ALICE), ("eve", EVE), ("alice", ALICE)):
            _, headers, _ = await ask(router, key, data, lines=b"x-memroute-explain: 1\r\n")
            told = re.search(r"(\d+) tokens cached", headers["x-memroute-decision"])
            cached[who] = int(told[1])
        assert cached["first"] == cached["eve"] == 0
        assert cached["alice"] > 300
        await router.stop()


async def test_engines_keep_the_cache_of_a_tenant_apart_where_it_is_asked_for(
    tmp_path, engine_factory
):
    salt = "a-secret-of-sixteen-and-more"
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE, cacheSalt=salt))
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    for data in (body(), body(cache_salt="mine")):
        assert (await ask(rig, ALICE, data))[0] == 200
    salts = [json.loads(sent)["cache_salt"] for _, sent in engine.requests]
    assert salts == [salt, f"{salt}/mine"]
    assert (await get(rig, b"/v1/models", ALICE))[0] == 200
    await rig.stop()


@pytest.mark.slow
async def test_words_without_number_leave_nothing_behind(tmp_path):
    """Unknown keys are refused before anything of theirs is kept."""
    rig = await keyed_rig(tmp_path, tenant("alice", ALICE))
    gate = rig.router.gate
    for number in range(1000):
        assert (await ask(rig, f"mr-{number}-0123456789abcdefghij"))[0] == 401
        if number > 50:
            break
    for number in range(100_000):
        gate.identify({b"authorization": b"Bearer mr-%d-0123456789abcdefghij" % number})
    assert gate.refused.keys() == {"unknown-key"}
    assert list(gate.quotas.by_tenant) == ["alice"]
    assert not rig.pools.by_model
    await rig.stop()
