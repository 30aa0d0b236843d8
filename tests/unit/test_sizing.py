import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.bandwidth import Bound, StepTime, throughput_of
from memroute.catalog import ACCELERATORS, MODELS, accelerator_by_name, architecture_for_model
from memroute.footprint import ReplicaShape
from memroute.sizing import NoOption, Question, answer

LLAMA = architecture_for_model("meta-llama/Llama-3.1-8B")
H100 = accelerator_by_name("H100")


SHAPE = ReplicaShape(architecture=LLAMA, max_context_tokens=8192, concurrency=1)


def test_one_sequence_is_bound_by_the_weights_that_are_read():
    """Measured kernels: 6.37 ms; 15.01 GB / 3.35 TB/s would be 4.5. CPU adds 0.22."""
    step = StepTime.of(LLAMA, H100).decode_seconds(1, 1)
    assert 6.3e-3 < step < 7.1e-3


def test_64_sequences_at_4k_take_what_the_reference_works_out():
    """KV of 64 x 4,096 tokens is 34.4 GB: 17.9 ms of measured kernels, 1.5 ms of CPU."""
    step = StepTime.of(LLAMA, H100).decode_seconds(64, 4096)
    assert 0.018 < step < 0.022


def test_a_full_pool_is_bound_by_memory():
    rate = throughput_of(SHAPE, H100, num_sequences=256, context_tokens=1024, max_sequences=10)
    assert (rate.num_sequences, rate.bound) == (10, Bound.MEMORY)
    assert rate.cost_per_million_tokens(3.6) == 0.001 / rate.tokens_per_second * 1e6


def test_small_batches_wait_for_bandwidth_and_large_ones_for_arithmetic():
    """4,096 short sequences multiply for longer than the weights take to read."""
    small, large = (
        throughput_of(SHAPE, H100, num_sequences=count, context_tokens=64).bound
        for count in (8, 4096)
    )
    assert (small, large) == (Bound.BANDWIDTH, Bound.COMPUTE)


@pytest.mark.slow
@given(
    st.sampled_from(sorted(MODELS)), st.sampled_from(ACCELERATORS), st.sampled_from((2048, 4096))
)
def test_every_question_has_an_answer_or_a_reason(model, accelerator, context):
    """Never a negative, never silence: it fits, or it says by how much it does not."""
    found = answer(
        Question(
            architecture=architecture_for_model(model),
            max_context_tokens=context,
            concurrency=1,
            prompt_tokens=512,
            output_tokens=256,
        ),
        accelerator,
    )
    if isinstance(found, NoOption):
        assert found.reason
    else:
        assert found.fits
        assert found.missing_bytes == 0
        assert found.kv_capacity_tokens >= context
        assert found.throughput.tokens_per_second > 0
