import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sharing.__main__ import main
from bench.sharing.published import TABLE, rows, step_time
from memroute.bandwidth import (
    EngineLoad,
    SharingMechanism,
    StepTime,
    fair_shares,
    kept_ratios,
    shared_step_seconds,
)
from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute.footprint import weights_per_rank
from memroute_simulator.engine.card_time import CardTime
from memroute_simulator.engine.model import EngineRequest, SegmentedContent
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.virtual.card import SharedCard
from memroute_simulator.virtual.loop import VirtualLoop
from memroute_simulator.virtual.replica import Ticket, VirtualReplica

SLICES, FRACTIONS = SharingMechanism.TIME_SLICES, SharingMechanism.FRACTIONS


def load(step=0.010, idle=0.002, requests=8, prefill=0.0, activity=1.0):
    return EngineLoad(
        num_requests=requests, output_tokens=100, step_seconds=step, idle_seconds=idle,
        prefill_seconds=prefill, activity_ratio=activity,
    )  # fmt: skip


def test_the_published_table_comes_out_at_each_load():
    """Two Qwen3-4B on one A100-40: tokens/s and shares within 15 %, and no constant of theirs."""
    found = list(rows(step_time()))
    assert len(found) == 2 * len(TABLE)
    assert [row for row in found if row.is_off] == []
    assert main([]) == 0


def test_a_pair_in_time_slices_makes_less_than_one_engine_and_in_fractions_more():
    """Worked by hand: 1 / (2 x 1.055) = 47.4 % each; 10 ms of which 8 are occupied: 10 / 16."""
    pair = [load(), load()]
    assert kept_ratios(pair, SLICES) == pytest.approx((0.474, 0.474), abs=1e-3)
    assert kept_ratios(pair, FRACTIONS) == pytest.approx((0.625, 0.625), abs=1e-3)


def test_an_idle_neighbour_costs_nothing_and_a_modest_one_leaves_the_rest():
    """20 % of the time for one: the other, who wants all, has 80 % of it (less the switching)."""
    assert kept_ratios([load(), load(activity=0.0)], SLICES) == (1.0, 1.0)
    busy, modest = kept_ratios([load(), load(activity=0.2)], SLICES)
    assert modest == 1.0
    assert busy == pytest.approx((1 - 0.2 * 1.055) / 1.055)


def test_engines_that_wait_much_complement_one_that_does_not():
    """A small model occupies a third of its step: in fractions both lose a fifth, not half."""
    small, large = load(step=0.003, idle=0.002), load(step=0.02, idle=0.001)
    kept = kept_ratios([small, large], FRACTIONS)
    assert kept[0] == 1.0
    assert kept[1] == pytest.approx((1 - 1 / 3) / 0.95)
    assert sum(kept) > sum(kept_ratios([large, large], FRACTIONS))


@given(st.lists(st.floats(0, 3), max_size=8))
def test_shares_are_fair_and_nothing_is_left_where_more_is_wanted(demands):
    shares = fair_shares(demands)
    assert all(0 <= share <= demand for share, demand in zip(shares, demands, strict=True))
    assert sum(shares) == pytest.approx(min(1.0, sum(demands)))
    held_up = [s for s, d in zip(shares, demands, strict=True) if s < d - 1e-9]
    assert all(share <= min(held_up, default=3) + 1e-9 for share in shares)


@given(st.integers(1, 6), st.floats(1e-3, 0.1), st.floats(0, 1), st.sampled_from(SharingMechanism))
def test_steps_and_shares_are_one_law(count, step, idle_ratio, mechanism):
    """What the simulator does step by step is what a plan says of the whole."""
    idle = step * idle_ratio
    loads = [load(step=step, idle=idle)] * count
    kept = kept_ratios(loads, mechanism)[0]
    stretched = shared_step_seconds(step, idle, count, mechanism)
    assert stretched >= step
    assert step / stretched == pytest.approx(kept)


def test_a_replica_reads_its_weights_and_its_cache_with_every_step():
    """Llama-3.1-8B on an H100, 64 sequences of 1,000 tokens: 15 + 8.4 GB in some 12 ms.

    The embedding table is not read; below the data sheet's 3.35 TB/s by what steps wait.
    """
    llama = architecture_for_model("meta-llama/Llama-3.1-8B")
    law = StepTime.of(llama, accelerator_by_name("H100"))
    weights = weights_per_rank(llama).bytes_per_rank - 2 * 128_256 * 4096
    assert law.reads.weights_bytes(64) == pytest.approx(weights, rel=0.001)
    assert law.reads.kv_bytes(64, 1000) == 64 * 1000 * 131_072
    assert 1.5e12 < law.read_bytes_per_second(64, 1000) < 3.35e12


def test_a_mixture_of_experts_reads_those_that_its_tokens_reach():
    qwen = architecture_for_model("Qwen/Qwen3-30B-A3B")
    reads = StepTime.of(qwen, accelerator_by_name("H100")).reads
    assert reads.weights_bytes(1) < 0.15 * reads.weights_bytes(256)


def serve(mechanism, replicas, spec, requests=4):
    """Seconds until each replica has answered its requests, in virtual time."""
    loop = VirtualLoop()
    card = None if mechanism is None else SharedCard(mechanism)
    tickets = []
    for name in range(replicas):
        replica = VirtualReplica(loop, spec.schedulers(), spec.step_time, name=str(name), card=card)
        for number in range(requests):
            content = SegmentedContent(((name * 100 + number, 512),), name * 100 + number)
            request = EngineRequest(
                request_id=f"{name}/{number}", num_prompt_tokens=512, num_output_tokens=128,
                content=content,
            )  # fmt: skip
            tickets.append(Ticket(request=request))
            replica.submit(tickets[-1])
    loop.run()
    return max(ticket.last_token_seconds for ticket in tickets)


def test_an_emulated_engine_is_as_slow_as_its_busy_neighbours_make_it():
    """Half of the time a neighbour has work: one and a half engines share the card then."""
    card = CardTime()
    assert card.step_seconds(0.010, 0.002) == 0.010
    card.num_busy = 1.5
    assert card.step_seconds(0.010, 0.002) == pytest.approx(1.5 * 1.055 * 0.010)
    card.mechanism, card.num_busy = FRACTIONS, 2.0
    assert card.step_seconds(0.010, 0.002) == pytest.approx(0.016)


def test_virtual_engines_on_one_card_take_as_long_as_the_law_says():
    """As hard as the world: 2.11 times in slices; in fractions less, and never for nothing."""
    spec = EngineSpec(
        architecture=architecture_for_model("Qwen/Qwen3-4B"),
        accelerator=accelerator_by_name("A100-40"), num_blocks=5000,
    )  # fmt: skip
    alone = serve(None, 1, spec)
    assert serve(SLICES, 1, spec) == alone
    assert serve(SLICES, 2, spec) == pytest.approx(2.11 * alone, rel=0.02)
    assert 1.5 * alone < serve(FRACTIONS, 2, spec) < 2 * alone
