"""Server-sent events as their specification has them, and the usage at the end of answers."""

import gzip
import json
import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memroute_router.lifecycle.events import MAX_EVENT_BYTES, EventStream
from memroute_router.lifecycle.usage import MAX_TAIL_BYTES, Usage, tail_of

HEAD = b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":['
ROLE = (
    HEAD + b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
    b'"finish_reason":null}],"prompt_token_ids":null}'
)
TEXT = HEAD + b'{"index":0,"delta":{"content":"hi"},"logprobs":null,"finish_reason":null}]}'
TOLD = (
    HEAD + b'],"usage":{"prompt_tokens":2048,"total_tokens":3282,"completion_tokens":1234,'
    b'"prompt_tokens_details":{"cached_tokens":1024}},"system_fingerprint":"x"}'
)


def line(payload):
    return b"data: " + payload + b"\n\n"


def named(name, payload):
    return b"event: " + name + b"\ndata: " + payload + b"\n\n"


def usage_of(usage):
    return usage.prompt_tokens, usage.output_tokens, usage.cached_tokens


NOTHING = (None, None, None)
CHAT = line(ROLE) + line(TEXT) * 3 + line(TOLD) + b"data: [DONE]\n\n"
MESSAGES = (
    named(b"message_start", b'{"type":"message_start","message":{"usage":{"input_tokens":7,'
                            b'"cache_read_input_tokens":90,"cache_creation_input_tokens":3,'
                            b'"output_tokens":1}}}')
    + named(b"content_block_start", b'{"type":"content_block_start","index":0}')
    + named(b"ping", b'{"type":"ping"}')
    + named(b"content_block_delta", b'{"type":"content_block_delta","delta":{"text":"a"}}') * 4
    + named(b"content_block_stop", b'{"type":"content_block_stop","index":0}')
    + named(b"message_delta", b'{"type":"message_delta","usage":{"output_tokens":9}}')
    + named(b"message_stop", b'{"type":"message_stop"}')
)  # fmt: skip
RESPONSES = (
    named(b"response.created", b'{"type":"response.created","response":{"usage":null}}')
    + named(b"response.output_item.added", b'{"type":"response.output_item.added"}')
    + named(b"response.output_text.delta", b'{"type":"response.output_text.delta","delta":"a"}') * 5
    + named(b"response.output_text.done", b'{"type":"response.output_text.done","text":"aaaaa"}')
    + named(b"response.completed", b'{"type":"response.completed","response":{"usage":{'
                                   b'"input_tokens":50,"input_tokens_details":{"cached_tokens":32},'
                                   b'"output_tokens":6,"output_tokens_details":{"reasoning_tokens":0},'
                                   b'"total_tokens":56}}}')
)  # fmt: skip
TEXT_WITH_MARKS = (
    HEAD + b'{"index":0,"delta":{"content":"say data: {\\"usage\\":{\\"prompt_tokens\\":5}} and '
    b'data:{ or \\n\\ndata: {"}}]}'
)

# Name, the bytes, events with generated text, usage, status of an error.
CORPUS = [
    ("a chat of vLLM", CHAT, 3, (2048, 1234, 1024), 0),
    ("a chat without usage", line(ROLE) + line(TEXT) + b"data: [DONE]\n\n", 1, NOTHING, 0),
    ("SGLang, which says null", line(TEXT[:-1] + b',"usage":null}') * 2, 2, NOTHING, 0),
    ("usage with every chunk",
     line(TEXT[:-1] + b',"usage":{"prompt_tokens":3,"completion_tokens":1}}')
     + line(TEXT[:-1] + b',"usage":{"prompt_tokens":3,"completion_tokens":2}}'),
     2, (3, 2, None), 0),
    ("Anthropic's messages", MESSAGES, 4, (100, 9, 90), 0),
    ("OpenAI's responses", RESPONSES, 5, (50, 6, 32), 0),
    ("no space after the colon", b'data:{"token":{"text":"a"}}\n\n' * 10, 10, NOTHING, 0),
    ("CR", CHAT.replace(b"\n", b"\r"), 3, (2048, 1234, 1024), 0),
    ("CRLF", CHAT.replace(b"\n", b"\r\n"), 3, (2048, 1234, 1024), 0),
    ("LF, CR and CRLF",
     line(TEXT) + line(TEXT).replace(b"\n", b"\r") + line(TEXT).replace(b"\n", b"\r\n"),
     3, NOTHING, 0),
    ("comments and other fields", b": ping\n\nid: 4\nretry: 10\ndata: " + TEXT + b"\n\n:\n\n",
     1, NOTHING, 0),
    ("an event named message", named(b"message", TEXT), 1, NOTHING, 0),
    ("data over several lines", b'data: {"choices":\ndata: [{"text":"a"}]}\n\n', 1, NOTHING, 0),
    ("a byte order mark", b"\xef\xbb\xbf" + line(TEXT), 1, NOTHING, 0),
    ("blank lines between", b"\n\n\n" + line(TEXT) + b"\n\n" + line(TEXT), 2, NOTHING, 0),
    ("empty data", b"data\n\ndata:\n\ndata: \n\n", 0, NOTHING, 0),
    ("marks in the text", line(TEXT_WITH_MARKS) * 2, 2, NOTHING, 0),
    ("an end without an empty line", line(TEXT) + b"data: " + TOLD, 1, (2048, 1234, 1024), 0),
    ("vLLM's dead engine",
     line(TEXT) + line(b'{"error":{"message":"EngineCore died","type":"InternalServerError",'
                       b'"param":null,"code":500}}') + b"data: [DONE]\n\n", 1, NOTHING, 500),
    ("an older vLLM's", line(b'{"object":"error","message":"no","type":"x","code":500}'),
     0, NOTHING, 500),
    ("TGI's, which has no status", b'data:{"error":"failed","error_type":"generation"}\n\n',
     0, NOTHING, 500),
    ("the request's fault", line(b'{"error":{"message":"no","type":"BadRequestError","code":400}}'),
     0, NOTHING, 400),
    ("Anthropic's error", named(b"error", b'{"type":"error","error":{"type":"overloaded_error"}}'),
     0, NOTHING, 500),
    ("Anthropic's refusal",
     named(b"error", b'{"type":"error","error":{"type":"invalid_request_error"}}'),
     0, NOTHING, 400),
    ("a response that failed",
     named(b"response.failed", b'{"type":"response.failed","response":{"error":'
                               b'{"code":"server_error","message":"x"}}}'), 0, NOTHING, 500),
    ("an error that is none", line(b'{"error":null,"choices":[{"text":"a"}]}'), 1, NOTHING, 0),
    ("an error in words", b"event: error\ndata: the engine is gone\n\n", 0, NOTHING, 500),
]  # fmt: skip
NAMES = [each[0] for each in CORPUS]
BLANK_LINES = CORPUS[NAMES.index("blank lines between")]
# The end of a line that says something, and the first byte of one more.
END_OF_EVENT = re.compile(rb"[^\n\r](?:\r\n|\n|\r(?!\n))[\n\r]")
ENDS_OF_LINES = re.compile(rb"[\n\r]*")


def fed(stream, reads):
    """What was passed on with each read, and at the end."""
    passed = [stream.pass_on(read) for read in reads[:-1]]
    return [*passed, stream.rest(reads[-1])]


def cut(data, places):
    bounds = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


@pytest.mark.parametrize(
    ("data", "num_events", "usage", "status"), [e[1:] for e in CORPUS], ids=NAMES
)
def test_a_stream_is_read_as_the_specification_says(data, num_events, usage, status):
    stream = EventStream()
    assert b"".join(fed(stream, [data])) == data
    assert stream.num_data_events == num_events
    assert usage_of(stream.usage()) == usage
    assert stream.error_status == status


@given(
    st.lists(st.sampled_from(CORPUS), min_size=1, max_size=4),
    st.lists(st.integers(0, 10_000), max_size=40),
)
def test_reads_can_be_cut_anywhere(parts, places):
    """A socket's reads have nothing to do with events: the same bytes pass, the same is counted."""
    data = b"".join(part[1] for part in parts[:-1] if part[0] != "an end without an empty line")
    data += parts[-1][1]
    whole, pieces = EventStream(), EventStream()
    assert b"".join(fed(whole, [data])) == data
    assert b"".join(fed(pieces, cut(data, places))) == data
    assert pieces.num_data_events == whole.num_data_events
    assert usage_of(pieces.usage()) == usage_of(whole.usage())
    assert pieces.error_status == whole.error_status


@given(st.sampled_from(CORPUS), st.lists(st.integers(0, 10_000), max_size=40))
@example(BLANK_LINES, [2, 3])
def test_a_client_never_sees_half_an_event_and_waits_for_no_whole_one(part, places):
    """After each read the client has exactly the events whose ends have arrived.

    More ends of lines right behind an event (or before the first) belong to none: the LF of a
    CRLF, blank lines. They may go with it, or come with the next event.
    """
    data = part[1]
    ends = [0, *(found.end() for found in END_OF_EVENT.finditer(data))]
    stream, arrived, passed = EventStream(), 0, 0
    for read in cut(data, places):
        arrived += len(read)
        passed += len(stream.pass_on(read))
        least = max(end for end in ends if end <= arrived)
        most = min(arrived, ENDS_OF_LINES.match(data, least).end())
        assert least <= passed <= most


def test_events_of_several_choices_count_for_each():
    """Engines with ``n`` answers send an event for each, or one for all: both are four steps."""
    apart = b"".join(line(TEXT.replace(b'"index":0', b'"index":%d' % i)) for i in (0, 1)) * 4
    both = HEAD + b'{"index":0,"delta":{"content":"a"}},{"index":1,"delta":{"content":"b"}}]}'
    roles = b"".join(line(ROLE.replace(b'"index":0', b'"index":%d' % i)) for i in (0, 1))
    for data in (apart, line(both) * 4, line(both.replace(b":", b": ").replace(b",", b", ")) * 4):
        stream = EventStream(num_choices=2)
        stream.rest(roles + data)
        assert stream.num_data_events == 8


def test_an_event_that_is_too_long_to_be_held_is_passed_on_in_pieces_and_counted_once():
    """The router's memory is bounded, whatever an engine sends."""
    stream = EventStream()
    assert stream.pass_on(line(TEXT) + b'data: {"choices":[{"text":"') == line(TEXT)
    piece = b"x" * 100_000
    passed = sum(len(stream.pass_on(piece)) for _ in range(30))
    assert passed >= 3_000_000 - MAX_EVENT_BYTES
    assert stream.is_inside
    assert stream.pass_on(b'"}]}\n') == b'"}]}\n'
    assert stream.pass_on(b"\n" + line(TEXT) + b"data:") == b"\n" + line(TEXT)
    assert not stream.is_inside
    assert stream.num_data_events == 3


def test_small_reads_of_a_long_event_cost_what_their_bytes_cost():
    """Joined once, not with every read: else an event of 1 MiB in small reads takes seconds."""
    stream = EventStream()
    data = line(b'{"choices":[{"text":"' + b"x" * 900_000 + b'"}]}')
    passed = fed(stream, [data[i : i + 100] for i in range(0, len(data), 100)])
    assert passed.count(b"") == len(passed) - 1
    assert stream.num_data_events == 1


@pytest.mark.slow
def test_bytes_that_are_no_events_do_not_stay_here_for_long():
    """A server that sends something else under that name: after 1 MiB it is passed on."""
    data = gzip.compress(json.dumps(list(range(400_000))).encode(), mtime=0) * 2
    assert len(data) > MAX_EVENT_BYTES
    stream = EventStream()
    assert b"".join(fed(stream, cut(data, range(0, len(data), 10_000)))) == data


WHOLE = [
    ("a chat of vLLM",
     (b'{"id":"x","choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":2048,'
      b'"total_tokens":3282,"completion_tokens":1234,"prompt_tokens_details":{"cached_tokens":16,'
      b'"multimodal_tokens":null}},"prompt_logprobs":null,"kv_transfer_params":null}'),
     (2048, 1234, 16)),
    ("details that are off", (b'{"usage":{"prompt_tokens":1,"completion_tokens":2,'
                              b'"prompt_tokens_details":null}}'), (1, 2, None)),
    ("a message", (b'{"content":[{"type":"tool_use","input":{"usage":{"input_tokens":1}}}],'
                   b'"usage":{"input_tokens":8,"output_tokens":4}}'), (8, 4, None)),
    ("a response", (b'{"output":[],"usage":{"input_tokens":8,"output_tokens":4,'
                    b'"input_tokens_details":{"cached_tokens":0}},"user":null}'), (8, 4, 0)),
    ("embeddings", b'{"data":[],"usage":{"prompt_tokens":12,"total_tokens":12}}', (12, None, None)),
    ("text that says usage",
     json.dumps({"choices": [{"text": '"usage":{"prompt_tokens":5}'}]}).encode(), NOTHING),
    ("a name that is usage", b'{"usage":{"prompt_tokens":5},"user":"usage"}', (5, None, None)),
    ("usage that is null", b'{"input":{"usage":{"prompt_tokens":5}},"usage":null}', NOTHING),
    ("no numbers", b'{"usage":{"prompt_tokens":"5","completion_tokens":true}}', NOTHING),
    ("negative", b'{"usage":{"prompt_tokens":-5,"completion_tokens":-1}}', NOTHING),
    ("absurd", b'{"usage":{"prompt_tokens":99999999999,"completion_tokens":3}}', (None, 3, None)),
    ("not JSON", b'{"usage":{"prompt_tokens":5,,}}', NOTHING),
    ("cut off", b'{"usage":{"prompt_tokens":20', NOTHING),
    ("nothing", b"", NOTHING),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), [e[1:] for e in WHOLE], ids=[e[0] for e in WHOLE])
def test_the_usage_of_a_whole_answer(body, expected):
    usage = Usage()
    usage.read(tail_of(body))
    assert usage_of(usage) == expected


def test_the_usage_is_found_behind_any_length_of_text_and_only_its_end_is_kept():
    """An answer of 1 MB is not searched: the usage stands at its end."""
    body = WHOLE[0][1].replace(b"hi", b'\\"usage\\":{\\"prompt_tokens\\":1}' * 30_000)
    assert len(tail_of(body)) == MAX_TAIL_BYTES
    usage = Usage()
    usage.read(tail_of(body))
    assert usage_of(usage) == (2048, 1234, 16)
