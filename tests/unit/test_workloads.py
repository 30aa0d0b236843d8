import bisect
import collections
import statistics
from itertools import pairwise

import pytest

from memroute_simulator.engine.model import SegmentedContent
from memroute_simulator.workloads import (
    GENERATORS,
    WorkloadError,
    read_trace,
    workload_by_name,
)
from memroute_simulator.workloads.lengths import Quantiles
from memroute_simulator.workloads.traces import TraceError
from sizes import size

PUBLISHED = {
    # (requests, input quantiles, output quantiles) at p25, p50, p75, p90, p95, p99.
    "azure-conv": (19_366, (396, 1020, 1189, 2735, 4083, 4142), (85, 129, 395, 424, 451, 601)),
    "azure-code": (8_819, (578, 1469, 2745, 5188, 7303, 7436), (9, 13, 24, 55, 90, 252)),
    "mooncake-conversation": (
        12_031, (2307, 6909, 15_367, 27_367, 39_551, 85_400), (157, 350, 472, 597, 698, 1119),
    ),
    "mooncake-synthetic": (
        3_993, (277, 11_587, 23_175, 38_611, 48_905, 66_456), (11, 69, 250, 389, 519, 768),
    ),
}  # fmt: skip
MEANS = {
    "azure-conv": (1155, 211), "azure-code": (2048, 28), "mooncake-conversation": (12_035, 343),
    "mooncake-synthetic": (15_325, 149), "sharegpt": (251.5, 225.3),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_lengths_have_the_published_quantiles(name):
    count, inputs, outputs = PUBLISHED[name]
    count = size(min(5000, count), count)
    workload = workload_by_name(name, num_requests=count, seed=3)
    for published, values in (
        (inputs, sorted(r.num_prompt_tokens for r in workload.requests())),
        (outputs, sorted(r.num_output_tokens for r in workload.requests())),
    ):
        for q, wanted in zip((25, 50, 75, 90, 95, 99), published, strict=True):
            # Where a curve is steep a length says little: its place is what is compared.
            below = bisect.bisect_left(values, wanted) / count * 100
            up_to = bisect.bisect_right(values, wanted) / count * 100
            assert below - 2 <= q <= up_to + 2, q


@pytest.mark.slow
@pytest.mark.parametrize("name", MEANS)
def test_lengths_have_the_published_means(name):
    workload = workload_by_name(name, num_requests=size(5000, 10_000), seed=5)
    inputs = statistics.mean(r.num_prompt_tokens for r in workload.requests())
    outputs = statistics.mean(r.num_output_tokens for r in workload.requests())
    assert inputs == pytest.approx(MEANS[name][0], rel=0.1)
    assert outputs == pytest.approx(MEANS[name][1], rel=0.1)


def gaps_cv(workload):
    starts = [session.start_seconds for session in workload.sessions]
    gaps = [b - a for a, b in pairwise(starts)]
    return statistics.pstdev(gaps) / statistics.mean(gaps)


@pytest.mark.slow
def test_code_comes_in_bursts_and_chats_do_not():
    """Azure 2023: gap CV 13.2 and 1.09; code is silent for whole minutes."""
    code = workload_by_name("azure-code", num_requests=8819, seed=1)
    chats = workload_by_name("azure-conv", num_requests=8819, seed=1)
    assert 9 < gaps_cv(code) < 18
    assert gaps_cv(chats) == pytest.approx(1.09, rel=0.1)
    per_minute = collections.Counter(int(s.start_seconds // 60) for s in code.sessions)
    assert any(not per_minute[minute] for minute in range(max(per_minute)))


def hit_ratio(workload, capacity_tokens=None, size=512):
    """Blocks found in one cache that forgets the least recently used."""
    cache = collections.OrderedDict()
    hits = total = 0
    for request in workload.requests():
        content = SegmentedContent(request.prompt, request.output_id)
        keys = content.keys(0, -(-request.num_prompt_tokens // size), size)
        found = next((i for i, key in enumerate(keys) if key not in cache), len(keys))
        for key in keys:
            cache[key] = None
            cache.move_to_end(key)
        while capacity_tokens and len(cache) * size > capacity_tokens:
            cache.popitem(last=False)
        hits, total = hits + found, total + len(keys)
    return hits / total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "unbounded", "at_four_million"),
    [("mooncake-conversation", 12_031, 0.366, 0.174), ("mooncake-synthetic", 3_993, 0.640, 0.368)],
)
def test_long_contexts_come_back_as_published(name, count, unbounded, at_four_million):
    """Hits of an unbounded cache within 0.05, of one of 4 M tokens within 0.1."""
    workload = workload_by_name(name, num_requests=count, seed=1)
    assert hit_ratio(workload) == pytest.approx(unbounded, abs=0.05)
    assert hit_ratio(workload, 4_000_000) == pytest.approx(at_four_million, abs=0.1)


def test_all_conversations_share_one_system_prompt_and_synthetic_ones_do_not():
    chats = workload_by_name("mooncake-conversation", num_requests=500)
    mix = workload_by_name("mooncake-synthetic", num_requests=500)
    assert len({request.prompt[0] for request in chats.requests()}) == 1
    assert len({request.prompt[0] for request in mix.requests()}) > 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "top", "top_ten"), [("m-small", 0.30, 0.93), ("m-large", 0.16, 0.63)]
)
def test_tenants_are_as_unequal_as_published(group, top, top_ten):
    workload = workload_by_name(f"servegen-{group}", num_requests=8000, seed=2)
    counts = collections.Counter(request.tenant for request in workload.requests())
    ordered = [count for _, count in counts.most_common()]
    assert ordered[0] / sum(ordered) == pytest.approx(top, abs=0.05)
    assert sum(ordered[:10]) / sum(ordered) == pytest.approx(top_ten, abs=0.06)


@pytest.mark.parametrize("name", GENERATORS)
def test_the_same_seed_gives_the_same_requests(name):
    first, again, other = (workload_by_name(name, num_requests=60, seed=seed) for seed in (4, 4, 5))
    assert first == again
    assert first != other
    assert all(r.num_prompt_tokens > 0 < r.num_output_tokens for r in first.requests())


def test_a_rate_is_kept_and_what_does_not_fit_is_dropped_and_said():
    workload = workload_by_name(
        "azure-conv", num_requests=4000, rate_per_second=40, max_context_tokens=2000
    )
    assert workload.rate_per_second == pytest.approx(40, rel=0.3)
    assert all(r.num_prompt_tokens + r.num_output_tokens <= 2000 for r in workload.requests())
    assert "dropped" in workload.notes[-1]


def test_a_later_turn_repeats_what_was_said():
    workload = workload_by_name("multi-round-qa", num_requests=20)
    session = workload.sessions[0]
    first, second = session.requests[:2]
    assert second.prompt[: len(first.prompt) + 1] == first.answered()
    assert len(session.think_seconds) == len(session.requests) - 1


AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:17:03.9799600,4808,10\r
2023-11-16 18:17:04.0319600,3180,8"""
MOONCAKE = (
    '{"timestamp": 0, "input_length": 700, "output_length": 5, "hash_ids": [0, 1]}\n'
    '{"timestamp": 3000, "input_length": 1024, "output_length": 7, "hash_ids": [0, 2]}\n'
)


def test_azure_traces_are_read_with_their_seven_digits(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xef\xbb\xbf" + AZURE.encode())
    workload = read_trace(path)
    first, second = workload.sessions
    assert second.start_seconds - first.start_seconds == pytest.approx(0.052)
    assert first.requests[0].num_prompt_tokens == 4808


def test_mooncake_traces_keep_their_blocks_and_are_spread_over_their_ticks(tmp_path):
    """Ticks of 3 s: requests are spread over them, and it is said."""
    path = tmp_path / "trace.jsonl"
    path.write_text(MOONCAKE)
    workload = read_trace(path, seed=1)
    one, two = (session.requests[0] for session in workload.sessions)
    assert (one.num_prompt_tokens, two.num_prompt_tokens) == (700, 1024)
    assert one.prompt[0] == two.prompt[0] == (0, 512)
    assert 0 < workload.sessions[0].start_seconds < 3 < workload.sessions[1].start_seconds < 6
    assert workload.notes == ("spread over ticks of 3 s",)


def test_a_trace_can_be_named_under_the_folder_of_traces(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "my_trace.csv").write_text(AZURE)
    monkeypatch.setenv("MEMROUTE_TRACES", str(tmp_path))
    assert workload_by_name("my_trace", num_requests=1).num_requests == 1


def test_what_is_no_workload_is_refused_in_words(tmp_path):
    with pytest.raises(WorkloadError, match="azure-conv"):
        workload_by_name("nope", num_requests=1)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"a": 1}\n')
    with pytest.raises(TraceError, match="is no trace"):
        read_trace(broken)
    broken.write_text("")
    with pytest.raises(TraceError, match="empty"):
        read_trace(broken)


def test_a_curve_goes_through_its_points():
    curve = Quantiles.of(1, 1000, p50=100)
    assert [curve.at(u) for u in (0.0, 0.5, 1.0)] == [1, 100, 1000]
    assert curve.at(0.25) == 10
