import json

import pytest
import yaml
from typer.testing import CliRunner

from memroute.units import GIB
from memroute_cli.main import app
from memroute_cli.plan.targets import rounded_up

RUNNER = CliRunner()


def plan(*arguments):
    """Exit status, output and errors of ``memroute plan``."""
    result = RUNNER.invoke(app, ["plan", *arguments])
    return result.exit_code, result.stdout, result.stderr


def node(name, product, memory_mib, count):
    """A node as ``kubectl get -o json`` prints it."""
    return {
        "kind": "Node",
        "metadata": {
            "name": name,
            "resourceVersion": "1",
            "labels": {
                "nvidia.com/gpu.product": product,
                "nvidia.com/gpu.memory": str(memory_mib),
                "nvidia.com/gpu.count": str(count),
            },
        },
        "spec": {},
        "status": {
            "allocatable": {"nvidia.com/gpu": str(count)},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def test_the_highest_precision_that_fits_wins():
    """70B: 131 GiB at 16 bit fit no single H200 with its cache; two hold them without loss."""
    status, text, _ = plan("meta-llama/Llama-3.3-70B-Instruct", "-a", "H200,L4", "--output", "json")
    h200, l4 = json.loads(text)["plans"][0]["options"]
    assert status == 0
    assert (h200["precision"], h200["devices"]) == ("bf16", 2)
    assert (l4["precision"], l4["devices"]) == ("fp8", 8)
    assert h200["kvCapacityTokens"] > 8192
    assert h200["neededBytes"]["low"] < h200["neededBytes"]["reserved"]


def test_a_table_says_what_is_best():
    status, text, _ = plan("Qwen/Qwen3-8B", "-a", "H100,L4", "--price", "H100=2.5")
    assert status == 0
    assert "=> bf16 on one H100" in text
    assert "per 1M tokens" in text


def test_what_does_not_fit_says_what_would():
    """Qwen3-32B is 61 GiB at 16 bit: an L4 holds it at no precision it is asked for."""
    status, text, _ = plan(
        "Qwen/Qwen3-32B", "-a", "L4", "--tensor-parallel", "1", "--precision", "none"
    )
    assert status == 1
    assert "short by" in text
    assert "would fit with" in text
    assert "--tensor-parallel auto" in text


def test_yaml_is_a_deployment_that_asks_for_what_was_found():
    status, text, _ = plan("Qwen/Qwen3-32B", "-a", "L40S", "--context", "16384", "--output", "yaml")
    manifest = yaml.safe_load(text)
    assert status == 0
    assert manifest["kind"] == "ModelDeployment"
    assert manifest["spec"]["memory"]["maxContextTokens"] == 16384
    assert manifest["spec"]["placement"]["nodeSelector"] == {
        "nvidia.com/gpu.product": "NVIDIA-L40S"
    }


def test_a_manifest_asks_for_targets_that_the_hardware_meets():
    """Under the default of 50 ms a router can only do its best on an L4, which needs 68.

    Whoever applies the plan gets 2 x 68 ms, rounded up: room for some thirty requests at once.
    """
    status, text, _ = plan("meta-llama/Llama-3.1-8B-Instruct", "-a", "L4", "--output", "yaml")
    assert status == 0
    assert text.startswith("# one L4 needs 68 ms per token alone: tpotTargetMilliseconds 150\n")
    assert yaml.safe_load(text)["spec"]["routing"] == {"tpotTargetMilliseconds": 150}
    _, text, _ = plan("meta-llama/Llama-3.1-8B-Instruct", "-a", "L4")
    assert "one L4 needs 68 ms per token alone: tpotTargetMilliseconds 150" in text
    _, text, _ = plan("meta-llama/Llama-3.1-8B-Instruct", "-a", "L4,H100", "--output", "json")
    l4, h100 = json.loads(text)["plans"][0]["options"]
    assert (l4["tpotTargetSeconds"], h100["tpotTargetSeconds"]) == (0.15, 0.05)
    assert l4["tpotAloneSeconds"] > 5 * h100["tpotAloneSeconds"]


def test_fast_hardware_keeps_the_default_targets():
    """Nothing is written that need not be: the defaults may change, and everybody's with them."""
    _, text, _ = plan("Qwen/Qwen3-8B", "-a", "H100", "--output", "yaml")
    assert "routing" not in yaml.safe_load(text)["spec"]


def test_long_prompts_get_a_longer_target_for_the_first_token():
    arguments = ("Qwen/Qwen3-32B", "-a", "L4", "--context", "16384", "--prompt-tokens", "12000")
    _, text, _ = plan(*arguments, "--output", "yaml")
    routing = yaml.safe_load(text)["spec"]["routing"]
    assert routing["ttftTargetMilliseconds"] > 5000
    assert (
        f"for a usual prompt alone: ttftTargetMilliseconds {routing['ttftTargetMilliseconds']}"
        in text
    )


def test_several_manifests_are_several_documents():
    _, text, _ = plan("Qwen/Qwen3-8B", "Qwen/Qwen3-32B", "-a", "L4", "--output", "yaml")
    assert [m["metadata"]["name"] for m in yaml.safe_load_all(text)] == ["qwen3-8b", "qwen3-32b"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.136, 0.15), (0.05, 0.05), (0.0501, 0.06), (0.1, 0.1), (0.95, 1.0), (7.0, 8.0), (21, 25)],
)
def test_targets_are_numbers_that_people_would_choose(seconds, expected):
    assert rounded_up(seconds) == expected


def test_a_config_file_of_an_unknown_family_needs_its_checkpoint(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "model_type": "acme", "hidden_size": 2048, "num_hidden_layers": 24,
                "num_attention_heads": 16, "vocab_size": 32000, "max_position_embeddings": 8192,
            }
        )
    )  # fmt: skip
    status, _, errors = plan(str(config), "-a", "H100")
    assert status == 2
    assert "give the bytes of its checkpoint" in errors
    status, text, _ = plan(str(config), "-a", "H100", "--checkpoint", str(3 * GIB))
    assert status == 0
    assert "bounded by full attention" in text


def test_a_manifest_of_a_local_model_carries_its_configuration(tmp_path):
    """What the catalogue does not have, the operator has to be told."""
    config = tmp_path / "mine.json"
    fields = {
        "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192,
        "vocab_size": 32000, "max_position_embeddings": 8192,
    }  # fmt: skip
    config.write_text(json.dumps(fields))
    _, text, _ = plan(str(config), "-a", "L4", "--output", "yaml")
    assert yaml.safe_load(text)["spec"]["model"] == {"name": "local/mine", "config": fields}


def test_a_precision_that_no_deployment_knows_makes_no_manifest():
    status, _, errors = plan(
        "Qwen/Qwen3-8B", "-a", "L4", "--precision", "nvfp4", "--output", "yaml"
    )
    assert status == 2
    assert "cannot ask for that precision" in errors


def test_a_saved_fleet_says_where_it_would_go(tmp_path):
    """Two L4 nodes and one of H100s: the plan names the node, or says who is short of what."""
    saved = tmp_path / "fleet.json"
    nodes = [
        node("small", "NVIDIA-L4", 23034, 4),
        node("large", "NVIDIA-H100-80GB-HBM3", 81559, 8),
    ]
    saved.write_text(json.dumps({"kind": "List", "items": nodes}))
    status, text, _ = plan("meta-llama/Llama-3.3-70B-Instruct", "--inventory", str(saved))
    assert status == 0
    assert "-> large: needs" in text
    saved.write_text(json.dumps({"kind": "List", "items": [nodes[0]]}))
    status, text, _ = plan("meta-llama/Llama-3.3-70B-Instruct", "--inventory", str(saved))
    assert status == 1


def test_a_start_log_replaces_the_ranges(tmp_path):
    """An engine that took 0.9 GiB of activations leaves more for the cache than was reserved."""
    log = tmp_path / "engine.log"
    log.write_text(
        "INFO Model loading took 15.27 GiB\nINFO peak activation memory takes 0.90 GiB\n"
        "INFO non_torch_memory takes 0.10 GiB\n"
    )
    arguments = ("Qwen/Qwen3-8B", "-a", "L40S", "--output", "json")
    left = [
        json.loads(plan(*arguments, *more)[1])["plans"][0]["options"][0]["kvPoolBytes"]
        for more in ((), ("--start-log", str(log)))
    ]
    assert left[1] > left[0] + GIB
    log.write_text("nothing of memory")
    status, _, errors = plan(*arguments, "--start-log", str(log))
    assert status == 2
    assert "no line says" in errors


def test_a_plot_is_drawn(tmp_path):
    picture = tmp_path / "plan.png"
    status, _, _ = plan("Qwen/Qwen3-0.6B", "-a", "L4", "--plot", str(picture))
    assert status == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_known_models_and_accelerators_are_listed():
    status, text, _ = plan("--list")
    assert status == 0
    assert "Qwen/Qwen3-8B" in text
    assert "MI300X" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name at least one model"),
        (("Qwen/Qwen3-9B",), "did you mean"),
        (("Qwen/Qwen3-8B", "-a", "H101"), "accelerator 'H101' is not known"),
        (("Qwen/Qwen3-8B", "--precision", "int3"), "--precision int3: one of auto"),
        (("Qwen/Qwen3-8B", "--kv-cache-dtype", "fp7"), "--kv-cache-dtype fp7"),
        (("Qwen/Qwen3-8B", "--tensor-parallel", "two"), "a positive number of devices"),
        (("Qwen/Qwen3-8B", "--context", "999999"), "was made for at most 40960"),
        (("Qwen/Qwen3-8B", "--context", "100"), "does not fit a context"),
        (("Qwen/Qwen3-8B", "--concurrency", "0"), "--concurrency must be at least 1"),
        (("Qwen/Qwen3-8B", "--price", "H100"), "NAME=PER_HOUR"),
        (("Qwen/Qwen3-8B", "--output", "xml"), "one of table, json, yaml"),
        (("Qwen/Qwen3-8B", "--checkpoint", "nowhere"), "neither a number of bytes nor a file"),
        (("/nowhere/config.json",), "No such file"),
        (("Qwen/Qwen3-8B", "--inventory", "/nowhere.json"), "No such file"),
        (("Qwen/Qwen3-8B", "--inventory", "x", "--cluster"), "exclude each other"),
    ],
)
def test_bad_input_gets_a_sentence_and_status_2(arguments, words):
    status, _, errors = plan(*arguments)
    assert status == 2
    assert words in errors
