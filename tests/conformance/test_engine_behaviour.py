"""A real vLLM with 4 MiB of KV cache, and the simulated engine: the same, step by step."""

import json
import random
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from live import TINY, TINY_SLIDING, make_model, server, simulated

from engine_probe import ANSWERS, CASES, call, comparable, families, types
from memroute.footprint import architecture_from_config, kv_cache_layout
from memroute_simulator.engine.model import (
    EngineRequest,
    HostTier,
    HostTierLimits,
    KVCache,
    SchedulingPolicy,
    TokenContent,
    VLLMScheduler,
)

CONTEXT, SEQUENCES, BATCHED, BLOCK = 1024, 16, 512, 128
POOL_BYTES = 4 * 1024 * 1024
FLAGS = [
    "--max-model-len", str(CONTEXT), "--max-num-seqs", str(SEQUENCES),
    "--max-num-batched-tokens", str(BATCHED), "--kv-cache-memory-bytes", str(POOL_BYTES),
]  # fmt: skip
# A tier a half larger than the cache: prefixes leave the device and come back.
HOST_CHUNKS = 48
BLOCK_BYTES = 131_072
HOST = json.dumps(
    {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "cpu_bytes_to_use": HOST_CHUNKS * BLOCK_BYTES,
            "spec_name": "HostMemorySpec",
            "spec_module_path": "host_memory_spec",
        },
    }
)
KINDS = {
    "fcfs": (TINY, [], POOL_BYTES),
    "priority": (TINY, ["--scheduling-policy", "priority"], POOL_BYTES),
    "watermark": (TINY, ["--watermark", "0.1"], POOL_BYTES),
    "no-prefix-cache": (TINY, ["--no-enable-prefix-caching"], POOL_BYTES),
    "sliding": (TINY_SLIDING, [], POOL_BYTES),
    "host": (TINY, ["--kv-transfer-config", HOST], POOL_BYTES),
}


def workload(seed: int) -> list[dict]:
    """Thirty requests; some share up to 512 tokens, all together want far more than 4 MiB."""
    rng = random.Random(seed)
    prefixes = [[rng.randrange(10, 4000) for _ in range(512)] for _ in range(3)]
    return [
        {
            "prompt": rng.choice(prefixes)[: rng.choice((0, 128, 256, 400, 512))]
            + [rng.randrange(10, 4000) for _ in range(rng.randrange(20, 380))],
            "max_tokens": rng.randrange(1, 300),
            "priority": rng.randrange(3),
        }
        for _ in range(30)
    ]


def post(base: str, path: str, body: dict | None = None, request_id: str = "") -> dict:
    data = json.dumps(body).encode() if body is not None else b""
    request = urllib.request.Request(base + path, data=data, method="POST")
    request.add_header("Content-Type", "application/json")
    if request_id:
        request.add_header("X-Request-Id", request_id)
    with urllib.request.urlopen(request, timeout=300) as response:
        return json.loads(response.read() or b"{}")


def serve(base: str, requests: list[dict], *, has_priority: bool) -> list[dict]:
    """Queue all requests in order while the engine is paused, then let it run."""
    post(base, "/reset_prefix_cache?reset_external=true")
    post(base, "/pause?mode=keep")
    answers: list[dict] = [{}] * len(requests)

    def ask(index: int, asked: dict) -> None:
        body = {"model": "tiny", "ignore_eos": True} | asked
        if not has_priority:
            body.pop("priority")
        answers[index] = post(base, "/v1/completions", body, f"r{index}")

    threads = []
    for index, asked in enumerate(requests):
        threads.append(threading.Thread(target=ask, args=(index, asked)))
        threads[-1].start()
        # They must arrive in this order, through the server's own threads.
        time.sleep(0.15)
    time.sleep(0.5)
    post(base, "/resume")
    for thread in threads:
        thread.join()
    return answers


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_the_one_that_vllm_takes(kind, tmp_path):
    """Who computes how many tokens, who is preempted, how many blocks are free: every step."""
    config, extra, pool = KINDS[kind]
    folder = make_model(tmp_path / "model", config)
    recording = tmp_path / "recording.jsonl"
    flags = [
        *FLAGS, *extra, "--enable-prompt-tokens-details",
        "--scheduler-cls", "recording_scheduler.RecordingScheduler",
    ]  # fmt: skip
    total_preempted = 0
    port = 18_700 + list(KINDS).index(kind)
    with server(folder, port, flags, {"MEMROUTE_RECORDING": str(recording)}) as base:
        for seed in range(1, 4):
            requests = workload(seed)
            before = len(recording.read_text().splitlines()) if recording.exists() else 0
            answers = serve(base, requests, has_priority=kind == "priority")
            steps = [json.loads(line) for line in recording.read_text().splitlines()[before:]]
            total_preempted += replay(kind, config, pool, requests, steps, answers)
    assert total_preempted > 2


def replay(kind, config, pool, requests, steps, answers) -> int:
    """Take the same steps; the preemptions there were."""
    layout = kv_cache_layout(
        architecture_from_config(config), max_num_batched_tokens=BATCHED,
        num_concurrent_batches=1, block_size_tokens=BLOCK,
    )  # fmt: skip
    scheduler = VLLMScheduler(
        cache=KVCache(
            num_blocks=layout.num_blocks_in(pool), layout=layout,
            caches_prefixes=kind != "no-prefix-cache",
        ),
        max_num_batched_tokens=BATCHED, max_num_seqs=SEQUENCES,
        policy=SchedulingPolicy.PRIORITY if kind == "priority" else SchedulingPolicy.FCFS,
        watermark_ratio=0.1 if kind == "watermark" else 0.0,
        host=host_tier() if kind == "host" else None,
    )  # fmt: skip
    mine = []
    for index, asked in enumerate(requests):
        prompt = asked["prompt"]
        mine.append(
            EngineRequest(
                request_id=f"r{index}", num_prompt_tokens=len(prompt),
                num_output_tokens=min(asked["max_tokens"], CONTEXT - len(prompt)),
                content=TokenContent(prompt, 10**6 + index),
                priority=asked["priority"], arrival_seconds=float(index),
            )
        )  # fmt: skip
        scheduler.add(mine[-1])
    now = 0.0
    for number, step in enumerate(steps):
        plan = scheduler.schedule(now)
        while plan.is_empty and scheduler.has_work:
            # A step that only copies is not recorded.
            now += 1.0
            scheduler.complete(plan, now)
            plan = scheduler.schedule(now)
        now += 1.0
        tokens = {request.request_id: 1 for request in scheduler.decoding}
        tokens |= {c.request.request_id: c.num_new_tokens for c in plan.prefills}
        assert tokens == {name(k): v for k, v in step["tokens"].items()}, f"step {number}"
        preempted = sorted(request.request_id for request in plan.preempted)
        assert preempted == sorted(map(name, step["preempted"])), f"step {number}"
        assert scheduler.cache.num_free == step["free"], f"step {number}"
        scheduler.complete(plan, now)
    assert not scheduler.has_work
    cached = [a["usage"]["prompt_tokens_details"]["cached_tokens"] for a in answers]
    assert [request.num_hit_tokens for request in mine] == cached
    if kind == "host":
        assert scheduler.counts.host_hit_tokens > 0
    return scheduler.counts.num_preemptions


def host_tier() -> HostTier:
    """Copies end within the step that begins them."""
    return HostTier(
        HostTierLimits(
            num_chunks=HOST_CHUNKS, chunk_tokens=BLOCK, chunk_bytes=BLOCK_BYTES,
            load_seconds=1e-6, store_seconds=1e-6,
        )
    )  # fmt: skip


def name(request_id: str) -> str:
    return request_id.split("-")[1]


@pytest.mark.timeout(600)
def test_answers_and_metrics_are_those_of_vllm(tmp_path):
    """Refusals to the byte, answers by their shape, /metrics by families, labels and types."""
    folder = make_model(tmp_path / "model", TINY)
    shared = [*FLAGS, "--enable-prompt-tokens-details", "--enable-server-load-tracking"]
    with (
        server(folder, 18_790, shared, {}) as real,
        simulated(folder, 18_791, [*shared, "--block-size", str(BLOCK)]) as ours,
    ):
        different = {}
        recorded = {}
        for case_name, case in CASES.items():
            expected, got = call(real, case), call(ours, case)
            recorded[case_name] = expected
            if comparable(expected) != comparable(got):
                different[case_name] = (expected, got)
        assert not different
        assert set(ANSWERS) <= set(recorded)
        with urllib.request.urlopen(f"{real}/metrics") as response:
            page = response.read().decode()
        with urllib.request.urlopen(f"{ours}/metrics") as response:
            our_page = response.read().decode()
    assert families(our_page) == families(page)
    assert types(our_page) == types(page)
    Path(tmp_path / "vllm-0.32-answers.json").write_text(json.dumps(recorded, indent=1))
