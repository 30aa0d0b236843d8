"""How answers pass, and how streams end."""

import asyncio
import socket
from urllib.parse import urlsplit

import pytest
from picker_player import crowd, picked, piece, set_headers
from picker_web import post, stream_times

MIB = 1024**2


def _routed(one, prompt):
    """A request that has its endpoint; the endpoint."""
    one.head()
    one.body(prompt())
    endpoint = picked(one.next())
    is_last = False
    while not is_last:
        _, is_last = piece(one.next())
    return endpoint


@pytest.mark.rule("response-headers")
def test_an_answers_head_is_answered(stream, prompt):
    one = stream()
    _routed(one, prompt)
    one.answer_head()
    one.answer_body(b"{}", is_last=True)
    assert one.next().HasField("response_headers")


@pytest.mark.rule("response-body")
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_an_answers_body_comes_back(stream, prompt, kind):
    one = stream()
    _routed(one, prompt)
    one.answer_head(kind=kind)
    pieces = [
        b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',
        b"data: [DONE]\n\n",
    ]
    for each in pieces:
        one.answer_body(each, is_last=False)
    one.answer_body(b"", is_last=True)
    assert one.next().HasField("response_headers")
    found, is_last = b"", False
    while not is_last:
        data, is_last = piece(one.next())
        found += data
    assert found == b"".join(pieces)


@pytest.mark.rule("response-streams")
def test_pieces_pass_before_the_end(envoy, prompt):
    times = stream_times(envoy, prompt(stream=True), x_answer="events=10")
    assert len(times) >= 10
    assert times[-1] - times[0] >= 0.1


@pytest.mark.rule("response-large")
def test_a_large_answer_passes(envoy, prompt):
    answer = post(envoy, prompt(), x_answer=f"bytes={3 * MIB}")
    assert answer.status == 200
    assert answer.body == b"x" * (3 * MIB)


@pytest.mark.rule("response-trailers")
def test_an_answers_trailers_are_answered(stream, prompt):
    one = stream()
    _routed(one, prompt)
    one.answer_head()
    one.answer_body(b"{}", is_last=False)
    one.answer_trailers()
    kinds = []
    while "response_trailers" not in kinds:
        kinds.append(one.next().WhichOneof("response"))
    assert kinds[0] == "response_headers"
    assert "response_body" in kinds


@pytest.mark.rule("response-error")
@pytest.mark.parametrize("status", [400, 500])
def test_an_engines_error_passes(envoy, prompt, status):
    answer = post(envoy, prompt(), x_answer=f"status={status}")
    assert answer.status == status
    assert b"endpoint" in answer.body


@pytest.mark.rule("served-reported")
def test_who_has_served_is_reported(stream, prompt, endpoints):
    one = stream()
    _routed(one, prompt)
    one.answer_head(served=endpoints[1])
    one.answer_body(b"{}", is_last=True)
    answer = one.next()
    said = set_headers(answer.response_headers.response.header_mutation)
    assert said["x-conformance-test-served-endpoint"] == endpoints[1]


@pytest.mark.rule("half-close")
@pytest.mark.parametrize("how_far", range(4))
def test_a_half_closed_stream_ends(stream, prompt, how_far):
    one = stream()
    one.head()
    if how_far > 0:
        one.body(prompt())
        one.next()
        one.next()
    if how_far > 1:
        one.answer_head()
    if how_far > 2:
        one.answer_body(b"{}", is_last=True)
    one.half_close()
    while one.next(10) is not None:
        pass


@pytest.mark.rule("cancel-anywhere")
@pytest.mark.parametrize("how_far", range(5))
def test_a_stream_may_be_cancelled_anywhere(stream, prompt, how_far):
    for _ in range(20):
        one = stream()
        one.head()
        if how_far > 0:
            one.body(prompt(), is_last=how_far > 1)
        if how_far > 1:
            one.next()
        if how_far > 2:
            one.answer_head(kind="text/event-stream")
        if how_far > 3:
            one.answer_body(b"data: x\n\n", is_last=False)
        one.call.cancel()
    assert _routed(stream(), prompt)


@pytest.mark.rule("client-gone-through-envoy")
def test_clients_may_leave_anywhere(envoy, prompt):
    place = urlsplit(envoy.url)
    body = prompt(stream=True)
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-answer: events=20\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )
    for cut in [*range(0, len(request), 17), len(request)]:
        with socket.create_connection((place.hostname, place.port), 10) as client:
            client.sendall(request[:cut])
            if cut == len(request):
                client.recv(100)
    assert post(envoy, prompt()).status == 200


@pytest.mark.rule("many-streams")
def test_a_thousand_streams_at_once(picker, prompt):
    # A machine that is slow, or has others to serve, is no reason to go unanswered: a picker may
    # refuse what would wait for too long.
    answers = asyncio.run(crowd(picker, prompt(), 1000))
    for answer in answers:
        assert picked(answer) or answer.immediate_response.status.code == 429
