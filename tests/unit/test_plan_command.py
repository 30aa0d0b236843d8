import json
from datetime import UTC, datetime

import pytest
import yaml
from typer.testing import CliRunner

from memroute.units import GIB
from memroute_cli.main import app
from memroute_cli.plan.targets import rounded_up
from memroute_operator.readings.device_metrics import DeviceMetrics, DeviceReading, NodeReading
from memroute_operator.readings.fleet_view import packed, written_view
from memroute_operator.readings.own_promises import OwnPromises
from memroute_operator.readings.router_metrics import RouterMetrics

RUNNER = CliRunner()


def plan(*arguments):
    """Exit status, output and errors of ``memroute plan``."""
    result = RUNNER.invoke(app, ["plan", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
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
    assert "PER 1M" in text


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
    status, text, _ = plan("Qwen/Qwen3-32B", "-a", "L40S", "--context", "16384", "--manifest")
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
    status, text, _ = plan("meta-llama/Llama-3.1-8B-Instruct", "-a", "L4", "--manifest")
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
    _, text, _ = plan("Qwen/Qwen3-8B", "-a", "H100", "--manifest")
    assert "routing" not in yaml.safe_load(text)["spec"]


def test_long_prompts_get_a_longer_target_for_the_first_token():
    arguments = ("Qwen/Qwen3-32B", "-a", "L4", "--context", "16384", "--prompt-tokens", "12000")
    _, text, _ = plan(*arguments, "--manifest")
    routing = yaml.safe_load(text)["spec"]["routing"]
    assert routing["ttftTargetMilliseconds"] > 5000
    assert (
        f"for a usual prompt alone: ttftTargetMilliseconds {routing['ttftTargetMilliseconds']}"
        in text
    )


@pytest.mark.slow
def test_a_manifest_that_needs_another_checkpoint_says_so():
    """No engine makes AWQ of 16-bit weights: applied as it is, the pod would end at its start."""
    _, text, _ = plan("Qwen/Qwen3-32B", "-a", "L4", "--precision", "awq", "--manifest")
    assert text.startswith("# int4 needs a checkpoint that was quantized so (awq): Qwen/Qwen3-32B")
    _, text, _ = plan("Qwen/Qwen3-32B", "-a", "L4", "--precision", "fp8", "--manifest")
    assert "needs a checkpoint" not in text
    _, text, _ = plan("Qwen/Qwen3-8B-AWQ", "-a", "L4", "--offline", "--manifest")
    assert "needs a checkpoint" not in text


def test_several_manifests_are_several_documents():
    _, text, _ = plan("Qwen/Qwen3-8B", "Qwen/Qwen3-32B", "-a", "L4", "--manifest")
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
    _, text, _ = plan(str(config), "-a", "L4", "--manifest")
    assert yaml.safe_load(text)["spec"]["model"] == {"name": "local/mine", "config": fields}


def test_a_precision_that_no_deployment_knows_makes_no_manifest():
    status, _, errors = plan("Qwen/Qwen3-8B", "-a", "L4", "--precision", "nvfp4", "--manifest")
    assert status == 2
    assert "cannot ask for that precision" in errors


def pod(name, node_name, gpus):
    """A pod that holds whole devices, as ``kubectl get -o json`` prints it."""
    limits = {"nvidia.com/gpu": str(gpus)}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "resourceVersion": "1", "uid": name},
        "spec": {
            "nodeName": node_name,
            "containers": [{"name": "c", "resources": {"limits": limits, "requests": limits}}],
        },
        "status": {"phase": "Running"},
    }


def shared(it):
    it["metadata"]["labels"]["memroute.dev/gpu-sharing"] = "shared"
    return it


@pytest.fixture
def saved(tmp_path):
    """Writes what `kubectl get nodes,pods -A -o json` has saved."""

    def save(*items):
        path = tmp_path / "fleet.json"
        path.write_text(json.dumps({"kind": "List", "items": items}))
        return str(path)

    return save


SMALL = node("small", "NVIDIA-L4", 23034, 4)
LARGE = node("large", "NVIDIA-H100-80GB-HBM3", 81559, 8)


def flat(text):
    return " ".join(text.split())


@pytest.mark.slow
def test_a_saved_fleet_says_where_it_would_go(saved):
    """Two L4 nodes and one of H100s: the plan names the node, or says who is short of what."""
    inventory = saved(SMALL, LARGE)
    status, text, _ = plan("meta-llama/Llama-3.3-70B-Instruct", "--inventory", inventory)
    assert status == 0
    assert "-> large: bf16 on 2 devices, whole devices: needs" in flat(text)
    assert "large/gpu 0 + 7 alike" in text
    assert max(map(len, text.splitlines())) <= 80
    lone = saved(node("lone", "NVIDIA-L4", 23034, 1))
    status, text, _ = plan("meta-llama/Llama-3.3-70B-Instruct", "--inventory", lone)
    assert status == 1
    assert "fits nowhere now" in flat(text)
    assert "nearest is lone" in flat(text)


@pytest.mark.slow
def test_another_precision_is_tried_where_the_first_has_no_room(saved):
    """16 bit want two H100 and one is free: fp8 fits on it, and `nowhere` would not be true."""
    inventory = saved(LARGE, pod("others", "large", 7))
    status, text, _ = plan("meta-llama/Llama-3.3-70B-Instruct", "--inventory", inventory)
    assert status == 0
    assert "-> large: int4 on 1 device" in flat(text) or "-> large: fp8 on 1" in flat(text)
    _, text, _ = plan(
        "meta-llama/Llama-3.3-70B-Instruct", "--inventory", inventory, "--output", "json"
    )
    now = json.loads(text)["plans"][0]["now"]
    tried = {(way["precision"], way["numDevices"], way["mode"]) for way in now["ways"]}
    assert tried == {
        (precision, count, "exclusive")
        for precision in ("bf16", "fp8", "int4")
        for count in (1, 2, 4, 8)
    }
    assert now["placed"]["numDevices"] == 1


def test_a_shared_device_is_tried_too_and_each_device_says_what_it_takes(saved):
    """A model of 16 GiB beside others on a shared H100: whole devices are not the only way."""
    inventory = saved(shared(node("both", "NVIDIA-H100-80GB-HBM3", 81559, 2)), SMALL)
    status, text, _ = plan("Qwen/Qwen3-8B", "--inventory", inventory, "--output", "json")
    assert status == 0
    now = json.loads(text)["plans"][0]["now"]
    assert {way["mode"] for way in now["ways"]} == {"exclusive", "shared"}
    assert {one["node"] for one in now["devices"]} == {"both", "small"}
    by_device = {(one["node"], one["index"]): one["ways"] for one in now["devices"]}
    assert "1 x bf16 exclusive" in by_device["small", 0]
    assert all("exclusive" not in way for way in by_device.get(("both", 0), []))


@pytest.mark.slow
def test_what_a_file_does_not_say_is_said(saved):
    """Without pods everything looks free: whoever reads the answer has to know."""
    _, text, _ = plan("Qwen/Qwen3-8B", "--inventory", saved(SMALL))
    assert "has no pods: every device counts as free" in flat(text)
    assert "whole devices alone were tried" in flat(text)
    _, text, _ = plan("Qwen/Qwen3-8B", "--inventory", saved(SMALL, pod("a", "small", 1)))
    assert "has no pods" not in flat(text)
    status, _, errors = plan("Qwen/Qwen3-8B", "--inventory", saved(pod("a", "small", 1)))
    assert status == 2
    assert "it has no nodes" in errors


def fleet_view(**readings):
    """The ConfigMap in which the operator tells what it reads: bytes free, by node."""
    metrics = DeviceMetrics(scrape_seconds=5.0)
    for name, free in readings.items():
        metrics.readings[name] = NodeReading(
            devices=tuple(
                DeviceReading(
                    uuid=f"GPU-{name}-{index}", index=index, product="NVIDIA-H100-80GB-HBM3",
                    free_bytes=one * GIB, used_bytes=(79 - one) * GIB,
                )
                for index, one in enumerate(free)
            ),
            taken_at_seconds=0.0,
        )  # fmt: skip
    document = written_view(
        metrics, RouterMetrics(), {}, OwnPromises(), now_seconds=1.0,
        now=datetime(2026, 11, 29, 4, 0, tzinfo=UTC),
    )  # fmt: skip
    metadata = {"name": "memroute-fleet", "namespace": "memroute-system"}
    return {"kind": "ConfigMap", "metadata": metadata, **packed(document)}


BOTH = shared(node("both", "NVIDIA-H100-80GB-HBM3", 81559, 2))


@pytest.mark.slow
def test_a_saved_file_with_the_operators_readings_takes_shared_devices(saved, tmp_path):
    """UUIDs are in no Node. One device has 12 GiB free by the reading, whatever was promised."""
    nodes = saved(BOTH, pod("others", "both", 0))
    view = tmp_path / "view.json"
    view.write_text(json.dumps(fleet_view(both=(12, 70))))
    for words in (("--inventory", f"{nodes},{view}"), ("--inventory", nodes, "--inventory", view)):
        status, text, _ = plan("Qwen/Qwen3-8B", *map(str, words), "--output", "json")
        now = json.loads(text)["plans"][0]["now"]
        assert status == 0
        assert now["placed"]["devices"] == ["GPU-both-1"]
        by_uuid = {one["uuid"]: one for one in now["devices"]}
        assert by_uuid["GPU-both-0"]["freeBytes"] < 13 * GIB
        assert "1 x bf16 shared" not in by_uuid["GPU-both-0"]["ways"]
        assert "what has happened since 2026-11-29 04:00:00 UTC" in now["notKnown"]
    one_file = saved(BOTH, fleet_view(both=(12, 70)))
    assert plan("Qwen/Qwen3-8B", "--inventory", one_file)[0] == 0


def test_a_file_without_the_operators_readings_says_which_command_saves_them(saved):
    """`fits nowhere` of a node that is half empty is not true: it is not known."""
    status, text, _ = plan("Qwen/Qwen3-8B", "--inventory", saved(BOTH, pod("others", "both", 0)))
    assert status == 1
    told = flat(text)
    assert "kubectl -n memroute-system get configmap memroute-fleet -o json > view.json" in told
    assert "--inventory FILE,view.json" in told
    old = fleet_view() | {"data": {"view": '{"version": 0}'}}
    _, text, _ = plan("Qwen/Qwen3-8B", "--inventory", saved(BOTH, old))
    assert "its ConfigMap memroute-fleet is of another release of memroute" in flat(text)


def test_mig_slices_and_amd_nodes_of_a_file_are_tried_each_by_its_resource(saved):
    """A slice is one device to a replica, and an AMD node is asked for by its own resource."""
    mig = node("mig", "NVIDIA-H100-80GB-HBM3", 81559, 1)
    mig["metadata"]["labels"] |= {
        "nvidia.com/mig-3g.40gb.count": "2", "nvidia.com/mig-3g.40gb.memory": "40448",
        "nvidia.com/mig-3g.40gb.product": "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb",
    }  # fmt: skip
    mig["status"]["allocatable"] = {"nvidia.com/mig-3g.40gb": "2"}
    amd = node("amd", "AMD-Instinct-MI300X-OAM", 196592, 8)
    amd["metadata"]["labels"] = {"amd.com/gpu.vram": "192G", "amd.com/gpu.product-name": "MI300X"}
    amd["status"]["allocatable"] = {"amd.com/gpu": "8"}
    _, text, _ = plan("Qwen/Qwen3-8B", "--inventory", saved(mig, amd), "--output", "json")
    now = json.loads(text)["plans"][0]["now"]
    ways = {(way["precision"], way["numDevices"]): way["fitsOn"] for way in now["ways"]}
    assert set(ways["bf16", 1]) == {"mig", "amd"}
    assert ways["bf16", 2] == ["amd"], "no group spans slices"


@pytest.mark.slow
@pytest.mark.parametrize(
    "item",
    [
        {"kind": "Node"}, {"kind": "Node", "metadata": None}, {"kind": 7}, 3,
        {"kind": "Node", "metadata": {"name": "x"}, "status": 7},
        {"kind": "Pod", "metadata": {"name": "x"}, "spec": []},
        {"kind": "ConfigMap", "metadata": {"name": "memroute-fleet"}, "data": "x"},
        {"kind": "ResourceSlice", "metadata": {"name": "x"}, "spec": {"nodeName": "small"}},
    ],
)  # fmt: skip
def test_an_odd_object_of_a_file_ends_in_a_sentence_or_is_left_out(saved, item):
    """A file may be cut, or edited by hand."""
    status, _, errors = plan("Qwen/Qwen3-8B", "--inventory", saved(SMALL, item))
    assert status in (0, 1, 2)
    assert "Traceback" not in errors


@pytest.mark.slow
def test_several_models_share_what_is_free(saved):
    """The second is placed on what the first leaves: else a fleet is sold twice."""
    inventory = saved(node("one", "NVIDIA-H100-80GB-HBM3", 81559, 1))
    status, text, _ = plan("Qwen/Qwen3-8B,Qwen/Qwen3-4B", "--inventory", inventory)
    assert status == 1
    assert "Qwen/Qwen3-8B -> one" in flat(text)
    assert "Qwen/Qwen3-4B fits nowhere now" in flat(text)


def test_a_slice_serves_alone():
    """NCCL does not run across MIG instances: no group of two slices can start."""
    status, text, _ = plan("Qwen/Qwen3-32B", "-a", "H100/1g.10gb", "--output", "json")
    (option,) = json.loads(text)["plans"][0]["options"]
    assert (status, option["fits"]) == (1, False)
    status, text, _ = plan("Qwen/Qwen3-8B", "-a", "H100/1g.10gb", "--tensor-parallel", "2")
    assert status == 1
    assert "cannot span several MIG slices" in text


def test_the_catalogues_spelling_is_written():
    """A manifest is asked for by its name: `Qwen/Qwen3-8b` is no repository of the hub."""
    _, text, _ = plan("Qwen/Qwen3-8b", "-a", "H100", "--manifest")
    assert yaml.safe_load(text)["spec"]["model"]["name"] == "Qwen/Qwen3-8B"


def test_json_and_yaml_are_one_document():
    """A script that reads one can read the other; manifests have a word of their own."""
    arguments = ("Qwen/Qwen3-8B", "-a", "L4", "--output")
    assert yaml.safe_load(plan(*arguments, "yaml")[1]) == json.loads(plan(*arguments, "json")[1])
    _, text, _ = plan("Qwen/Qwen3-8B", "-a", "L4", "--manifest", "--output", "json")
    (manifest,) = json.loads(text)["items"]
    assert manifest["kind"] == "ModelDeployment"


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


@pytest.mark.slow
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
        (("Qwen3-9B",), "did you mean"),
        (("Qwen/Qwen3-9B", "--offline"), "did you mean"),
        (("Qwen/Qwen3-8B", "-a", "H101"), "did you mean H100"),
        (("Qwen/Qwen3-8B", "--precision", "int3"), "--precision int3: one of auto"),
        (("Qwen/Qwen3-8B", "--kv-cache-dtype", "fp7"), "--kv-cache-dtype fp7"),
        (("Qwen/Qwen3-8B", "--tensor-parallel", "two"), "a positive number of devices"),
        (("Qwen/Qwen3-8B", "--context", "999999"), "was made for at most 40960"),
        (("Qwen/Qwen3-8B", "--context", "100"), "does not fit a context"),
        (("Qwen/Qwen3-8B", "--concurrency", "0"), "--concurrency must be at least 1"),
        (("Qwen/Qwen3-8B", "--price", "H100"), "NAME=PER_HOUR"),
        (("Qwen/Qwen3-8B", "--output", "xml"), "one of table, json, yaml"),
        (
            ("Qwen/Qwen3-8B", "--checkpoint", "nowhere"),
            "neither a size (14GB, 13.5GiB, bytes) nor a file",
        ),
        (("/nowhere/config.json",), "No such file"),
        (("./no-such-model",), "no-such-model: No such file"),
        (("../no-such-model",), "no-such-model: No such file"),
        (("qwen3-8b",), "did you mean Qwen/Qwen3-8B, or"),
        (("llama-3.1-8b",), "did you mean meta-llama/Llama-3.1-8B, or"),
        (("Qwen/Qwen3-8B", "-a", "A100"), "A100-40, or A100-80"),
        (("Qwen/Qwen3-8B", "--precision", "fp9"), "did you mean fp8"),
        (("Qwen/Qwen3-8B", "--prompt-tokens", "100000"), "lower --prompt-tokens"),
        (("Qwen/Qwen3-8B", "-a", "H100", "--price", "H200=3"), "the plan is for H100"),
        (("Qwen/Qwen3-8B", "--price", "H1000=3"), "did you mean H100"),
        (("Qwen/Qwen3-8B", "--plot", "x.bmp"), "takes a .png"),
        (("Qwen/Qwen3-8B", "--plot", "/nowhere/x.png"), "there is no folder /nowhere"),
        (("Qwen/Qwen3-8B", "--context", "lots"), "no number of tokens"),
        (("Qwen/Qwen3-8B", "--inventory", "/nowhere.json"), "No such file"),
        (("Qwen/Qwen3-8B", "--hub-endpoint", "foo"), "--hub-endpoint: 'foo' is no URL of a hub"),
        (("Qwen/Qwen3-8B", "--hub-token-file", "/nowhere"), "there is no such file"),
        (("/etc/passwd",), "memroute plan: /etc/passwd: not JSON ("),
        (("Qwen/Qwen3-8B", "--inventory", "x", "--cluster"), "exclude each other"),
    ],
)
def test_bad_input_gets_a_sentence_and_status_2(arguments, words):
    status, _, errors = plan(*arguments)
    assert status == 2
    assert words in errors


@pytest.fixture
def folder(tmp_path):
    """A checkpoint as a clone of a repository has it: NVFP4, said in a file of its own."""
    fields = {
        "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192,
        "vocab_size": 32000, "max_position_embeddings": 8192,
    }  # fmt: skip
    said = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": said}))
    return tmp_path


def weights_file(path, num_bytes):
    """A ``.safetensors`` file of one tensor, as far as a header says."""
    header = {"a": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def test_a_plan_reads_what_lies_beside_a_config_json(folder):
    """The quantization was taken for 16 bit, and the cache for twice its size."""
    status, text, _ = plan(str(folder), "-a", "H100", "--output", "json")
    (found,) = json.loads(text)["plans"]
    assert status == 0
    assert found["options"][0]["precision"] == "nvfp4"
    assert found["options"][0]["kvCacheDtype"] == "fp8_e4m3"
    assert found["modelDeployment"]["spec"]["model"]["config"]["quantization_config"]


def test_weights_beside_a_config_json_are_compared_with_it(folder):
    """Files, not the index that a conversion left over; the larger counts, and that is said."""
    (folder / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 1}}')
    weights_file(folder / "model-00001-of-00002.safetensors", 2 * GIB)
    weights_file(folder / "model-00002-of-00002.safetensors", 2 * GIB)
    status, text, _ = plan(str(folder / "config.json"), "-a", "H100", "--output", "json")
    (found,) = json.loads(text)["plans"]
    assert status == 0
    assert found["options"][0]["weightsBytes"] > 4 * GIB
    assert found["options"][0]["weightsSource"] == "checkpoint"
    assert any("the files count, being larger" in note for note in found["notes"])
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"\xff" * 20)
    assert plan(str(folder), "-a", "H100")[0] == 0


def test_a_limit_says_how_it_came_to_be(folder):
    """Of a YaRN model people expect the factor to come on top, as it once did."""
    fields = json.loads((folder / "config.json").read_text())
    fields["rope_scaling"] = {"rope_type": "yarn", "factor": 2.0}
    (folder / "config.json").write_text(json.dumps(fields))
    status, _, errors = plan(str(folder), "-a", "H100", "--context", "16384")
    assert status == 2
    assert "was made for at most 8192 tokens (the factor 2 of its yarn rotary scaling" in errors
