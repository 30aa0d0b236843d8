"""What the operator writes for an engine, that engine's face takes; what it prints, we read."""

import asyncio

import pytest

from memroute.placement import Placed, PlacementMode, ReplicaKey
from memroute.units import GIB
from memroute_operator.engines.registry import engine_of, read_report
from memroute_operator.engines.seam import HOST
from memroute_operator.spec.deployment import read_deployment
from memroute_router.engines.others import dialect_of, parse_other_metrics
from memroute_simulator.engine.faces import llama_cpp, sglang
from memroute_simulator.engine.startup import EngineStartError
from memroute_simulator.nodes.images import entrypoint_for, program_for
from operator_rig import PRODUCT, mdep

FACES = {"SGLang": sglang, "LlamaCPP": llama_cpp}
FILE = {"file": "Qwen3-0.6B-Q4_K_M.gguf", "checkpointBytes": 400 * 2**20}


class Driver:
    """A device of 80 GiB; who asks for more than is free is refused in torch's words."""

    def __init__(self, *, num_devices=1, taken=0):
        self.free = {f"GPU-{i}": 79 * GIB - taken for i in range(num_devices)}

    async def devices(self):
        return [
            {"uuid": uuid, "product": PRODUCT, "total_bytes": 79 * GIB, "free_bytes": free}
            for uuid, free in self.free.items()
        ]

    async def allocate(self, rank, uuid, num_bytes, total_bytes):
        if num_bytes > self.free[uuid]:
            message = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB."
            raise EngineStartError(message)
        self.free[uuid] -= num_bytes


def deployment(engine, mode, tp=1, **tuning):
    obj = mdep("m", model="Qwen/Qwen3-0.6B", mode=mode)
    obj["spec"]["engine"] = {"type": engine, "image": "i"} | tuning
    obj["spec"]["parallelism"]["tensorParallelSize"] = tp
    obj["spec"]["model"] |= FILE if engine == "LlamaCPP" else {}
    return read_deployment(obj)


def placed(of):
    shared = of.mode is PlacementMode.SHARED
    count = of.footprint.num_devices
    return Placed(
        key=ReplicaKey(namespace="default", name="m", index=0), node="a", mode=of.mode,
        device_uuids=tuple(f"GPU-{i}" for i in range(count)) if shared else (), num_devices=count,
        bytes_per_device=of.footprint.total_bytes if shared else 79 * GIB,
        needed_bytes_per_device=1, usable_bytes_per_device=79 * GIB, product=None, why="",
    )  # fmt: skip


def started(of, driver):
    """The engine as its face starts it with the operator's own flags; and what it measured."""
    face = FACES[of.engine.spelled]
    words = engine_of(of.engine).arguments(of, placed(of))
    words = [word.replace(HOST, "127.0.0.1") for word in words]
    arguments, flags = face.parse([*words, "--simulator-time-scale=0"])
    spec, constants = asyncio.run(face.start(arguments, flags, driver))
    return arguments, spec, constants


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
@pytest.mark.parametrize("engine", FACES)
def test_an_engine_takes_the_flags_and_keeps_to_what_was_reserved(engine, mode, capsys):
    """Bytes are taken from a device that counts them, as an emulated node does."""
    of = deployment(engine, mode)
    driver = Driver()
    arguments, spec, _ = started(of, driver)
    taken = 79 * GIB - driver.free["GPU-0"]
    reserved = of.footprint.total_bytes if mode == "shared" else 79 * GIB
    assert taken <= reserved
    assert arguments.served_model_names == ("Qwen/Qwen3-0.6B",)
    assert spec.context_tokens >= 8192
    usable = (spec.total_blocks - 1) * spec.layout.block_size_tokens
    assert usable >= engine_of(of.engine).capacity_tokens(of, placed(of))
    assert capsys.readouterr().out


def test_sglang_over_two_devices_with_unequal_neighbours_gets_its_pool():
    of = deployment("SGLang", "shared", tp=2)
    driver = Driver(num_devices=2)
    driver.free["GPU-1"] = of.footprint.total_bytes
    _, spec, _ = started(of, driver)
    tokens = (spec.total_blocks - 1) * spec.layout.block_size_tokens
    assert tokens == engine_of(of.engine).capacity_tokens(of, placed(of))


def test_what_sglang_measured_is_read_by_the_operator():
    """Its page has weights, pool and graphs one by one."""
    of = deployment("SGLang", "exclusive")
    _, _, constants = started(of, Driver())
    lines = "".join(
        f'sglang:{name}{{model_name="m",phase="decode"}} {value}\n'
        for name, value in constants.items()
    )
    report = read_report(lines)
    assert report.weights_bytes == pytest.approx(of.footprint.weights.expected, rel=0.03)
    assert report.graph_bytes > 0


@pytest.mark.parametrize(
    ("engine", "words", "says"),
    [
        ("SGLang", ["--model-path", "Qwen/Qwen3-0.6B", "--mem-fraction-static", "0.001"],
         "Raise --mem-fraction-static above"),
        ("LlamaCPP", ["-hf", "Qwen/Qwen3-8B-GGUF", "-hff", "q-F16.gguf", "-c", "900000"],
         "failed to allocate buffer for kv cache"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_the_engine_s_own_words(engine, words, says):
    """The operator's tables are tried by them."""
    arguments, flags = FACES[engine].parse([*words, "--simulator-time-scale=0"])
    with pytest.raises(EngineStartError, match=says):
        asyncio.run(FACES[engine].start(arguments, flags, Driver()))


def test_a_flag_that_it_does_not_have_ends_it_as_it_ends_the_engine(capsys):
    with pytest.raises(SystemExit) as ended:
        llama_cpp.parse(["--no-mmap"])
    assert ended.value.code == 1
    assert "error: invalid argument: --no-mmap" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        sglang.parse(["--model-path", "m", "--no-such-flag"])
    assert ended.value.code == 2


def test_an_emulated_node_runs_them_for_the_images_people_name():
    """``kubectl get pod`` shows the images and commands of real ones."""
    assert entrypoint_for("lmsysorg/sglang:v0.5.23") == []
    assert entrypoint_for("registry.example/ggml-org/llama.cpp:server-cuda")[-1] == "llama-server"
    command = program_for(["python3", "-m", "sglang.launch_server", "--port", "1"])
    assert command[-4:] == ["memroute_simulator", "sglang", "--port", "1"]
    assert program_for(["sh", "-c", "x"]) == ["sh", "-c", "x"]


def test_llama_cpp_s_page_is_read_by_the_router():
    page = (
        b"# TYPE llamacpp:prompt_tokens_total counter\nllamacpp:prompt_tokens_total 7\n"
        b"llamacpp:tokens_predicted_total 3\nllamacpp:requests_processing 2\n"
        b"llamacpp:requests_deferred 1\n"
    )
    reading = parse_other_metrics(page, dialect_of(page), taken_at_seconds=1.0)
    assert (reading.num_requests_running, reading.num_requests_waiting) == (2, 1)
    assert reading.kv_cache_utilization_ratio is None, "it says nothing of it, which is not 0"
