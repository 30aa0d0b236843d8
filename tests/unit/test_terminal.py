"""What all commands share: lazy imports, closeness, quantities, tables."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from memroute import __version__
from memroute.catalog import ACCELERATORS, MODELS
from memroute.closeness import closest
from memroute_cli.main import COMMANDS, app
from memroute_cli.terminal.commands import load
from memroute_cli.terminal.indented import Indented
from memroute_cli.terminal.quantities import bytes_of, comma_list, seconds, tokens, whole
from memroute_cli.terminal.shell import folded
from memroute_cli.terminal.table import Column, Table, elided, shortened

# What takes a tenth of a second or more to import, and what only some commands need.
HEAVY = {
    "aiohttp", "httpx", "huggingface_hub", "kopf", "kubernetes", "matplotlib", "memroute_hub",
    "memroute_kube", "memroute_operator", "memroute_router", "memroute_simulator", "numpy",
    "openai", "rich", "yaml",
}  # fmt: skip


def imported_by(*arguments):
    """The top-level modules that a fresh process has imported by the end of the command."""
    code = (
        "import json, sys\n"
        "from memroute_cli.main import app\n"
        f"try: app({list(arguments)!r}, prog_name='memroute')\n"
        "except SystemExit: pass\n"
        "print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(result.stdout.splitlines()[-1])), result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), *((name, "--help") for name in COMMANDS)]
)
def test_help_imports_nothing_heavy(arguments):
    """Each of these once cost a second before the first line: `--help` is what people try first."""
    modules, output = imported_by(*arguments)
    assert len(output.splitlines()) > 1
    assert modules & HEAVY == set()


@pytest.mark.slow
def test_a_plan_by_the_catalogue_needs_no_cluster_and_no_network():
    """The commonest question is answered from this machine's memory alone."""
    modules, output = imported_by("plan", "Qwen/Qwen3-8B", "-a", "H100")
    assert "=> bf16 on one H100" in output
    assert modules & {"aiohttp", "httpx", "kubernetes", "memroute_operator", "openai"} == set()


def test_the_list_of_commands_says_what_each_command_says_of_itself():
    """The list is written apart, so that it needs no import: here both are compared."""
    for name, where in COMMANDS.items():
        command = load(name, where)
        assert command.help.splitlines()[0] == where.sentence


def test_the_version_is_one_everywhere(repository):
    """A bug report names it; the chart, the images and the wheel must mean the same release."""
    assert CliRunner().invoke(app, ["--version"]).stdout == f"memroute {__version__}\n"
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert project.get("version", __version__) == __version__
    chart = yaml.safe_load((repository / "helm" / "memroute" / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    for path in (repository / "deploy" / "base").glob("*.yaml"):
        tags = re.findall(r"memroute/[a-z]+:([0-9][\w.-]*)", path.read_text())
        assert set(tags) <= {__version__}


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("qwen3-8b", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-9B", "Qwen/Qwen3-8B"),
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("Llama-3.3-70B", "meta-llama/Llama-3.3-70B-Instruct"),
        ("mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1"),
    ],
)
def test_the_closest_model_comes_first(typed, first):
    """Catalogue order once offered 0.6B and 4B before the 8B that was meant."""
    assert closest(typed, MODELS)[0].startswith(first)


def test_what_is_close_to_nothing_gets_no_suggestion():
    assert closest("zzzz", MODELS) == []
    assert closest("", MODELS) == []


def test_an_accelerator_with_a_letter_too_many_is_found():
    names = [row.name for row in ACCELERATORS]
    assert closest("H1000", names)[0] == "H100"
    assert {"A100-40", "A100-80"} <= set(closest("A100", names))


@pytest.mark.parametrize(
    ("text", "number"),
    [("32768", 32768), ("32k", 32_000), ("32K", 32_768), ("1M", 1_048_576), ("1.5k", 1500),
     ("32,768", 32768), ("128_000", 128_000), ("1m", 1_000_000)],
)  # fmt: skip
def test_tokens_are_read_as_people_write_them(text, number):
    """Small letters are thousands and capitals 1,024s, as vLLM's own flags have it."""
    assert tokens(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("14GB", 14 * 10**9), ("14GiB", 14 * 2**30), ("14Gi", 14 * 2**30), ("14G", 14 * 10**9),
     ("15032385536", 15032385536), ("1.5TB", 1_500_000_000_000), ("900 MB", 900_000_000),
     ("file.json", None), ("14 apples", None)],
)  # fmt: skip
def test_sizes_are_read_as_people_write_them(text, number):
    assert bytes_of(text) == number


@pytest.mark.parametrize(
    ("text", "number"), [("0.5", 0.5), ("500ms", 0.5), ("2s", 2.0), ("2m", 120.0), ("1h", 3600.0)]
)
def test_times_are_read_as_people_write_them(text, number):
    assert seconds(text) == number


@pytest.mark.parametrize("text", ["", "k", "lots", "1.5", "3 apples", "nan"])
def test_what_is_no_number_of_tokens_says_how_one_is_written(text):
    with pytest.raises(typer.BadParameter, match="write it as"):
        tokens(text)


def test_counts_are_read_as_people_write_them():
    read = whole(1)
    assert [read("2000"), read("2k"), read("1_000")] == [2000, 2000, 1000]
    for text in ("0", "2.5", "1e99", "", "two"):
        with pytest.raises(typer.BadParameter):
            read(text)


def test_of_a_device_the_node_gives_way_and_not_what_tells_devices_apart():
    """Four hundred rows of `gke-productio…/GPU-gke-prod` name nobody."""
    name = "gke-production-h100-pool-7f9c2a1b-x2k4/GPU-1f3c9a2b"
    assert elided(name, 28) == "gke-pro…1b-x2k4/GPU-1f3c9a2b"
    assert elided("default/a-model-with-a-long-name", 12) == "defaul…-name"


def test_a_reason_keeps_its_beginning():
    """`Replicas…Serving` says the opposite of ReplicasNotServing."""
    table = Table((Column(name="STATE", least=7, is_word=True),), (("ReplicasNotServing",),))
    assert table.lines(15)[1] == "ReplicasNotSer…"


def test_lists_are_by_comma_or_repeated():
    assert comma_list(["H100,L40S", "L4", "H100, "]) == ["H100", "L40S", "L4"]
    assert comma_list(None) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plna",), "no command 'plna'; did you mean plan?"),
        (("zzz",), "there are plan, simulate, doctor"),
        (("--vesion",), "no option --vesion; did you mean --version?"),
        (("plan", "--acelerator", "H100"), "no option --acelerator; did you mean --accelerator?"),
        (("plan", "x", "--context", "1e99"), "is no number of tokens that anybody has"),
        (("plan", "x", "-a", " , "), "names nothing"),
        (("plan", ""), "names nothing"),
        (("simulate", ""), "name a MODEL"),
        (("simulate", "x", "-p", ""), "names nothing"),
        (("simulate", "x", "--rate", "nan"), "'nan' is no number"),
        (("plan", "x", "--concurrency", "four"), "'four' is no whole number"),
        (("simulate", "x", "--rate", "fast"), "'fast' is no number"),
        (("simulate", "x", "--ttft", "soon"), "'soon' is no number of seconds"),
        (("top", "nods"), "one of summary, nodes, devices, models; did you mean nodes"),
        (("top", "-o", "jsn"), "one of table, json, yaml; did you mean json?"),
        (("decisions", "--limit", "0"), "no whole number of at least 1"),
        (("demo", "--seconds", "-1"), "0 or more"),
        (("top", "--watch", "--interval", "10ms"), "at least 1 second"),
    ],
)
def test_errors_are_in_the_words_that_were_typed(arguments, words):
    """`Input should be a valid integer, unable to parse string` is a library talking to itself."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert not re.search(r"Input should|Value error|pydantic|Traceback|Enum", result.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_commands_are_completed(shell):
    """`memroute pl<tab>`: names come from the list, so that a tab imports nothing heavy."""
    environment = os.environ | {
        "_MEMROUTE_COMPLETE": f"complete_{shell}", "COMP_WORDS": "memroute pl", "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "memroute pl",
    }  # fmt: skip
    code = "from memroute_cli.main import main; import sys; sys.argv = ['memroute']; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60,
        env=environment,
    )  # fmt: skip
    assert "plan" in result.stdout, result.stderr


COLUMNS = (
    Column(name="NAME", least=8), Column(name="STATE", least=5),
    Column(name="BYTES", is_number=True), Column(name="WHY", is_sentence=True),
)  # fmt: skip
NAMES = st.text(alphabet="abcdefghij-", min_size=1, max_size=90)
NUMBERS = st.integers(0, 10**15).map(lambda number: f"{number:,}")
SENTENCES = st.lists(st.text(alphabet="abcdef", min_size=1, max_size=12), max_size=30).map(" ".join)


@pytest.mark.slow
@given(st.lists(st.tuples(NAMES, NAMES, NUMBERS, SENTENCES), max_size=5))
def test_a_table_fits_and_no_number_is_cut(rows):
    """A digit that is cut off is a wrong number; a name without its middle is still a name."""
    lines = Table(COLUMNS, tuple(rows)).lines(80)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for _, _, number, why in rows:
        assert number in text
        for word in why.split():
            assert word in text
    wide = Table(COLUMNS, tuple(rows), is_wide=True).lines(80)
    for name, state, _, _ in rows:
        assert any(name in line and state in line for line in wide)


def test_names_give_way_in_their_middle():
    """Both ends tell nodes and requests apart: what is alike is in the middle."""
    assert elided("ip-10-0-123-234.eu-central-1.compute.internal", 15) == "ip-10-0…nternal"
    assert elided("short", 15) == "short"
    assert shortened("one two three", 8) == "one two…"


@given(st.lists(st.text(alphabet="abc{}:\"' ", max_size=40), min_size=1, max_size=8))
def test_a_command_that_is_folded_is_the_same_command(words):
    """People copy it: a line break inside of a word would be another command."""
    command = shlex.join(["kubectl", *words])
    lines = folded(command, 40, indent="    ")
    # A shell drops a backslash with its newline; Python's shlex does not.
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == ["kubectl", *words]
    for line in lines:
        assert len(line) <= 40 or len(shlex.split(line.removesuffix(" \\"))) == 1


def test_a_sentence_below_a_name_has_no_blanks_at_its_ends():
    """Lines were filled with blanks up to the terminal's width, which whoever copies them gets."""
    told = Indented("no  gpu-c: its devices are handed out whole", by=2, further=4)
    assert told.lines(24) == ["  no  gpu-c: its devices", "      are handed out", "      whole"]
    assert Indented("one\ntwo", by=2).lines(80) == ["  one", "  two"]
