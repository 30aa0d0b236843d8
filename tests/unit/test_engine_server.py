"""The simulated engine behind HTTP, against what a real vLLM 0.32 said."""

import asyncio
import contextlib
import json
import time

import aiohttp
import msgpack
import pytest
import zmq
import zmq.asyncio

from engine_probe import ANSWERS, CASES, REFUSALS, comparable, families
from engine_rig import complete, engine, metrics, value
from memroute_simulator.engine.metrics.vllm import token_buckets
from memroute_simulator.engine.model import EngineRequest, TokenContent
from memroute_simulator.virtual.loop import VirtualLoop
from memroute_simulator.virtual.replica import Ticket, VirtualReplica
from ports import free_port

SCALE = 20
# The tiny model's steps take half a millisecond: too short to tell from the clock's own grain.


async def answer(client, case):
    method, path, *rest = case
    data = rest[0] if rest else None
    if data is not None and not isinstance(data, bytes):
        data = json.dumps(data).encode()
    headers = {"Content-Type": "application/json"}
    async with client.request(method, path, data=data, headers=headers) as response:
        return {
            "status": response.status, "content_type": response.headers.get("content-type"),
            "body": (await response.read()).decode(),
        }  # fmt: skip


@pytest.fixture
def recorded(data_directory):
    return json.loads((data_directory / "vllm-0.32-answers.json").read_text())


async def test_it_refuses_in_the_words_of_vllm(recorded, tmp_path, monkeypatch):
    """Status, content type and body of 27 refusals, to the byte."""
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    async with engine(tmp_path) as (client, _):
        for name, case in REFUSALS.items():
            assert await answer(client, case) == recorded[name], name


async def test_it_answers_in_the_shape_of_vllm(recorded, tmp_path, monkeypatch):
    """Fields, their order in streams, finish reasons: all but texts, ids and times."""
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    async with engine(tmp_path) as (client, _):
        for name, case in ANSWERS.items():
            expected, got = recorded[name], await answer(client, case)
            assert comparable(got) == comparable(expected), name
    assert set(recorded) == set(CASES)


async def test_its_metrics_have_the_families_and_labels_of_vllm(tmp_path, data_directory):
    """Against a scrape of a real server under load, of the same model and version."""
    real = families((data_directory / "vllm-0.32-metrics-loaded.txt").read_text())
    async with engine(tmp_path) as (client, _):
        await complete(client)
        await metrics(client)
        page = await metrics(client)
    ours = families(page)
    assert set(ours) == set(real)
    for name, labels in real.items():
        if name == "vllm:cache_config_info":
            continue
        assert ours[name] == labels, name


async def test_a_part_of_its_metrics_can_be_asked_for(tmp_path):
    """With a slash, as vLLM's prometheus_client has it; without, the query is ignored."""
    names = "name[]=vllm:num_requests_running&name[]=vllm:cache_config_info"
    async with engine(tmp_path) as (client, _):
        async with client.get(f"/metrics/?{names}") as response:
            part = await response.text()
        async with client.get(f"/metrics?{names}") as response:
            assert len(await response.text()) > 20 * len(part)
    assert set(families(part)) == {"vllm:num_requests_running", "vllm:cache_config_info"}


async def test_its_metrics_say_what_happened(tmp_path):
    """One request of 300 prompt tokens, twice: 256 of them are found the second time."""
    async with engine(tmp_path) as (client, _):
        for _ in range(2):
            await complete(client, 30, [7] * 300)
        page = await metrics(client)
    assert value(page, "vllm:prefix_cache_queries_total") == 600
    assert value(page, "vllm:prefix_cache_hits_total") == 256
    assert value(page, "vllm:generation_tokens_total") == 60
    assert value(page, "vllm:request_success_total", 'finished_reason="length"') == 2
    assert value(page, "vllm:time_to_first_token_seconds_count") == 2
    assert value(page, "vllm:inter_token_latency_seconds_count") == 58
    assert value(page, "vllm:kv_cache_usage_perc") == 0
    info = next(line for line in page.splitlines() if line.startswith("vllm:cache_config_info{"))
    assert 'num_gpu_blocks="32"' in info
    assert 'kv_cache_size_tokens="4096"' in info
    assert 'kv_cache_max_concurrency="4.0"' in info


def test_buckets_of_token_counts_end_at_the_context():
    assert token_buckets(1024) == (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@pytest.mark.slow
async def test_pressure_shows_while_it_lasts(tmp_path):
    """Twenty requests that want 12,000 tokens of 4,096: a full cache, a queue, preemptions."""
    async with engine(tmp_path, time_scale="0.2") as (client, _):
        running = [asyncio.create_task(complete(client, 400, [n] * 200)) for n in range(3, 23)]
        seen = []
        while not all(task.done() for task in running):
            page = await metrics(client)
            seen.append(
                (value(page, "vllm:kv_cache_usage_perc"), value(page, "vllm:num_requests_waiting"))
            )
            await asyncio.sleep(0.02)
        page = await metrics(client)
    assert {task.result()[0] for task in running} == {200}
    assert max(usage for usage, _ in seen) > 0.9
    assert max(waiting for _, waiting in seen) >= 4
    assert value(page, "vllm:num_preemptions_total") > 0


@pytest.mark.parametrize(
    ("dialect", "present", "absent"),
    [
        ("vllm-0.10", ["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"],
         ["vllm:num_requests_waiting_by_reason", "kv_cache_size_tokens"]),
        ("vllm-0.8", ["vllm:gpu_cache_usage_perc", "vllm:gpu_prefix_cache_hits_total"],
         ["vllm:kv_cache_usage_perc", "vllm:inter_token_latency_seconds"]),
        ("vllm-0.6", ["vllm:num_requests_swapped", "vllm:cpu_cache_usage_perc"], ["engine="]),
        ("sglang", ["sglang:token_usage", "sglang:max_total_num_tokens", "sglang:num_queue_reqs"],
         ["vllm:"]),
        ("tgi", ["tgi_queue_size", "tgi_batch_max_total_tokens"], ["vllm:"]),
    ],
)  # fmt: skip
async def test_other_dialects_have_their_own_names(tmp_path, dialect, present, absent):
    async with engine(tmp_path, "--simulator-metrics", dialect) as (client, _):
        await complete(client)
        page = await metrics(client)
    for name in present:
        assert name in page
    for name in absent:
        assert name not in page


async def test_load_headers_come_with_whole_answers_only(tmp_path):
    async with engine(tmp_path) as (client, _):
        body = {"model": "tiny", "prompt": [5], "max_tokens": 2}
        for form, start in (("TEXT", "TEXT named_metrics."), ("json", 'JSON {"named_metrics"')):
            headers = {"endpoint-load-metrics-format": form}
            async with client.post("/v1/completions", json=body, headers=headers) as response:
                assert response.headers["endpoint-load-metrics"].startswith(start)
            streamed = body | {"stream": True}
            async with client.post("/v1/completions", json=streamed, headers=headers) as response:
                assert "endpoint-load-metrics" not in response.headers


async def test_a_full_queue_is_refused_without_a_time_to_come_back(tmp_path):
    async with engine(tmp_path, "--max-num-queued-reqs", "2", time_scale="1") as (client, server):
        busy = [asyncio.create_task(complete(client, 200)) for _ in range(2)]
        while server.engine.num_in_flight < 2:
            await asyncio.sleep(0.01)
        status, headers, body = await complete(client)
        page = await metrics(client)
        for task in busy:
            task.cancel()
    assert status == 503
    assert "Retry-After" not in headers
    assert b"The engine is currently busy" in body
    rejected = value(page, "vllm:admission_rejections_total", 'reason="max_num_queued_reqs"')
    assert rejected == 1


async def test_a_client_that_leaves_takes_its_work_with_it(tmp_path):
    async with engine(tmp_path, time_scale="1") as (client, server):
        task = asyncio.create_task(complete(client, 1000))
        while not server.engine.schedulers[0].num_running:
            await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        deadline = time.monotonic() + 30
        while server.engine.schedulers[0].num_running and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert not server.engine.num_in_flight
        page = await metrics(client)
    assert value(page, "vllm:request_success_total", 'finished_reason="abort"') == 1


async def test_adapters_are_loaded_served_and_unloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    async with engine(tmp_path, "--enable-lora", "--max-loras", "1") as (client, _):
        load = {"lora_name": "sql", "lora_path": "/adapters/sql"}
        async with client.post("/v1/load_lora_adapter", json=load) as response:
            assert await response.text() == "Success: LoRA adapter 'sql' added successfully."
        async with client.post("/v1/load_lora_adapter", json=load) as response:
            assert response.status == 400
        async with client.get("/v1/models") as response:
            cards = {card["id"]: card for card in (await response.json())["data"]}
        assert cards["sql"]["parent"] == "tiny"
        status, _, body = await complete(client, model="sql")
        assert (status, json.loads(body)["model"]) == (200, "sql")
        async with client.post("/v1/unload_lora_adapter", json={"lora_name": "sql"}) as response:
            assert response.status == 200
        assert (await complete(client, model="sql"))[0] == 404


async def test_sleep_discards_the_cache_and_holds_requests_until_it_wakes(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    async with engine(tmp_path) as (client, _):
        await complete(client, 5, [7] * 300)
        async with client.post("/sleep?level=1") as response:
            assert (await response.json()) == {"status": "sleeping", "level": 1}
        page = await metrics(client)
        state = 'sleep_state="weights_offloaded"'
        assert value(page, "vllm:engine_sleep_state", state) == 1
        waiting = asyncio.create_task(complete(client, 5, [7] * 300))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        async with client.post("/wake_up"):
            pass
        _, _, body = await waiting
    assert json.loads(body)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_an_embedding_engine_embeds_and_generates_nothing(tmp_path):
    async with engine(tmp_path, "--runner", "pooling") as (client, _):
        body = {"model": "tiny", "input": ["a text", "another"]}
        async with client.post("/v1/embeddings", json=body) as response:
            document = await response.json()
        assert (await complete(client))[0] == 404
    first, second = (row["embedding"] for row in document["data"])
    assert len(first) == 256
    assert first != second
    assert sum(x * x for x in first) == pytest.approx(1.0)


async def test_what_was_tokenized_can_be_detokenized(tmp_path):
    async with engine(tmp_path) as (client, _):
        body = {"model": "tiny", "prompt": "Serving is a memory problem."}
        async with client.post("/tokenize", json=body) as response:
            tokens = (await response.json())["tokens"]
        async with client.post("/detokenize", json={"model": "tiny", "tokens": tokens}) as response:
            assert (await response.json())["prompt"] == body["prompt"]


async def test_a_request_can_be_pinned_to_a_rank(tmp_path, data_directory):
    """Two ranks: one series each, blocks summed in the label, tokens per rank."""
    real = (data_directory / "vllm-0.32-metrics-loaded-dp2.txt").read_text()
    async with engine(tmp_path, "--data-parallel-size", "2") as (client, server):
        headers = {"X-data-parallel-rank": "1"}
        body = {"model": "tiny", "prompt": [5] * 200, "max_tokens": 4, "ignore_eos": True}
        for _ in range(3):
            async with client.post("/v1/completions", json=body, headers=headers) as response:
                assert response.status == 200
        page = await metrics(client)
        counts = [scheduler.counts.prompt_tokens for scheduler in server.engine.schedulers]
        async with client.post(
            "/v1/completions", json=body, headers={"X-data-parallel-rank": "2"}
        ) as response:
            assert response.status == 400
    assert counts == [0, 600]
    assert 'num_gpu_blocks="64"' in page
    assert 'num_gpu_blocks="64"' in real
    assert value(page, "vllm:generation_tokens_total", 'engine="1"') == 12


@pytest.mark.parametrize("status", [500, 429])
async def test_refusals_can_be_asked_for(tmp_path, status):
    flags = ["--simulator-fault", "error_ratio=1", "--simulator-fault", f"error_status={status}"]
    async with engine(tmp_path, *flags) as (client, _):
        assert (await complete(client))[0] == status


async def test_faults_are_set_shown_and_checked(tmp_path):
    async with engine(tmp_path) as (client, _):
        async with client.post("/simulator/faults", json={"slowdown_ratio": 2}) as response:
            assert (await response.json())["slowdown_ratio"] == 2
        for nonsense in ({"nope": 1}, {"error_ratio": 2}, {"is_hanging": "maybe"}):
            async with client.post("/simulator/faults", json=nonsense) as response:
                assert response.status == 400
        async with client.get("/simulator/faults") as response:
            assert (await response.json())["error_ratio"] == 0


@pytest.mark.slow
async def test_a_hanging_engine_answers_metrics_and_no_requests(tmp_path):
    async with engine(tmp_path, "--simulator-fault", "is_hanging=true") as (client, server):
        task = asyncio.create_task(complete(client))
        await asyncio.sleep(0.2)
        assert not task.done()
        assert value(await metrics(client), "vllm:num_requests_waiting") == 1
        server.engine.faults.is_hanging = False
        assert (await task)[0] == 200


async def test_a_stream_can_be_reset_in_the_middle(tmp_path):
    flags = ["--simulator-fault", "reset_ratio=1", "--simulator-fault", "reset_after_tokens=4"]
    async with engine(tmp_path, *flags) as (client, server):
        body = {"model": "tiny", "prompt": [5], "max_tokens": 300, "ignore_eos": True,
                "stream": True}  # fmt: skip
        received = []

        async def read():
            async with client.post("/v1/completions", json=body) as response:
                async for chunk in response.content.iter_any():
                    received.append(chunk)  # noqa: PERF401 - what came before counts

        with pytest.raises(aiohttp.ClientError):
            await read()
        assert 1 <= b"".join(received).count(b"data: ") < 300
        while server.engine.num_in_flight:
            await asyncio.sleep(0.01)


async def test_metrics_can_freeze_or_fail_while_requests_are_served(tmp_path):
    async with engine(tmp_path) as (client, server):
        before = await metrics(client)
        server.engine.faults.is_metrics_frozen = True
        await complete(client)
        assert await metrics(client) == before
        server.engine.faults.are_metrics_failing = True
        async with client.get("/metrics") as response:
            assert response.status == 500


async def test_an_engine_out_of_memory_tells_its_streams_and_dies(tmp_path):
    async with engine(tmp_path, time_scale="1") as (client, server):
        task = asyncio.create_task(complete(client, 500))
        while not server.engine.schedulers[0].num_running:
            await asyncio.sleep(0.01)
        async with client.post("/simulator/faults", json={"is_out_of_memory": True}):
            pass
        status, _, body = await task
        assert (status, json.loads(body)["error"]["type"]) == (500, "InternalServerError")
        async with client.get("/health") as response:
            assert response.status == 503
        assert (await complete(client))[0] == 500


async def test_kv_events_say_what_is_stored_and_removed(tmp_path):
    """Sequence numbers without gaps; maps as 0.25 and later send; a replay gives them again."""
    port, replay_port = free_port(), free_port()
    config = {
        "enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"tcp://*:{port}",
        "replay_endpoint": f"tcp://*:{replay_port}",
    }  # fmt: skip
    async with engine(tmp_path, "--kv-events-config", json.dumps(config)) as (client, _):
        context = zmq.asyncio.Context()
        subscriber, replay = context.socket(zmq.SUB), context.socket(zmq.REQ)
        try:
            subscriber.connect(f"tcp://127.0.0.1:{port}")
            subscriber.subscribe(b"")
            await asyncio.sleep(0.3)
            for number in range(12):
                await complete(client, 5, [number + 3] * 400)
            batches, last = [], [14] * 128
            while not any(e.get("token_ids", [])[:128] == last for _, b in batches for e in b[1]):
                frames = await asyncio.wait_for(subscriber.recv_multipart(), 30)
                batches.append((int.from_bytes(frames[1], "big"), msgpack.unpackb(frames[2])))
            async with client.get("/kv_event_sources") as response:
                assert (await response.json())["0"]["endpoint"] == f"tcp://*:{port}"
            replay.connect(f"tcp://127.0.0.1:{replay_port}")
            await replay.send((2).to_bytes(8, "big"))
            first = await asyncio.wait_for(replay.recv_multipart(), 30)
        finally:
            subscriber.close(linger=0)
            replay.close(linger=0)
            context.term()
    assert [sequence for sequence, _ in batches] == list(range(len(batches)))
    assert int.from_bytes(first[0], "big") == 2
    events = [event for _, (_, found, rank) in batches for event in found if rank == 0]
    stored = [event for event in events if event["type"] == "BlockStored"]
    removed = [event for event in events if event["type"] == "BlockRemoved"]
    assert stored[0]["token_ids"][:128] == [3] * 128
    assert stored[0]["parent_block_hash"] is None
    known = {block for event in stored for block in event["block_hashes"]}
    assert removed
    assert all(set(event["block_hashes"]) <= known for event in removed)


@pytest.mark.slow
async def test_real_and_virtual_time_agree(tmp_path):
    """The same requests at once in both: the same steps, so the same order and the same times.

    Real time is never early; how late it is says how busy this machine is, and is not judged.
    """
    shapes = [(50 + 40 * n, 10 + 7 * n) for n in range(8)]
    async with engine(tmp_path, time_scale=str(SCALE)) as (client, server):
        spec = server.engine.spec
        server.engine.pause()
        ended, started = {}, time.monotonic()

        async def ask(name, prompt, output):
            await complete(client, output, [name + 3] * prompt)
            ended[name] = time.monotonic() - started

        tasks = []
        for name, (prompt, output) in enumerate(shapes):
            tasks.append(asyncio.create_task(ask(name, prompt, output)))
            while server.engine.num_in_flight <= name:
                await asyncio.sleep(0.005)
        started = time.monotonic()
        server.engine.resume()
        await asyncio.gather(*tasks)
        steps = server.engine.schedulers[0].counts.num_steps
    loop = VirtualLoop()
    replica = VirtualReplica(loop, spec.schedulers(), spec.step_time)
    tickets = []
    for name, (prompt, output) in enumerate(shapes):
        tickets.append(
            Ticket(
                request=EngineRequest(
                    request_id=str(name), num_prompt_tokens=prompt, num_output_tokens=output,
                    content=TokenContent([name + 3] * prompt, name),
                )
            )
        )  # fmt: skip
        replica.submit(tickets[-1])
    loop.run()
    # The first request starts a step of its own in virtual time, before the others are there.
    assert abs(replica.schedulers[0].counts.num_steps - steps) <= 1
    virtual = {int(t.request.request_id): t.last_token_seconds for t in tickets}
    assert sorted(virtual, key=virtual.get) == sorted(ended, key=ended.get)
    for name, seconds in virtual.items():
        assert ended[name] > 0.9 * seconds * SCALE


@pytest.mark.parametrize(("tokens", "events"), [(1, 1), (2, 2), (9, 3), (10, 4), (41, 11)])
async def test_an_event_carries_as_many_tokens_as_the_interval_says(tmp_path, tokens, events):
    """The first token comes alone, the others in fours, the rest when it is there."""
    async with engine(tmp_path, "--stream-interval", "4") as (client, _):
        body = {"model": "tiny", "prompt": [5], "max_tokens": tokens, "ignore_eos": True,
                "stream": True, "stream_options": {"include_usage": True}}  # fmt: skip
        async with client.post("/v1/completions", json=body) as response:
            page = await response.read()
    assert page.count(b'"text":') == events
    assert b'"completion_tokens":%d' % tokens in page.replace(b": ", b":")
