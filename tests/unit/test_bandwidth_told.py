"""What people are told of links and of shared cards: plan, simulate, nodes, settings."""

import json

import pytest
from typer.testing import CliRunner

from memroute_cli.main import app
from memroute_operator.nodes import read_node
from memroute_operator.readings.device_metrics import DeviceMetrics
from memroute_operator.settings import parse_settings

PRO = "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition"


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def node_with(annotations=None, labels=None):
    return {
        "kind": "Node",
        "metadata": {
            "name": "pro", "resourceVersion": "1", "uid": "u", "annotations": annotations or {},
            "labels": {"nvidia.com/gpu.product": PRO, "nvidia.com/gpu.memory": "97887",
                       "nvidia.com/gpu.count": "2"} | (labels or {}),
        },
        "status": {
            "allocatable": {"nvidia.com/gpu": "2"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }  # fmt: skip


def pro_plan(*arguments):
    told = run(
        "plan", "Qwen/Qwen3-32B", "-a", "RTX-PRO-6000", "--tensor-parallel", "2", "-o", "json",
        *arguments,
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)["plans"][0]["options"][0]


def test_a_plan_over_two_cards_says_which_link_it_assumes():
    """And the table says it in words, with the rates between which the truth lies."""
    unknown, peer = pro_plan(), pro_plan("--link", "pcie5-peer")
    assert unknown["link"] == {"name": "pcie5-slow", "source": "unknown"}
    assert peer["link"] == {"name": "pcie5-peer", "source": "named"}
    assert unknown["tokensPerSecond"] < peer["tokensPerSecond"]
    low, high = unknown["stepSecondsRange"]
    assert low < unknown["stepSeconds"] < high
    told = run("plan", "Qwen/Qwen3-32B", "-a", "RTX-PRO-6000", "--tensor-parallel", "2")
    assert "joined by pcie5-slow (assumed; say it with --link" in " ".join(told.stdout.split())


def test_one_card_has_no_link():
    told = run("plan", "Qwen/Qwen3-8B", "-a", "H100", "-o", "json")
    assert json.loads(told.stdout)["plans"][0]["options"][0]["link"] is None


@pytest.mark.parametrize("command", ["plan", "simulate"])
def test_a_link_that_is_none_is_refused_with_those_that_are(command):
    told = run(command, "Qwen/Qwen3-32B", "-a", "RTX-PRO-6000", "--link", "fast")
    assert told.exit_code == 2
    assert "pcie5-peer" in told.stderr
    assert "17.4us-15GBps" in told.stderr


@pytest.mark.slow
def test_a_plan_on_a_fleet_takes_the_link_that_its_nodes_name(tmp_path):
    """What is said on the node is what rates go by; where nodes differ, nobody's word."""
    path = tmp_path / "fleet.json"

    def link_of_plan(*nodes):
        path.write_text(json.dumps({"items": list(nodes)}))
        told = run(
            "plan", "Qwen/Qwen3-32B", "--inventory", str(path), "--tensor-parallel", "2",
            "-o", "json",
        )  # fmt: skip
        return json.loads(told.stdout)["plans"][0]["options"][0]["link"]

    measured = node_with({"memroute.dev/device-link": "17us-15GBps"})
    other = node_with(labels={"memroute.dev/device-link": "pcie5-peer"})
    other["metadata"]["name"] = "other"
    assert link_of_plan(measured) == {"name": "17us-15gbps", "source": "measured"}
    assert link_of_plan(other)["name"] == "pcie5-peer"
    assert link_of_plan(measured, other)["source"] == "unknown"


def test_a_link_that_makes_no_sense_is_told_with_the_node():
    (node,) = read_node(
        node_with({"memroute.dev/device-link": "very fast"}),
        DeviceMetrics(scrape_seconds=5),
        {},
        0.0,
    )
    assert node.link is None
    assert any("very fast" in note for note in node.notes)


def test_a_plan_says_what_two_on_a_card_keep():
    """The published set-up: 8 requests per card keep half to seven tenths of a card."""
    told = run(
        "plan", "Qwen/Qwen3-4B", "-a", "A100-40", "--prompt-tokens", "2048", "--output-tokens",
        "256", "--per-card", "2", "-o", "json",
    )  # fmt: skip
    shares = json.loads(told.stdout)["plans"][0]["sharing"]
    kept = {(one["mechanism"], one["requestsPerCard"]): one["keptRatio"] for one in shares}
    assert kept["time-slices", 8] == pytest.approx(0.58, abs=0.01)
    assert kept["fractions", 8] == pytest.approx(0.68, abs=0.01)
    assert len(kept) == 10
    table = run("plan", "Qwen/Qwen3-4B", "-a", "A100-40", "--per-card", "2").stdout
    assert "REQUESTS PER CARD" in table


@pytest.mark.slow
def test_replicas_on_one_card_are_simulated_as_slow_as_they_are():
    """Four replicas on two cards: half of the memory each, and more than twice the time."""
    common = ("simulate", "Qwen/Qwen3-4B", "-a", "A100-40", "--replicas", "2", "--requests", "80",
              "--rate", "4", "-o", "json")  # fmt: skip
    alone = json.loads(run(*common).stdout)
    shared = json.loads(run(*common, "--per-card", "2").stdout)
    assert shared["replicas_per_card"] == 2
    assert shared["runs"][0]["tpot"]["p50"] > 1.3 * alone["runs"][0]["tpot"]["p50"]
    (engine,), (half,) = (next(iter(one["fleets"].values())) for one in (alone, shared))
    assert half["kv_capacity_tokens"] < 0.5 * engine["kv_capacity_tokens"]
    table = run(*common[:-2], "--per-card", "2", "--sharing", "fractions").stdout
    assert "2 replicas share each card (fractions)" in " ".join(table.split())


def test_a_limit_below_one_engine_is_refused(capsys):
    """One engine may take all of a device's time: less would be a limit that nobody can keep."""
    assert parse_settings(["--max-contention", "1.5"]).max_contention == 1.5
    assert parse_settings([]).max_contention is None
    with pytest.raises(SystemExit):
        parse_settings(["--max-contention", "0.5"])
    assert "from 1 up" in capsys.readouterr().err
