"""What a ModelDeployment is told of its checkpoint, and what that changes of its replicas."""

import copy

import pytest

from memroute_operator.plan import plan_step
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.status.conditions import resolved
from planned_objects import context, deployment, facts

CONFIG = {
    "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 128, "intermediate_size": 2816, "vocab_size": 32000,
    "max_position_embeddings": 16384,
}  # fmt: skip
NVFP4 = {
    "quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"],
    "kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": False},
}  # fmt: skip


def described(checkpoint_bytes=None, **fields):
    """A ModelDeployment whose model is described in it."""
    obj = copy.deepcopy(deployment(model="acme/own").obj)
    obj["spec"]["model"]["config"] = {**CONFIG, **fields}
    if checkpoint_bytes is not None:
        obj["spec"]["model"]["checkpointBytes"] = checkpoint_bytes
    return read_deployment(obj)


def told(of):
    """Status and message of Resolved."""
    outcome = plan_step(facts([of], []), context()).outcomes["default/m"]
    status, _, message = resolved(of, [], outcome)
    return status, message


def test_a_plain_checkpoint_is_told_as_before():
    assert told(described()) == ("True", "computed from the architecture")


def test_what_a_checkpoint_is_quantized_to_shows_by_itself():
    status, message = told(described(quantization_config=NVFP4))
    assert status == "True"
    assert message.endswith("; its weights are nvfp4; its KV cache is fp8_e4m3 by its checkpoint")


def test_bytes_that_contradict_the_configuration_are_told_and_counted():
    """They were dropped in silence, and the engine that needed them did not start."""
    plain, of = described(), described(checkpoint_bytes=2**30)
    assert of.footprint.weights_bytes > 2**30 > plain.footprint.weights_bytes
    assert "the files count, being larger" in told(of)[1]


def test_a_quantization_without_a_formula_is_refused_until_its_bytes_are_given():
    unknown = {"quant_method": "aqlm"}
    status, message = told(described(quantization_config=unknown))
    assert (status, "give the bytes of the checkpoint" in message) == ("False", True)
    status, message = told(described(checkpoint_bytes=2**28, quantization_config=unknown))
    assert (status, "weights are the bytes of the checkpoint" in message) == ("True", True)


def test_a_context_that_is_too_long_says_where_the_limit_comes_from():
    yarn = {"rope_type": "yarn", "factor": 4.0}
    status, message = told(described(max_position_embeddings=4096, rope_scaling=yarn))
    assert status == "False"
    assert "was made for 4096 (the factor 4 of its yarn rotary scaling is in" in message
    dynamic = {"rope_type": "dynamic", "factor": 2.0}
    assert told(described(max_position_embeddings=4096, rope_scaling=dynamic))[0] == "True"


@pytest.mark.parametrize("checkpoint_bytes", [None, 2**30])
@pytest.mark.parametrize("quantization", [None, NVFP4])
def test_what_is_known_of_a_checkpoint_restarts_no_engine(checkpoint_bytes, quantization):
    """A better footprint sizes the next replica; the engine is started with the same flags."""
    fields = {} if quantization is None else {"quantization_config": quantization}
    of = described(checkpoint_bytes, **fields)
    assert of.revision == described(**fields).revision
    assert of.shape.kv_cache_dtype.value == "auto"
    assert of.shape.quantization.value == "none"
