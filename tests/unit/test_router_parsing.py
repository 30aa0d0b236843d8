import json

import pytest

from memroute_router.engines import parse_vllm_metrics
from memroute_router.requests import BadRequestError
from memroute_router.surface import ROUTES

CHAT_PATH, COMPLETIONS_PATH = b"/v1/chat/completions", b"/v1/completions"


def parse(path=CHAT_PATH, **body):
    return ROUTES[path].parse(json.dumps(body).encode(), b"application/json")


def test_a_real_scrape_under_load_is_read(data_directory):
    """30 of 31 usable blocks are pinned; 32 blocks of 128 tokens less the null block: 3,968."""
    text = (data_directory / "vllm-0.32-metrics-loaded.txt").read_bytes()
    reading = parse_vllm_metrics(text, taken_at_seconds=1.0)
    assert reading.kv_cache_utilization_ratio == pytest.approx(30 / 31)
    assert reading.kv_capacity_tokens == 31 * 128
    assert (reading.num_requests_running, reading.num_requests_waiting) == (7, 13)
    assert reading.num_preemptions_total == 28


def test_ranks_of_a_data_parallel_engine_add_up(data_directory):
    """28/31 and 20/31 pinned: the fullest counts; 4,096 tokens each, a block of 128 less."""
    text = (data_directory / "vllm-0.32-metrics-loaded-dp2.txt").read_bytes()
    reading = parse_vllm_metrics(text, taken_at_seconds=1.0)
    assert reading.kv_cache_utilization_ratio == pytest.approx(28 / 31)
    assert reading.num_ranks == 2
    assert reading.kv_capacity_tokens == 2 * 31 * 128
    assert (reading.num_requests_running, reading.num_requests_waiting) == (14, 3)


def test_the_name_of_older_engines_is_read_too():
    text = b'vllm:gpu_cache_usage_perc{engine="0",model_name="m"} 0.25\n'
    reading = parse_vllm_metrics(text, taken_at_seconds=1.0)
    assert reading.kv_cache_utilization_ratio == 0.25


def test_what_is_missing_is_unknown_and_said():
    """A renamed metric read as 0 makes an engine look idle: everything would go there."""
    missing = []
    reading = parse_vllm_metrics(b"", taken_at_seconds=1.0, report_missing=missing.append)
    assert reading.kv_cache_utilization_ratio is None
    assert reading.kv_capacity_tokens is None
    assert "vllm:cache_config_info" in missing


def test_a_chat_request_is_sized_by_its_text():
    """300 letters of 11/48 and a message of 4 and its role, 4 x 11/48: 74 tokens.

    At least 20 whatever the tokenizer: 306 bytes with the role and its marks, over 16.
    """
    request = parse(model="m", messages=[{"role": "user", "content": "x" * 300}], max_tokens=30)
    profile = request.profile(assumed_output_tokens=256)
    assert (profile.num_prompt_tokens, profile.min_prompt_tokens) == (74, 20)
    assert profile.expected_tokens == 74 + 30


def test_token_ids_are_counted_exactly():
    request = parse(COMPLETIONS_PATH, model="m", prompt=[1, 2, 3], max_tokens=5)
    profile = request.profile(assumed_output_tokens=256)
    assert (profile.num_prompt_tokens, profile.min_prompt_tokens) == (3, 3)


def test_several_answers_hold_several_times_the_tokens():
    request = parse(model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=10, n=3)
    assert request.profile(assumed_output_tokens=256).assumed_output_tokens == 30


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"{", "JSON"),
        (b"[]", "object"),
        (b"{}", "model"),
        (b'{"model":"m"}', "messages"),
        (b'{"model":"m","messages":[]}', "messages"),
        (b'{"model":"m","messages":["hi"]}', "object"),
        (b'{"model":"m","messages":[{"content":"hi"}],"max_tokens":-1}', "max_tokens"),
        (b'{"model":"m","messages":[{"content":"hi"}],"max_tokens":"9"}', "max_tokens"),
        (b'{"model":"m","messages":[{"content":"hi"}],"n":true}', "n must"),
    ],
)
def test_nonsense_is_refused_in_words(body, word):
    with pytest.raises(BadRequestError, match=word):
        ROUTES[CHAT_PATH].parse(body, b"application/json")
