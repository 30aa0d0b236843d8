"""``engine.args`` against vLLM's own parser: every flag, in every spelling that it accepts."""

import argparse
import contextlib
import random

import pytest

from memroute_operator.engines import vllm_flags
from memroute_operator.engines.owned_flags import OWNED, refusal
from memroute_operator.engines.vllm_arguments import SPELLINGS, Flag, parse_arguments

# torch warns of its own future when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore")
NUM_BEGINNINGS = 6
"""Of each flag's name that are tried, beside the shortest that is unique."""


class RefusedError(Exception):
    """vLLM would end with this message."""


@pytest.fixture(scope="module")
def vllm():
    """The parser of ``vllm serve``, in which only what was given is in the answer."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    def refuse(message):
        raise RefusedError(message)

    top = FlexibleArgumentParser(prog="vllm")
    serve = top.add_subparsers(dest="subparser").add_parser("serve")
    parser = make_arg_parser(serve)
    top.error = parser.error = refuse
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return top, parser


def flags_of(parser):
    """Each action that has a flag, with its first long name."""
    for action in parser._actions:
        longs = [one for one in action.option_strings if one.startswith("--")]
        if longs:
            yield longs[0], action


def given(vllm, words):
    """What vLLM takes from the words: the fields that are set. Raises ``RefusedError``."""
    top, _ = vllm
    told = vars(top.parse_args(["serve", "org/m", *words]))
    return {name for name in told if name not in {"subparser", "model_tag", "dispatch_function"}}


def a_value(action):
    """Something that the flag takes; None where a flag takes nothing."""
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return None
    if action.choices:
        return str(next(iter(action.choices)))
    for value in ("1", "{}", "[]", "x=y", "0.5", "x"):
        try:
            (action.type or str)(value)
        except (ValueError, TypeError, argparse.ArgumentTypeError):
            continue
        else:
            return value
    return "1"


def spellings(name, action, rng):
    """Words that mean the flag, or may: each way to write its name, and its value."""
    value = a_value(action)
    names = set(action.option_strings)
    for option in action.option_strings:
        if option.startswith("--"):
            names.add("--" + option[2:].replace("-", "_"))
            lengths = rng.sample(range(4, len(option)), min(NUM_BEGINNINGS, len(option) - 4))
            names |= {option[:length] for length in lengths}
            shortest = next(
                n for n in range(3, len(option) + 1)
                if {SPELLINGS[one] for one in SPELLINGS if one.startswith(option[:n])} == {name}
                or n == len(option)
            )  # fmt: skip
            names.add(option[:shortest])
    for spelled in sorted(names):
        if value is None:
            yield [spelled]
            continue
        yield [spelled, value]
        yield [f"{spelled}={value}"]
        if not spelled.startswith("--"):
            yield [f"{spelled}{value}"]
        if value == "{}" and spelled.startswith("--"):
            yield [f"{spelled}.a.b", "1"]
            yield [f"{spelled}.a-b+=1,2"]


def test_the_tables_have_the_flags_of_vllm(vllm):
    """A flag that is missing here could take memory under its full name already."""
    _, parser = vllm
    theirs = {
        "SWITCHES": set(),
        "TOGGLES": set(),
        "VALUES": set(),
        "OPTIONAL": set(),
        "LISTS": set(),
    }
    aliases = {}
    for name, action in flags_of(parser):
        kind = {None: "VALUES", 0: "SWITCHES", "?": "OPTIONAL"}.get(action.nargs, "LISTS")
        if isinstance(action, argparse.BooleanOptionalAction):
            kind = "TOGGLES"
        theirs[kind].add(name[2:])
        known = {name, f"--no-{name[2:]}" if kind == "TOGGLES" else name}
        aliases |= {one: name for one in action.option_strings if one not in known}
    assert {kind: set(getattr(vllm_flags, kind)) for kind in theirs} == theirs
    assert aliases == vllm_flags.ALIASES


def test_every_spelling_means_what_it_means_to_vllm(vllm):
    """Some six thousand: what vLLM refuses may be read in any way, as long as nothing is owned."""
    _, parser = vllm
    fields = {name: action.dest for name, action in flags_of(parser)}
    rng, differ, accepted = random.Random(1), [], 0
    for name, action in flags_of(parser):
        for words in spellings(name, action, rng):
            parsed = parse_arguments(words)
            ours = {fields.get(one.name, one.name) for one in parsed if isinstance(one, Flag)}
            try:
                theirs = given(vllm, words)
            except RefusedError as error:
                is_told = any(isinstance(one, Flag) and one.could_be for one in parsed)
                if "ambiguous" in str(error) and not is_told:
                    differ.append((words, "ambiguous", parsed))
                continue
            except (SystemExit, ValueError, TypeError):
                continue  # a value that it does not like, or --help
            accepted += 1
            if ours != theirs or not all(isinstance(one, Flag) for one in parsed):
                differ.append((words, theirs, parsed))
            if name in OWNED and refusal(words) is None:
                differ.append((words, "is owned", parsed))
    assert differ == []
    assert accepted > 2000


@pytest.mark.parametrize(
    "words",
    [
        ["--max_num_seqs", "512"], ["--gpu-memory-util=0.99"], ["-tp", "8"], ["-q", "awq"],
        ["-qawq"], ["-tp=8"], ["--kv-cache-memory", "60G"], ["--speculative_config.model", "x/y"],
        ["-sc.model=x/y"], ["--device_memory_utilization", "0.99"], ["--seed", "1", "-dp", "2"],
        ["--enforce"], ["--no-enforce"], ["--hf_overrides.num_hidden_layers", "99"],
        ["--compilation_config.cudagraph_capture_sizes+", "1,2"], ["--served_model_name", "a", "b"],
    ],
)  # fmt: skip
def test_what_takes_memory_is_refused_where_vllm_takes_it(vllm, words):
    assert given(vllm, words)
    assert refusal(words) is not None


@pytest.mark.parametrize(
    "words",
    [
        ["other/model"], ["--seed", "1", "other/model"], ["--seed=1", "x"], ["--", "x"],
        ["--enable-lora", "x"],
    ],
)  # fmt: skip
def test_a_word_that_belongs_to_no_flag_is_refused_by_both(vllm, words):
    with pytest.raises((RefusedError, SystemExit)):
        given(vllm, words)
    assert refusal(words) is not None


@pytest.mark.parametrize(
    "words",
    [
        ["--seed", "-1"], ["--enable-prefix-caching", "--seed=3"], ["--api-key", "a", "b"],
        ["--no-enable-prefix-caching"], ["--dtype", "bfloat16"], ["-O2"], ["-O", "2"], ["-O=1"],
        ["--hf-overrides", '{"rope_theta": 1}'], ["--hf_overrides.rope_parameters.factor", "2"],
        ["--enable_lora", "--max_loras=4"], ["--trust-remote-code"], ["--chat-template", "a b"],
        ["--limit-mm-per-prompt.image", "2"], ["--kv-events-config", "{}"],
    ],
)  # fmt: skip
def test_what_is_anybodys_own_is_taken_by_both(vllm, words):
    with contextlib.suppress(ValueError):  # a value that vLLM checks further
        assert given(vllm, words)
    assert refusal(words) is None
