"""The table of llama.cpp's flags against its server's own parser, spelling by spelling.

The wheel of the other tests here takes attributes and has no parser. So these are for a server of
b11434 that somebody has built: ``MEMROUTE_LLAMA_SERVER=… make conformance-llama-cpp``.
"""

import os
import re
import subprocess

import pytest

from memroute_operator.engines import llama_cpp_flags, llama_cpp_owned
from memroute_operator.engines.command_lines import Flag, Stray

SERVER = os.environ.get("MEMROUTE_LLAMA_SERVER", "")
pytestmark = pytest.mark.skipif(not SERVER, reason="MEMROUTE_LLAMA_SERVER names no llama-server")
# What each command line here ends with, so that no server ever starts.
UNKNOWN = "--no-such-flag"
# Flags at which the server ends before it reads the next one.
ENDING = {"--version", "--cache-list", "--list-devices"}


def run(*words, **variables):
    """All that the server says of a command line."""
    done = subprocess.run(
        [SERVER, *words], capture_output=True, text=True, check=False, timeout=20,
        env={"LLAMA_ARG_MODEL": "/no/such/model", "PATH": "/usr/bin", **variables},
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def told():
    """Each flag as ``--help`` has it: its spellings, what follows it, its variable."""
    flags = []
    for line in run("--help").splitlines():
        if re.match(r"--?[a-zA-Z]", line):
            names, rest = [], f"{line},"
            while found := re.match(r"\s*(--?[a-zA-Z][\w.-]*)", rest):
                names.append(found[1])
                rest = rest[found.end() :]
                if not rest.startswith(","):
                    break
                rest = rest[1:]
            # Its words stand right behind it, what it does some columns away.
            has_words = bool(re.match(r" \S", rest))
            flags.append([names, has_words, None])
        elif flags and (variable := re.search(r"\(env:\s+(\w+)\)", line)):
            flags[-1][2] = variable[1]
    return flags


def test_every_flag_of_the_server_is_in_the_table(told):
    """One that is missing here could take memory under its full name already."""
    spellings = {one for names, _, _ in told for one in names}
    assert spellings == set(llama_cpp_flags.SPELLINGS)
    for names, has_words, _ in told:
        meant = {llama_cpp_flags.SPELLINGS[one] for one in names}
        assert len(meant) == 1, names
        assert (meant <= llama_cpp_flags.ALONE) == (not has_words), names


def test_every_variable_of_a_flag_that_is_owned_is_refused(told):
    """A variable counts where no flag says otherwise: it is the flag by another way."""
    for names, _, variable in told:
        name = llama_cpp_flags.SPELLINGS[names[0]]
        if variable is not None and name in llama_cpp_owned.OWNED:
            assert llama_cpp_owned.VARIABLES[variable] == name


@pytest.mark.parametrize("spelled", sorted(llama_cpp_flags.SPELLINGS))
def test_each_spelling_takes_as_many_words_as_the_table_says(spelled):
    """One more, and the next flag would be its value; one less, and its value would be a flag."""
    name = llama_cpp_flags.SPELLINGS[spelled]
    num_words = 2 if name in llama_cpp_flags.TWO_WORDS else int(name in llama_cpp_flags.ONE_WORD)
    for word in {spelled, "--" + spelled[2:].replace("-", "_") if spelled[:2] == "--" else spelled}:
        said = run(word, *["0"] * num_words, UNKNOWN)
        if name in ENDING:
            assert "invalid argument" not in said
            continue
        assert f"invalid argument: {UNKNOWN}" in said or "error while handling argument" in said
        ours = llama_cpp_flags.parse_arguments([word, *["0"] * num_words, UNKNOWN])
        assert [one.name for one in ours if isinstance(one, Flag)] == [name, UNKNOWN]


@pytest.mark.parametrize("word", ["--ctx-siz", "--ctx-size=9", "-c9", "-ngl=1", "x", "--CTX-SIZE"])
def test_what_is_no_flag_of_the_server_is_none_here(word):
    """No beginnings, no ``=``, nothing attached: it ends, and nothing has taken memory."""
    assert f"invalid argument: {word}" in run(word)
    (one,) = llama_cpp_flags.parse_arguments([word])
    assert isinstance(one, Stray) or one.name not in llama_cpp_owned.OWNED


def test_a_variable_counts_where_no_flag_says_otherwise():
    """What ``owned_variables`` refuses is real: the server takes its context from one."""
    said = run("--parallel", "x", LLAMA_ARG_CTX_SIZE="x")
    assert 'error while handling environment variable "LLAMA_ARG_CTX_SIZE"' in said
