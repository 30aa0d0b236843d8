"""Every suggestion that a failure makes, followed: the edit is taken, and what was wrong is gone.

What kubelet or an engine says cannot be had here, so "gone" is read off the pod that the operator
makes after the edit: the flag, the variable, the size or the field that the failure came of. What
the planner and ``memroute explain`` suggest is followed by the operator itself in
``test_top_and_explain``, ``test_why_not`` and ``test_plan_command``.
"""

import json
import re

import pytest
from typer.testing import CliRunner

from dispatch_rig import Asking, pool
from followed_suggestions import FOLLOWED, NOT_FOLLOWED
from memroute.traffic.admission import Reject
from memroute_cli.main import app
from memroute_operator.engines import llama_cpp_flags, sglang_owned, vllm_arguments
from memroute_operator.failures import ALL
from memroute_operator.settings import parse_settings
from memroute_operator.spec.deployments import read_deployments
from memroute_operator.store.reading_cache import Cache
from memroute_operator.weights.caches import NO_SETTINGS
from operator_rig import mdep
from suggestion_edits import CONFIG, Made, memory, merged, of_engine, pool_bytes

CASES = [
    pytest.param(name, follow, id=f"{name}-{index}")
    for name, several in FOLLOWED.items()
    for index, follow in enumerate(several)
]


def test_every_failure_is_followed_or_says_why_not():
    """A suggestion that nobody has tried is a guess."""
    names = {one.name for one in ALL}
    assert FOLLOWED.keys() | NOT_FOLLOWED.keys() == names
    assert not FOLLOWED.keys() & NOT_FOLLOWED.keys()


@pytest.mark.parametrize(("name", "follow"), CASES)
def test_what_was_wrong_is_gone_when_the_suggestion_is_followed(name, follow):
    """A suggestion that is refused, or changes nothing, costs a night."""
    usual = mdep("m", model="Qwen/Qwen3-8B")["spec"]
    first = merged(usual, follow.first)
    before = Made(first, follow.settings)
    after = Made(merged(first, follow.change), follow.settings)
    assert follow.is_gone(before, after)
    told = [one.next_step for one in ALL if one.name == name]
    assert any(follow.says in one for one in told)


def test_a_suggested_context_holds_a_request_where_the_engine_said_so():
    """Worked by hand: an engine needs half as much again for a token as was reckoned.

    4 x 8,192 tokens are reserved, so 21,845 fit. One of 32,768 does not: vLLM says that 21,845
    would. Asking for 21,845 would shrink the pool of a shared device along with it, to 14,563.
    """
    usual = merged(mdep("m", model="Qwen/Qwen3-8B")["spec"], of_engine("VLLM"))
    asked = Made(merged(usual, memory(maxContextTokens=32768, concurrency=1)), NO_SETTINGS)
    less = Made(merged(usual, memory(maxContextTokens=21845, concurrency=1)), NO_SETTINGS)
    more = Made(merged(usual, memory(maxContextTokens=32768, concurrency=2)), NO_SETTINGS)
    token = pool_bytes(asked) / 32768 * 1.5
    assert pool_bytes(asked) / token < 32768
    assert pool_bytes(less) / token < 21845
    assert pool_bytes(more) / token >= 32768


def words_of(pattern):
    return {match for one in ALL for match in re.findall(pattern, one.next_step)}


def test_every_field_that_is_named_exists(crd):
    """Renamed fields are the usual way for a suggestion to stop helping."""
    root = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    paths = words_of(r"\bspec\.([a-zA-Z]+(?:\.[a-zA-Z]+)*)") - {"schedulingGates"}
    paths |= words_of(r"(?<![.\w])(placement\.[a-zA-Z]+)")
    paths |= {f"model.{one}" for one in words_of(r"(?<![.\w])(source\.[a-zA-Z]+\.[a-zA-Z]+)")}
    assert len(paths) > 15
    for path in paths:
        found = root
        for name in path.split("."):
            assert name in found["properties"], path
            found = found["properties"][name]


def test_every_flag_that_is_named_exists():
    """Of the operator, of kubectl and crictl, or of an engine."""
    flags = words_of(r"(?<![-\w])(--[a-z][a-z-]+)")
    others = {"--previous", "--show-labels", "--prune"}
    engines = {*vllm_arguments.SPELLINGS, *sglang_owned.TABLE.spellings, *llama_cpp_flags.SPELLINGS}
    values = {"--model-cache-gib": "5", "--fetch-image": "i", "--shared-runtime-class": "c"}
    for flag in flags - others - engines:
        assert parse_settings([flag, values[flag]])


def failure_of(spec):
    obj = mdep("m")
    obj["spec"] = spec
    (one,) = read_deployments([obj], [], [], {}, {}, Cache(), "vllm/x", {}, NO_SETTINGS).wanted
    return one.failure


SPECS = {
    "ContextTooLong": (
        memory(maxContextTokens=10**7), r"maxContextTokens to (\d+)",
        lambda number: memory(maxContextTokens=int(number)),
    ),
    "UnsupportedShape": (
        {"parallelism": {"tensorParallelSize": 3}}, r"it has to divide (\d+)",
        lambda number: {"parallelism": {"tensorParallelSize": int(number) // 8}},
    ),
    "ModelUnknown": (
        {"model": {"name": "acme/unheard-of"}}, r"give its config.json as spec.model.(config)",
        lambda field: {"model": {field: CONFIG}},
    ),
    "FlagOwned": (
        {"engine": {"args": ["--max-num-seqs", "8"]}}, r"use spec\.engine\.(\w+)",
        lambda field: {"engine": {"args": [], field: 8}},
    ),
    "TemplateRefused": (
        {"template": {"spec": {"nodeName": "a"}}}, r"use spec\.placement\.(\w+)",
        lambda field: {"template": None, "placement": {field: {"kubernetes.io/hostname": "a"}}},
    ),
    "EngineRefuses": (
        {"engine": {"type": "LlamaCPP", "image": "i"}}, r"such as (\S+)[,)]",
        lambda file: {"model": {"file": file, "checkpointBytes": 5 * 10**9}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", SPECS)
def test_what_the_spec_is_refused_for_is_gone_when_it_says_what_is_suggested(reason):
    """The condition Resolved: each number and each field comes out of the sentence itself."""
    wrong, words, edit = SPECS[reason]
    spec = merged(mdep("m", model="Qwen/Qwen3-8B")["spec"], wrong)
    failure = failure_of(spec)
    assert failure.reason == reason
    found = re.search(words, failure.message)
    assert found is not None, failure.message
    assert failure_of(merged(spec, edit(found[1]))) is None


def test_an_engine_that_cannot_hold_the_model_names_one_that_can():
    """SGLang's pool of states is sized by rules that memroute lacks."""
    spec = merged(
        mdep("m", model="Qwen/Qwen3-Next-80B-A3B-Instruct")["spec"],
        merged(of_engine("SGLang"), {"parallelism": {"tensorParallelSize": 2}}),
    )
    assert "serve the model with vLLM" in failure_of(spec).message
    assert failure_of(merged(spec, {"engine": {"type": "VLLM", "image": None}})) is None


PLANNER = CliRunner()


def planned(*arguments):
    """What ``memroute plan`` answers, for one kind of accelerator: exit status, and the option."""
    result = PLANNER.invoke(app, ["plan", *arguments, "--output", "json"])
    (option,) = json.loads(result.stdout)["plans"][0]["options"]
    return result.exit_code, option


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        "Qwen/Qwen3-32B -a L4 --tensor-parallel 1 --precision none",
        "Qwen/Qwen3-32B -a L40S --context 40960 --concurrency 64 --tensor-parallel 1",
        "Qwen/Qwen3-8B -a L4 --context 40960 --concurrency 8 --tensor-parallel 1 --precision none",
        "meta-llama/Llama-3.3-70B-Instruct -a H100 --tensor-parallel 1 --precision none",
        "meta-llama/Llama-3.3-70B-Instruct -a H100 --context 131072 --concurrency 64",
        "google/gemma-3-27b-it -a L40S --context 65536 --concurrency 128 --tensor-parallel 2",
    ],
)
def test_what_memory_planning_suggests_fits_when_it_is_asked_for(arguments):
    """``memroute plan`` is asked again, with each change that it says would make it fit."""
    words = arguments.split()
    status, option = planned(*words)
    assert status == 1
    assert option["suggestions"]
    for change in option["suggestions"]:
        again, answer = planned(*words, *change.split())
        assert again == 0, f"{change}: {answer}"


@pytest.mark.parametrize(("prompt", "output"), [(900, 200), (10**6, None), (10, 10**7), (1001, 0)])
def test_a_request_of_the_size_that_a_router_names_is_taken(prompt, output):
    """The refusal names what the largest replica holds: so much, and not a token more."""
    made = pool(replicas=2, capacity=1000)
    first = made.submit(Asking(prompt=prompt, max_output_tokens=output), now_seconds=0.0)
    assert isinstance(first, Reject)
    (most,) = re.findall(r"holds (\d+) tokens per request", first.message)
    fits, too_many = (
        made.submit(Asking(prompt=1, max_output_tokens=limit), now_seconds=0.0)
        for limit in (int(most) - 1, int(most))
    )
    assert not isinstance(fits, Reject)
    assert isinstance(too_many, Reject)
