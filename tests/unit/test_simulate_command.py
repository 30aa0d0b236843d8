import json

import pytest
import yaml
from typer.testing import CliRunner

from memroute_cli.main import app
from memroute_cli.simulate.scenario import ScenarioError, scenario

MODEL = "meta-llama/Llama-3.1-8B"
QUICK = ["--requests", "60", "--rate", "10", "-a", "H100"]


def simulate(*arguments):
    return CliRunner().invoke(app, ["simulate", *arguments])


def test_a_fleet_and_a_workload_make_a_table():
    result = simulate(MODEL, *QUICK, "-p", "memroute", "-p", "random")
    assert result.exit_code == 0, result.output
    for text in ("1 x H100", "memroute", "random", "attained", "KV tokens each", "100.0%"):
        assert text in result.output


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


def test_the_same_seed_prints_the_same_figures():
    first, again, other = (
        simulate(MODEL, *QUICK, "--output", "json", "--seed", seed).stdout for seed in "112"
    )
    assert first == again != other


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
    for name in ("azure-conv", "mooncake-toolagent", "lmetric", "memroute"):
        assert name in output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "name a MODEL"),
        (("nope/nope",), "nope/nope"),
        ((MODEL, "-a", "H1000"), "no accelerator 'H1000'"),
        ((MODEL, "-w", "nope"), "no workload 'nope'"),
        ((MODEL, "-p", "nope"), "no policy 'nope'"),
        ((MODEL, "--rate", "-1"), "workload.rate must be a number above 0"),
        ((MODEL, "--output", "xml"), "--output is table or json"),
        ((MODEL, "--plot", "x.txt"), "--plot takes"),
        ((MODEL, "--replicas", "0"), "replicas must be a number above 0"),
        ((MODEL, "-a", "T4", "--context", "8192"), "KV cache on T4"),
        ((MODEL, "--tensor-parallel", "3"), "tensor parallel 3"),
        ((MODEL, "--engine", "tgi"), "'tgi' is not a valid EngineKind"),
        ((MODEL, "--file", "x.yaml"), "a MODEL or --file"),
        (("--file", "/nope.yaml"), "cannot read /nope.yaml"),
    ],
)
def test_nonsense_is_refused_in_words(arguments, told):
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
