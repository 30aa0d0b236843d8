"""What ``engine.args`` may say, and what memroute owns.

That words are read as vLLM reads them is compared with vLLM in ``tests/conformance``.
"""

import re

import pytest

from memroute.footprint.replica import MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS
from memroute_operator.engines.owned_flags import OWNED, adapters_of, refusal
from memroute_operator.engines.vllm_arguments import SPELLINGS, Flag, Stray, parse_arguments
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.spec.revision import revision_of
from planned_objects import deployment, pod_of


def of_engine(mode="Shared", **engine):
    obj = deployment(mode=mode).obj
    spec = obj["spec"] | {"engine": obj["spec"]["engine"] | engine}
    return read_deployment(obj | {"spec": spec})


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--max-num-seqs", "8"], "--max-num-seqs"),
        (["--max_num_seqs=8"], "--max-num-seqs"),
        (["--max-num-se", "8"], "--max-num-seqs"),
        (["-tp", "8"], "--tensor-parallel-size"),
        (["-tp=8"], "--tensor-parallel-size"),
        (["-qfp8"], "--quantization"),
        (["--enforce_eager"], "--enforce-eager"),
        (["--no-enforce-eager"], "--enforce-eager"),
        (["--kv-cache-memory", "60000000000"], "--kv-cache-memory-bytes"),
        (["--device-memory-utilization", "0.99"], "--gpu-memory-utilization"),
        (["--seed", "1", "--gpu-memory-util=0.99"], "--gpu-memory-utilization"),
        (["--speculative_config.model", "x/y"], "--speculative-config"),
        (["-sc.model=x/y"], "--speculative-config"),
        (["--config", "flags.yaml"], "--config"),
        (["--data-parallel-size=2"], "--data-parallel-size"),
        (["--dtype=float32"], "--dtype"),
        (["--hf-overrides", '{"num_hidden_layers": 99}'], "--hf-overrides"),
        (["--kv-transfer-config.kv_connector", "P2pNcclConnector"], "--kv-transfer-config"),
        (["--kv_transfer_config", '{"kv_connector":"P2pNcclConnector"}'], "--kv-transfer-config"),
        (["-cc.cudagraph_mode", "FULL"], "--compilation-config"),
    ],
)
def test_what_takes_memory_is_refused_by_name_in_every_spelling(words, name):
    """A replica that takes more than was reserved takes it from its neighbours."""
    told = refusal(words)
    assert told is not None
    assert name in told
    assert f"engine.args[{words.index('--gpu-memory-util=0.99') if len(words) == 3 else 0}]" in told


@pytest.mark.parametrize(
    "words",
    [
        [], ["--seed=1"], ["--seed", "-1"], ["--enable-prefix-caching", "--trust-remote-code"],
        ["--dtype", "bfloat16"], ["--hf_overrides.rope_theta", "5"], ["-O3"],
        ["--api-key", "a", "b"],
        ["--a-flag-of-next-year", "1", "2"], ["--chat-template", "a text -- with dashes"],
        ["--kv-events-config", '{"enable_kv_cache_events": true}'], ["--enable-lora"],
    ],
)  # fmt: skip
def test_what_is_its_owners_business_is_taken(words):
    assert refusal(words) is None


@pytest.mark.parametrize(
    "words", [["x/y"], ["--seed", "1", "x/y"], ["--enable-lora", "x"], ["--", "x"]]
)
def test_a_word_that_belongs_to_no_flag_is_refused(words):
    """The engine would serve another model than the one that was sized."""
    assert "belongs to no flag" in refusal(words)
    assert isinstance(parse_arguments(words)[-1], Stray)


def test_a_beginning_that_could_be_several_flags_has_to_be_written_out():
    (flag,) = parse_arguments(["--max-num", "8"])
    assert isinstance(flag, Flag)
    assert "--max-num-seqs" in flag.could_be
    assert "write it out" in refusal(["--max-num", "8"])


def test_a_refusal_says_what_to_use_instead():
    assert refusal(["--max-model-le=4096"]) == (
        'engine.args[0] "--max-model-le=4096" (that is --max-model-len) is memroute\'s own, '
        "because the KV cache is sized by it; use spec.memory.maxContextTokens"
    )
    many = refusal(["--port=1", "--host=x", "--uds=x", "--grpc", "--headless"])
    assert many.endswith("; and 2 more")


def test_every_flag_that_is_owned_exists():
    assert set(SPELLINGS.values()) >= OWNED.keys()


def test_every_field_that_is_named_instead_exists(crd):
    """A suggestion that is made must help when it is followed."""
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for owner in OWNED.values():
        for path in (owner.instead or "engine").split(" ")[0].rstrip(",").split(","):
            field = spec
            for name in path.split("."):
                field = field["properties"][name]
            assert field["description"]


def test_the_page_lists_exactly_the_flags_that_are_owned(repository):
    text = (repository / "docs" / "reference" / "engine-arguments.md").read_text()
    text = text[: text.index("\n## SGLang")]
    told = set(re.findall(r"^\| `(--[^`]+)` \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE))
    assert told == {
        (name, owner.why, f"`{owner.instead}`" if owner.instead else "leave it out")
        for name, owner in OWNED.items()
    }


def test_owned_flags_are_a_condition_and_nothing_is_placed():
    of = of_engine(args=["--gpu_memory_utilization", "0.99"])
    assert of.failure is not None
    assert of.failure.reason == "FlagOwned"
    assert "--gpu-memory-utilization" in of.failure.message


def arguments_of(of):
    return pod_of(of)["spec"]["containers"][0]["args"]


def test_tuning_reaches_the_engine_and_the_footprint():
    """Each of them changes what an engine takes: it is reserved, and then allowed."""
    usual = of_engine()
    tuned = of_engine(maxSequences=1024, maxBatchedTokens=16384, blockSizeTokens=32)
    arguments = arguments_of(tuned)
    assert arguments[arguments.index("--max-num-seqs") + 1] == "1024"
    assert arguments[arguments.index("--max-num-batched-tokens") + 1] == "16384"
    assert arguments[arguments.index("--block-size") + 1] == "32"
    assert tuned.footprint.kv_layout.block_size_tokens == 32
    assert tuned.footprint.total_bytes > usual.footprint.total_bytes
    plain = arguments_of(usual)
    assert plain[plain.index("--max-num-seqs") + 1] == str(MAX_NUM_SEQS)
    assert plain[plain.index("--max-num-batched-tokens") + 1] == str(MAX_NUM_BATCHED_TOKENS)
    assert "--block-size" not in plain


def test_an_eager_engine_needs_no_memory_for_graphs():
    usual, eager = of_engine(execution="Graphs"), of_engine(execution="Eager")
    assert "--enforce-eager" in arguments_of(eager)
    assert "--enforce-eager" not in arguments_of(usual)
    saved = usual.footprint.total_bytes - eager.footprint.total_bytes
    assert saved == usual.footprint.cuda_graphs.high


def test_slots_for_adapters_are_in_the_footprint():
    """They are reserved by the engine when it starts, whether an adapter is loaded or not."""
    plain = of_engine()
    slots = of_engine(args=["--enable_lora", "--max-loras=4", "--max-lora-rank", "64"])
    assert slots.footprint.total_bytes > plain.footprint.total_bytes
    assert (slots.shape.max_adapters, slots.shape.max_adapter_rank) == (4, 64)
    assert adapters_of(["--enable-lora"]).max_adapters == 1
    assert adapters_of(["--no-enable-lora"]).max_adapters == 0


def test_tuning_that_is_not_set_restarts_nothing():
    spec = deployment().obj["spec"]
    for name, value in (
        ("maxSequences", 512), ("maxBatchedTokens", 4096), ("blockSizeTokens", 32),
        ("execution", "Eager"),
    ):  # fmt: skip
        assert revision_of(spec | {"engine": spec["engine"] | {name: value}}) != revision_of(spec)
        assert revision_of(spec | {"engine": spec["engine"] | {name: None}}) == revision_of(spec)
    graphs = spec | {"engine": spec["engine"] | {"execution": "Graphs"}}
    assert revision_of(graphs) == revision_of(spec)
