"""Memory behind a device: rates, tiers, break-evens and sleep, against published figures."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.bandwidth import StepTime
from memroute.catalog import ACCELERATORS, accelerator_by_name, architecture_for_model
from memroute.errors import UnsupportedShapeError
from memroute.footprint import ReplicaShape, replica_footprint
from memroute.hierarchy import (
    FetchOrCompute,
    Reuse,
    SleepLevel,
    WeightsOffload,
    host_link_by_name,
    host_link_of,
    kv_tier,
    sleep_of,
    tier_gain,
)
from memroute.hierarchy.links import C2C, PCIE_4, PCIE_5
from memroute.units import GIB

LLAMA = architecture_for_model("meta-llama/Llama-3.1-8B")
DEEPSEEK = architecture_for_model("deepseek-ai/DeepSeek-V3")


def shape(architecture=LLAMA, **changes):
    """A replica of the whole context of 128k tokens, in steps of 8,192."""
    given_shape = ReplicaShape(
        architecture=architecture,
        max_context_tokens=131_072,
        concurrency=1,
        max_num_batched_tokens=8192,
    )
    return replace(given_shape, **changes)


def ways(accelerator="H100", link=PCIE_5, **changes):
    """Fetch or compute on one accelerator."""
    asked = shape(**changes)
    return FetchOrCompute(
        tier=kv_tier(asked, 100 * GIB),
        link=link,
        step_time=StepTime.of(asked.architecture, accelerator_by_name(accelerator)),
        max_num_batched_tokens=asked.max_num_batched_tokens,
    )


@pytest.mark.parametrize(
    ("copy_bytes", "measured_gb"),
    [(32e3, 7.5), (64e3, 14.4), (128e3, 23), (256e3, 32), (512e3, 39.5), (1e6, 44), (2e6, 47.7)],
)
def test_a_rate_falls_with_the_size_of_a_copy_as_it_was_measured(copy_bytes, measured_gb):
    """Figure 4 of vLLM's blog (H100): an engine that copies small pages gets a quarter."""
    assert PCIE_5.read_rate(copy_bytes) / 1e9 == pytest.approx(measured_gb, rel=0.1)


def test_devices_that_copy_at_once_share_their_host():
    """Eight at once got 14.3 GB/s each where one alone got 55: a plan must not add links up."""
    assert PCIE_5.shared_by(8).read_bytes_per_second / 1e9 == pytest.approx(14.3, rel=0.02)
    assert PCIE_5.shared_by(1) == PCIE_5
    assert C2C.shared_by(8) == C2C


def test_every_accelerator_of_the_catalogue_has_a_link_or_says_that_it_has_none():
    """A slice shares its device's; a person may name one."""
    assert all(host_link_of(one) is not None for one in ACCELERATORS)
    assert host_link_of(accelerator_by_name("H100/1g.10gb")) == PCIE_5
    assert host_link_of(replace(ACCELERATORS[0], name="nobody's")) is None
    assert host_link_by_name("PCIe-Gen5") == PCIE_5
    assert host_link_by_name("pcie9") is None


def test_a_tier_counts_chunks_as_the_engine_does():
    """Ran on vLLM 0.32's CPU build: 2,621,440 bytes of 131,072-byte blocks are 20 chunks.

    Llama-3.1-8B has 2 MiB for 16 tokens on one rank: 100 GiB are 51,200 blocks, 819,200 tokens.
    """
    tier = kv_tier(shape(), 100 * GIB)
    assert (tier.chunk_bytes, tier.num_chunks, tier.capacity_tokens) == (2 << 20, 51_200, 819_200)
    assert tier.page_bytes == 64 << 10
    split = kv_tier(shape(tensor_parallel_size=4), 100 * GIB)
    assert (split.chunk_bytes, split.capacity_tokens) == (2 << 20, 819_200)
    assert split.page_bytes == 16 << 10


def test_each_data_parallel_rank_has_a_region_of_its_own():
    """The flag is per engine: the node must keep it once for each."""
    tier = kv_tier(shape(data_parallel_size=2), 100 * GIB)
    assert tier.host_bytes == 200 * GIB
    assert tier.capacity_tokens == 819_200


def test_a_latent_cache_is_stored_once_for_all_ranks():
    """Every rank of DeepSeek holds the same latent cache: eight copies would keep an eighth."""
    alone = kv_tier(shape(DEEPSEEK, max_context_tokens=65_536), 100 * GIB)
    eight = kv_tier(shape(DEEPSEEK, max_context_tokens=65_536, tensor_parallel_size=8), 100 * GIB)
    assert eight.capacity_tokens == alone.capacity_tokens


def test_a_size_that_holds_no_chunk_is_refused_with_both_sizes():
    """The engine would end at its start."""
    with pytest.raises(UnsupportedShapeError, match=r"1,000 bytes .* 2,097,152 bytes"):
        kv_tier(shape(), 1000)


@pytest.mark.parametrize(
    ("tokens", "load_ms"),
    [(1024, 14), (10_240, 40), (20_480, 70), (29_696, 103), (49_664, 160), (99_840, 310)],
)
def test_fetching_takes_as_long_as_was_published(tokens, load_ms):
    """Figure 1 of vLLM's blog: Llama-3.1-8B on an H100, copies of 2 MB."""
    seconds = ways(block_size_tokens=512).fetch_seconds(tokens)
    assert seconds * 1e3 == pytest.approx(load_ms, rel=0.13)


@pytest.mark.parametrize(
    ("tokens", "compute_ms"),
    [(1000, 29), (10_000, 265), (20_000, 640), (30_000, 1100), (50_000, 2295), (100_000, 6860)],
)
def test_computing_again_takes_as_long_as_was_published(tokens, compute_ms):
    """The same figure's other line; our prices are 8 to 18 % under it, on the side of computing."""
    assert ways().compute_seconds(tokens) * 1e3 == pytest.approx(compute_ms, rel=0.19)


def test_small_copies_move_the_break_even():
    """Layer pages of 64 KiB instead of 2 MB: a fetch pays later."""
    small, large = ways(), ways(block_size_tokens=512)
    assert large.fetch_seconds(10_240) < small.fetch_seconds(10_240) / 2
    assert 300 < large.break_even_tokens(131_072) < small.break_even_tokens(131_072) < 1000


def test_a_link_too_slow_never_pays():
    """None, not a number beyond the context: nobody should read a limit as an answer."""
    slow = replace(PCIE_4, read_bytes_per_second=1e8)
    assert ways(link=slow).break_even_tokens(16_384) is None


@pytest.mark.slow
@given(st.integers(1, 2000), st.sampled_from(["H100", "A100-80", "L40S", "L4"]))
def test_what_pays_once_pays_for_longer_prefixes(chunks, accelerator):
    """The search for the break-even halves: it needs this."""
    one = ways(accelerator, host_link_of(accelerator_by_name(accelerator)))
    limit = 40_000
    least = one.break_even_tokens(limit)
    tokens = min(chunks * one.tier.chunk_tokens, limit)
    if least is not None:
        assert one.pays(tokens) == (tokens >= least) or abs(tokens - least) <= 32


def test_hits_follow_what_is_kept_of_the_working_set():
    """100 conversations of 1,000 tokens: a device of 20,000 finds a fifth, the host the rest."""
    reuse = Reuse(num_conversations=100, prompt_tokens=2000, output_tokens=100, reuse_ratio=0.5)
    facts = {"device_tokens": 20_000, "ways": ways(), "step_seconds": 0.02, "num_sequences": 8}
    without = tier_gain(reuse, host_tokens=0, **facts)
    some = tier_gain(reuse, host_tokens=60_000, **facts)
    whole = tier_gain(reuse, host_tokens=200_000, **facts)
    assert (without.device_hit_ratio, without.host_hit_ratio) == pytest.approx((0.1, 0.0))
    assert some.host_hit_ratio == pytest.approx(0.2)
    assert whole.kept_conversations == 100
    assert without.ttft_seconds > some.ttft_seconds > whole.ttft_seconds
    assert without.tokens_per_second < some.tokens_per_second < whole.tokens_per_second


def test_a_host_smaller_than_the_device_buys_nothing():
    """It writes through: it holds what the device holds."""
    reuse = Reuse(num_conversations=100, prompt_tokens=2000, output_tokens=100, reuse_ratio=0.5)
    facts = {"device_tokens": 20_000, "ways": ways(), "step_seconds": 0.02, "num_sequences": 8}
    assert tier_gain(reuse, host_tokens=19_000, **facts) == tier_gain(reuse, host_tokens=0, **facts)


def test_sleeping_takes_and_gives_what_was_measured():
    """Qwen3-8B on an A100: 22 GiB on the host for 16 GB of weights, awake after 2.19 s; 6.53 s."""
    footprint = replica_footprint(
        shape(architecture_for_model("Qwen/Qwen3-8B"), max_context_tokens=32_768)
    )
    first = sleep_of(footprint, SleepLevel.WEIGHTS_ON_HOST, PCIE_4)
    second = sleep_of(footprint, SleepLevel.NOTHING_KEPT, PCIE_4)
    assert first.host_bytes / GIB == pytest.approx(22, rel=0.1)
    assert first.host_bytes_most >= first.host_bytes
    assert first.wake_seconds == pytest.approx(2.19, rel=0.1)
    assert second.wake_seconds == pytest.approx(6.53, rel=0.1)
    assert second.host_bytes < first.host_bytes
    assert first.freed_device_bytes > footprint.weights_bytes


def test_weights_on_the_host_are_read_in_every_step():
    """10 GiB: 195 ms at 55 GB/s, 29 ms over C2C; two devices share their host's memory."""
    one = WeightsOffload(bytes_per_device=10 * GIB, num_devices=1)
    assert one.read_seconds(PCIE_5) == pytest.approx(0.206, rel=0.01)
    assert one.read_seconds(C2C) == pytest.approx(0.029, rel=0.02)
    eight = WeightsOffload(bytes_per_device=10 * GIB, num_devices=8)
    assert eight.read_seconds(PCIE_5) > 3 * one.read_seconds(PCIE_5)
    assert (eight.host_bytes, eight.flag_gib) == (80 * GIB, 10.0)
