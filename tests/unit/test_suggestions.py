"""Every suggestion that a failure makes, followed: the edit is taken, and what was wrong is gone.

What kubelet or an engine says cannot be had here, so "gone" is read off the pod that the operator
makes after the edit: the flag, the variable, the size or the field that the failure came of. What
the planner and ``memroute explain`` suggest is followed by the operator itself in
``test_top_and_explain``, ``test_why_not`` and ``test_plan_command``.
"""

import re

import pytest
import yaml

from followed_suggestions import FOLLOWED, NOT_FOLLOWED
from memroute_operator.engines import llama_cpp_flags, sglang_owned, vllm_arguments
from memroute_operator.failures import ALL
from memroute_operator.settings import parse_settings
from memroute_operator.weights.caches import NO_SETTINGS
from operator_rig import mdep
from suggestion_edits import Made, memory, merged, of_engine, pool_bytes

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


def test_every_field_that_is_named_exists(repository):
    """Renamed fields are the usual way for a suggestion to stop helping."""
    crd = yaml.safe_load((repository / "crds" / "modeldeployments.memroute.dev.yaml").read_text())
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
