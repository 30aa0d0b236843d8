"""How requests are answered: picks, bodies, subsets, refusals."""

import itertools
import json

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from picker_player import DESTINATION, Mode, noted, picked, piece, request_fields, set_headers
from picker_web import post

MIB = 1024**2
SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"


def _whole(stream, body, **beside):
    """The answer to a request's header fields, its body having come at once."""
    stream.head(**beside)
    stream.body(body, **beside)
    return stream.next()


@pytest.mark.rule("health-serving")
@pytest.mark.parametrize("service", [SERVICE, "readiness", "liveness"])
def test_health_says_serving(channel, service):
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.rule("health-unknown")
def test_health_knows_not_every_service(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.RpcError) as raised:
        stub.Check(health_pb2.HealthCheckRequest(service="no-such"), timeout=10)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.rule("pick-header")
def test_the_answer_names_an_endpoint(stream, prompt, endpoints):
    answer = _whole(stream(), prompt())
    assert picked(answer).split(",")[0] in endpoints


@pytest.mark.rule("pick-metadata")
def test_metadata_says_what_the_header_says(stream, prompt):
    answer = _whole(stream(), prompt())
    assert noted(answer) == picked(answer) != ""


@pytest.mark.rule("pick-overwrites")
def test_a_clients_own_destination_is_replaced(envoy, prompt, endpoints):
    for _ in range(3):
        answer = post(envoy, prompt(), **{DESTINATION: "127.0.0.99:9"})
        assert answer.status == 200
        assert json.loads(answer.body)["endpoint"] in endpoints


@pytest.mark.rule("pick-without-body")
def test_a_request_without_a_body_is_answered_at_its_head(stream):
    one = stream()
    one.head(request_fields("/anything", "GET"), is_last=True)
    answer = one.next()
    assert picked(answer) or answer.HasField("immediate_response")


@pytest.mark.rule("duplex-order")
def test_answers_come_in_order(stream, prompt):
    one = stream()
    one.head()
    one.body(prompt())
    assert one.next().HasField("request_headers")
    assert one.next().HasField("request_body")


@pytest.mark.rule("duplex-waits")
def test_nothing_is_picked_before_the_body_is_there(stream, prompt):
    one = stream()
    one.head()
    one.body(prompt()[:5], is_last=False)
    assert one.is_silent()
    one.body(prompt()[5:])
    assert picked(one.next())


@pytest.mark.rule("duplex-whole-body")
@pytest.mark.parametrize("cuts", [[], [1], [10, 40], [0]])
def test_the_whole_body_comes_back(stream, prompt, cuts):
    one, body = stream(), prompt("a" * 100)
    one.head()
    edges = [0, *cuts, len(body)]
    for begin, end in itertools.pairwise(edges):
        one.body(body[begin:end], is_last=False)
    one.body(b"", is_last=True)
    one.next()
    assert _collected(one) == body


@pytest.mark.rule("duplex-pieces")
def test_pieces_are_small(stream, prompt):
    one, body = stream(), prompt("b" * 200_000)
    one.head()
    one.body(body)
    one.next()
    sizes = []
    assert _collected(one, sizes) == body
    assert max(sizes) <= 64 * 1024


def _collected(one, sizes=None):
    """The body that comes back."""
    found, is_last = b"", False
    while not is_last:
        data, is_last = piece(one.next())
        found += data
        if sizes is not None:
            sizes.append(len(data))
    return found


@pytest.mark.rule("duplex-bodies-through-envoy")
@pytest.mark.parametrize("size", [62_000, 62_001, MIB, 3 * MIB])
def test_bodies_reach_the_engine(envoy, prompt, size):
    body = prompt("")
    body = prompt("c" * (size - len(body)))
    answer = post(envoy, body, x_answer="echo=1")
    assert answer.status == 200
    assert answer.body == body


@pytest.mark.rule("duplex-no-response-bodies")
@pytest.mark.parametrize("how", ["echo=1", "events=3"])
def test_answers_that_are_not_shown_pass(envoy_none, prompt, how):
    answer = post(envoy_none, prompt(stream=how.startswith("events")), x_answer=how)
    assert answer.status == 200
    assert answer.body


@pytest.mark.rule("buffered-one-answer")
def test_each_message_gets_one_answer(stream, prompt):
    one = stream(Mode.BUFFERED, Mode.STREAMED)
    one.head()
    first = one.next()
    assert first.HasField("request_headers")
    one.body(prompt())
    second = one.next()
    assert second.HasField("request_body")
    assert not second.request_body.response.body_mutation.HasField("streamed_response")
    assert picked(first) or picked(second)
    one.answer_head()
    assert one.next().HasField("response_headers")
    for number in range(3):
        one.answer_body(b"{}", is_last=number == 2)
        assert one.next().HasField("response_body")
        assert one.is_silent(0.2)


@pytest.mark.rule("buffered-through-envoy")
@pytest.mark.parametrize("how", ["status=200", "events=3", "bytes=100000"])
def test_buffered_bodies_pass(envoy_buffered, prompt, how):
    answer = post(envoy_buffered, prompt(stream=how.startswith("events")), x_answer=how)
    assert answer.status == 200


@pytest.mark.rule("mode-unsupported")
def test_another_body_mode_is_not_waited_in(stream, prompt):
    one = stream(Mode.BUFFERED_PARTIAL, Mode.NONE)
    one.head()
    one.body(prompt())
    with pytest.raises(grpc.RpcError):
        _to_the_end(one)


def _to_the_end(one):
    """All that still comes."""
    while one.next(10) is not None:
        pass


@pytest.mark.rule("content-length")
def test_a_content_length_is_that_of_the_body(stream, prompt):
    one, body = stream(), prompt("d" * 1000)
    answer = _whole(one, body)
    said = set_headers(answer.request_headers.response.header_mutation).get("content-length")
    assert said in {None, str(len(_collected(one)))}


@pytest.mark.rule("request-trailers")
def test_trailers_end_a_body(stream, prompt):
    one, body = stream(), prompt()
    one.head()
    one.body(body, is_last=False)
    one.trailers()
    assert picked(one.next())
    data, is_last = piece(one.next())
    assert (data, is_last) == (body, False)
    assert one.next().HasField("request_trailers")


@pytest.mark.rule("subset-list")
def test_a_subset_is_kept_to(stream, prompt, endpoints):
    for endpoint in endpoints * 2:
        assert picked(_whole(stream(), prompt(), subset=[endpoint])) == endpoint


@pytest.mark.rule("subset-text")
def test_a_subset_may_be_a_text(stream, prompt, endpoints):
    answer = _whole(stream(), prompt(), subset=f"127.0.0.99:1,{endpoints[0]}")
    assert picked(answer) == endpoints[0]


@pytest.mark.rule("subset-empty")
def test_an_empty_subset_is_503(stream, prompt):
    answer = _whole(stream(), prompt(), subset=[])
    assert answer.immediate_response.status.code == 503


@pytest.mark.rule("subset-foreign")
def test_a_foreign_subset_is_503(stream, prompt):
    answer = _whole(stream(), prompt(), subset=["192.0.2.1:8000"])
    assert answer.immediate_response.status.code == 503


@pytest.mark.rule("immediate-ends")
def test_an_immediate_response_ends_the_stream(stream, prompt):
    one = stream()
    answer = _whole(one, prompt(), subset=[])
    assert answer.HasField("immediate_response")
    assert one.next(10) is None


@pytest.mark.rule("refusal-of-garbage")
def test_garbage_is_refused_as_json(envoy):
    answer = post(envoy, b"{no json")
    assert answer.status == 400
    assert answer.headers["content-type"].startswith("application/json")
    assert "error" in json.loads(answer.body)


@pytest.mark.rule("overload-429")
def test_overload_is_429_with_a_time_to_come_back(overloaded_envoy, prompt):
    answers = overloaded_envoy(prompt("e" * 4000, max_tokens=4000), x_answer="wait=1")
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)


@pytest.mark.rule("large-message")
def test_a_large_message_is_read(stream, prompt):
    one = stream(Mode.BUFFERED, Mode.STREAMED)
    one.head()
    first = one.next()
    one.body(prompt("f" * (6 * MIB)))
    assert picked(first) or picked(one.next())


@pytest.mark.rule("test-selection")
@pytest.mark.parametrize("has_port", [True, False])
def test_a_test_names_the_endpoint(stream, prompt, endpoints, has_port):
    for endpoint in endpoints:
        wanted = endpoint if has_port else endpoint.rpartition(":")[0]
        one = stream()
        one.head(request_fields(**{"test-epp-endpoint-selection": wanted}))
        one.body(prompt())
        assert picked(one.next()) == endpoint


@pytest.mark.rule("test-selection-unknown")
def test_a_selection_of_nothing_is_none(stream, prompt, endpoints):
    one = stream()
    one.head(request_fields(**{"test-epp-endpoint-selection": "192.0.2.1"}))
    one.body(prompt())
    assert picked(one.next()).split(",")[0] in endpoints


@pytest.mark.rule("malformed-message")
def test_a_malformed_message_ends_its_stream_alone(channel, stream, prompt):
    call = channel.stream_stream(f"/{SERVICE}/Process")(iter([b"\x12\xff\xff\xff\xff\x0fno"]))
    with pytest.raises(grpc.RpcError):
        list(call)
    assert picked(_whole(stream(), prompt()))
