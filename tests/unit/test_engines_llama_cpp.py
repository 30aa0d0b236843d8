"""llama.cpp by its own rules: what a GGUF header says, slots, flags, and an end that drains."""

import contextlib
import random

import pytest

from gguf_files import ARRAY, F16, F32, INT32, UINT32, TinyLlama, header, tiny_gguf
from memroute.errors import InvalidConfigError, UnsupportedShapeError
from memroute.footprint import EngineType, KVCacheDtype, Quantization, replica_footprint
from memroute.footprint.architecture import LatentAttention
from memroute.footprint.gguf import (
    GGUFError,
    IncompleteGGUFError,
    architecture_from_gguf,
    read_gguf_header,
)
from memroute.footprint.replica import ReplicaShape
from memroute.footprint.runtime_llama_cpp import llama_cpp_step_bytes
from memroute.placement import Placed, PlacementMode, ReplicaKey
from memroute.units import GIB, MIB
from memroute_operator.engines.registry import engine_of
from memroute_operator.pod.manifests import replica_pod
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.spec.deployments import read_deployments
from memroute_operator.spec.revision import revision_of
from memroute_operator.store.reading_cache import Cache
from operator_rig import mdep

FILE = "Qwen3-8B-Q4_K_M.gguf"
FILE_BYTES = 5_027_783_488


def manifest(mode="exclusive", model=None, **memory):
    obj = mdep("m", model="Qwen/Qwen3-8B-GGUF", mode=mode, **memory)
    obj["spec"]["engine"] = {"type": "LlamaCPP", "image": "llama.cpp:server-cuda"}
    obj["spec"]["model"] |= {"file": FILE, "checkpointBytes": FILE_BYTES} | (model or {})
    return obj


def pod_of(of):
    where = Placed(
        key=ReplicaKey(namespace="default", name="m", index=0), node="a", mode=of.mode,
        device_uuids=(), num_devices=1, bytes_per_device=79 * GIB, needed_bytes_per_device=1,
        usable_bytes_per_device=79 * GIB, product=None, why="",
    )  # fmt: skip
    return replica_pod(of, where, is_gated=False, default_image="i", shared_runtime_class=None)


def test_a_header_says_what_the_tensors_weigh_to_the_byte(tmp_path):
    """What loading takes is known before a byte of the weights is read."""
    shape = TinyLlama(layers=3, hidden=128, heads=4, kv_heads=2, intermediate=384)
    path = tmp_path / "m.gguf"
    total = tiny_gguf(path, shape)
    read = read_gguf_header(path.read_bytes()[:20_000])
    assert read.tensor_bytes == total
    architecture = architecture_from_gguf(read)
    assert (architecture.family, architecture.num_layers) == ("llama", 3)
    assert (architecture.hidden_size, architecture.vocab_size) == (128, 285)
    assert architecture.max_context_tokens == 4096
    assert architecture.checkpoint_bytes == total
    assert (architecture.attention.num_kv_heads, architecture.attention.head_dim) == (2, 32)


def test_a_cut_header_asks_for_more_and_another_file_is_told():
    """A Range request may end anywhere; an error page is no model."""
    whole = header(TinyLlama().metadata(), list(TinyLlama().tensors()))
    rng = random.Random(5)
    for cut in [0, 3, 4, 23, *(rng.randrange(len(whole) - 32) for _ in range(50))]:
        with pytest.raises(IncompleteGGUFError):
            read_gguf_header(whole[:cut])
    with pytest.raises(GGUFError, match="no GGUF file"):
        read_gguf_header(b"<html>404</html>")
    with pytest.raises(GGUFError, match="version 9"):
        read_gguf_header(b"GGUF" + b"\x09" + bytes(19))


@pytest.mark.parametrize("seed", range(40))
def test_bytes_that_make_no_sense_are_an_error_of_ours(seed):
    """A hub's file is anybody's: no header may take all memory or raise what nobody catches."""
    whole = bytearray(header(TinyLlama().metadata(), list(TinyLlama().tensors())))
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 40)):
        whole[rng.randrange(4, len(whole))] = rng.randrange(256)
    with contextlib.suppress(GGUFError, InvalidConfigError, UnsupportedShapeError):
        architecture_from_gguf(read_gguf_header(bytes(whole)))


def gguf(family, metadata, tensors=(("w", (256, 4), F16),)):
    pairs = {"general.architecture": (8, family)}
    pairs |= {f"{family}.{name}": value for name, value in metadata.items()}
    return read_gguf_header(header(pairs, list(tensors)))


BASE = {
    "block_count": (UINT32, 3), "embedding_length": (UINT32, 64), "context_length": (UINT32, 512),
    "attention.head_count": (UINT32, 4),
}  # fmt: skip


def test_layers_may_differ_and_some_have_no_attention():
    """Hybrids list heads by layer; one with none stores nothing."""
    read = gguf("jam", BASE | {"attention.head_count_kv": (ARRAY, (INT32, [2, 0, 1]))})
    mixers = [layer.mixer for layer in architecture_from_gguf(read).layers]
    assert [mixer and mixer.num_kv_heads for mixer in mixers] == [2, None, 1]


def test_latent_attention_is_one_vector_for_all_heads():
    """DeepSeek: 512 + 64 values of a token, and no values beside them."""
    read = gguf("deepseek2", BASE | {
        "attention.head_count_kv": (UINT32, 1), "attention.kv_lora_rank": (UINT32, 512),
        "attention.key_length": (UINT32, 576), "attention.value_length": (UINT32, 512),
        "attention.key_length_mla": (UINT32, 192),
    })  # fmt: skip
    mixer = architecture_from_gguf(read).layers[0].mixer
    assert isinstance(mixer, LatentAttention)
    assert (mixer.kv_lora_rank, mixer.rope_head_dim) == (512, 64)


def test_what_has_no_rule_is_refused_with_the_way_out():
    with pytest.raises(UnsupportedShapeError, match="serve the model with vLLM"):
        architecture_from_gguf(gguf("mamba2", BASE | {"ssm.state_size": (UINT32, 128)}))
    with pytest.raises(InvalidConfigError, match="block_count"):
        architecture_from_gguf(gguf("empty", {}))


def test_the_replica_is_the_file_its_slots_and_its_buffers():
    """Qwen3-8B: 36 layers x 8 heads x 128 x 2 x 2 bytes = 144 KiB a token, 4 slots of 8,192."""
    of = read_deployment(manifest())
    footprint = of.footprint
    assert footprint.weights.low <= FILE_BYTES <= footprint.weights.expected
    assert footprint.kv_cache_bytes == 4 * 8192 * 144 * 1024
    rows = 5 * 4096 + 3 * 12288
    assert footprint.peak_activation.expected == 512 * 4 * rows + 512 * 2 * 8192
    assert footprint.non_torch.high == 1024 * MIB
    assert footprint.total_bytes < 80 * GIB


def test_a_slot_is_a_whole_number_of_paddings():
    """llama.cpp pads by 256 tokens: 1,000 asked for are 1,024 taken."""
    of = read_deployment(manifest(maxContextTokens=1000, concurrency=3))
    assert of.footprint.kv_cache_bytes == 3 * 1024 * 144 * 1024
    (container,) = pod_of(of)["spec"]["containers"]
    flags = dict(zip(container["args"], container["args"][1:], strict=False))
    assert (flags["--ctx-size"], flags["--parallel"]) == (str(3 * 1024), "3")
    assert flags["--fit"] == "off"
    assert (flags["--hf-repo"], flags["--hf-file"]) == ("Qwen/Qwen3-8B-GGUF", FILE)
    # Where the repository has a projector it would be loaded too, and nobody has reserved that.
    assert "--no-mmproj" in container["args"]
    annotations = pod_of(of)["metadata"]["annotations"]
    assert annotations["memroute.dev/kv-capacity-tokens"] == str(3 * 1024)


def test_a_path_is_loaded_from_where_it_is():
    of = read_deployment(manifest(model={"file": "/models/q.gguf"}))
    (container,) = pod_of(of)["spec"]["containers"]
    assert container["args"][:2] == ["--model", "/models/q.gguf"]
    assert "--hf-repo" not in container["args"]


def test_sigterm_waits_because_llama_cpp_does_not():
    """It breaks its streams off at once; 30 s of silence first, then 30 s in which it leaves."""
    pod = pod_of(read_deployment(manifest()))
    (container,) = pod["spec"]["containers"]
    assert container["lifecycle"] == {"preStop": {"sleep": {"seconds": 30}}}
    assert pod["spec"]["terminationGracePeriodSeconds"] >= 30 + 30


def test_on_a_whole_device_the_number_of_slots_is_of_the_revision():
    """It is on the command line: an edit of the concurrency has to reach the engine."""
    one, other = manifest(concurrency=4), manifest(concurrency=5)
    assert revision_of(one["spec"]) != revision_of(other["spec"])
    for obj in (one, other):
        obj["spec"]["engine"]["type"] = "VLLM"
    assert revision_of(one["spec"]) == revision_of(other["spec"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("model", "file", None), "spec.model.file is needed for LlamaCPP"),
        (("engine", "image", None), "spec.engine.image is needed for LlamaCPP"),
        (("model", "checkpointBytes", None), "give its bytes as spec.model.checkpointBytes"),
        (("parallelism", "tensorParallelSize", 2), "runs on one device here"),
        (("memory", "quantization", "FP8"), "does not quantize as it loads"),
        (("memory", "kvCacheDtype", "FP8"), "has no KV cache of fp8"),
        (("engine", "args", ["-ngl", "10"]), "(that is --gpu-layers) is memroute's own"),
        (("engine", "args", ["--parallel", "9"]), "use spec.memory.concurrency"),
    ],
)
def test_what_llama_cpp_cannot_do_is_refused_in_words(change, says):
    """Before an image of gigabytes is pulled for it."""
    obj = manifest()
    section, field, value = change
    obj["spec"][section][field] = value
    read = read_deployments([obj], [], [], {}, {}, Cache(), "i", {}).wanted
    assert says in read[0].failure.message


def test_a_shape_of_the_core_is_checked_the_same():
    of = read_deployment(manifest())
    shape = ReplicaShape(
        architecture=of.shape.architecture, max_context_tokens=256, concurrency=1,
        engine=EngineType.LLAMA_CPP, quantization=Quantization.AWQ,
    )  # fmt: skip
    with pytest.raises(UnsupportedShapeError):
        replica_footprint(shape)
    assert engine_of(EngineType.LLAMA_CPP).read_report("llamacpp:requests_processing 0\n") is None
    assert KVCacheDtype.AUTO is of.shape.kv_cache_dtype


# Measured: MiB of "compute buffer size" in the start log of a live server on the CPU, by
# (hidden, intermediate, heads x 64, context); ubatch 512, flash attention on.
MEASURED = [
    (512, 1536, 512, 512, 14.52), (512, 2048, 512, 512, 17.52), (512, 4096, 512, 512, 29.52),
    (1024, 4096, 512, 512, 34.52), (1024, 3584, 1024, 512, 31.52), (512, 1024, 2048, 512, 13.52),
]  # fmt: skip


@pytest.mark.parametrize(("hidden", "wide", "heads", "context", "mib"), MEASURED)
def test_the_buffer_of_a_step_is_as_it_was_measured(hidden, wide, heads, context, mib):
    shape = TinyLlama(hidden=hidden, intermediate=wide, heads=heads // 64, head_dim=64, kv_heads=2)
    tensors = [("w", (256, 4), F32)]
    architecture = architecture_from_gguf(read_gguf_header(header(shape.metadata(), tensors)))
    assert llama_cpp_step_bytes(architecture, context) == pytest.approx(mib * MIB, rel=0.005)


def test_exclusive_and_shared_are_sized_alike():
    """It does not grow into a whole device: what is told to routers is what it has."""
    shared, whole = (read_deployment(manifest(mode)) for mode in ("shared", "exclusive"))
    assert shared.footprint.kv_cache_bytes == whole.footprint.kv_cache_bytes
    assert whole.mode is PlacementMode.EXCLUSIVE
