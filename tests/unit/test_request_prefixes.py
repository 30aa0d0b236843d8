"""What of a prompt is taken to be cached: in any script, behind images, in every process."""

import base64
import json
import os
import random
import subprocess
import sys

import pytest

from memroute.traffic.prefixes import CachedPrompts, block_keys, chain_root
from memroute.traffic.replica import ReplicaLedger
from memroute_router.surface import ROUTES

RNG = random.Random(1)
TEXTS = {
    "English": "The quick brown fox jumps over it. " * 900,
    "Russian": "Быстрая лиса прыгает через неё. " * 900,
    "Chinese": "敏捷的棕色狐狸跳过了它并继续前进。" * 1800,
    "Hindi": "तेज़ भूरी लोमड़ी उसके ऊपर से कूदती है। " * 900,
    "short": "What is the capital of France? Answer in one word, please, and do not say why. " * 2,
}


def parse(messages, path=b"/v1/chat/completions", **fields):
    document = {"model": "m", "messages": messages, "max_tokens": 9} | fields
    return ROUTES[path].parse(json.dumps(document).encode(), b"application/json")


def profile(messages, **fields):
    return parse(messages, **fields).profile(assumed_output_tokens=256)


def user(content):
    return {"role": "user", "content": content}


def picture(num_bytes, seed):
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\0\0\x04\0\0\0\x04\0"  # 1,024 pixels square
    data = base64.b64encode(header + random.Random(seed).randbytes(num_bytes)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def credit(first, second):
    index = CachedPrompts()
    index.sent(ReplicaLedger("a", promised_capacity_tokens=200_000), first)
    return index.hits(second).get("a", 0)


@pytest.mark.parametrize("text", TEXTS)
def test_the_same_prompt_again_is_cached_in_any_language(text):
    """It counted as 97 % cached in English, 55 % in Russian, 32 % in Chinese."""
    asked = profile([user(TEXTS[text])])
    assert credit(asked, asked) >= 0.95 * asked.num_prompt_tokens


@pytest.mark.parametrize("text", TEXTS)
def test_what_two_prompts_share_is_credited_up_to_where_they_part(text):
    """Instructions end where a message does, and so does a block."""
    system = {"role": "system", "content": TEXTS[text]}
    alone = profile([system]).num_prompt_tokens
    first, second = profile([system, user("a" * 900)]), profile([system, user("b" * 900)])
    assert credit(first, second) == pytest.approx(alone, rel=0.05, abs=4)


def test_another_picture_behind_the_same_instructions_credits_the_instructions_alone():
    """About 500 tokens of 1,850: all of them were counted, and its prefill cost nothing."""
    system = {"role": "system", "content": "You look at pictures and say what is there. " * 46}

    def ask(seed):
        return [system, user([{"type": "text", "text": "What is this?"}, picture(150_000, seed)])]

    first, second = profile(ask(1)), profile(ask(2))
    text = profile([system]).num_prompt_tokens
    assert credit(first, second) == pytest.approx(text, rel=0.05)
    assert credit(first, first) == pytest.approx(first.num_prompt_tokens, rel=0.02)
    assert second.num_prompt_tokens > 1300 + text


def test_a_picture_takes_the_place_of_its_tokens_in_the_index():
    """One of 200 KB left 4 of 40 known conversations."""
    index = CachedPrompts()
    ledger = ReplicaLedger("a", promised_capacity_tokens=200_000)
    known = [profile([user(f"{number} " + "once upon a time " * 800)]) for number in range(40)]
    for one in known:
        index.sent(ledger, one)
    index.sent(ledger, profile([user([picture(150_000, 3)])]))
    assert sum(bool(index.hits(one)) for one in known) >= 39


def test_a_picture_is_one_link_of_the_chain_and_is_known_by_all_its_data():
    """Also where only its last byte, or what comes behind it, is another."""
    one = picture(300_000, 5)
    other = json.loads(json.dumps(one))
    url = other["image_url"]["url"]
    other["image_url"]["url"] = url[:-1] + ("A" if url[-1] != "A" else "B")
    first, second = profile([user([one])]), profile([user([other])])
    assert len(first.prefix) == 1
    assert first.prefix != second.prefix
    assert credit(profile([user([one, {"type": "text", "text": "a" * 600}])]), first) > 1000


def test_a_turn_of_an_agent_begins_as_the_one_before_it():
    """In each dialect all of the earlier prompt is credited, give or take a block."""
    output = "drwxr-xr-x 2 root root 4096 models\n" * 40

    def chat(turns):
        messages = [{"role": "system", "content": "Be brief. " * 300}, user("go")]
        for number in range(turns):
            function = {"name": "ls", "arguments": f'{{"path":"/srv/{number}"}}'}
            call = {"id": f"c{number}", "type": "function", "function": function}
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": output})
        return profile(messages, tools=[{"type": "function", "function": {"name": "ls"}}])

    def anthropic(turns):
        messages = [user("go")]
        for number in range(turns):
            use = {"type": "tool_use", "id": "a", "name": "ls", "input": {"path": f"/srv/{number}"}}
            result = {"type": "tool_result", "tool_use_id": "a", "content": output}
            messages += [{"role": "assistant", "content": [use]}, user([result])]
        request = parse(messages, b"/v1/messages", system="Be brief. " * 300)
        return request.profile(assumed_output_tokens=256)

    for write in (chat, anthropic):
        first = write(4)
        assert credit(first, write(8)) == pytest.approx(first.num_prompt_tokens, rel=0.05)


def test_prompts_that_are_told_apart_are_apart():
    """By adapter, by cache salt, by tools: what engines do not share is not credited."""
    messages = [user(TEXTS["English"])]
    plain = profile(messages)
    for other in (
        profile(messages, model="adapter"),
        profile(messages, cache_salt="tenant"),
        profile(messages, tools=[{"type": "function"}]),
    ):
        assert credit(plain, other) == 0


_PRINT_KEYS = """
import json
from memroute.traffic.prefixes import block_keys, chain_root
from memroute.traffic.prefixes.reported_blocks import next_key
from memroute_router.surface import ROUTES
keys = []
for path, document in json.loads(input()):
    request = ROUTES[path.encode()].parse(json.dumps(document).encode(), b"application/json")
    keys += request.profile(assumed_output_tokens=1).prefix
keys += block_keys(list(range(64)), 16, chain_root("adapter", "salt"))
keys.append(next_key(1, (2, 3), ("image", b"x")))
print(json.dumps(keys))
"""


def test_keys_are_equal_in_all_processes():
    """Routers tell each other what they have sent where, and choose alike by them."""
    image = picture(4000, 7)
    cases = [
        ["/v1/chat/completions", {"model": "m", "messages": [user(TEXTS["Chinese"])]}],
        ["/v1/chat/completions", {"model": "m", "messages": [user([image])], "cache_salt": "s"}],
        ["/v1/completions", {"model": "m", "prompt": list(range(1000)), "cache_salt": "s"}],
        ["/v1/completions", {"model": "m", "prompt": TEXTS["English"]}],
    ]
    told = {
        subprocess.run(
            [sys.executable, "-c", _PRINT_KEYS],
            input=json.dumps(cases), capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(told) == 1
    assert len(json.loads(told.pop())) > 40
    assert block_keys([1] * 16, 16, chain_root("a")) != block_keys([1] * 16, 16, chain_root("b"))
