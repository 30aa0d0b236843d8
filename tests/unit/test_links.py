from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.bandwidth import LinkSource, StepBatch, StepTime, is_link, link_names, link_of
from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute.errors import UnknownLinkError
from memroute.footprint import Parallelism
from memroute_kube.resources import DEVICE_LINK
from memroute_operator.nodes.annotations import bad_link, read_link

PRO = accelerator_by_name("RTX-PRO-6000")
L40S = accelerator_by_name("L40S")
H100 = accelerator_by_name("H100")
MIB = 1024**2
QWEN_32B = architecture_for_model("Qwen/Qwen3-32B")
QWEN_A3B = architecture_for_model("Qwen/Qwen3-30B-A3B")

# Microseconds of one all-reduce (bf16), aiconfigurator-core 0.12.0: RTX PRO 6000 of two hosts,
# L40S of two hosts.
MEASURED = (
    ("pcie5-peer", 2, {MIB // 8: 8.2, MIB: 30.1, 2 * MIB: 55.7, 16 * MIB: 474.9}),
    ("pcie5-slow", 2, {MIB // 8: 27.5, MIB // 2: 55.5, MIB: 91.5, 2 * MIB: 157.5, 16 * MIB: 1118}),
    ("pcie5-peer", 4, {MIB: 87.7, 2 * MIB: 145.8, 16 * MIB: 886.9}),
    ("pcie5-peer", 8, {MIB: 133.5, 2 * MIB: 222.6, 16 * MIB: 1274.5}),
    ("pcie4-peer", 2, {MIB: 60, 2 * MIB: 117, 16 * MIB: 892}),
    ("pcie4-slow", 4, {2 * MIB: 841, 16 * MIB: 6676}),
    ("pcie4-peer", 4, {2 * MIB: 198}),
    ("pcie4-peer", 8, {2 * MIB: 272}),
    ("pcie4-slow", 8, {2 * MIB: 2080, 16 * MIB: 15806}),
)


@pytest.mark.parametrize(("name", "ranks", "rows"), MEASURED)
def test_an_all_reduce_costs_what_was_measured_on_such_a_host(name, ranks, rows):
    """Within a fifth of every published row: the same card differs fivefold between hosts."""
    link = link_of(name, PRO)
    for size, microseconds in rows.items():
        ours = link.rate(ranks).all_reduce_seconds(size) * 1e6
        assert ours == pytest.approx(microseconds, rel=0.20), (name, ranks, size)


def test_a_node_that_nobody_describes_is_taken_as_the_slower_of_the_measured_hosts():
    """A plan that is too slow by a range is kept; one that is too fast is not.

    Cards with NVLink have a link of their own, GeForce cards no peer access.
    """
    unknown = link_of(None, PRO)
    assert (unknown.name, unknown.source) == ("pcie5-slow", LinkSource.UNKNOWN)
    peer = link_of("pcie5-peer", PRO).rate(2).all_reduce_seconds(2 * MIB)
    slow = unknown.rate(2).all_reduce_seconds(2 * MIB)
    assert unknown.fast_ratio * slow < 1.1 * peer
    assert unknown.slow_ratio > 1
    assert link_of(None, H100).source is LinkSource.CARD
    assert link_of(None, accelerator_by_name("RTX-4090")).name == "host"


@pytest.mark.parametrize("text", ["17.4us-15GBps", "17.4us/15GB/s", "17us_15gbps"])
def test_a_measurement_is_two_numbers(text):
    """Microseconds of a small all-reduce, GB/s of a large one; also as a label's value."""
    link = link_of(text, PRO)
    assert link.source is LinkSource.MEASURED
    assert link.rate(2).all_reduce_seconds(15e6) == pytest.approx(1.017e-3, rel=0.01)


@pytest.mark.parametrize(
    "text", ["nvlink", "pcie", "us-GBps", "10us-0GBps", "-1us-3GBps", "x" * 80]
)
def test_what_is_neither_a_name_nor_a_measurement_is_refused_with_both(text):
    assert not is_link(text)
    with pytest.raises(UnknownLinkError, match=r"pcie5-peer.*17\.4us-15GBps"):
        link_of(text, PRO)


def test_the_annotation_of_a_node_counts_before_its_label_and_nonsense_counts_for_nobody():
    """What is wrong is told with the node, so that a slip of the hand is found."""
    label = {DEVICE_LINK: "pcie5-slow"}
    assert read_link({}, label) == "pcie5-slow"
    assert read_link({DEVICE_LINK: "17us-15GBps"}, label) == "17us-15GBps"
    assert read_link({DEVICE_LINK: "fast"}, label) == "pcie5-slow"
    assert "fast" in bad_link({DEVICE_LINK: "fast"}, label)
    assert bad_link({}, label) is None


@given(
    st.sampled_from([*link_names(), None, "30us-8GBps"]), st.integers(2, 16),
    st.integers(1, 64 * MIB), st.integers(1, 8 * MIB),
)  # fmt: skip
def test_more_bytes_never_take_less_time_on_any_link(name, ranks, size, more):
    """A jump at 8 MiB would make a longer prompt cheaper than a shorter one.

    NCCL may be faster there than the engine's own: by at most the ratio of the two rates.
    """
    rate = link_of(name, L40S).rate(ranks)
    assert rate.all_reduce_seconds(size + more) > 0.7 * rate.all_reduce_seconds(size)
    assert rate.gather_seconds(size + more, ranks) > 0.6 * rate.gather_seconds(size, ranks)
    assert rate.longer(2).all_reduce_seconds(size) == pytest.approx(
        2 * rate.all_reduce_seconds(size)
    )


def law(architecture, accelerator=PRO, link=None, **parallelism):
    return StepTime.of(
        architecture, accelerator, parallelism=Parallelism(**parallelism),
        link=link_of(link, accelerator),
    )  # fmt: skip


def test_steps_over_two_cards_follow_the_link():
    """Qwen3-32B, tensor parallel 2, 128 sequences: 128 calls of 1.31 MB.

    The recorded run's steps of decoding alone take 59 ms; a host with full peer access saves
    10 ms of them, and 8 of 70 ms of prefill for each 1,000 tokens.
    """
    slow, peer = (law(QWEN_32B, link=n, tensor_parallel_size=2) for n in (None, "pcie5-peer"))
    assert slow.decode_seconds(128, 1100) * 1e3 == pytest.approx(59, rel=0.05)
    saved = slow.decode_seconds(128, 1100) - peer.decode_seconds(128, 1100)
    assert saved * 1e3 == pytest.approx(8, abs=2)
    # A step of 2,048 tokens of prompts and 100 sequences: 352 ms recorded.
    batch = StepBatch(
        num_decodes=100, decode_context_tokens=90_000, prefills=((1948, 0),), num_prefill_outputs=1
    )
    assert slow.step_seconds(batch) * 1e3 == pytest.approx(352, rel=0.1)


def test_the_bounds_hold_the_prediction_and_a_known_link_narrows_them():
    batch = StepBatch(num_decodes=64, decode_context_tokens=64_000)
    widths = {}
    for name in (None, "pcie5-slow", "17.4us-15GBps"):
        step = law(QWEN_32B, link=name, tensor_parallel_size=2)
        low, high = (one.step_seconds(batch) for one in (step.fastest(), step.slowest()))
        assert low < step.step_seconds(batch) < high
        widths[name] = high - low
    assert widths[None] > widths["pcie5-slow"] > widths["17.4us-15GBps"]


def test_experts_over_two_data_parallel_ranks_serve_the_tokens_of_both():
    """Half of the experts on each, all tokens of both: as many experts are read as of one rank's.

    Qwen3-30B-A3B on two RTX PRO 6000, 64 tokens each: 128 tokens reach all 64 experts of a rank,
    which is 29 GB or some 20 ms; aiconfigurator's kernel says 0.4315 to 0.4376 ms for each of 48
    layers.
    """
    both = law(QWEN_A3B, data_parallel_size=2, expert_parallel=True)
    experts = both.together_seconds([StepBatch(num_decodes=64, decode_context_tokens=64)] * 2)
    alone = replace(both, _experts=None).step_seconds(
        StepBatch(num_decodes=64, decode_context_tokens=64)
    )
    assert (experts - alone) * 1e3 == pytest.approx(48 * 0.435, rel=0.1)


def test_a_rank_that_only_decodes_waits_for_one_that_reads_a_prompt():
    """Ranks of a mixture of experts step together, and the experts serve both batches once."""
    step = law(QWEN_A3B, data_parallel_size=2, expert_parallel=True)
    decode = StepBatch(num_decodes=32, decode_context_tokens=32_000)
    prompt = StepBatch(prefills=((2048, 0),), num_prefill_outputs=1)
    together = step.together_seconds([decode, prompt])
    assert together > step.step_seconds(decode)
    # Not as much as if both read one: the other rank's tokens are few.
    assert together < step.together_seconds([prompt, prompt])


def test_without_graphs_a_step_waits_for_its_launches():
    """Qwen3-4B on an A100: 19.5 ms a step eager where graphs take 9 (Project-HAMi, 2026-11)."""
    qwen = architecture_for_model("Qwen/Qwen3-4B")
    accelerator = accelerator_by_name("A100-40")
    graphs = StepTime.of(qwen, accelerator)
    eager = StepTime.of(qwen, accelerator, is_eager=True)
    assert graphs.decode_seconds(4, 2176) < 10e-3
    assert eager.decode_seconds(4, 2176) * 1e3 == pytest.approx(19.5, rel=0.1)
    # A long prompt hides them.
    assert eager.prefill_seconds(8192, 8192) == graphs.prefill_seconds(8192, 8192)
