"""One contract for every engine's metrics page: what it says is read, what it lacks is None."""

import contextlib
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.traffic.replica import ReplicaLedger, ReplicaReading
from memroute_router.engines import is_worth_reading, read_metrics
from memroute_router.engines.loads import parse_loads

VLLM = """# HELP vllm:num_requests_running x
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="deferred"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:num_preemptions_total{engine="0",model_name="m"} 7.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 900.0
vllm:generation_tokens_total{engine="0",model_name="m"} 100.0
vllm:cache_config_info{block_size="16",engine="0",kv_cache_size_tokens="1616"} 1.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="",waiting_lora_adapters=""} 1.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="sql",waiting_lora_adapters="chat"} 2.0
"""
VLLM_0_6 = """vllm:num_requests_running{model_name="m"} 3.0
vllm:num_requests_waiting{model_name="m"} 2.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.25
vllm:num_preemptions_total{model_name="m"} 7.0
vllm:prompt_tokens_total{model_name="m"} 900.0
vllm:generation_tokens_total{model_name="m"} 100.0
vllm:cache_config_info{block_size="16",num_gpu_blocks="101"} 1.0
"""
SGLANG = """sglang:num_running_reqs{dp_rank="0",tp_rank="0"} 1.0
sglang:num_running_reqs{dp_rank="0",tp_rank="1"} 1.0
sglang:num_running_reqs{dp_rank="1",tp_rank="0"} 2.0
sglang:num_queue_reqs{dp_rank="0",tp_rank="0"} 2.0
sglang:num_queue_reqs{dp_rank="1",tp_rank="0"} 0.0
sglang:token_usage{dp_rank="0",tp_rank="0"} 0.25
sglang:token_usage{dp_rank="1",tp_rank="0"} 0.0
sglang:max_total_num_tokens{dp_rank="0",tp_rank="0"} 800.0
sglang:max_total_num_tokens{dp_rank="1",tp_rank="0"} 800.0
sglang:num_retracted_requests_total{dp_rank="0",tp_rank="0"} 7.0
sglang:prompt_tokens_total{tp_rank="0"} 900.0
sglang:generation_tokens_total{tp_rank="0"} 100.0
"""
TRTLLM = """trtllm_num_requests_running{model_name="m"} 3
trtllm_num_requests_waiting{model_name="m"} 2
trtllm_kv_cache_utilization{model_name="m"} 0.25
trtllm_kv_cache_max_blocks{model_name="m"} 50
trtllm_kv_cache_tokens_per_block{model_name="m"} 32
trtllm_max_num_active_requests{model_name="m"} 256
"""
TGI = """tgi_queue_size 2
tgi_batch_current_size 3
tgi_batch_current_max_tokens 400
tgi_batch_max_total_tokens 1600
"""
LMDEPLOY = """lmdeploy:num_requests_running{engine="0"} 3.0
lmdeploy:num_requests_waiting{engine="0"} 2.0
lmdeploy:gpu_cache_usage_perc{engine="0"} 0.25
"""
LLAMACPP = """# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 3
llamacpp:requests_deferred 2
llamacpp:prompt_tokens_total 900
llamacpp:tokens_predicted_total 100
"""
ALL = {
    "taken_at_seconds": 5.0,
    "kv_cache_utilization_ratio": 0.25,
    "kv_cache_mean_ratio": None,
    "kv_capacity_tokens": 1600,
    "num_requests_running": 3,
    "num_requests_waiting": 2,
    "num_waiting_for_capacity": 2,
    "num_preemptions_total": 7,
    "num_computed_tokens_total": 1000,
    "num_generated_tokens_total": 100,
    "max_running": 256,
    "num_ranks": 1,
    "adapters": frozenset({"sql", "chat"}),
    "max_adapters": 4,
}
ADAPTERS = {"adapters", "max_adapters"}
LACKS = {
    "vllm": (VLLM, {"max_running"}),
    "vllm-0.6": (VLLM_0_6, {"num_waiting_for_capacity", "max_running"} | ADAPTERS),
    "sglang": (SGLANG, {"num_waiting_for_capacity", "max_running"} | ADAPTERS),
    "tensorrt-llm": (
        TRTLLM,
        {"num_waiting_for_capacity", "num_preemptions_total", "num_computed_tokens_total",
         "num_generated_tokens_total"}
        | ADAPTERS,
    ),
    "tgi": (
        TGI,
        {
            "num_waiting_for_capacity", "num_preemptions_total", "num_computed_tokens_total",
            "num_generated_tokens_total",
            "max_running", *ADAPTERS,
        },
    ),
    "lmdeploy": (
        LMDEPLOY,
        {
            "num_waiting_for_capacity", "num_preemptions_total", "num_computed_tokens_total",
            "num_generated_tokens_total",
            "kv_capacity_tokens", "max_running", *ADAPTERS,
        },
    ),
    "llama.cpp": (
        LLAMACPP,
        {
            "num_waiting_for_capacity", "num_preemptions_total", "kv_capacity_tokens",
            "kv_cache_utilization_ratio", "max_running", *ADAPTERS,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("engine", LACKS)
def test_every_engine_says_the_same_in_its_own_words(engine):
    """3 run, 2 wait, a quarter of 1,600 tokens is used, 1,000 tokens were computed."""
    page, lacks = LACKS[engine]
    missing = []
    reading = read_metrics(page.encode(), taken_at_seconds=5.0, report_missing=missing.append)
    told = {field.name: getattr(reading, field.name) for field in fields(ReplicaReading)}
    ranks = {"num_ranks": 2, "kv_cache_mean_ratio": 0.125} if engine == "sglang" else {}
    assert told == ALL | dict.fromkeys(lacks) | ranks
    assert missing == []
    assert is_worth_reading(page.encode())


@pytest.mark.parametrize("engine", LACKS)
def test_a_family_that_is_gone_is_unknown_and_told_by_name(engine):
    """Renamed by a new version: as 0 it would make the busiest replica look idle."""
    page, _ = LACKS[engine]
    lines = [line for line in page.splitlines() if "waiting" not in line and "queue" not in line]
    lines = [line for line in lines if "deferred" not in line]
    missing = []
    reading = read_metrics(
        "\n".join(lines).encode(), taken_at_seconds=5.0, report_missing=missing.append
    )
    assert reading.num_requests_waiting is None
    assert reading.num_requests_running == 3
    assert len(missing) == 1
    assert "wait" in missing[0] or "queue" in missing[0] or "deferred" in missing[0]


@pytest.mark.parametrize("engine", LACKS)
def test_a_value_that_is_none_is_an_error(engine):
    page, _ = LACKS[engine]
    broken = page.replace(" 3.0", " many").replace(" 3\n", " many\n").replace("} 1.0", "} many")
    with pytest.raises(ValueError, match="many"):
        read_metrics(broken.encode(), taken_at_seconds=5.0)


LOADS = b"""{"timestamp": 1.0, "loads": [
 {"dp_rank": 0, "num_running_reqs": 1, "num_waiting_reqs": 2, "token_usage": 0.25,
  "max_total_num_tokens": 800, "max_running_requests": 128},
 {"dp_rank": 1, "num_running_reqs": 2, "num_waiting_reqs": 0, "token_usage": 0.0,
  "max_total_num_tokens": 800, "max_running_requests": 128}]}"""


def test_a_snapshot_says_the_same_and_the_page_what_it_lacks():
    page = read_metrics(SGLANG.encode(), taken_at_seconds=4.0)
    reading = parse_loads(LOADS, taken_at_seconds=5.0, page=page)
    told = {field.name: getattr(reading, field.name) for field in fields(ReplicaReading)}
    ranks = {"num_ranks": 2, "kv_cache_mean_ratio": 0.125}
    assert told == ALL | ranks | dict.fromkeys({"num_waiting_for_capacity"} | ADAPTERS)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"loads": 3}', b"[1]", b"<html>"])
def test_what_is_no_snapshot_is_an_error(body):
    with pytest.raises(ValueError, match=r".+"):
        parse_loads(body, taken_at_seconds=5.0)


def test_a_snapshot_of_another_version_leaves_unknown_what_it_does_not_say():
    reading = parse_loads(b'[{"num_running_reqs": 3}]', taken_at_seconds=5.0)
    assert reading.num_requests_running == 3
    assert reading.kv_cache_utilization_ratio is None
    assert reading.num_requests_waiting is None


def test_a_utilization_of_another_scale_is_unknown():
    """25 is no quarter: it would look like a replica that is full 25 times over."""
    page = SGLANG.replace('"} 0.25', '"} 25.0')
    missing = []
    reading = read_metrics(page.encode(), taken_at_seconds=5.0, report_missing=missing.append)
    assert reading.kv_cache_utilization_ratio is None
    assert missing == ["sglang:token_usage (0 to 1)"]


def test_a_page_of_nobody_is_a_reading_without_values():
    missing = []
    reading = read_metrics(b"up 1\n", taken_at_seconds=5.0, report_missing=missing.append)
    assert reading == ReplicaReading(taken_at_seconds=5.0)
    assert missing
    assert not is_worth_reading(b"up 1\n")


@given(st.sampled_from(sorted(LACKS)), st.data())
def test_a_page_that_was_cut_anywhere_is_read_or_refused(engine, data):
    """Whatever a proxy between does to it: no other error, no wrong sum."""
    page = LACKS[engine][0].encode()
    cut = page[: data.draw(st.integers(0, len(page)))]
    with contextlib.suppress(ValueError):
        reading = read_metrics(cut, taken_at_seconds=5.0)
        assert reading.num_requests_running in {None, 0, 1, 2, 3}


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-1", "1e400", "1e300"])
@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
def test_a_value_that_cannot_be_is_unknown_and_breaks_no_ledger(engine, value):
    """It raised half way through a ledger, which then looked fresh and was half read."""
    page, _ = LACKS[engine]
    odd = "\n".join(
        line if line.startswith("#") or " " not in line else f"{line.rpartition(' ')[0]} {value}"
        for line in page.splitlines()
    )
    reading = read_metrics(odd.encode(), taken_at_seconds=5.0)
    assert reading.kv_cache_utilization_ratio is None
    assert reading.num_requests_running is None
    ledger = ReplicaLedger("r", promised_capacity_tokens=1000)
    ledger.apply_reading(reading)
    assert (ledger.foreign_tokens, ledger.held_tokens) == (0, 0)


@pytest.mark.parametrize("value", [b"1e308", b"-1", b"2", b"true", b"null", b'"x"', b"1e400"])
def test_a_snapshot_with_a_value_that_cannot_be_is_no_reading_of_it(value):
    body = LOADS.replace(b"0.25", value).replace(b"800", value)
    try:
        reading = parse_loads(body, taken_at_seconds=5.0)
    except ValueError:
        return
    assert reading.kv_cache_utilization_ratio in (None, 0.0)
    assert reading.kv_capacity_tokens in (None, 4)


def test_what_ranks_hold_is_added_up_not_taken_from_the_fullest():
    """Two ranks of 800 tokens, one half full, one empty: 400 tokens are held, not 800."""
    reading = replace(
        parse_loads(LOADS.replace(b"0.25", b"0.5"), taken_at_seconds=5.0),
        kv_capacity_tokens=1600,
    )
    ledger = ReplicaLedger("r")
    ledger.apply_reading(reading)
    assert reading.kv_cache_utilization_ratio == 0.5
    assert ledger.foreign_tokens == 400
