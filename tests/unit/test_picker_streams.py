"""What a picker answers a gateway, and that a lease ends once, whatever ends its stream."""

import asyncio
import json
from dataclasses import replace

import pytest

from access_rig import ALICE, tenant, write_keys
from gateway_rig import BUFFERED, DUPLEX, NONE, STREAMED, Stream, picker
from memroute_picker.grpc.frames import Kind, settings
from memroute_router.http.client import Endpoint
from memroute_router.http.deadlines import NEVER, monotonic
from router_rig import CHUNK, body, until

EVENTS = b"".join([CHUNK] * 3)


def records(rig):
    return list(rig.router.journal.recent)


async def finished(stream):
    """What is sent back of an answer's body, to its end."""
    found = b""
    while True:
        answer = await stream.next()
        if answer.kind == 4:
            found += answer.body
            if answer.is_last:
                return found


async def test_a_request_goes_where_its_lease_is_and_its_answer_ends_it():
    """The whole way once: header and metadata agree, the body comes back, usage is read."""
    async with picker() as (rig, gateway):
        stream = Stream(gateway)
        stream.head()
        data = body()
        stream.body(data[:10], is_last=False)
        stream.body(data[10:], is_last=False)
        stream.body(b"", is_last=True)
        answer = await stream.next()
        assert answer.endpoint == answer.metadata["envoy.lb"]["x-gateway-destination-endpoint"]
        assert answer.endpoint in {"127.0.0.1:1001", "127.0.0.1:1002"}
        assert answer.sets["content-length"] == str(len(data))
        assert "x-memroute-priority" in answer.removes
        assert (await stream.next()).body == data
        assert rig.num_leases == 1
        stream.answer_head()
        usage = b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}'
        stream.answer_body(usage, is_last=False)
        stream.answer_body(b"", is_last=True)
        head = await stream.next()
        assert head.kind == 2
        assert "x-request-id" in head.sets
        assert await finished(stream) == usage
        assert rig.num_leases == rig.reserved == 0
        record = records(rig)[0]
        assert (record.outcome.value, record.status, record.output_tokens) == ("served", 200, 4)


@pytest.mark.parametrize("how", ["cancel", "half_close", "connection"])
@pytest.mark.parametrize("how_far", range(6))
async def test_whatever_ends_a_stream_ends_its_lease(how, how_far):
    """A lease that outlives its stream is memory that nobody gets any more."""
    async with picker(replicas=("a",)) as (rig, gateway):
        stream = Stream(gateway)
        stream.head()
        await until(lambda: rig.router.grpc.num_calls)
        if how_far > 0:
            stream.body(body(stream=True)[:9], is_last=False)
        if how_far > 1:
            stream.body(body(stream=True)[9:], is_last=True)
            await stream.next()
            assert rig.num_leases == 1
        if how_far > 2:
            stream.answer_head(content_type="text/event-stream")
        if how_far > 3:
            stream.answer_body(CHUNK, is_last=False)
            await stream.next()
        if how_far > 4:
            stream.answer_body(CHUNK, is_last=True)
        if how == "connection":
            gateway._writer.transport.abort()
        else:
            getattr(stream, how)()
        await until(lambda: not rig.router.grpc.num_calls)
        assert rig.num_leases == rig.reserved == 0
        assert rig.router.grpc.budget.held_bytes == 0
        assert not rig.router.grpc.budget._slow
        assert rig.router.grpc.deadlines._watched <= rig.router.grpc._side.connections


async def test_a_request_without_room_waits_and_has_its_turn():
    """What a picker is for: nothing is sent to an engine that has no room for it."""
    async with picker(replicas=("a",), capacity=400) as (rig, gateway):
        first, second = Stream(gateway), Stream(gateway)
        await first.routed(body(max_tokens=300))
        second.ask(body(max_tokens=300))
        await until(lambda: rig.num_held == 1)
        first.answer_head()
        first.answer_body(b"{}", is_last=True)
        assert (await second.next()).endpoint == "127.0.0.1:1001"
        assert rig.num_held == 0


async def test_a_client_that_leaves_while_it_waits_waits_no_more():
    """The gateway resets the stream; a place in the queue is not a lease."""
    async with picker(replicas=("a",), capacity=400) as (rig, gateway):
        await Stream(gateway).routed(body(max_tokens=300))
        waiting = Stream(gateway)
        waiting.ask(body(max_tokens=300))
        await until(lambda: rig.num_held == 1)
        waiting.cancel()
        await until(lambda: rig.num_held == 0)
        assert records(rig)[0].outcome.value == "client-gone"


@pytest.mark.parametrize(
    ("data", "flags", "status", "reason"),
    [
        (b"{no", (), 400, None),
        (body(model="other"), (), 404, "unknown-model"),
        (body(max_tokens=90_000), (), 400, "never-fits"),
        (body(pad="x" * 20_000), (), 413, None),
    ],
)
async def test_refusals_have_the_routers_words(data, flags, status, reason):
    """Clients see one vocabulary, whichever edge they came by."""
    async with picker(*flags) as (rig, gateway):
        stream = Stream(gateway)
        stream.ask(data)
        answer = await stream.next()
        assert (answer.kind, answer.status) == (7, status)
        assert answer.sets["content-type"] == "application/json"
        assert answer.sets.get("x-memroute-reason") == reason
        assert json.loads(answer.body)["error"]["message"]
        assert await stream.next() == Kind.HEADERS  # the stream has ended
        assert rig.num_leases == rig.router.grpc.budget.held_bytes == 0


async def test_overload_says_when_to_come_back():
    """429 with Retry-After reaches the client through the gateway."""
    async with picker("--max-queue-seconds", "0", replicas=("a",), capacity=400) as (_, gateway):
        await Stream(gateway).routed(body(max_tokens=300))
        stream = Stream(gateway)
        stream.ask(body(max_tokens=300))
        answer = await stream.next()
        assert answer.status == 429
        assert int(answer.sets["retry-after"]) >= 1
        assert answer.sets["x-memroute-reason"] == "saturated"


async def test_the_lease_moves_to_the_replica_that_has_served():
    """A gateway that went down its list would else fill a replica that nobody counts."""
    async with picker("--max-endpoints", "2") as (rig, gateway):
        stream = Stream(gateway)
        answer = await stream.routed(body(stream=True))
        first, second = answer.endpoint.split(",")
        ledgers = {r.upstream.endpoint.authority.decode(): r.ledger for r in rig.replicas}
        assert (ledgers[first].num_in_flight, ledgers[second].num_in_flight) == (1, 0)
        beside = {"attributes": {"upstream.address": second}}
        stream.answer_head(content_type="text/event-stream", beside=beside)
        stream.answer_body(CHUNK, is_last=False)
        await stream.next()
        assert (ledgers[first].num_in_flight, ledgers[second].num_in_flight) == (0, 1)
        stream.answer_body(CHUNK, is_last=True)
        await finished(stream)
        assert rig.num_leases == rig.reserved == 0
        assert records(rig)[0].replica == f"default/{'ab'[int(second[-1]) - 1]}"
        page = rig.router.metrics.render().decode()
        assert 'memroute_picker_served_elsewhere_total{where="another-replica"} 1.0' in page


async def test_a_whole_answer_moves_its_lease_too_however_late_it_comes():
    """The replica that did not answer would else be told well by the other one's answer."""
    async with picker("--max-endpoints", "2") as (rig, gateway):
        stream = Stream(gateway)
        first, second = (await stream.routed(body())).endpoint.split(",")
        by_address = {r.upstream.endpoint.authority.decode(): r for r in rig.replicas}
        by_address[first].ledger.settle(now_seconds=monotonic() + 100)
        by_address[first].health.fault(now_seconds=monotonic())
        stream.answer_head(beside={"attributes": {"upstream.address": second}})
        await until(lambda: by_address[second].ledger.num_in_flight == 1)
        stream.answer_body(b"{}", is_last=True)
        await finished(stream)
        assert rig.num_leases == rig.reserved == 0
        assert by_address[first].health.is_out
        assert records(rig)[0].replica == by_address[second].info.key
        assert rig.router.side.counts.num_moved == 1


async def test_an_address_of_nobody_is_told():
    """Memory is then spent where nobody counts: an alarm can be set on it."""
    async with picker() as (rig, gateway):
        stream = Stream(gateway)
        await stream.routed(body())
        stream.answer_head(beside={"served": "192.0.2.1:1"}, is_last=True)
        await stream.next()
        page = rig.router.metrics.render().decode()
        assert 'memroute_picker_served_elsewhere_total{where="no-replica"} 1.0' in page


STRANGER = "192.0.2.1:1"


async def test_a_request_that_no_replica_has_holds_nothing_of_the_one_that_was_chosen():
    """By the protocol's own word: the chosen replica has room again while the answer goes on."""
    async with picker(replicas=("a",), capacity=400) as (rig, gateway):
        (replica,) = rig.replicas
        first, second = Stream(gateway), Stream(gateway)
        await first.routed(body(max_tokens=300, stream=True))
        second.ask(body(max_tokens=300))
        await until(lambda: rig.num_held == 1)
        first.answer_head(content_type="text/event-stream", beside={"served": STRANGER})
        assert (await second.next()).endpoint == "127.0.0.1:1001"
        replica.health.fault(now_seconds=monotonic())
        first.answer_body(EVENTS, is_last=True)
        assert await finished(first) == EVENTS
        assert rig.num_leases == 1
        record = records(rig)[0]
        assert (record.outcome.value, record.replica) == ("served", STRANGER)
        assert replica.health.is_out  # somebody else's answer does not vouch for it


@pytest.mark.parametrize(
    "beside",
    [
        {"attributes": {"upstream.address": STRANGER}},
        {"served": "envoy://connect_originate/10.0.0.1:80"},
        {"served": "engine-0.pods.svc:8000"},
    ],
)
async def test_an_address_that_may_be_a_proxys_leaves_the_lease_where_it_is(beside):
    """A mesh's sidecar before every replica would else leave the whole pool uncounted."""
    async with picker(replicas=("a",)) as (rig, gateway):
        stream = Stream(gateway)
        await stream.routed(body(stream=True))
        stream.answer_head(content_type="text/event-stream", beside=beside)
        stream.answer_body(CHUNK, is_last=False)
        await stream.next()
        assert rig.num_leases == 1
        assert rig.router.side.counts.num_strangers == 1


async def test_an_address_may_be_written_in_another_way():
    """An IPv4 address of a socket that speaks both families is the replica's."""
    async with picker(replicas=("a",)) as (rig, gateway):
        stream = Stream(gateway)
        await stream.routed(body(stream=True))
        served = {"served": "[::ffff:127.0.0.1]:1001"}
        stream.answer_head(content_type="text/event-stream", beside=served)
        stream.answer_body(CHUNK, is_last=False)
        await stream.next()
        assert rig.num_leases == 1
        assert rig.router.side.counts.num_strangers == rig.router.side.counts.num_moved == 0


async def test_a_slow_client_is_waited_for_wherever_its_request_is():
    """The engine is not late while the gateway takes nothing, be it no replica's."""
    async with picker(replicas=("a",)) as (rig, gateway):
        stream = Stream(gateway)
        await stream.routed(body(stream=True))
        gateway.write(settings([(4, 0)]))
        stream.answer_head(content_type="text/event-stream", beside={"served": STRANGER})
        for _ in range(40):
            stream.answer_body(b"data: " + b"x" * 16_000 + b"\n\n", is_last=False)
        call = next(iter(next(iter(rig.router.grpc._side.connections)).calls.values()))
        await until(lambda: call.is_backed_up)
        stream.answer_body(b"data: y\n\n", is_last=False)
        await until(lambda: call.handler.deadline_at == NEVER)
        gateway.write(settings([(4, 2**24)]))
        await until(lambda: call.handler.deadline_at < NEVER)
        assert rig.num_leases == 0


@pytest.mark.parametrize(
    ("details", "outcome", "is_blamed"),
    [
        ("upstream_reset_before_response_started{connection_failure}", "replicas-failed", True),
        ("upstream_response_timeout", "replicas-failed", True),
        ("request_payload_too_large", "engine-push-back", False),
    ],
)
async def test_a_gateways_own_answer_is_no_engines(details, outcome, is_blamed):
    """503 of the gateway itself looks like the engine's: the replica is judged by the details."""
    async with picker(replicas=("a",)) as (rig, gateway):
        stream = Stream(gateway)
        await stream.routed(body())
        stream.answer_head(503, beside={"attributes": {"response.code_details": details}})
        answer = await stream.next()
        assert (answer.status == 502) is is_blamed
        assert rig.replicas[0].health.is_out is is_blamed
        assert records(rig)[0].outcome.value == outcome
        assert rig.num_leases == 0


async def test_an_engine_that_pushes_back_is_passed_on_with_a_time():
    """The engine's own words are the best answer; its client is told when to come back."""
    async with picker(replicas=("a",)) as (rig, gateway):
        stream = Stream(gateway)
        await stream.routed(body())
        beside = {"attributes": {"response.code_details": "via_upstream"}}
        stream.answer_head(429, beside=beside)
        answer = await stream.next()
        assert (answer.kind, answer.sets["retry-after"]) == (2, "2")
        stream.answer_body(b"full", is_last=True)
        assert await finished(stream) == b"full"
        assert records(rig)[0].outcome.value == "engine-push-back"


async def test_answers_that_are_not_shown_end_with_their_stream():
    """``response_body_mode: NONE`` costs progress and usage, and not the lease."""
    async with picker(replicas=("a",)) as (rig, gateway):
        stream = Stream(gateway, DUPLEX, NONE)
        await stream.routed(body(stream=True))
        stream.answer_head(content_type="text/event-stream")
        assert (await stream.next()).kind == 2
        assert rig.num_leases == 1
        stream.half_close()
        await until(lambda: rig.num_leases == 0)
        assert records(rig)[0].outcome.value == "served"


@pytest.mark.parametrize("answers", [NONE, BUFFERED])
async def test_an_answer_that_is_not_shown_may_take_as_long_as_it_takes(answers):
    """Nothing is heard of it but its end: silence says nothing of its engine."""
    async with picker(replicas=("a",)) as (rig, gateway):
        stream = Stream(gateway, DUPLEX, answers)
        await stream.routed(body(stream=True))
        call = next(iter(next(iter(rig.router.grpc._side.connections)).calls.values()))
        assert call.handler.deadline_at < NEVER
        stream.answer_head(content_type="text/event-stream")
        assert (await stream.next()).kind == 2
        assert call.handler.deadline_at == NEVER
        assert not rig.replicas[0].health.is_out


async def test_buffered_bodies_get_one_answer_each():
    """Envoy takes a second answer for a spurious message, and gives the client a 500."""
    async with picker(replicas=("a",)) as (_, gateway):
        stream = Stream(gateway, BUFFERED, STREAMED)
        stream.head()
        assert (await stream.next()).kind == 1
        stream.body(body(stream=True))
        answer = await stream.next()
        assert (answer.kind, answer.endpoint) == (3, "127.0.0.1:1001")
        stream.answer_head(content_type="text/event-stream")
        assert (await stream.next()).kind == 2
        for data in (CHUNK[:20], CHUNK[20:], CHUNK):
            stream.answer_body(data, is_last=False)
        stream.answer_body(b"", is_last=True)
        passed = [(await stream.next()).body for _ in range(4)]
        # Half an event is held until its other half is there.
        assert passed == [b"", CHUNK, None, None]


async def test_trailers_end_a_body_and_are_answered_last():
    """Upstream pickers hang there: no message of the body says that it is the last."""
    async with picker(replicas=("a",)) as (rig, gateway):
        stream = Stream(gateway)
        stream.head()
        stream.body(body(), is_last=False)
        stream.trailers()
        kinds = [await stream.next() for _ in range(3)]
        assert [answer.kind for answer in kinds] == [1, 3, 5]
        assert not kinds[1].is_last
        stream.answer_head()
        stream.answer_body(b"{}", is_last=False)
        stream.answer_trailers()
        assert [(await stream.next()).kind for _ in range(3)] == [2, 4, 6]
        assert rig.num_leases == 0


@pytest.mark.parametrize(
    ("subset", "wanted"),
    [(["127.0.0.1:1002"], "127.0.0.1:1002"), ("127.0.0.1:1002, 192.0.2.1:1", "127.0.0.1:1002"),
     ([], None), (["192.0.2.1:1"], None)],
)  # fmt: skip
async def test_the_gateways_subset_is_kept_to(subset, wanted):
    """A gateway names a zone's endpoints, or those of a canary: no other will do."""
    async with picker() as (rig, gateway):
        rig.prefer("a")
        stream = Stream(gateway)
        stream.ask(body(), subset=subset)
        answer = await stream.next()
        assert answer.endpoint == wanted
        assert (answer.status == 503) is (wanted is None)


async def test_a_request_waits_for_the_replicas_that_it_may_go_to():
    """Another that has room is none of its: nor is its place before those who may go there."""
    async with picker(capacity=400) as (rig, gateway):
        await Stream(gateway).routed(body(max_tokens=300), subset=["127.0.0.1:1001"])
        waiting, other = Stream(gateway), Stream(gateway)
        waiting.ask(body(max_tokens=300), subset=["127.0.0.1:1001"])
        await until(lambda: rig.num_held == 1)
        assert (await other.routed(body(max_tokens=300))).endpoint == "127.0.0.1:1002"
        assert rig.num_held == 1


async def test_a_replica_without_an_address_gets_nothing():
    """A gateway resolves no names: every request there would be a 503 of its own."""
    async with picker() as (rig, gateway):
        for replica in rig.replicas:
            if replica.info.pod == "a":
                named = replace(replica.info, endpoint=Endpoint("engine-a", 8000))
                rig.router.on_upsert(rig.pools.upsert_replica(named))
        rig.trust_all()
        for _ in range(3):
            assert (await Stream(gateway).routed(body())).endpoint == "127.0.0.1:1002"


async def test_claims_have_other_peoples_names_too():
    """What llm-d's clients send means the same here, where headers are trusted."""
    flags = ("--trust-headers", "--tenants", "header", "--objective", "batch=-5")
    async with picker(*flags, replicas=("a",)) as (rig, gateway):
        stream = Stream(gateway)
        await stream.routed(
            body(),
            x_llm_d_inference_fairness_id="team",
            x_llm_d_inference_objective="batch",
            x_slo_ttft_ms="250",
        )
        profile = next(iter(rig.replicas[0].ledger.leases)).profile
        assert (profile.tenant, profile.priority) == ("team", -5)
        assert profile.deadline_seconds is not None


async def test_a_renamed_model_is_the_one_that_counts():
    """The gateway sends the engine another name: the pool is that of the new one."""
    async with picker("--trust-headers", replicas=("a",)) as (_, gateway):
        stream = Stream(gateway)
        answer = await stream.routed(body(model="alias"), x_llm_d_model_name_rewrite="m")
        assert answer.endpoint == "127.0.0.1:1001"


async def test_a_test_may_choose_only_where_tests_may():
    """Anybody could choose the fullest replica otherwise."""
    async with picker("--conformance-test") as (_, gateway):
        stream = Stream(gateway)
        answer = await stream.routed(body(), test_epp_endpoint_selection="127.0.0.1:1002")
        assert answer.endpoint == "127.0.0.1:1002"
        assert "test-epp-endpoint-selection" not in answer.removes, "upstream's suite looks for it"
    async with picker() as (rig, gateway):
        rig.prefer("a")
        stream = Stream(gateway)
        answer = await stream.routed(body(), test_epp_endpoint_selection="127.0.0.1:1002")
        assert answer.endpoint == "127.0.0.1:1001"
        assert "test-epp-endpoint-selection" in answer.removes


async def test_a_picker_that_stops_refuses_what_waits():
    """A pod that is replaced tells its clients when to come back, and leaves no lease."""
    async with picker(replicas=("a",), capacity=400) as (rig, gateway):
        first, waiting = Stream(gateway), Stream(gateway)
        await first.routed(body(max_tokens=300))
        waiting.ask(body(max_tokens=300))
        await until(lambda: rig.num_held == 1)
        stop = asyncio.create_task(rig.router.grpc.stop(timeout_seconds=0))
        answer = await waiting.next()
        assert (answer.status, answer.sets["retry-after"]) == (503, "1")
        await stop
        assert rig.num_leases == rig.num_held == 0


async def test_a_replica_that_hangs_is_not_waited_for():
    """The router would go elsewhere; a gateway cannot, and its client is told at once."""
    async with picker() as (rig, gateway):
        stream = Stream(gateway)
        await stream.routed(body(stream=True))
        for replica in rig.replicas:
            for lease in replica.ledger.unanswered:
                rig.pools.get("m")._waiters[lease].is_stuck()
        answer = await stream.next()
        assert answer.status == 502
        assert answer.sets["x-memroute-reason"] == "replicas-failed"
        assert rig.num_leases == 0


@pytest.mark.parametrize("message", [b"\x12\xff\xff\xff\xff\x0fx", b"\xff", b"\x12\x05\x0a\x7fab"])
async def test_a_malformed_message_ends_its_stream_alone(message):
    """One gateway's bug is not every request's."""
    async with picker() as (rig, gateway):
        stream, other = Stream(gateway), Stream(gateway)
        gateway.say(stream.number, message)
        assert await stream.next() == Kind.HEADERS
        assert (await other.routed(body())).endpoint
        assert rig.router.side.counts.num_malformed == 1


async def test_other_body_modes_are_not_waited_in():
    """A gateway that shows no body would wait for ever."""
    async with picker() as (rig, gateway):
        stream = Stream(gateway, NONE, NONE)
        stream.head()
        assert await stream.next() == Kind.HEADERS
        assert rig.router.side.counts.num_unsupported == 1


async def test_what_is_none_of_the_api_is_refused_or_passes_as_told():
    """An engine's administration is out of reach, unless the operator says otherwise."""
    async with picker() as (_, gateway):
        stream = Stream(gateway)
        stream.head(is_last=True, **{":method": "GET", ":path": "/sleep"})
        assert (await stream.next()).status == 404
        models = Stream(gateway)
        models.head(is_last=True, **{":method": "GET", ":path": "/v1/models"})
        answer = await models.next()
        assert answer.status == 200
        assert b'"m"' in answer.body
    async with picker("--pass-other-paths") as (rig, gateway):
        stream = Stream(gateway)
        stream.head(is_last=True, **{":method": "GET", ":path": "/version"})
        assert (await stream.next()).endpoint
        stream.answer_head()
        stream.answer_body(b"1", is_last=True)
        assert (await stream.next()).kind == 2
        assert await finished(stream) == b"1"
        assert rig.num_leases == 0


async def test_trailers_without_a_body_have_no_way_where_bodies_are_buffered():
    """The head is answered before they come, and an answer to no body would break the stream."""
    async with picker("--pass-other-paths") as (rig, gateway):
        for requests, wanted in (({"requests": BUFFERED}, [1, 7]), ({}, [1, 3, 5])):
            stream = Stream(gateway, **requests)
            stream.head(**{":path": "/version"})
            stream.trailers()
            answers = [await stream.next() for _ in wanted]
            assert [answer.kind for answer in answers] == wanted
            assert answers[-1].status == (400 if requests else 0)
        assert rig.router.grpc.budget.held_bytes == 0


async def test_an_answer_without_a_body_gets_none():
    """A message of a body that nobody waits for is a spurious one."""
    async with picker(replicas=("a",)) as (rig, gateway):
        stream = Stream(gateway)
        await stream.routed(body())
        stream.answer_head(204, is_last=True)
        assert (await stream.next()).kind == 2
        assert rig.num_leases == 0
        stream.half_close()
        assert await stream.next() == Kind.HEADERS


async def test_what_can_pass_nowhere_is_held_no_longer():
    """Its bytes would else be counted for ever, until no body is taken any more."""
    async with picker("--pass-other-paths", replicas=()) as (rig, gateway):
        stream = Stream(gateway)
        stream.head(**{":path": "/version"})
        stream.body(b"x" * 1000)
        answer = await stream.next()
        assert (answer.status, answer.sets["retry-after"]) == (503, "1")
        assert rig.router.grpc.budget.held_bytes == 0


async def test_other_paths_pass_for_those_alone_who_may_ask(tmp_path):
    """An engine reads ``/v1/chat%2Fcompletions`` as the API's path: keys would be no lock."""
    keys = write_keys(tmp_path / "keys.json", tenant("alice", ALICE))
    async with picker("--pass-other-paths", "--keys", keys) as (_, gateway):
        for key, is_let_in in ((None, False), ("wrong", False), (ALICE, True)):
            stream = Stream(gateway)
            more = {} if key is None else {"authorization": f"Bearer {key}"}
            more["content-length"] = str(len(body()))
            stream.head(**{":path": "/v1/chat%2Fcompletions"}, **more)
            stream.body(body())
            answer = await stream.next()
            if is_let_in:
                assert answer.endpoint
                assert "authorization" in answer.removes
            else:
                assert answer.status == 401


async def test_an_engine_that_stalls_after_its_client_was_slow_is_still_found_out():
    """The clock stands still while the gateway takes nothing, and goes on when it does."""
    async with picker(replicas=("a",)) as (rig, gateway):
        stream = Stream(gateway)
        await stream.routed(body(stream=True))
        gateway.write(settings([(4, 0)]))
        stream.answer_head(content_type="text/event-stream")
        for _ in range(40):
            stream.answer_body(b"data: " + b"x" * 16_000 + b"\n\n", is_last=False)
        call = next(iter(next(iter(rig.router.grpc._side.connections)).calls.values()))
        await until(lambda: call.is_backed_up)
        stream.answer_body(b"data: y\n\n", is_last=False)
        await until(lambda: call.handler.deadline_at == NEVER)
        gateway.write(settings([(4, 2**24)]))
        await until(lambda: call.handler.deadline_at < NEVER)


@pytest.mark.parametrize(("answers", "is_asked"), [(DUPLEX, True), (STREAMED, True), (NONE, False)])
async def test_usage_is_asked_for_only_where_it_can_be_hidden_again(tmp_path, answers, is_asked):
    """A client that has not asked would get an event without choices, and fail on it."""
    limited = tenant("alice", ALICE, tokensPerMinute=10_000)
    keys = write_keys(tmp_path / "keys.json", limited)
    async with picker("--keys", keys) as (_, gateway):
        stream = Stream(gateway, BUFFERED if answers == STREAMED else DUPLEX, answers)
        stream.ask(body(stream=True), authorization=f"Bearer {ALICE}")
        data = None
        while not data:
            data = (await stream.next()).body
        assert (b"include_usage" in data) is is_asked
