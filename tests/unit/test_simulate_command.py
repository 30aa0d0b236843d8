import json
import re

import pytest
import yaml
from typer.testing import CliRunner

from memroute_cli.main import app
from memroute_cli.simulate.scenario import ScenarioError, scenario
from memroute_router.replicas.pool_settings import PoolSettings
from memroute_router.settings import parse_settings as parse_router

MODEL = "meta-llama/Llama-3.1-8B"
QUICK = ["--requests", "60", "--rate", "10", "-a", "H100"]


def simulate(*arguments):
    return CliRunner().invoke(app, ["simulate", *arguments])


@pytest.mark.slow
def test_a_fleet_and_a_workload_make_a_table():
    result = simulate(MODEL, *QUICK, "-p", "memroute", "-p", "random")
    assert result.exit_code == 0, result.output
    for text in ("1 x H100", "memroute", "random", "ATTAINED", "KV TOKENS", "100.0%"):
        assert text in result.output


@pytest.mark.slow
def test_of_sessions_no_rate_is_told_that_nobody_sends():
    """`230 requests over 13 s (17.7/s)` was said where 23 users sent about one a second."""
    result = CliRunner().invoke(
        app,
        ["simulate", MODEL, "-a", "H100", "-w", "multi-round-qa", "--rate", "2",
         "--requests", "40", "--context", "14000"],
        env={"COLUMNS": "200"},
    )  # fmt: skip
    first = result.stdout.splitlines()[0]
    assert re.match(
        r"multi-round-qa: \d0 requests of \d sessions, which begin over \d s; "
        r"\d of 4 sessions dropped: over 14000 tokens$",
        first,
    ), first


def test_the_document_has_what_programs_need():
    result = simulate(MODEL, *QUICK, "--output", "json")
    document = json.loads(result.stdout)
    (run,) = document["runs"]
    assert run["num_offered"] == run["num_served"] == 60
    assert 0 < run["ttft"]["p50"] < run["ttft"]["p99"]
    assert run["attainment_ratio"] == 1.0
    assert run["samples"][0]["kv_cache_ratios"]
    (engine,) = document["fleets"]["1 x H100"]
    assert engine["step_time_error_ratio"] > 0


@pytest.mark.slow
def test_the_targets_that_are_given_are_what_memroute_admits_by():
    """Else a fleet of L4s (68 ms per token alone) is refused for a target that nobody asked for."""
    checked = scenario(
        {"fleets": {"a": [{"model": MODEL, "accelerator": "L4", "maxContextTokens": 8192}]},
         "target": {"ttft": 3, "tpot": 0.15}}
    )  # fmt: skip
    limits = checked.router.dispatch.limits
    assert (limits.ttft_target_seconds, limits.tpot_target_seconds) == (3.0, 0.15)
    result = simulate(
        MODEL, "-a", "L4", "--replicas", "4", "--context", "8192", "-w", "sharegpt",
        "--rate", "1", "--requests", "100", "--tpot", "0.15", "--output", "json",
    )  # fmt: skip
    (run,) = json.loads(result.stdout)["runs"]
    assert (run["num_served"], run["num_shed"]) == (100, 0)


def test_the_objective_that_is_given_is_what_memroute_sheds_by():
    fleets = {"a": [{"model": MODEL, "accelerator": "H100"}]}
    checked = scenario({"fleets": fleets, "objective": "sizes"})
    assert checked.router.dispatch.limits.objective.value == "sizes"
    result = simulate(MODEL, "--objective", "all")
    assert result.exit_code == 2
    assert "no objective 'all'; there are requests, tokens, sizes" in result.stderr


def test_memroute_is_simulated_as_it_is_installed():
    """The router's own defaults: read once a second, 1 s and 50 ms asked."""
    checked = scenario({"fleets": {"a": [{"model": MODEL, "accelerator": "H100"}]}})
    assert checked.policies == ("memroute",)
    assert checked.router.scrape_seconds == parse_router([]).scrape_seconds
    limits = checked.router.dispatch.limits
    installed = PoolSettings(namespace="", deployment="")
    assert limits.ttft_target_seconds == installed.ttft_target_seconds
    assert limits.tpot_target_seconds == installed.tpot_target_seconds
    assert limits.objective is installed.overload_objective


def test_targets_that_a_fleet_cannot_meet_are_told():
    output = simulate(MODEL, "--requests", "5", "-a", "L4", "--context", "8192").output
    assert "1 x L4: the target cannot be met: 68 ms per token alone, 50 ms asked" in output
    assert "cannot be met" not in simulate(MODEL, "--requests", "5", "-a", "H100").output


@pytest.mark.slow
def test_the_same_seed_prints_the_same_figures():
    first, again, other = (
        simulate(MODEL, *QUICK, "--output", "json", "--seed", seed).stdout for seed in "112"
    )
    assert first == again != other


@pytest.mark.slow
def test_a_file_compares_fleets_with_faults(tmp_path):
    path = tmp_path / "scenario.yaml"
    path.write_text(
        yaml.safe_dump(
            sort_keys=False,
            data={
                "workload": {"name": "sharegpt", "requests": 80, "rate": 10},
                "policies": ["least-request"],
                "fleets": {
                    "two": [
                        {
                            "model": MODEL,
                            "accelerator": "H100",
                            "replicas": 2,
                            "maxContextTokens": 16_384,
                        }
                    ],
                    "mixed": [
                        {
                            "model": MODEL,
                            "accelerator": "H100",
                            "kvCacheTokens": 50_000,
                            "maxContextTokens": 16_384,
                        },
                        {
                            "model": MODEL,
                            "accelerator": "L40S",
                            "kind": "sglang",
                            "maxContextTokens": 16_384,
                        },
                    ],
                },
                "events": [
                    {"at": 2, "change": "fail", "replica": "0"},
                    {"at": 4, "change": "recover", "replica": "0"},
                ],
            },
        )
    )
    plot = tmp_path / "plot.svg"
    result = simulate("--file", str(path), "--output", "json", "--plot", str(plot))
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [run["fleet"] for run in document["runs"]] == ["two", "mixed"]
    assert all(run["num_served"] + run["num_failed"] == 80 for run in document["runs"])
    assert plot.read_text().startswith("<?xml")


def test_what_there_is_can_be_listed():
    output = simulate("--list").output
    for name in ("azure-conv", "mooncake-toolagent", "lmetric", "memroute", "memroute-oracle"):
        assert name in output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "name a MODEL"),
        (("nope/nope",), "nope/nope"),
        ((MODEL, "-a", "H1000"), "no accelerator 'H1000'"),
        ((MODEL, "-w", "nope"), "no workload 'nope'"),
        ((MODEL, "-p", "nope"), "no policy 'nope'; there are memroute, random"),
        ((MODEL, "-p", "lest-request"), "no policy 'lest-request'; did you mean least-request?"),
        ((MODEL, "-w", "azure-cnv"), "did you mean azure-conv, or azure-code?"),
        ((MODEL, "--rate", "-1"), "--rate must be a number above 0"),
        ((MODEL, "--output", "xml"), "one of table, json, yaml"),
        ((MODEL, "--plot", "x.txt"), "--plot takes"),
        ((MODEL, "--replicas", "0"), "replicas must be a number above 0"),
        ((MODEL, "-a", "T4", "--context", "8192"), "KV cache on T4"),
        ((MODEL, "--tensor-parallel", "3"), "tensor parallel 3"),
        ((MODEL, "--engine", "tgi"), "--engine tgi: one of vllm, sglang"),
        ((MODEL, "--file", "x.yaml"), "or --file, not both"),
        (("--file", "/nope.yaml"), "cannot read /nope.yaml"),
    ],
)
def test_nonsense_is_refused_in_words(monkeypatch, arguments, told):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = simulate(*arguments)
    assert result.exit_code == 2
    assert told in result.output


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"fleet": {}}, "does not take fleet"),
        ({"fleets": {}}, "no fleets"),
        ({"fleets": {"a": []}}, "not a list of engines"),
        ({"fleets": {"a": [{"model": MODEL}]}}, "needs model and accelerator"),
        ({"fleets": {"a": [{"model": MODEL, "accelerator": "H100", "gpus": 2}]}}, "gpus"),
        ({"events": [{"at": 1, "change": "explode"}]}, "no change 'explode'"),
        ({"events": [{"at": 1, "change": "fail", "replica": "7"}]}, "no replica '7'"),
        ({"target": {"ttft": 0}}, "target.ttft"),
        ({"target": {"itl": 1}}, "does not take itl"),
        ({"routers": "many"}, "routers must be a number"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused_in_words(change, told):
    document = {"fleets": {"a": [{"model": MODEL, "accelerator": "H100"}]}}
    with pytest.raises(ScenarioError, match=told):
        scenario(document | change)


def test_a_context_is_what_the_model_was_made_for():
    """`plan` refuses more; a simulation of what no engine starts would be read as a promise."""
    result = simulate("Qwen/Qwen3-8B", "-a", "H200", "--context", "131072", *QUICK[:4])
    assert result.exit_code == 2
    assert "--context 131072: Qwen/Qwen3-8B was made for at most 40960" in result.stderr
    short = simulate("meta-llama/Llama-2-7b-chat-hf", "-w", "sharegpt", *QUICK[:4])
    assert short.exit_code == 0, "the default is no longer than the model allows"
