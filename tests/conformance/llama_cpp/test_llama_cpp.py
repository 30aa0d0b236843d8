"""A real llama.cpp server on the CPU takes the memory that was predicted, and is read rightly."""

import json
import os
import re
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from bench.server import Server, serving
from gguf_files import TinyLlama, tiny_gguf
from memroute.footprint import EngineType, replica_footprint
from memroute.footprint.gguf import architecture_from_gguf, read_gguf_header
from memroute.placement import Placed, PlacementMode, ReplicaKey
from memroute.units import MIB
from memroute_operator.engines.registry import engine_of, phase_reached
from memroute_operator.spec.deployment import read_deployment
from memroute_router.engines.others import dialect_of, parse_other_metrics
from operator_rig import mdep

# The Python that has llama.cpp's wheel: `make conformance-llama-cpp` makes it.
PYTHON = os.environ.get("MEMROUTE_LLAMA_CPP_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="make conformance-llama-cpp runs it")
START_SECONDS = 60.0
NAME = "tiny"
# Models whose parts weigh differently: mostly weights, mostly cache, wide, many heads.
SHAPES = {
    "weights": (TinyLlama(layers=4, hidden=512, heads=8, kv_heads=2, head_dim=64,
                          intermediate=2048, vocabulary=8192), 512, 2),
    "cache": (TinyLlama(layers=8, hidden=256, heads=4, kv_heads=4, head_dim=64,
                        intermediate=1024), 4000, 4),
    "long": (TinyLlama(layers=4, hidden=256, heads=8, kv_heads=2, head_dim=32,
                       intermediate=768, context=32768), 20_000, 2),
    "deep": (TinyLlama(layers=16, hidden=384, heads=6, kv_heads=3, head_dim=64,
                       intermediate=1536), 1024, 8),
    "tiny": (TinyLlama(layers=2, hidden=64, heads=2, kv_heads=1, head_dim=32, intermediate=224,
                       vocabulary=32_000), 2048, 1),
}  # fmt: skip


def deployment(path, architecture, context, concurrency):
    obj = mdep("m", model="acme/tiny-GGUF", maxContextTokens=context, concurrency=concurrency)
    obj["spec"]["engine"] = {"type": "LlamaCPP", "image": "llama.cpp"}
    obj["spec"]["model"] |= {
        "servedName": NAME, "file": str(path), "checkpointBytes": architecture.checkpoint_bytes,
        "config": {
            "model_type": "llama", "hidden_size": architecture.hidden_size,
            "num_hidden_layers": architecture.num_layers,
            "num_attention_heads": architecture.attention.num_heads,
            "num_key_value_heads": architecture.attention.num_kv_heads,
            "head_dim": architecture.attention.head_dim,
            "intermediate_size": architecture.layers[0].feed_forwards[0].intermediate_size,
            "vocab_size": architecture.vocab_size,
            "max_position_embeddings": architecture.max_context_tokens,
        },
    }  # fmt: skip
    return read_deployment(obj)


def flags_of(of):
    where = Placed(
        key=ReplicaKey(namespace="default", name="m", index=0), node="a",
        mode=PlacementMode.SHARED, device_uuids=("GPU-0",), num_devices=1,
        bytes_per_device=of.footprint.total_bytes, needed_bytes_per_device=1,
        usable_bytes_per_device=80 * 2**30, product=None, why="",
    )  # fmt: skip
    return engine_of(of.engine).arguments(of, where)


@pytest.fixture(params=SHAPES)
def server(request, tmp_path):
    """The ModelDeployment, the server's address, and its log."""
    model, context, concurrency = SHAPES[request.param]
    path = tmp_path / "model.gguf"
    tiny_gguf(path, model)
    architecture = architecture_from_gguf(read_gguf_header(path.read_bytes()))
    of = deployment(path, architecture, context, concurrency)
    port = 18_900 + list(SHAPES).index(request.param)
    log = tmp_path / "server.log"
    script = str(Path(__file__).with_name("llama_server.py"))
    live = Server(
        [PYTHON, script, str(port), *flags_of(of)],
        url=f"http://127.0.0.1:{port}", log=log, environment={},
    )  # fmt: skip
    with serving(live, within_seconds=START_SECONDS):
        yield of, architecture, live.url, log


def measured_bytes(log):
    """Model, cache and buffers, by its start log; the last of each, where it allocates twice."""
    text = log.read_text()

    def last(what):
        return float(re.findall(rf"{what} buffer size = +([\d.]+) MiB", text)[-1])

    return {what: last(what) * MIB for what in ("model", "KV", "compute")}


def test_a_live_server_takes_what_was_predicted(server):
    """Within 5 % altogether; its cache to the byte that its log shows."""
    of, architecture, _, log = server
    measured = measured_bytes(log)
    shape = replace(of.shape, architecture=architecture)
    for footprint in (of.footprint, replica_footprint(shape)):
        assert footprint.kv_cache_bytes == pytest.approx(measured["KV"], abs=0.01 * MIB)
        predicted = (
            footprint.weights.expected
            + footprint.kv_cache_bytes
            + footprint.peak_activation.expected
        )
        assert predicted == pytest.approx(sum(measured.values()), rel=0.05)
        high = footprint.weights.high + footprint.kv_cache_bytes + footprint.peak_activation.high
        assert high >= sum(measured.values())


def test_a_live_server_is_asked_and_read_as_the_operator_and_the_router_do(server):
    """Probes, names, slots and the metrics that requests are routed by."""
    of, _, url, log = server

    def get(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            url + path, data=data, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.read()

    engine = engine_of(EngineType.LLAMA_CPP)
    probes = engine.probes(of)
    for probe in (probes.startup, probes.readiness, probes.liveness):
        assert json.loads(get(probe.path)) == {"status": "ok"}
    assert [one["id"] for one in json.loads(get("/v1/models"))["data"]] == [NAME]
    slots = json.loads(get("/slots"))
    assert len(slots) == of.shape.concurrency
    assert all(slot["n_ctx"] >= of.max_context_tokens for slot in slots)
    answer = json.loads(get("/v1/completions", {"prompt": "abc", "max_tokens": 4}))
    assert answer["usage"]["completion_tokens"] >= 1
    page = get("/metrics")
    dialect = dialect_of(page)
    assert dialect.name == "llama.cpp"
    reading = parse_other_metrics(page, dialect, taken_at_seconds=0.0)
    assert (reading.num_requests_running, reading.num_requests_waiting) == (0, 0)
    assert reading.num_computed_tokens_total > 0
    assert phase_reached(engine.phases, log.read_text()) == "serving"
