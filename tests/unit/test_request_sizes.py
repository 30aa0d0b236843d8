"""What a request is taken to hold, in every dialect; and that no body is an error of ours."""

import contextlib
import json
import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute.traffic.admission import QueueLimits, never_fits
from memroute.traffic.dispatch import Assignment, Backend, Dispatcher, DispatchSettings
from memroute.traffic.replica import ReplicaLedger
from memroute_router.requests import BadRequestError
from memroute_router.surface import ROUTES
from sizes import size, tries

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
MESSAGES, RESPONSES, RERANK = "/v1/messages", "/v1/responses", "/v1/rerank"


def parse(path, **body):
    data = json.dumps({"model": "m"} | body).encode()
    return ROUTES[path.encode()].parse(data, b"application/json")


def profile(path, **body):
    return parse(path, **body).profile(assumed_output_tokens=256)


def tokens(path, **body):
    return profile(path, **body).num_prompt_tokens


def user(content):
    return [{"role": "user", "content": content}]


# Batches: limits are per sequence, memory is the sum.


@pytest.mark.parametrize(
    ("path", "body", "context", "num_sequences"),
    [
        (EMBEDDINGS, {"input": ["x" * 2000] * 100}, 8192, 100),
        (EMBEDDINGS, {"input": [[5] * 200] * 64}, 8192, 64),
        (RERANK, {"query": "q" * 200, "documents": ["x" * 2000] * 100}, 8192, 100),
        ("/v1/score", {"text_1": "q" * 200, "text_2": ["x" * 2000] * 100}, 8192, 100),
        ("/v1/score", {"queries": ["q" * 200] * 9, "items": ["x" * 20_000] * 9}, 8192, 9),
        ("/classify", {"input": ["x" * 20_000] * 30}, 8192, 30),
        (COMPLETIONS, {"prompt": [[5] * 500] * 40, "max_tokens": 16}, 16_384, 40),
        (COMPLETIONS, {"prompt": ["x" * 9000] * 100, "n": 3, "max_tokens": 16}, 8192, 300),
    ],
)
def test_a_batch_fits_when_each_of_it_fits(path, body, context, num_sequences):
    """Batches are how embedding clients work: none of these is more than an engine takes."""
    made = profile(path, **body)
    assert made.least_tokens < context
    assert made.num_sequences == num_sequences
    assert made.num_prompt_tokens > context, "memory is needed for all of them"


def test_one_text_of_a_batch_that_does_not_fit_is_refused_with_its_size():
    """20,000 ids of a context of 8,192, among nine that fit."""
    made = profile(EMBEDDINGS, input=[*([[5] * 100] * 9), [5] * 20_000])
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**6, max_context_tokens=8192)
    reject = never_fits(made, [ledger])
    assert made.least_tokens == 20_001
    assert "the largest of 10 sequences needs at least 20000 prompt tokens" in reject.message


def test_answers_of_one_request_have_a_bound():
    """98 bytes that ask for 10^9 answers made a model refuse everybody for ten seconds."""
    for field in ("n", "best_of"):
        with pytest.raises(BadRequestError, match=f"{field} times the prompts") as caught:
            parse(CHAT, messages=user("hi"), max_tokens=16, **{field: 10**9})
        assert caught.value.parameter == field
    with pytest.raises(BadRequestError, match="at most 4096"):
        parse(COMPLETIONS, prompt=["x"] * 100, n=41)
    with pytest.raises(BadRequestError, match="at most 4096"):
        parse(COMPLETIONS, prompt=["x"] * 5000)
    made = profile(COMPLETIONS, prompt=["x"] * 100, n=2, best_of=4)
    assert (made.num_choices, made.num_sequences) == (200, 400)


# Fields that engines serve.


@pytest.mark.parametrize(
    ("path", "body", "limit"),
    [
        (COMPLETIONS, {"prompt": "x", "echo": True, "max_tokens": 0, "logprobs": 1}, 0),
        (COMPLETIONS, {"prompt": "x"}, 16),
        (COMPLETIONS, {"prompt": "x", "max_tokens": None}, None),
        (COMPLETIONS, {"prompt_embeds": "aGk=", "max_tokens": 5}, 5),
        (COMPLETIONS, {"prompt": "", "prompt_embeds": ["aGk=", "aGk="], "max_tokens": 5}, 5),
        (COMPLETIONS, {"prompt": ["a", [1, 2]], "max_tokens": 5}, 5),
        (CHAT, {"messages": [{"role": "user"}], "max_tokens": 9, "max_completion_tokens": 7}, 7),
        (CHAT, {"messages": [{"role": "user"}], "max_tokens": 9, "max_completion_tokens": None}, 9),
        (EMBEDDINGS, {"input": ""}, 0),
        (EMBEDDINGS, {"input": [{"type": "image_url", "image_url": {"url": "https://x/y"}}]}, 0),
        (EMBEDDINGS, {"messages": [[{"role": "user", "content": "a"}]] * 3}, 0),
        (RESPONSES, {"previous_response_id": "resp_1"}, None),
    ],
)
def test_what_engines_serve_is_served(path, body, limit):
    assert profile(path, **body).max_output_tokens == limit


@pytest.mark.parametrize(
    ("path", "body", "parameter"),
    [
        (COMPLETIONS, {}, "prompt"),
        (COMPLETIONS, {"prompt": ""}, "prompt"),
        (COMPLETIONS, {"prompt": [{}]}, "prompt"),
        (COMPLETIONS, {"prompt": "x", "truncate_prompt_tokens": "5"}, "truncate_prompt_tokens"),
        (COMPLETIONS, {"prompt": "x", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        (CHAT, {"messages": [{}], "max_tokens": -1}, "max_tokens"),
        (CHAT, {"messages": [{}], "best_of": 0}, "best_of"),
        (EMBEDDINGS, {"input": []}, "input"),
        (RESPONSES, {}, "input"),
        (MESSAGES, {"messages": "hi"}, "messages"),
    ],
)
def test_what_is_malformed_is_refused_and_named(path, body, parameter):
    with pytest.raises(BadRequestError) as caught:
        parse(path, **body)
    assert caught.value.parameter == parameter


def test_a_prompt_that_is_cut_off_holds_what_is_left_of_it():
    """VLLM answers ``truncate_prompt_tokens: 100`` with a usage of 100; -1 is its context."""
    text = "word " * 50_000
    cut = profile(COMPLETIONS, prompt=text, truncate_prompt_tokens=100)
    assert (cut.num_prompt_tokens, cut.min_prompt_tokens) == (100, 100)
    assert cut.prefix == (), "another text begins where it is cut"
    batch = profile(EMBEDDINGS, input=[text] * 3, truncate_prompt_tokens=100)
    assert (batch.num_prompt_tokens, batch.min_prompt_tokens) == (300, 100)
    whole = profile(COMPLETIONS, prompt=text, truncate_prompt_tokens=-1)
    assert (whole.num_prompt_tokens > 40_000, whole.min_prompt_tokens) == (True, 1)


# Every dialect's text is seen.


def test_tool_calls_and_results_are_text():
    """50 calls and 50 results of 400 letters: a call is about 30 tokens, a result about 100.

    They were taken to be 107,800 tokens: every part without a text counted as an image.
    """
    turns = []
    for number in range(50):
        use = {"type": "tool_use", "id": f"t{number}", "name": "read", "input": {"path": "/a"}}
        result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": "x" * 400}
        turns += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    assert 5000 < tokens(MESSAGES, messages=turns, max_tokens=9) < 8000
    listed = [{"type": "text", "text": "x" * 4000}]
    turn = [{"type": "tool_result", "tool_use_id": "a", "content": listed}]
    assert 850 < tokens(MESSAGES, messages=user(turn), max_tokens=9) < 1100


def test_items_of_responses_are_seen():
    """20 outputs of 20 KB were taken to be 165 tokens."""
    items = user("go")
    for number in range(20):
        arguments = json.dumps({"path": "/a" * 100})
        call = {"type": "function_call", "call_id": f"c{number}", "name": "read"}
        items.append(call | {"arguments": arguments})
        output = {"type": "function_call_output", "call_id": f"c{number}", "output": "y" * 20_000}
        items.append(output)
    assert 85_000 < tokens(RESPONSES, input=items) < 110_000
    parts = [{"type": "input_text", "text": "x" * 4000}]
    assert 850 < tokens(RESPONSES, input=[{"role": "user", "content": parts}]) < 1100
    assert 1700 < tokens(RESPONSES, input="x" * 4000, instructions="y" * 4000) < 2200


def test_reasoning_counts_until_the_user_speaks_again():
    """Templates keep it within a loop of tools, and drop it before the user's last question."""
    thought = {"role": "assistant", "content": None, "reasoning_content": "r" * 40_000}
    assert tokens(CHAT, messages=[*user("a"), thought]) > 8000
    assert tokens(CHAT, messages=[*user("a"), thought, *user("go")]) < 50
    block = {"type": "thinking", "thinking": "r" * 40_000, "signature": "s"}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "ok"}
    loop = [*user("a"), {"role": "assistant", "content": [block]}, *user([result])]
    assert tokens(MESSAGES, messages=loop, max_tokens=9) > 8000
    assert tokens(MESSAGES, messages=[*loop, *user("go")], max_tokens=9) < 50
    item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "r" * 40_000}]}
    assert tokens(RESPONSES, input=[*user("a"), item]) > 8000


def test_tools_are_in_the_prompt_and_schemas_of_answers_are_not():
    """VLLM's response_format and guided_json steer sampling: the template never sees them."""
    schema = {"type": "object", "description": "d" * 40_000}
    asked = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    assert tokens(CHAT, messages=user("hi"), response_format=asked, guided_json=schema) < 50
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert tokens(CHAT, messages=user("hi"), tools=[tool]) > 8000
    assert profile(CHAT, messages=user("hi"), tools=[tool]).least_tokens < 20, (
        "templates may leave tools out: they are no reason for a refusal that is final"
    )
    described = [{"name": "f", "input_schema": schema}]
    assert tokens(MESSAGES, messages=user("hi"), max_tokens=9, tools=described) > 8000
    flat = [{"type": "function", "name": "f", "parameters": schema}]
    assert tokens(RESPONSES, input="hi", tools=flat) > 8000


def test_the_same_conversation_weighs_the_same_in_three_dialects():
    """Engines turn them all into one: within a few percent."""
    text = " ".join(f"line {number} of a file" for number in range(40))
    arguments = {"path": "/srv/app/main.py"}
    function = {"name": "read", "arguments": json.dumps(arguments)}
    chat = [
        *user("look"),
        {"role": "assistant", "tool_calls": [{"id": "a", "function": function}]},
        {"role": "tool", "tool_call_id": "a", "content": text},
    ]
    use = {"type": "tool_use", "id": "a", "name": "read", "input": arguments}
    result = {"type": "tool_result", "tool_use_id": "a", "content": text}
    anthropic = [*user("look"), {"role": "assistant", "content": [use]}, *user([result])]
    items = [
        *user("look"),
        {"type": "function_call", "call_id": "a", **function},
        {"type": "function_call_output", "call_id": "a", "output": text},
    ]
    first = tokens(CHAT, messages=chat)
    assert tokens(MESSAGES, messages=anthropic, max_tokens=9) == pytest.approx(first, rel=0.05)
    assert tokens(RESPONSES, input=items) == pytest.approx(first, rel=0.05)


# Whatever comes.


def test_lists_that_are_nested_deeply_are_read_without_recursion():
    """The plain source answered 500 where the compiled one answered 200."""
    for depth in (100, 400):
        for opening, closing in ((b"[", b"]"), (b'{"content":', b"}"), (b'{"text":[', b"]}")):
            content = opening * depth + b'"word"' + closing * depth
            body = b'{"model":"m","messages":[{"role":"user","content":%b}]}' % content
            assert ROUTES[CHAT.encode()].parse(body, b"application/json").prompt_tokens < 20
            tools = b'{"model":"m","messages":[{}],"tools":%b}' % content
            assert ROUTES[CHAT.encode()].parse(tools, b"").prompt_tokens > 0


@pytest.mark.slow
def test_parts_have_a_bound():
    with pytest.raises(BadRequestError, match="more than 100000 parts"):
        parse(CHAT, messages=user([[]] * 100_001))


KEYS = st.sampled_from([
    "type", "text", "content", "image_url", "url", "source", "data", "input", "name", "function",
    "input_audio", "arguments", "role", "tool_calls", "output", "thinking", "summary", "uuid",
    "prompt_embeds", "file", "reasoning_content",
])  # fmt: skip
WORDS = st.sampled_from(["text", "image_url", "tool_use", "tool_result", "document", "data:,"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=25,
)
FIELDS = (
    "messages", "prompt", "input", "instructions", "system", "tools", "max_tokens", "n", "best_of",
    "max_completion_tokens", "max_output_tokens", "truncate_prompt_tokens", "prompt_embeds",
    "query", "queries", "documents", "items", "text_1", "text_2", "data_1", "data_2",
    "cache_salt", "stream", "prompt_cache_key", "previous_response_id",
)  # fmt: skip


@pytest.mark.slow
@given(
    st.sampled_from([route for route in ROUTES.values() if route.parse_document is not None]),
    st.dictionaries(
        st.sampled_from(FIELDS),
        JSON | st.lists(st.dictionaries(KEYS, JSON), min_size=1, max_size=3),
        max_size=size(4, len(FIELDS)),
    ),
)
@settings(max_examples=tries(60, 150))
def test_no_document_is_too_odd_to_be_read_or_refused(route, document):
    """Anything else would be a 500, and a traceback, for what a client wrote."""
    try:
        request = route.parse_document({"model": "m"} | document)
    except BadRequestError:
        return
    made = request.profile(assumed_output_tokens=256, block_tokens=16)
    assert made.num_prompt_tokens >= 0
    assert made.min_prompt_tokens >= 0
    assert made.num_sequences >= 1
    assert list(made.block_ends) == sorted(made.block_ends)
    assert len(made.block_ends) in {0, len(made.prefix)}


@given(st.binary(max_size=200))
def test_no_form_is_too_odd_either(data):
    with contextlib.suppress(BadRequestError):
        ROUTES[b"/v1/audio/transcriptions"].parse(
            b"--b\r\n" + data, b"multipart/form-data; boundary=b"
        )


def test_a_batch_is_admitted_where_its_sum_is_larger_than_the_context():
    """As a client sees it: 100 texts of 500 tokens on a replica with a context of 8,192."""
    asking = SimpleNamespace(tried=[], profile=profile(EMBEDDINGS, input=["x" * 2000] * 100))
    limits = QueueLimits(max_requests=100, max_tokens=10**6, max_seconds=10)
    made = Dispatcher(DispatchSettings(), limits, rng=random.Random(1))
    ledger = made.ledger("a", promised_capacity_tokens=10**6, max_context_tokens=8192)
    made.add(Backend(ledger))
    assert isinstance(made.submit(asking, now_seconds=0.0), Assignment)
