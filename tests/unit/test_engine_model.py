import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.catalog import architecture_for_model
from memroute.footprint import kv_cache_layout
from memroute_simulator.engine.kv_pool import KVPool
from memroute_simulator.engine.metrics import EngineMetrics
from memroute_simulator.engine.scheduler import EngineRequest, Scheduler
from memroute_simulator.engine.step_time import StepTimeModel

LAYOUT = kv_cache_layout(architecture_for_model("Qwen/Qwen3-0.6B"))
"""Blocks of 16 tokens."""
STEP_TIME = StepTimeModel(
    weights_read_seconds=0.01, seconds_per_prefill_token=1e-5, seconds_per_context_token=1e-7
)


def scheduler(num_blocks=33, budget=512, max_num_seqs=64):
    return Scheduler(
        pool=KVPool(num_blocks=num_blocks, layout=LAYOUT),
        step_time=STEP_TIME,
        max_num_batched_tokens=budget,
        max_num_seqs=max_num_seqs,
    )


def run(engine, limit=20_000):
    """Step until idle; the ids in the order in which they finished."""
    finished = []
    for _ in range(limit):
        if not engine.has_work:
            return finished
        result = engine.step()
        assert result.seconds > 0
        assert 0 <= engine.pool.num_free <= engine.pool.num_usable
        finished += [r.request_id for r in result.emitted if r.is_finished]
    pytest.fail("the engine does not come to an end")


def request(name, prompt, output):
    return EngineRequest(request_id=name, num_prompt_tokens=prompt, num_output_tokens=output)


def test_decode_growth_preempts_the_last_and_it_starts_again():
    """32 usable blocks of 16 tokens; two requests of 100 + 200 tokens need 19 blocks each."""
    engine = scheduler()
    first, second = request("first", 100, 200), request("second", 100, 200)
    engine.add(first)
    engine.add(second)
    assert run(engine) == ["first", "second"]
    assert first.num_preemptions == 0
    assert second.num_preemptions == engine.num_preemptions_total == 1


def test_a_prompt_is_admitted_only_when_all_of_it_fits():
    """400 tokens need 25 of 32 blocks; 120 more need 8: the second waits for the first."""
    engine = scheduler()
    engine.add(request("long", 400, 5))
    engine.add(request("short", 120, 5))
    engine.step()
    assert [r.request_id for r in engine.running] == ["long"]
    assert run(engine) == ["long", "short"]


def test_a_long_prompt_is_computed_in_chunks():
    """400 prompt tokens at 128 per step: 4 steps until the first token."""
    engine = scheduler(budget=128)
    engine.add(request("a", 400, 1))
    steps = 0
    while engine.has_work:
        engine.step()
        steps += 1
    assert steps == 4


WORKLOADS = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 100)), min_size=1, max_size=20)


@given(WORKLOADS)
def test_every_request_ends_and_every_block_comes_back(workload):
    engine = scheduler()
    for number, (prompt, output) in enumerate(workload):
        engine.add(request(str(number), prompt, output))
    finished = run(engine)
    assert sorted(finished) == sorted(str(n) for n in range(len(workload)))
    assert engine.pool.num_free == engine.pool.num_usable


@given(WORKLOADS, st.integers(0, 30))
def test_an_aborted_request_leaves_nothing(workload, steps):
    engine = scheduler()
    requests = [request(str(n), *shape) for n, shape in enumerate(workload)]
    for one in requests:
        engine.add(one)
    for _ in range(steps):
        if engine.has_work:
            engine.step()
    for one in requests:
        engine.abort(one)
    assert not engine.has_work
    assert engine.pool.num_free == engine.pool.num_usable


def families(text):
    """Family → label names of its samples."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"^(vllm:\w+)\{(.*)\} ", line)
        if match:
            found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2]))
    return found


def test_metrics_carry_the_names_and_labels_of_the_real_engine(data_directory):
    """Every family that the simulation exports is in a real vLLM 0.32 scrape, labels included."""
    real = families((data_directory / "vllm-0.32-metrics-loaded.txt").read_text())
    metrics = EngineMetrics(
        scheduler(),
        model_name="tiny",
        max_model_len=512,
        cache_dtype="auto",
        gpu_memory_utilization=0.9,
        kv_cache_memory_bytes=None,
    )
    simulated = families(metrics.render().decode())
    assert "vllm:kv_cache_usage_perc" in simulated
    for family, labels in simulated.items():
        assert family in real
        assert labels <= real[family], family
