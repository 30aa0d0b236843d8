"""Every command's output fits a terminal of 80 columns, with the longest names that there are.

``top``, ``explain`` and ``doctor`` on a cluster are in test_top_and_explain.py and test_doctor.py.
"""

import asyncio
import io
import json
import re

import pytest
from typer.testing import CliRunner

from cluster_view import kubeconfig, memroute, told
from memroute_cli.demo.readings import DeviceRow, Readings, ReplicaRow
from memroute_cli.demo.summary import Result, checks, print_summary
from memroute_cli.demo.traffic import Answer, Traffic
from memroute_cli.demo.view import render
from memroute_cli.main import COMMANDS, app
from memroute_cli.terminal.console import Terminal
from memroute_fetch.settings import options_parser
from memroute_operator.settings import parse_settings as parse_operator
from memroute_picker.settings import parse_settings as parse_picker
from memroute_router.settings import parse_settings as parse_router
from memroute_simulator.__main__ import main as simulator
from operator_rig import mdep, node, operator_rig
from router_rig import Rig, body, exchange, raw, whole

WIDTH = 80
LONG = "ip-10-0-123-234.eu-central-1.compute.internal.a-long-cluster.example"
# As long as Kubernetes lets a label, and so a node's hostname or a namespace, be.
NAME_63 = "gke-production-inference-europe-west4-h100-mega-pool-7f9c2-x2k4"
MODEL = "meta-llama/Llama-3.1-8B"


def widest(text):
    """The longest line of a text, and that line."""
    return max((len(line), line) for line in text.splitlines())


def run(*arguments, columns=WIDTH):
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns)})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.stdout


@pytest.fixture
def fleet(tmp_path):
    """A saved fleet whose names are as long as clouds make them."""
    nodes = []
    for number, product in enumerate(("NVIDIA-H100-80GB-HBM3", "NVIDIA-L4")):
        one = node(f"{number}-{LONG}", gpus=4)
        one["metadata"] |= {"resourceVersion": "1"}
        one["metadata"]["labels"]["nvidia.com/gpu.product"] = product
        one["metadata"]["labels"].pop("memroute.dev/gpu-sharing")
        one["status"]["allocatable"]["nvidia.com/gpu"] = "4"
        nodes.append(one | {"kind": "Node"})
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps({"items": nodes}))
    return str(path)


QUICK = ("--requests", "40", "--rate", "10")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",), *((name, "--help") for name in COMMANDS),
        ("plan", "--list"), ("simulate", "--list"),
        ("plan", "Qwen/Qwen3-32B,deepseek-ai/DeepSeek-V3", "-a", "L4,H100/1g.10gb,B200,MI300X"),
        ("plan", "Qwen/Qwen3-0.6B", "-a", "B200", "--price", "B200=7.5", "--all"),
        ("plan", "Qwen/Qwen3-32B", "-a", "L4", "--tensor-parallel", "1", "--precision", "none"),
        ("simulate", MODEL, "-a", "L40S,H100", "--replicas", "12", *QUICK,
         "-p", "gie-prefix-kv-queue,memroute-oracle"),
        ("simulate", MODEL, "-a", "L4", "--context", "8192", "--tpot", "1ms", *QUICK),
    ],
)  # fmt: skip
def test_what_is_printed_fits(arguments):
    """Below 80 columns rows broke into four lines and digits were cut off: `27…` is no number."""
    length, line = widest(run(*arguments))
    assert length <= WIDTH, line


@pytest.mark.slow
def test_a_plan_on_a_fleet_fits(fleet):
    """Names of cloud nodes are longer than half of a line; their ends tell them apart."""
    text = run("plan", "Qwen/Qwen3-32B", "--inventory", fleet)
    length, line = widest(text)
    assert length <= WIDTH, line
    assert re.search(r"^0-ip-10\S*…\S*/gpu 0 \+ 3 alike", text, re.MULTILINE)
    wide = run("plan", "Qwen/Qwen3-32B", "--inventory", fleet, "--wide")
    assert f"0-{LONG}/gpu 0" in wide
    assert "WEIGHTS" in wide
    assert "WEIGHTS" not in text


@pytest.mark.slow
def test_a_plan_on_four_hundred_devices_is_a_page(tmp_path):
    """Of devices alike a line tells all: each by itself was 1,200 lines."""
    nodes = []
    for number in range(50):
        one = node(f"{NAME_63[:-4]}{number:04}", gpus=8)
        one["metadata"] |= {"resourceVersion": "1"}
        one["metadata"]["labels"].pop("memroute.dev/gpu-sharing")
        one["status"]["allocatable"]["nvidia.com/gpu"] = "8"
        nodes.append(one | {"kind": "Node"})
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps({"items": nodes}))
    text = run("plan", "Qwen/Qwen3-32B", "--inventory", str(path))
    assert "400 alike on 50 nodes" in " ".join(text.split())
    assert len(text.splitlines()) < 90
    # The last line names the node whole, for people to copy.
    length, line = widest(text)
    assert length <= WIDTH, line
    wide = run("plan", "Qwen/Qwen3-32B", "--inventory", str(path), "--wide")
    assert wide.count("+ 7 alike") == 50


def test_narrower_than_any_table_no_number_is_cut():
    """At 50 columns lines are longer than the terminal: it wraps them, and nothing is lost."""
    narrow, usual = (run("plan", "Qwen/Qwen3-8B", "-a", "B200", columns=c) for c in (50, 80))
    numbers = re.compile(r"\d[\d,.]*")
    (row,) = (line for line in usual.splitlines() if line.startswith("B200"))
    for number in numbers.findall(row):
        assert number in narrow


@pytest.mark.slow
async def test_decisions_take_one_line_each(engine_factory):
    """Twenty requests on one screen: who reads a list wants lines, not paragraphs."""
    rig = Rig()
    await rig.start()
    name = "chat-with-a-long-name-7d9f8-abcde-0123456789"
    rig.add(name, (await engine_factory(whole())).port, capacity=1000)
    try:
        for _ in range(3):
            await exchange(rig.port, raw(body()))
        await exchange(rig.port, raw(body(max_tokens=5000)))
        address = f"http://127.0.0.1:{rig.ops_port}"
        text = await asyncio.to_thread(run, "decisions", "--router", address)
        wide = await asyncio.to_thread(run, "decisions", "--router", address, "--wide")
    finally:
        await rig.stop()
    length, line = widest(text)
    assert length <= WIDTH, line
    assert len(re.findall(r"200 served", text)) == 3
    rows = text.split("\n\n")[0].splitlines()
    assert len(rows) == 1 + 4 + 1, "a head, four requests, a hint"
    assert "RESERVED" in wide
    assert "per request" in wide, "the whole sentence"


def test_the_demo_fits():
    """Its tables are the first thing that anybody sees of memroute."""
    readings = Readings(
        devices=[DeviceRow("gpu-a", "GPU-12345678", "NVIDIA-H100-80GB-HBM3", 8e10, 4e10, 3.5e10)],
        replicas=[
            ReplicaRow("chat-a1b2c-x7y8", "chat", 112, 1_234_567, 0.97, 437_744, is_routable=True),
            ReplicaRow("draft-a1b2c-x7y8", "draft"),
        ],
    )
    deployment = {
        "metadata": {"name": "chat"},
        "status": {
            "conditions": [
                {"type": "Placed", "status": "False", "reason": "NoDeviceLargeEnough",
                 "message": f"needs 123.4 GiB; closest {LONG} has 79.2 " * 3},
                {"type": "Ready", "status": "True", "reason": "Serving", "message": ""},
            ],
            "placements": [
                {"pod": "chat-a1b2c-x7y8", "node": LONG, "hbmBytes": 8 * 10**10,
                 "kvCapacityTokens": 437_744, "why": "needs 39.4 GiB; tightest fit " * 3,
                 "devices": ["GPU-1"]},
            ],
        },
    }  # fmt: skip
    named = [deployment | {"metadata": {"name": name}} for name in ("chat", "draft", "large")]
    traffic = Traffic("http://router")
    traffic.answers = [
        Answer("chat", 1.0, "served", "default/chat-a1b2c-x7y8", 0.1),
        Answer("hopeless", 2.0, "400 never-fits", message="a long sentence " * 12, retry_after="2"),
    ]
    result = Result(
        deployments=named, traffic=traffic, killed_pod="chat-a1b2c-x7y8", killed_at=0.5,
        reserved_tokens_left=0, engine_restarts={}, oom_logs=[],
    )  # fmt: skip
    out = io.StringIO()
    console = Terminal(file=out, width=WIDTH, highlight=False)
    console.print(render(readings, "the fleet, as operator and router see it", "12 s"))
    print_summary(console, result, checks(result))
    length, line = widest(out.getvalue())
    assert length <= WIDTH, line
    for number in ("437,744", "1,234,567", "112"):
        assert number in out.getvalue()


@pytest.mark.parametrize("program", ["simulator", "fetch", "router", "picker", "operator"])
def test_the_help_of_the_other_programs_fits(program, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setattr("sys.argv", [f"memroute-{program}", "--help"])
    called = {
        "simulator": simulator,
        "fetch": lambda: options_parser().parse_args(["--help"]),
        "router": lambda: parse_router(["--help"]),
        "picker": lambda: parse_picker(["--help"]),
        "operator": lambda: parse_operator(["--help"]),
    }[program]
    with pytest.raises(SystemExit):
        called()
    told = capsys.readouterr().out
    length, line = widest(told)
    assert length <= WIDTH, line
    # A default is told once, and none is not told.
    assert "(default: None)" not in told
    assert not re.search(r"\(default:[^)]*\) \(default:", " ".join(told.split()))


def test_what_kubectl_get_prints_of_a_deployment_fits(crd):
    """A model that serves, with a name of twenty letters; other columns come with -o wide."""
    columns = [
        one["name"]
        for one in crd["spec"]["versions"][0]["additionalPrinterColumns"]
        if not one.get("priority")
    ]
    # The longest value of each while a model serves.
    usual = {
        "Ready": "False", "Reason": "Serving", "Replicas": "10/10",
        "HBM": "145.3 GiB", "Pressure": "Moderate", "Age": "365d",
    }  # fmt: skip
    assert set(columns) <= set(usual), "a new column: does a line still fit?"
    widths = [max(len(name), len(usual[name])) for name in columns]
    gap = 3
    assert sum(widths) + gap * len(widths) + 20 <= WIDTH


@pytest.mark.slow
async def test_an_explanation_with_commands_to_copy_fits(tmp_path):
    """A command is folded as a shell reads it; names of nodes are as long as they are."""
    async with operator_rig(
        nodes=[node(LONG), node("b", gpus=2)],
        mdeps=[mdep("a-model-with-a-long-name-of-its-own", model="Qwen/Qwen3-32B", concurrency=32)],
    ) as rig:
        key = "default/a-model-with-a-long-name-of-its-own"
        await rig.until("a refusal", lambda: rig.condition(key, "Placed").get("status") == "False")
        await told(rig)
        config = kubeconfig(rig, tmp_path / "config")
        status, text, _ = await memroute("explain", key, "--kubeconfig", str(config))
    assert status == 1
    assert re.search(r"^    kubectl patch .* \\$", text, re.MULTILINE)
    length, line = widest(text)
    assert length <= WIDTH, line


@pytest.mark.slow
async def test_what_is_told_of_a_cluster_fits_with_the_longest_names(tmp_path):
    """63 letters each: of a line a table takes names' ends, and sentences are folded at words."""
    assert len(NAME_63) == 63
    model = f"a-{NAME_63[:40]}"
    async with operator_rig(
        nodes=[node(NAME_63, gpus=8), node(f"z{NAME_63[1:]}")],
        mdeps=[mdep(model, replicas=2), mdep(f"b{model}", model="Qwen/Qwen3-32B", concurrency=64)],
    ) as rig:
        await rig.until(
            "a refusal",
            lambda: rig.condition(f"default/b{model}", "Placed").get("status") == "False",
        )
        await told(rig)
        config = str(kubeconfig(rig, tmp_path / "config"))
        for arguments in (
            ("top",), ("top", "nodes"), ("top", "devices"), ("top", "models"),
            ("explain", model), ("explain", f"b{model}"), ("doctor",),
            ("plan", "Qwen/Qwen3-32B,Qwen/Qwen3-0.6B", "--cluster"),
        ):  # fmt: skip
            status, text, errors = await memroute(*arguments, "--kubeconfig", config)
            assert status in (0, 1), errors
            length, line = widest(text)
            assert length <= WIDTH, (arguments, line)
            if arguments == ("doctor",):
                assert f"memroute explain default/b{model}" in " ".join(text.split())
