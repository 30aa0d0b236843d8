from hypothesis import given
from hypothesis import strategies as st

from memroute.bandwidth import Bound, Roofline
from memroute.catalog import ACCELERATORS, MODELS, accelerator_by_name, architecture_for_model
from memroute.footprint import ReplicaShape
from memroute.sizing import NoOption, Question, answer

LLAMA = architecture_for_model("meta-llama/Llama-3.1-8B")
H100 = accelerator_by_name("H100")


def roofline(**facts):
    """Llama-3.1-8B on an H100."""
    shape = ReplicaShape(architecture=LLAMA, max_context_tokens=8192, concurrency=1, **facts)
    return Roofline(shape=shape, accelerator=H100)


def test_one_sequence_is_bound_by_the_weights_that_are_read():
    """15.01 GB (without the embedding) / (0.8 x 3.35 TB/s) = 5.6 ms, and 0.52 of overhead."""
    step = roofline().decode_step_seconds(num_sequences=1, context_tokens=1)
    assert 6.0e-3 < step < 6.3e-3


def test_64_sequences_at_4k_take_what_the_reference_works_out():
    """KV of 64 x 4,096 tokens is 34.4 GB: with the weights about 18.4 ms at 0.8 of the peak."""
    step = roofline().decode_step_seconds(num_sequences=64, context_tokens=4096)
    assert 0.018 < step < 0.022


def test_a_full_pool_is_bound_by_memory():
    rate = roofline().throughput(num_sequences=256, context_tokens=1024, max_sequences=10)
    assert (rate.num_sequences, rate.bound) == (10, Bound.MEMORY)
    assert rate.cost_per_million_tokens(3.6) == 0.001 / rate.tokens_per_second * 1e6


def test_a_mixture_reads_more_experts_the_more_tokens_it_has():
    shape = ReplicaShape(
        architecture=architecture_for_model("Qwen/Qwen3-30B-A3B"),
        max_context_tokens=8192,
        concurrency=1,
    )
    moe = Roofline(shape=shape, accelerator=H100)
    one = moe.decode_step_seconds(num_sequences=1, context_tokens=1)
    many = moe.decode_step_seconds(num_sequences=64, context_tokens=1)
    assert many > 4 * one


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
