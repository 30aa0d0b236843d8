"""Long bodies are read by another parser than short ones; both have to read the same."""

import json
import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as some

from memroute_router.surface import LONG_BODY_BYTES, ROUTES, read_document

TEXTS = some.one_of(
    some.text(max_size=40),
    some.builds(lambda text, times: text * times, some.text(max_size=12), some.integers(0, 60)),
    some.builds(lambda size, end: "x" * size + end, some.integers(0, 130), some.text(max_size=3)),
)
NUMBERS = some.one_of(
    some.integers(-(2**70), 2**70), some.floats(allow_nan=False, allow_infinity=False)
)
VALUES = some.recursive(
    some.one_of(some.none(), some.booleans(), NUMBERS, TEXTS),
    lambda inner: some.one_of(
        some.lists(inner, max_size=6), some.dictionaries(TEXTS, inner, max_size=6)
    ),
    max_leaves=30,
)
NOISE = some.sampled_from(
    [b'"', b"\\", b"\\u", b"\\ud800", b"\x00", b"\n", b"\xff", b"\xe2\x82", b"\xed\xa0\x80", b"{",
     b"]", b",", b":", b"0", b"-", b".", b"e9", b"tru", b"\xef\xbb\xbf", b"/", b"\x0c"]
)  # fmt: skip


def read(body):
    """What it says; None where it is no JSON."""
    try:
        return json.dumps(read_document(body))
    except orjson.JSONDecodeError:
        return None


@given(value=VALUES, is_ascii=some.booleans(), at=some.floats(0, 1), noise=some.none() | NOISE)
def test_blanks_behind_a_body_change_nothing_though_they_make_it_long(value, is_ascii, at, noise):
    body = json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    if noise is not None:
        where = int(at * len(body))
        body = body[:where] + noise + body[where:]
    assert read(body) == read(body + b" " * LONG_BODY_BYTES)


@given(depth=some.integers(900, 1100))
def test_both_stop_at_the_same_depth(depth):
    body = b"[" * depth + b"]" * depth
    assert is_json(body) == is_json(body + b" " * LONG_BODY_BYTES)


def is_json(body):
    try:
        read_document(body)
    except orjson.JSONDecodeError:
        return False
    return True


def test_what_is_no_json_is_said_in_the_same_words():
    path = b"/v1/chat/completions"
    for body in (b'{"model":', b'{"model":"\xff"}', b"[1]"):
        words = []
        for blanks in (0, LONG_BODY_BYTES):
            with pytest.raises(Exception, match="body") as error:
                ROUTES[path].parse(b" " * blanks + body, b"application/json")
            words.append(str(error.value).split(":")[:2])
        assert words[0] == words[1]


def test_of_numbers_that_are_none_a_long_body_leaves_the_refusal_to_the_engine():
    for text in (b"NaN", b"-Infinity", b"1e400"):
        with pytest.raises(orjson.JSONDecodeError):
            read_document(text)
        assert not math.isfinite(read_document(text + b" " * LONG_BODY_BYTES))
