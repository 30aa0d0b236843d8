"""KV cache on the host: the simulated engine tells of it what a live vLLM does.

The same prompts, one after the other, to both: tokens found by tier, bytes stored and loaded,
refusals, and the events of both media, up to the names of blocks. Not times.
"""

import json
import urllib.request

import msgpack
import pytest
import zmq
from live import TINY, make_model, server, simulated

from memroute.traffic.prefixes import BlockIndex, block_keys
from memroute_router.prompts.block_events import apply_events
from ports import free_port

BLOCK = 128
BLOCK_BYTES = 131_072
FLAGS = [
    "--max-model-len", "1024", "--max-num-seqs", "16", "--max-num-batched-tokens", "512",
    "--kv-cache-memory-bytes", str(32 * BLOCK_BYTES), "--block-size", str(BLOCK),
    "--enforce-eager", "--enable-prompt-tokens-details",
]  # fmt: skip
# One prompt, the same again, ten others, the first, and half of it with another end.
PROMPTS = [
    [10] * 600, [10] * 600, *([number] * 600 for number in range(20, 30)), [10] * 600,
    [10] * 300 + [11] * 300,
]  # fmt: skip
COUNTED = (
    ("vllm:prompt_tokens_cached_by_source_total", 'source="device"'),
    ("vllm:prompt_tokens_cached_by_source_total", 'source="host"'),
    ("vllm:prompt_tokens_by_source_total", 'source="external_kv_transfer"'),
    ("vllm:external_prefix_cache_queries_total", ""),
    ("vllm:external_prefix_cache_hits_total", ""),
    ("vllm:kv_offload_load_bytes_total", ""),
    ("vllm:kv_offload_store_bytes_total", ""),
    ("vllm:kv_offload_store_size_count", ""),
    ("vllm:kv_offload_allocation_failure_total", ""),
)


def post(base, body):
    request = urllib.request.Request(base + "/v1/completions", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=300) as response:
        return json.loads(response.read())


def counted(base):
    """Values by series; 0 where a series has not begun."""
    with urllib.request.urlopen(base + "/metrics", timeout=60) as response:
        lines = response.read().decode().splitlines()
    return {
        (name, label): sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(name + "{") and label in line
        )
        for name, label in COUNTED
    }


def replayed(port):
    """Every event since the engine's start."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.RCVTIMEO, 60_000)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"tcp://127.0.0.1:{port}")
        socket.send_multipart((b"", (0).to_bytes(8, "big")))
        events = []
        while True:
            frames = socket.recv_multipart()
            if int.from_bytes(frames[-2], "big", signed=True) < 0:
                return events
            events += msgpack.unpackb(frames[-1], strict_map_key=False)[1]


def told(base, replay):
    """What one engine says of the prompts: cached tokens, counts, and what a router knows then."""
    cached = [
        (
            post(base, {"model": "tiny", "prompt": prompt, "max_tokens": 8, "ignore_eos": True})[
                "usage"
            ]["prompt_tokens_details"]
            or {}
        ).get("cached_tokens", 0)
        for prompt in PROMPTS
    ]
    events = replayed(replay)
    index = BlockIndex()
    index.follow("a")
    apply_events(index, "a", events, rank=0)
    known = []
    for prompt in PROMPTS:
        keys = block_keys(prompt, BLOCK)
        on_device = index.match(keys)
        known.append((on_device.get("a", 0), index.behind(keys, on_device).get("a", (0, 0))))
    payloads = [
        (one["type"], one["medium"], len(one["block_hashes"]), one.get("block_size"),
         len(one.get("token_ids") or ()))
        for one in events if one.get("medium") == "CPU"
    ]  # fmt: skip
    return cached, counted(base), known, payloads


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("num_chunks", "describes"), [(48, False), (20, False), (20, True), (3, False)]
)
def test_events_and_counts_are_those_of_a_live_engine(num_chunks, describes, tmp_path):
    """A tier larger than the device, a smaller one, and one that refuses every prompt."""
    folder = make_model(tmp_path / "model", TINY)
    extra = {"cpu_bytes_to_use": num_chunks * BLOCK_BYTES, "self_describing_kv_events": describes}
    ours = {"kv_connector": "OffloadingConnector", "kv_role": "kv_both"}
    answers = []
    for is_live in (True, False):
        live, replay, port = free_port(), free_port(), free_port()
        events = {
            "enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"tcp://*:{live}",
            "replay_endpoint": f"tcp://*:{replay}",
        }  # fmt: skip
        spec = {"spec_name": "HostMemorySpec", "spec_module_path": "host_memory_spec"}
        transfer = ours | {"kv_connector_extra_config": extra | (spec if is_live else {})}
        flags = [
            *FLAGS, "--kv-events-config", json.dumps(events),
            "--kv-transfer-config", json.dumps(transfer),
        ]  # fmt: skip
        running = server(folder, port, flags, {}) if is_live else simulated(folder, port, flags)
        with running as base:
            answers.append(told(base, replay))
    for real, simulated_one in zip(*answers, strict=True):
        assert simulated_one == real
