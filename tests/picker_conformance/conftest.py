"""The suite's options, the picker under test, and its report.

```text
pytest tests/picker_conformance --start memroute --report report
pytest tests/picker_conformance --picker 127.0.0.1:9002 --model llama --claims test-selection
```

With ``--start`` the suite starts a picker that it knows: memroute's, or the trivial one. With
``--picker`` there must be one, whose pool is the endpoints: addresses of this machine, at which
the suite serves engines. Exit status 0: no rule is broken; 1: one is, also a SHOULD; 4: the
options make no sense.
"""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from picker_gateway import BUFFERED, DUPLEX, DUPLEX_NONE, Envoy
from picker_player import Stream
from picker_report import Verdict, summary, written
from picker_rules import RULES, Level, unknown_claims
from picker_upstream import MODEL, Engines
from picker_web import post

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "kube", "router", "picker")
START_SECONDS = 60.0
ENDPOINTS = "127.0.0.11:8801,127.0.0.12:8801,127.0.0.13:8801"
verdicts: dict[str, Verdict] = {}


def pytest_addoption(parser):
    group = parser.getgroup("picker conformance")
    group.addoption("--picker", metavar="HOST:PORT",
                    help="a picker that runs without TLS; its pool is --endpoints")  # fmt: skip
    group.addoption("--start", default="memroute", choices=("memroute", "trivial"),
                    help="which one is started without --picker (default: memroute)")  # fmt: skip
    group.addoption("--endpoints", default=ENDPOINTS, metavar="HOST:PORT,...",
                    help="its pool: addresses of this machine, where the suite serves engines "
                    f"(default: {ENDPOINTS})")  # fmt: skip
    group.addoption("--model", default=MODEL,
                    help=f"the model name that it serves (default: {MODEL})")  # fmt: skip
    group.addoption("--claims", default="", metavar="RULE,...",
                    help="optional rules (MAY) that the picker claims, or all")  # fmt: skip
    group.addoption("--report", metavar="NAME", help="write NAME.json and NAME.md")


def pytest_configure(config):
    config.addinivalue_line("markers", "rule(name): the rule that the test is of")
    if unknown := unknown_claims(config.getoption("--claims")):
        optional = ", ".join(name for name, rule in RULES.items() if rule.level is Level.MAY)
        message = f"--claims: {', '.join(unknown)}: optional rules are {optional}; or all"
        raise pytest.UsageError(message)
    picker, endpoints = config.getoption("--picker"), config.getoption("--endpoints")
    places = [("--endpoints", one) for one in endpoints.split(",")]
    for option, place in [("--picker", picker), *places] if picker else places:
        host, _, port = place.rpartition(":")
        if not host or not port.isdecimal():
            message = f"{option}: {place!r} is not HOST:PORT"
            raise pytest.UsageError(message)
    if picker:
        _must_listen(picker, endpoints)


def _must_listen(picker, endpoints):
    host, _, port = picker.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except OSError as error:
        message = f"--picker: nobody listens at {picker} ({error}): start it, with {endpoints} as "
        raise pytest.UsageError(message + "its pool") from error


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


@pytest.fixture(scope="session")
def endpoints(request):
    return request.config.getoption("--endpoints").split(",")


@pytest.fixture(scope="session")
def model(request):
    return request.config.getoption("--model")


@pytest.fixture(scope="session")
def engines(endpoints):
    try:
        engines = Engines(endpoints)
    except OSError as error:
        # Not a failure of each test: no rule has been broken.
        message = (
            f"--endpoints: {','.join(endpoints)} cannot be served on this machine ({error}): end "
            "what listens there, or name others"
        )
        pytest.exit(message, returncode=pytest.ExitCode.USAGE_ERROR)
    with engines as running:
        yield running


@pytest.fixture(scope="session")
def picker(request, endpoints, engines, model, tmp_path_factory):  # noqa: ARG001 - they run
    """Where the picker under test is."""
    given = request.config.getoption("--picker")
    if given:
        yield given
        return
    folder = tmp_path_factory.mktemp("picker")
    if request.config.getoption("--start") == "trivial":
        port = free_port()
        command = [sys.executable, str(ROOT / "tests/support/gateways/trivial_picker.py"),
                   "--port", str(port), "--endpoints", ",".join(endpoints)]  # fmt: skip
        with _started(command, port, folder):
            yield f"127.0.0.1:{port}"
    else:
        with memroute(folder, endpoints, model) as started:
            yield started


@contextmanager
def memroute(folder, endpoints, model, *flags, **how):
    """Memroute's picker, while it is entered; where it is."""
    with memroute_process(folder, endpoints, model, *flags, **how) as (place, _):
        yield place


@contextmanager
def memroute_process(folder, endpoints, model, *flags, port=None, capacity_tokens=1_000_000):
    """Memroute's picker, while it is entered; where it is, and its process."""
    port = port or free_port()
    path = folder / "fleet.yaml"
    replicas = "".join(
        f"\n      - {{url: 'http://{endpoint}', kvCapacityTokens: {capacity_tokens}}}"
        for endpoint in endpoints
    )
    path.write_text(f"models:\n  - name: {model}\n    replicas:{replicas}\n")
    command = [os.environ.get("MEMROUTE_PYTHON", sys.executable), "-m", "memroute_picker",
               "--config", str(path), "--host", "127.0.0.1", "--port", str(port),
               "--ops-port", "0", "--conformance-test", *flags]  # fmt: skip
    with _started(command, port, folder) as process:
        yield f"127.0.0.1:{port}", process
        assert process.poll() in {None, -9, 0}, (folder / "log").read_text()


@contextmanager
def _started(command, port, folder):
    places = [str(ROOT / name) for name in PACKAGES]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*places, os.environ.get("PYTHONPATH", "")])
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            _wait(port, process, folder / "log")
            yield process
        finally:
            process.kill()
            process.wait(timeout=60)


def is_ours(config):
    """Whether it is memroute's picker that is tested."""
    return not config.getoption("--picker") and config.getoption("--start") == "memroute"


@pytest.fixture
def overloaded_envoy(request, engines, endpoints, model, tmp_path):  # noqa: ARG001 - they run
    """Sends several requests at once to a pool that has room for one, and may hold none."""
    if not is_ours(request.config):
        pytest.skip("no other picker's pool can be made so small from here")
    with (
        memroute(tmp_path, endpoints[:1], model, "--max-queue-seconds", "0",
                 capacity_tokens=6000) as started,
        Envoy(started, free_port(), DUPLEX) as envoy,
        ThreadPoolExecutor(6) as clients,
    ):  # fmt: skip
        yield lambda body, **fields: list(
            clients.map(lambda _: post(envoy, body, **fields), range(6))
        )


def _wait(port, process, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    message = f"the picker did not start:\n{log.read_text()}"
    raise RuntimeError(message)


@pytest.fixture(scope="session")
def channel(picker):
    options = [
        ("grpc.max_receive_message_length", 64 << 20),
        ("grpc.max_send_message_length", 64 << 20),
    ]
    with grpc.insecure_channel(picker, options=options) as made:
        grpc.channel_ready_future(made).result(timeout=30)
        yield made


@pytest.fixture
def stream(channel):
    """Opens streams, and closes them in the end."""
    opened = []

    def open_one(*modes, **options):
        opened.append(Stream(channel, *modes, **options))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def _envoy(modes):
    @pytest.fixture(scope="session")
    def running(picker):
        with Envoy(picker, free_port(), modes) as envoy:
            yield envoy

    return running


envoy = _envoy(DUPLEX)
envoy_none = _envoy(DUPLEX_NONE)
envoy_buffered = _envoy(BUFFERED)


@pytest.fixture
def prompt(model):
    """A request's body."""

    def made(text="hi", **more):
        document = {
            "model": model,
            "max_tokens": 8,
            "messages": [{"role": "user", "content": text}],
        }
        return json.dumps(document | more).encode()

    return made


# The verdicts


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    result = outcome.get_result()
    marker = item.get_closest_marker("rule")
    if marker is None:
        return
    name = marker.args[0]
    if result.when == "call" or result.failed or result.skipped:
        why = "" if result.passed else str(getattr(result, "longreprtext", ""))[-400:]
        if result.skipped and isinstance(result.longrepr, tuple):
            why = result.longrepr[2]
        known = verdicts.get(name)
        if known is None or known.outcome == "passed":
            verdicts[name] = Verdict(result.outcome, why)


def pytest_collection_modifyitems(config, items):
    """Optional rules are tested of pickers that claim them: memroute's claims them all."""
    claims = config.getoption("--claims")
    claimed = set(claims.split(",")) if claims else set()
    for item in items:
        marker = item.get_closest_marker("rule")
        if marker is None or RULES[marker.args[0]].level is not Level.MAY:
            continue
        if not is_ours(config) and marker.args[0] not in claimed and "all" not in claimed:
            item.add_marker(pytest.mark.skip(reason="optional, and not claimed (--claims)"))


def pytest_sessionfinish(session):
    name = session.config.getoption("--report")
    if name and verdicts:
        subject = session.config.getoption("--picker") or session.config.getoption("--start")
        written(Path(name), subject, verdicts)


def pytest_terminal_summary(terminalreporter, config):
    """The rules, after pytest's own words about tests."""
    if verdicts:
        terminalreporter.section("rules of the endpoint picker protocol")
        for line in summary(verdicts):
            terminalreporter.line(line)
        if name := config.getoption("--report"):
            terminalreporter.line(f"each of them: {name}.md, {name}.json")
