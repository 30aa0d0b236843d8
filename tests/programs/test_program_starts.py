"""The programs: what `--help` and a misspelt flag cost and say. The command line: test_terminal."""

import json
import os
import subprocess
import sys
import threading

import pytest

from memroute import __version__
from memroute.command_line import CommandLine
from memroute_fetch.failures import FetchError
from memroute_fetch.program import run
from memroute_fetch.settings import parse_options
from memroute_operator.settings import parse_settings as operator_settings
from memroute_router.settings import parse_settings as router_settings
from memroute_simulator.__main__ import main as simulator

# What takes a tenth of a second or more to import, and no flag needs.
HEAVY = {
    "aiohttp", "cryptography", "httptools", "httpx", "httpx2", "jinja2", "jwt", "kopf",
    "kubernetes", "matplotlib", "numpy", "openai", "opentelemetry", "prometheus_client",
    "pydantic", "requests", "tokenizers", "urllib3", "uvloop", "yaml", "zmq",
}  # fmt: skip
PROGRAMS = {
    "memroute-fetch": "memroute_fetch.program",
    "memroute-operator": "memroute_operator.__main__",
    "memroute-router": "memroute_router.__main__",
    "memroute-simulator": "memroute_simulator.__main__",
}
CODE = """
import atexit, json, os, sys
sys.argv = {argv!r}
from {module} import main
leave = os._exit
def told(code=0):
    print("\\n" + json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
    sys.stdout.flush()
    leave(code)
os._exit = told
try: main()
except SystemExit as ended: told(ended.code if isinstance(ended.code, int) else 0)
"""


def run_of(words):
    """What a program says, and the packages that it has imported by its end."""
    code = CODE.format(argv=words, module=PROGRAMS[words[0]])
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    *said, modules = ended.stdout.splitlines()
    return "\n".join(said) + ended.stderr, set(json.loads(modules))


@pytest.mark.parametrize("argument", ["--help", "--version", "--vesion"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_flag_answers_imports_nothing_heavy(program, argument):
    """Each took a second: an operator imports a Kubernetes client twice before its first word."""
    said, modules = run_of([program, argument])
    assert modules & HEAVY == set()
    expected = {
        "--help": f"usage: {program} [-h] [--version]",
        "--version": f"{program} {__version__}",
        "--vesion": f"{program}: no flag --vesion; did you mean --version? (see {program} --help)",
    }[argument]
    assert expected in said


@pytest.mark.parametrize(
    ("command", "prog"),
    [("engine", "memroute-simulator engine"), ("sglang", "sglang.launch_server"),
     ("llama-server", "llama-server")],
)  # fmt: skip
def test_the_help_of_a_simulated_engine_imports_no_server(command, prog):
    """It imported HTTP, ZeroMQ and metrics before its first word."""
    said, modules = run_of(["memroute-simulator", command, "--help"])
    assert modules & HEAVY == set()
    assert f"usage: {prog} [-h]" in said


@pytest.mark.parametrize(
    ("program", "parse"), [("operator", operator_settings), ("router", router_settings)]
)
def test_a_flag_that_is_wrong_is_one_sentence(program, parse, capsys):
    """Forty lines of usage scrolled the one line away that said what was wrong."""
    with pytest.raises(SystemExit) as ended:
        parse(["--hots", "0.0.0.0"])  # noqa: S104 - nothing listens
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    name = f"memroute-{program}"
    assert told.err == f"{name}: no flag --hots; did you mean --host? (see {name} --help)\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--port", "http"], "--port: 'http' is not a port, 0 to 65535"),
        (["--max-attempts", "few"], "--max-attempts: 'few' is not a whole number"),
        (["--log-format", "jsn"], "--log-format: 'jsn': one of text, json; did you mean json?"),
        (["--access-log", "xyz"], "--access-log: 'xyz': one of all, failed, off"),
        (["run"], "'run' is no flag, and belongs to none"),
        (["--port"], "--port: expected one argument"),
        (["--tls-key", "key.pem"], "--tls-key needs --tls-cert"),
        (["--port", "99999"], "--port: '99999' is not a port, 0 to 65535"),
        (["--scrape-seconds", "0"], "--scrape-seconds: '0' is not a number above 0"),
        (["--max-queue-seconds", "nan"], "--max-queue-seconds: 'nan' is not a number of 0 or more"),
        (["--max-attempts", "-3"], "--max-attempts: '-3' is not a number of 0 or more"),
        (["--tracing-ratio", "half"], "--tracing-ratio: 'half' is not a number"),
        (["--tracing-ratio", "7"], "--tracing-ratio: '7' is not between 0 and 1"),
    ],
)
def test_a_value_that_is_wrong_is_told_in_the_words_of_what_was_typed(words, sentence, capsys):
    """Of argparse: `invalid LogFormat value` is the name of a class."""
    with pytest.raises(SystemExit):
        router_settings(words)
    assert capsys.readouterr().err == f"memroute-router: {sentence} (see memroute-router --help)\n"


def test_a_misspelt_flag_is_told_before_one_that_is_missing(monkeypatch, capsys):
    """`--flet fleet.yaml` is why --fleet is missing."""
    monkeypatch.setattr(sys, "argv", ["memroute-simulator", "nodes", "--flet", "fleet.yaml"])
    with pytest.raises(SystemExit):
        simulator()
    assert "no flag --flet; did you mean --fleet?" in capsys.readouterr().err


def test_a_command_that_there_is_not_gets_the_closest(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["memroute-simulator", "nods"])
    with pytest.raises(SystemExit):
        simulator()
    assert "'nods': one of engine, sglang, llama-server, nodes, binaries; did you mean nodes?" in (
        capsys.readouterr().err
    )


def test_the_fetcher_ends_with_its_own_code_for_a_wrong_flag():
    """The operator reads it off the pod: 64 is an image of another release."""
    with pytest.raises(FetchError, match=r"no flag --cahce; did you mean --cache\?") as refused:
        parse_options(["hf://a/b@" + "0" * 40, "--cahce", "/models"])
    assert refused.value.code == 64


def test_the_fetcher_of_adapters_tells_a_wrong_flag_as_the_other_does(caplog):
    """It runs beside an engine: what it logs and its code are all that anybody sees of it."""
    for words, told in (
        (["--cahce", "/models"], "no flag --cahce; did you mean --cache?"),
        (["--cache", "/models", "--port", "many"], "--port: 'many' is not a port, 0 to 65535"),
        ([], "the following arguments are required: --cache"),
    ):
        assert run(["adapters", *words], {}, threading.Event()) == 64
        assert f"{told} (see memroute-fetch adapters --help)" in caplog.records[-1].getMessage()


def test_what_follows_two_dashes_is_no_flag():
    """As everywhere: after `--` come words that are not ours to judge."""
    line = CommandLine(prog="it")
    line.add_argument("words", nargs="*")
    assert line.parse_args(["--", "--bogus"]).words == ["--bogus"]


@pytest.mark.parametrize("content", [None, "", "{}", "root:x:0:0:root:/root:/bin/bash", "[1", "7"])
@pytest.mark.parametrize("program", ["router", "operator"])
def test_without_a_cluster_a_program_says_where_it_looked(program, content, tmp_path):
    """Thirty lines of traceback ended in the words of a library."""
    config = tmp_path / "config"
    if content is not None:
        config.write_text(content)
    ports = {"router": ["--port", "0", "--ops-port", "0"],
             "operator": ["--metrics-port", "0", "--health-port", "0"]}[program]  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", f"memroute_{program}", "--host", "127.0.0.1", *ports],
        env=os.environ | {"KUBECONFIG": str(config)}, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"memroute-{program}: no cluster is configured: KUBECONFIG, else ")
