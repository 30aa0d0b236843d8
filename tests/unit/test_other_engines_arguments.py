"""``engine.args`` of SGLang and llama.cpp, as their own parsers take them, and variables of all.

SGLang's parser is Python's argparse: it is built here from the table of its flags, and some
beginnings of each are tried. llama.cpp's is repeated from its source; ``make
conformance-llama-cpp`` compares its table with a server.
"""

import argparse
import random
import re

import pytest

from memroute.footprint import EngineType
from memroute_operator.engines import (
    llama_cpp_flags,
    llama_cpp_owned,
    owned_variables,
    sglang_flags,
    sglang_owned,
)
from memroute_operator.engines.command_lines import Flag, Stray
from memroute_operator.spec.deployments import ENGINE_REFUSES, read_deployments
from memroute_operator.store.reading_cache import Cache
from operator_rig import mdep

NUM_BEGINNINGS = 3
"""Of each flag's name that are tried, beside the whole."""
TABLES = {"sglang": sglang_owned, "llama.cpp": llama_cpp_owned}


class EndedError(Exception):
    """SGLang would end with this message."""


@pytest.fixture(scope="module")
def sglang():
    """An argparse parser of SGLang's flags, in which only what was given is in the answer."""

    def end(message):
        raise EndedError(message)

    parser = argparse.ArgumentParser(prog="sglang", argument_default=argparse.SUPPRESS)
    parser.error = end
    others = {}
    for alias, name in sglang_flags.ALIASES.items():
        others.setdefault(name[2:], []).append(alias)
    kinds = {
        "SWITCHES": {"action": "store_true"}, "TOGGLES": {"action": argparse.BooleanOptionalAction},
        "VALUES": {}, "OPTIONAL": {"nargs": "?"}, "LISTS": {"nargs": "*"},
    }  # fmt: skip
    for kind, how in kinds.items():
        for name in getattr(sglang_flags, kind) - {"help"}:
            parser.add_argument(f"--{name}", *others.get(name, ()), dest=f"--{name}", **how)
    return parser


@pytest.mark.slow
def test_every_beginning_of_a_flag_means_what_argparse_takes_it_for(sglang):
    """Some two thousand spellings: what is ambiguous there is told here, and nothing is missed."""
    differ, rng = [], random.Random(1)
    for spelled in sorted(sglang_owned.TABLE.spellings):
        if not spelled.startswith("--") or spelled == "--help":
            continue
        lengths = rng.sample(range(4, len(spelled)), min(NUM_BEGINNINGS, len(spelled) - 4))
        for length in (*lengths, len(spelled)):
            word = spelled[:length]
            for words in ([word, "1"], [f"{word}=1"])[: 1 + (length == len(spelled))]:
                parsed = sglang_owned.parse_arguments(words)
                ours = {one.name for one in parsed if isinstance(one, Flag)}
                try:
                    theirs = set(vars(sglang.parse_args(words)))
                except EndedError as error:
                    told = any(isinstance(one, Flag) and one.could_be for one in parsed)
                    if "ambiguous" in str(error) and not told and "--help" not in ours:
                        differ.append((words, str(error), ours))
                    continue
                if ours != theirs:
                    differ.append((words, theirs, ours))
    assert differ == []


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--mem-fraction-static=0.95"], "--mem-fraction-static"),
        (["--mem_fraction", "0.95"], "--mem-fraction-static"),
        (["--tp", "2"], "--tp-size"),
        (["--tensor-p=2"], "--tp-size"),
        (["--model", "x/y"], "--model-path"),
        (["--dp", "2"], "--dp-size"),
        (["--nccl-init-addr", "a:1"], "--dist-init-addr"),
        (["--log-level", "debug", "--max-total", "9"], "--max-total-tokens"),
        (["--config", "flags.yaml"], "--config"),
        (["--dtype=float32"], "--dtype"),
        (["--delete-ckpt"], "--delete-ckpt-after-loading"),
        (["--max-run", "512"], "--max-running-requests"),
        (["--expert-parallel-size", "2"], "--ep-size"),
        (["--context-bucket", "2k"], "--cuda-graph-prefill-max-context"),
        (["--speculative-draft-model", "x/y"], "--speculative-draft-model-path"),
    ],
)
def test_what_takes_memory_is_refused_in_every_spelling_of_sglang(words, name):
    """A beginning, an alias, an underscore or an = is the flag itself."""
    told = sglang_owned.refusal(words)
    assert told is not None
    assert name in told


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["-c", "4096"], "--ctx-size"),
        (["--ctx_size", "4096"], "--ctx-size"),
        (["-np", "8"], "--parallel"),
        (["-ngl", "1"], "--gpu-layers"),
        (["--n-gpu-layers", "1"], "--gpu-layers"),
        (["-nkvo"], "--kv-offload"),
        (["-no-kvu"], "--kv-unified"),
        (["-md", "draft.gguf"], "--spec-draft-model"),
        (["--spec-type", "ngram-mod,draft-mtp"], "--spec-type"),
        (["-mmu", "https://x/y"], "--mmproj-url"),
        (["--mmproj-auto"], "--mmproj-auto"),
        (["--gpt-oss-20b-default"], "--gpt-oss-20b-default"),
        (["--override-kv", "llama.block_count=int:99"], "--override-kv"),
        (["--seed", "1", "-ctk", "q8_0"], "--cache-type-k"),
        (["--api-key", "k"], "--api-key"),
    ],
)
def test_what_takes_memory_is_refused_in_every_spelling_of_llama_cpp(words, name):
    """A short form is another flag than its letters, and an underscore is a dash."""
    told = llama_cpp_owned.refusal(words)
    assert told is not None
    assert name in told


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("sglang", []), ("sglang", ["--attention-backend", "triton", "--log-level=debug"]),
        ("sglang", ["--trust-remote-code"]), ("sglang", ["--a-flag-of-next-year", "1", "2"]),
        ("sglang", ["--api-key", "--"]), ("sglang", ["--schedule-policy", "lpm"]),
        ("sglang", ["--dtype", "bfloat16"]), ("sglang", ["--decode-log-interval", "10"]),
        ("llama.cpp", []), ("llama.cpp", ["-t", "8", "--temp", "0.2"]),
        # Its value is taken whatever it looks like.
        ("llama.cpp", ["--chat-template", "--port"]),
        ("llama.cpp", ["--control-vector-layer-range", "1", "--parallel"]),
        ("llama.cpp", ["--no-webui", "-lv", "4"]), ("llama.cpp", ["--no-mmproj"]),
        ("llama.cpp", ["--spec-type", "ngram-mod"]),
        ("llama.cpp", ["--override-kv", "tokenizer.ggml.add_bos_token=bool:false"]),
        ("llama.cpp", ["--a-flag-of-next-year", "1"]), ("llama.cpp", ["-cram", "1024"]),
    ],
)  # fmt: skip
def test_what_is_its_owners_business_is_taken(engine, words):
    assert TABLES[engine].refusal(words) is None


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("sglang", ["x/y"]), ("sglang", ["--trust-remote-code", "x"]),
        ("llama.cpp", ["model.gguf"]), ("llama.cpp", ["--metrics", "x"]),
        ("llama.cpp", ["-t", "8", "9"]),
    ],
)  # fmt: skip
def test_a_word_that_belongs_to_no_flag_is_refused(engine, words):
    """The engine would end at once, after its image was pulled."""
    assert "belongs to no flag: the engine would end" in TABLES[engine].refusal(words)


def test_an_equals_sign_is_no_space_to_llama_cpp():
    """``--ctx-size=9`` is another word than any that it knows, and it would end."""
    assert isinstance(llama_cpp_flags.parse_arguments(["--ctx-size=9"])[0], Stray)
    assert "would end at once" in llama_cpp_owned.refusal(["--temp=0.2"])
    assert llama_cpp_owned.refusal(["--a-flag-of-next-year=1"]) is None


@pytest.mark.parametrize("engine", TABLES)
def test_every_flag_that_is_owned_exists_and_the_page_lists_it(engine, repository):
    """A suggestion that is made must help, and a page that drifts does not."""
    module = TABLES[engine]
    spellings = sglang_owned.TABLE.spellings if engine == "sglang" else llama_cpp_flags.SPELLINGS
    assert set(spellings.values()) >= module.OWNED.keys()
    text = (repository / "docs" / "reference" / "engine-arguments.md").read_text()
    heading = {"sglang": "## SGLang", "llama.cpp": "## llama.cpp"}[engine]
    part = text[text.index(heading) :].split("\n## ")[0]
    told = set(re.findall(r"^\| `(--[^`]+)` \| ([^|]+) \| ([^|]+) \|$", part, re.MULTILINE))
    assert told == {
        (name, owner.why, f"`{owner.instead}`" if owner.instead else "leave it out")
        for name, owner in module.OWNED.items()
    }


@pytest.mark.parametrize("owned", [sglang_owned.OWNED, llama_cpp_owned.OWNED])
def test_every_field_that_is_named_instead_exists(owned, crd):
    """A suggestion that is made must help when it is followed."""
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for owner in owned.values():
        for path in re.findall(r"(?:^|spec\.)([a-z]\w*\.?\w*(?:\.\w+)*)", owner.instead or ""):
            field = spec
            for name in path.split("."):
                field = field["properties"][name]
            assert field["description"]


def test_every_variable_that_is_owned_is_listed(repository):
    text = (repository / "docs" / "reference" / "engine-arguments.md").read_text()
    for names in (owned_variables.DEVICE_VARIABLES, *owned_variables.OWNED_VARIABLES.values()):
        assert [name for name in names if f"`{name}`" not in text] == []


def read(engine, **parts):
    obj = mdep("m")
    obj["spec"]["engine"] = {"type": engine, "image": "i", **parts}
    if engine == "LlamaCPP":
        obj["spec"]["model"] |= {"file": "m.gguf", "checkpointBytes": 5 * 10**9}
    return obj


def failure_of(obj):
    (one,) = read_deployments([obj], [], [], {}, {}, Cache(), "vllm/vllm-openai", {}).wanted
    return one.failure


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        ("VLLM", "VLLM_MODEL_REDIRECT_PATH"), ("VLLM", "VLLM_DP_SIZE"),
        ("SGLang", "SGLANG_ENABLE_POST_CAPTURE_KV_SIZING"), ("LlamaCPP", "LLAMA_ARG_MMPROJ"),
        ("LlamaCPP", "LLAMA_ARG_NO_KV_OFFLOAD"), ("LlamaCPP", "GGML_CUDA_ENABLE_UNIFIED_MEMORY"),
        *((engine, "NVIDIA_VISIBLE_DEVICES") for engine in ("VLLM", "SGLang", "LlamaCPP")),
        ("VLLM", "CUDA_VISIBLE_DEVICES"),
    ],
)  # fmt: skip
def test_a_variable_that_takes_memory_is_refused_wherever_it_is_said(engine, name):
    """The last one counts, and an owner's stands after memroute's."""
    plain = read(engine, env=[{"name": name, "value": "1"}])
    assert failure_of(plain).reason == ENGINE_REFUSES
    assert f"engine.env[0] {name} is memroute's own" in failure_of(plain).message
    secret = [{"name": name, "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    hidden = read(engine)
    hidden["spec"]["template"] = {"spec": {"containers": [{"name": "engine", "env": secret}]}}
    assert name in failure_of(hidden).message


@pytest.mark.parametrize(
    ("engine", "prefix"), [("LlamaCPP", "LLAMA_ARG_"), ("VLLM", "VLLM_"), ("SGLang", "NVIDIA_")]
)
def test_a_prefix_that_could_make_such_a_name_is_refused(engine, prefix):
    """What a ConfigMap has is not seen; what its keys are put behind is."""
    obj = read(engine)
    source = {"prefix": prefix, "configMapRef": {"name": "c"}}
    obj["spec"]["template"] = {"spec": {"containers": [{"name": "engine", "envFrom": [source]}]}}
    assert f"makes variables that begin with {prefix}" in failure_of(obj).message


def test_other_variables_are_the_owners_own_business():
    """Also of a sidecar's, whatever they are called, but for the devices (the template's rule)."""
    env = [{"name": "HF_TOKEN", "value": "x"}, {"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}]
    obj = read("VLLM", env=env)
    sidecar = {"name": "s", "image": "i", "env": [{"name": "VLLM_DP_SIZE", "value": "2"}]}
    source = {"prefix": "APP_", "configMapRef": {"name": "c"}}
    engine = {"name": "engine", "envFrom": [source, {"secretRef": {"name": "s"}}]}
    obj["spec"]["template"] = {"spec": {"containers": [engine, sidecar]}}
    assert failure_of(obj) is None


def test_all_of_a_kind_have_a_reason():
    assert set(owned_variables.OWNED_VARIABLES) == set(EngineType)
    assert set(llama_cpp_owned.VARIABLES.values()) - {"--spec-type"} <= llama_cpp_owned.OWNED.keys()
