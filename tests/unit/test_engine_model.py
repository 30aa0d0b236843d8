import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.catalog import architecture_for_model
from memroute.footprint import kv_cache_layout
from memroute_simulator.engine.model import (
    EngineRequest,
    KVCache,
    SchedulingPolicy,
    SegmentedContent,
    SGLangScheduler,
    TokenContent,
    VLLMScheduler,
)

LAYOUT = kv_cache_layout(architecture_for_model("Qwen/Qwen3-0.6B"))
"""Blocks of 16 tokens, one group."""
HYBRID = kv_cache_layout(architecture_for_model("openai/gpt-oss-120b"), max_num_batched_tokens=256)
"""Full layers and windows of 128 tokens."""
STATES = kv_cache_layout(
    architecture_for_model("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"),
    max_num_batched_tokens=4096,
)
"""Attention beside Mamba-2 states."""


def vllm(num_blocks=33, budget=512, layout=LAYOUT, max_num_seqs=64, **settings):
    cache = KVCache(
        num_blocks=num_blocks,
        layout=layout,
        caches_prefixes=settings.pop("caches_prefixes", True),
        on_event=settings.pop("on_event", None),
    )
    return VLLMScheduler(
        cache=cache, max_num_batched_tokens=budget, max_num_seqs=max_num_seqs, **settings
    )


def sglang(num_blocks=33, max_num_seqs=64):
    cache = KVCache(num_blocks=num_blocks, layout=LAYOUT)
    return SGLangScheduler(cache=cache, max_num_seqs=max_num_seqs, chunked_prefill_tokens=512)


def request(name, prompt, output, segments=None, **facts):
    own = 10**6 + int.from_bytes(str(name).encode())
    segments = segments or ((own, prompt),)
    return EngineRequest(
        request_id=str(name),
        num_prompt_tokens=prompt,
        num_output_tokens=output,
        content=SegmentedContent(segments, -own),
        **facts,
    )


def step(engine):
    """One step; every block is free or held by someone who runs."""
    plan = engine.schedule()
    held = {(block) for one in engine.running for table in one.tables for block in table}
    assert engine.cache.num_free + len(held) == engine.cache.num_usable
    assert engine.cache.num_free >= 0
    assert len(engine.running) <= engine.max_num_seqs
    return plan, engine.complete(plan)


def run(engine, limit=20_000):
    """Step until idle; the ids in the order in which they finished."""
    finished = []
    for _ in range(limit):
        if not engine.has_work:
            return finished
        plan, result = step(engine)
        assert not plan.is_empty
        finished += [one.request_id for one in result.finished]
    return pytest.fail("the engine does not come to an end")


def test_decode_growth_preempts_the_last_and_it_starts_again():
    """32 usable blocks of 16 tokens; two requests of 100 + 200 tokens need 19 blocks each."""
    engine = vllm()
    first, second = request("first", 100, 200), request("second", 100, 200)
    engine.add(first)
    engine.add(second)
    assert run(engine) == ["first", "second"]
    assert first.num_preemptions == 0
    assert second.num_preemptions == engine.counts.num_preemptions == 1


def test_a_preempted_request_finds_what_is_left_of_its_blocks():
    """It was evicted at 256 tokens: whole blocks of it that nobody took are not computed again."""
    engine = vllm()
    first, second = request("first", 100, 200), request("second", 100, 200)
    engine.add(first)
    engine.add(second)
    run(engine)
    assert 0 < engine.counts.num_recomputed_tokens < 256


def test_priority_decides_who_is_preempted_and_who_is_next():
    """The greater number is the less important; it loses its blocks though it came first."""
    engine = vllm(policy=SchedulingPolicy.PRIORITY)
    batch = request("batch", 100, 200, priority=10, arrival_seconds=0.0)
    urgent = request("urgent", 100, 200, priority=-1, arrival_seconds=1.0)
    engine.add(batch)
    engine.add(urgent)
    assert run(engine) == ["urgent", "batch"]
    assert (batch.num_preemptions, urgent.num_preemptions) == (1, 0)


def test_a_prompt_is_admitted_only_when_all_of_it_fits():
    """400 tokens need 25 of 32 blocks; 120 more need 8: the second waits for the first."""
    engine = vllm()
    engine.add(request("long", 400, 5))
    engine.add(request("short", 120, 5))
    step(engine)
    assert [one.request_id for one in engine.running] == ["long"]
    assert run(engine) == ["long", "short"]


def test_the_watermark_keeps_blocks_free_unless_nobody_runs():
    """Half of 33 blocks stay free: 300 tokens (19 blocks) run alone, nothing joins them."""
    engine = vllm(watermark_ratio=0.5)
    engine.add(request("a", 300, 3))
    engine.add(request("b", 16, 3))
    step(engine)
    assert [one.request_id for one in engine.running] == ["a"]


def test_a_long_prompt_is_computed_in_chunks():
    """400 prompt tokens at 128 per step: 4 steps until the first token."""
    engine = vllm(budget=128)
    engine.add(request("a", 400, 1))
    steps = 0
    while engine.has_work:
        step(engine)
        steps += 1
    assert steps == 4


def test_a_shared_prefix_is_computed_once_even_in_the_same_step():
    """100 shared tokens are 6 full blocks of 16: 96 tokens hit, at once and later."""
    engine = vllm()
    shared = ((1, 100), (2, 20))
    engine.add(request("a", 120, 3, shared))
    engine.add(request("b", 110, 3, ((1, 100), (3, 10))))
    step(engine)
    by_name = {one.request_id: one for one in engine.running}
    assert by_name["b"].num_hit_tokens == 96
    run(engine)
    engine.add(late := request("c", 105, 2, ((1, 100), (9, 5))))
    step(engine)
    assert late.num_hit_tokens == 96


def test_the_last_token_of_a_prompt_is_always_computed():
    """A prompt of 64 tokens is 4 blocks, all cached: 3 of them hit."""
    engine = vllm()
    engine.add(request("a", 64, 2, ((1, 64),)))
    run(engine)
    engine.add(again := request("b", 64, 2, ((1, 64),)))
    step(engine)
    assert again.num_hit_tokens == 48


def test_the_next_turn_of_a_conversation_finds_its_answer():
    """50 prompt and 30 generated tokens, the last of them never computed: 4 blocks of 16."""
    engine = vllm()
    first, answer, question = (1, 50), (2, 30), (3, 20)
    engine.add(EngineRequest(request_id="1", num_prompt_tokens=50, num_output_tokens=30,
                             content=SegmentedContent((first,), 2)))  # fmt: skip
    run(engine)
    follow = SegmentedContent((first, answer, question), 4)
    engine.add(turn := EngineRequest(request_id="2", num_prompt_tokens=100, num_output_tokens=2,
                                     content=follow))  # fmt: skip
    step(engine)
    assert turn.num_hit_tokens == 64


def test_the_least_recently_used_prefix_is_evicted_first():
    """Room for two prefixes of 10 blocks beside a request: the one used longest ago goes."""
    engine = vllm(num_blocks=26)
    for name in ("a", "b", "a2", "c"):
        engine.add(
            request(name, 161, 1, ((ord(name[0]), 160), (len(name) * 1000 + ord(name[0]), 1)))
        )
        run(engine)
    engine.add(kept := request("a3", 161, 1, ((ord("a"), 160), (77, 1))))
    run(engine)
    engine.add(gone := request("b3", 161, 1, ((ord("b"), 160), (78, 1))))
    run(engine)
    assert kept.num_hit_tokens == 160 > gone.num_hit_tokens


def test_adapters_beyond_the_slots_wait_and_let_others_pass():
    """One slot: the second adapter is passed over by a request without one."""
    engine = vllm(max_adapters=1)
    for name, adapter in (("a", "x"), ("b", "y"), ("c", None)):
        engine.add(request(name, 20, 4, adapter=adapter))
    step(engine)
    assert [one.request_id for one in engine.running] == ["a", "c"]
    assert engine.num_deferred == 1
    assert sorted(run(engine)) == ["a", "b", "c"]


def test_sglang_reserves_for_output_where_vllm_does_not():
    """100 + 200 tokens twice in 512: SGLang expects both answers and runs one at a time."""
    engine = sglang()
    engine.add(request("a", 100, 200, max_output_tokens=200))
    engine.add(request("b", 100, 200, max_output_tokens=200))
    step(engine)
    assert [one.request_id for one in engine.running] == ["a"]


def test_sglang_pauses_decoding_while_it_prefills():
    engine = sglang(num_blocks=400)
    engine.add(request("a", 20, 50))
    step(engine)
    engine.add(request("b", 20, 50))
    plan = engine.schedule()
    assert not plan.decodes
    assert [chunk.request.request_id for chunk in plan.prefills] == ["b"]


def test_sglang_retracts_the_youngest_and_learns_from_it():
    """Clients that allow few tokens and get many: decoding runs out of pages."""
    engine = sglang()
    for name in "abcd":
        engine.add(request(name, 60, 200, max_output_tokens=1))
    before = engine.new_token_ratio
    assert sorted(run(engine)) == ["a", "b", "c", "d"]
    assert engine.counts.num_preemptions > 0
    assert before == 0.7


SHAPES = st.lists(
    st.tuples(
        st.integers(1, 300), st.integers(1, 100), st.integers(0, 3), st.integers(-1, 1),
        st.sampled_from([None, "x", "y"]),
    ),
    min_size=1, max_size=16,
)  # fmt: skip
ENGINES = st.sampled_from(["vllm", "priority", "sglang", "hybrid", "states", "small budget"])


def engine_of(kind):
    """An engine in which any one request of SHAPES fits."""
    match kind:
        case "vllm":
            return vllm(max_adapters=1)
        case "priority":
            return vllm(policy=SchedulingPolicy.PRIORITY)
        case "sglang":
            return sglang()
        case "hybrid":
            return vllm(layout=HYBRID, num_blocks=90, budget=256)
        case "states":
            return vllm(layout=STATES, num_blocks=14, budget=4096)
    return vllm(budget=64, long_prefill_token_threshold=40)


def requests_of(shapes):
    """Requests that share prefixes by a group's number."""
    made = []
    for number, (prompt, output, group, priority, adapter) in enumerate(shapes):
        shared = prompt * 2 // 3
        segments = ((group, shared), (100 + number, prompt - shared)) if shared else None
        made.append(
            request(
                number,
                prompt,
                output,
                segments,
                priority=priority,
                adapter=adapter,
                arrival_seconds=float(number),
            )
        )
    return made


@pytest.mark.slow
@given(ENGINES, SHAPES)
def test_every_request_ends_and_every_block_comes_back(kind, shapes):
    engine = engine_of(kind)
    made = requests_of(shapes)
    for one in made:
        engine.add(one)
    finished = run(engine)
    assert sorted(finished, key=int) == [str(n) for n in range(len(shapes))]
    assert engine.cache.num_free == engine.cache.num_usable
    assert [one.num_generated_tokens for one in made] == [shape[1] for shape in shapes]
    assert engine.counts.generated_tokens == sum(shape[1] for shape in shapes)


@pytest.mark.slow
@given(ENGINES, SHAPES, st.integers(0, 30), st.randoms(use_true_random=False))
def test_an_aborted_request_leaves_nothing(kind, shapes, steps, rng):
    """Whether it waits, computes its prompt or decodes, between steps or within one."""
    engine = engine_of(kind)
    made = requests_of(shapes)
    for one in made:
        engine.add(one)
    for _ in range(steps):
        if not engine.has_work:
            break
        plan = engine.schedule()
        if rng.random() < 0.3:
            engine.abort(rng.choice(made))
        engine.complete(plan)
    for one in made:
        engine.abort(one)
    assert not engine.has_work
    assert engine.cache.num_free == engine.cache.num_usable


@pytest.mark.slow
@given(ENGINES, SHAPES)
def test_the_same_requests_take_the_same_steps(kind, shapes):
    def trace():
        engine = engine_of(kind)
        for one in requests_of(shapes):
            engine.add(one)
        steps = []
        while engine.has_work:
            plan, result = step(engine)
            steps.append((plan.batch(), [one.request_id for one in result.finished]))
        return steps

    assert trace() == trace()


def test_blocks_stored_and_removed_are_told():
    """What is told as stored and not as removed is what can be hit."""
    events = []
    engine = vllm(num_blocks=26, on_event=events.append)
    rng = random.Random(1)
    for number in range(30):
        engine.add(request(number, 100, 20, ((rng.randrange(4), 64), (1000 + number, 36))))
        run(engine)
    stored = set()
    for event in events:
        if hasattr(event, "keys"):
            stored |= set(event.keys)
        else:
            stored.discard(event.key)
    probe = request("probe", 65, 1, ((0, 64), (5, 1)))
    keys = probe.content.keys(0, 4, 16)
    hit = engine.cache.find_hit(probe) // 16
    assert all(key in stored for key in keys[:hit])
    assert hit == 4 or keys[hit] not in stored


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 60)), min_size=1, max_size=6),
       st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 60)), min_size=1, max_size=6),
       st.sampled_from([1, 4, 16]))  # fmt: skip
def test_segments_share_exactly_the_blocks_that_their_tokens_share(left, right, size):
    """Against the tokens themselves: segment s has tokens (s, 0), (s, 1) and so on."""

    def tokens(segments):
        return [
            (segment, place, before)
            for before, (segment, count) in enumerate(segments)
            for place in range(count)
        ]

    def blocks(segments):
        flat = tokens(segments)
        return [tuple(flat[:end]) for end in range(size, len(flat) + 1, size)]

    def keys(segments):
        content = SegmentedContent(tuple(segments), 9)
        return content.keys(0, sum(c for _, c in segments) // size, size)

    shared = sum(a == b for a, b in zip(blocks(left), blocks(right), strict=False))
    found = sum(a == b for a, b in zip(keys(left), keys(right), strict=False))
    assert found == shared


def test_tokens_by_value_share_blocks_until_they_differ():
    """Two prompts that differ in the 20th token share one block of 16."""
    first = TokenContent([1] * 40, output_id=5)
    other = TokenContent([1] * 19 + [2] * 21, output_id=6)
    pairs = list(zip(first.keys(0, 2, 16), other.keys(0, 2, 16), strict=True))
    assert [a == b for a, b in pairs] == [True, False]
