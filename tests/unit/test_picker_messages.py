"""Messages read and written by hand are those that the generated classes read and write."""

import json

import pytest

from memroute_picker.protocol import answers
from memroute_picker.protocol.incoming import Incoming, Said
from memroute_picker.protocol.wire import MalformedError, number, number_at


@pytest.fixture(scope="module")
def messages(data_directory):
    return json.loads((data_directory / "picker-messages.json").read_text())


@pytest.fixture
def said(messages):
    return lambda name: Incoming(bytes.fromhex(messages["gateway"][name]))


def test_a_requests_head_is_read_with_all_that_is_beside_it(said):
    """Fields come as ``raw_value`` from Envoy, as ``value`` from others."""
    message = said("request_headers")
    fields, is_last = message.headers()
    assert message.said == Said.REQUEST_HEADERS
    assert fields == [(b":method", b"POST"), (b"x", b"y" * 300), (b"old", b"text")]
    assert is_last
    assert message.modes() == (4, 1)
    assert message.metadata(b"envoy.lb.subset_hint") == {
        b"x-gateway-destination-endpoint-subset": [b"10.0.0.1:1", b"10.0.0.2:2"],
        b"n": 1.5, b"t": True, b"z": None, b"s": {b"a": b"b"},
    }  # fmt: skip
    assert message.metadata(b"envoy.lb") is None


def test_bodies_trailers_and_attributes_are_read(said):
    """Each message is of one thing; the number of its field says which."""
    assert said("request_body").body() == (b"{}" * 200, True)
    assert said("response_body_empty").body() == (b"", True)
    assert said("request_trailers").said == Said.REQUEST_TRAILERS
    answer = said("response_headers")
    assert answer.headers() == ([(b":status", b"200")], False)
    assert answer.modes() is None
    assert answer.attributes(b"envoy.filters.http.ext_proc") == {b"upstream.address": b"10.0.0.1:1"}


DESTINATION = b"10.0.0.1:8000"
MUTATION = (
    answers.destination_header(DESTINATION)
    + answers.set_header(b"content-length", b"5")
    + answers.remove_headers([b"a", b"b"])
)
METADATA = answers.destination_metadata(DESTINATION)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("picked", answers.picked(MUTATION, METADATA)),
        ("picked_by_body", answers.picked_by_body(MUTATION, METADATA, b"hello")),
        ("request_piece", answers.request_pieces(b"x" * 200, is_last=True)[0]),
        ("response_piece", answers.response_pieces(b"x", is_last=False)[0]),
        ("response_end", answers.response_pieces(b"", is_last=True)[0]),
        ("response_body", answers.response_body(b"abc")),
        ("response_body_cleared", answers.response_body(b"")),
        ("answered", answers.answered(answers.set_headers(b"X-Request-Id: 1\r\n"))),
        (
            "immediate",
            answers.immediate(
                429,
                answers.set_headers(b"content-type: application/json\r\nretry-after: 2\r\n"),
                b"{}",
                b"memroute",
            ),
        ),
        ("empty_request_headers", answers.EMPTY_REQUEST_HEADERS),
        ("empty_response_headers", answers.EMPTY_RESPONSE_HEADERS),
        ("empty_request_body", answers.EMPTY_REQUEST_BODY),
        ("empty_response_body", answers.EMPTY_RESPONSE_BODY),
        ("empty_request_trailers", answers.EMPTY_REQUEST_TRAILERS),
        ("empty_response_trailers", answers.EMPTY_RESPONSE_TRAILERS),
    ],
)
def test_answers_are_those_of_the_generated_classes(messages, name, made):
    """A wrong field number is a picker that every gateway ignores."""
    assert made.hex() == messages["picker"][name]


@pytest.mark.parametrize("name", ["request_headers", "response_headers", "request_body"])
def test_no_cut_of_a_message_is_a_surprise(messages, name):
    """Whatever a gateway sends half of ends its stream, and raises nothing else."""
    whole = bytes.fromhex(messages["gateway"][name])
    for end in range(len(whole)):
        try:
            message = Incoming(whole[:end])
            message.headers()
            message.modes()
            message.metadata(b"envoy.lb.subset_hint")
            message.attributes(b"envoy.filters.http.ext_proc")
        except MalformedError:
            continue


@pytest.mark.parametrize("value", [0, 127, 128, 300, 2**31, 2**62])
def test_numbers_come_back(value):
    """Lengths and statuses of any size."""
    written = number(value)
    assert number_at(written, 0) == (value, len(written))


def test_structures_have_an_end():
    """A structure within a structure within a structure must not take the stack."""
    deep = b""
    for _ in range(100):
        inner = b"\x0a\x00\x12" + number(len(deep) + 2) + b"\x2a" + number(len(deep)) + deep
        deep = b"\x0a" + number(len(inner)) + inner
        if len(deep) > 90:
            break
    while len(deep) < 4000:
        value = b"\x2a" + number(len(deep)) + deep
        entry = b"\x0a\x00\x12" + number(len(value)) + value
        deep = b"\x0a" + number(len(entry)) + entry
    entry = b"\x0a\x01x\x12" + number(len(deep)) + deep
    context = b"\x0a" + number(len(entry)) + entry
    with pytest.raises(MalformedError):
        Incoming(b"\x42" + number(len(context)) + context).metadata(b"x")
