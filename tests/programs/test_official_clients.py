"""OpenAI's and Anthropic's own clients and curl, unchanged, through the router to the engine.

The clients take 1.5 s of CPU to import: only the process that runs these tests pays.
"""

import asyncio
import contextlib
import json

import pytest
from aiohttp.test_utils import TestServer

from access_rig import ALICE, tenant, write_keys
from engine_probe import TINY
from memroute_simulator.engine.arguments import parse_arguments
from memroute_simulator.engine.http.app import EngineServer
from router_rig import Rig


@contextlib.asynccontextmanager
async def serving(tmp_path, *router_flags):
    """The address of a router before a simulated engine."""
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    flags = ["--served-model-name", "m", "--max-model-len", "1024", "--block-size", "16"]
    flags += ["--kv-cache-memory-bytes", str(4 * 1024**2), "--simulator-accelerator", "RTX-4090"]
    arguments = parse_arguments(["--model", str(tmp_path), *flags])
    engine = EngineServer(arguments, arguments.standalone_spec())
    stepping = asyncio.create_task(engine.run())
    server = TestServer(engine.application(), handler_cancellation=True)
    await server.start_server()
    rig = Rig("--scrape-seconds", "0.1", *router_flags, body_bytes=1_000_000)
    await rig.start()
    replica = rig.add("a", server.port, context=1024, capacity=None)
    rig.router.scraper.follow(replica)
    async with asyncio.timeout(30):
        while replica.ledger.reading is None:
            await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{rig.port}"
    async with asyncio.timeout(30):
        while rig.num_leases:
            await asyncio.sleep(0.01)
    await rig.stop()
    await server.close()
    stepping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stepping


@pytest.fixture
async def base(tmp_path):
    async with serving(tmp_path) as address:
        yield address


@pytest.mark.parametrize(
    "conversation",
    [
        "openai_chats",
        "openai_completions",
        "openai_responses",
        "openai_errors",
        "anthropic_messages",
    ],
)
async def test_official_clients_work_unchanged(base, conversation):
    """Served by the engine, with its own usage; nothing is left reserved afterwards."""
    import client_conversations

    await getattr(client_conversations, conversation)(base, "m")


async def test_curl_works_unchanged(base):
    import client_conversations

    await asyncio.to_thread(client_conversations.curl, base, "m")


async def test_with_keys_openais_client_raises_what_openais_own_service_makes_it_raise(tmp_path):
    """Programs catch AuthenticationError, PermissionDeniedError, RateLimitError, by those names."""
    import openai

    keys = write_keys(
        tmp_path / "keys.json", tenant("alice", ALICE, requestsPerMinute=3, tokensPerMinute=9000)
    )
    ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    async with serving(tmp_path, "--keys", keys) as address:

        def client(key):
            return openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)

        async with client("sk-nobody-0123456789abcdefghij") as stranger:
            with pytest.raises(openai.AuthenticationError) as refused:
                await stranger.chat.completions.create(**ask)
            assert refused.value.code == "invalid_api_key"
        async with client(ALICE) as alice:
            assert [model.id async for model in alice.models.list()] == ["m"]
            with pytest.raises(openai.PermissionDeniedError) as refused:
                await alice.chat.completions.create(**(ask | {"model": "n"}))
            assert refused.value.code == "model_not_found"
            raw = await alice.chat.completions.with_raw_response.create(**ask)
            assert raw.headers["x-ratelimit-remaining-requests"] == "2"
            used = raw.parse().usage.total_tokens
            stream = await alice.chat.completions.create(**ask, stream=True)
            chunks = [chunk async for chunk in stream]
            assert all(chunk.choices and chunk.usage is None for chunk in chunks)
            asking = {"stream_options": {"include_usage": True}}
            stream = await alice.chat.completions.create(**ask, **asking, stream=True)
            last = [chunk async for chunk in stream][-1]
            assert last.usage.total_tokens == used
            with pytest.raises(openai.RateLimitError) as refused:
                await alice.chat.completions.create(**ask)
            assert refused.value.code == "rate_limit_exceeded"
            assert int(refused.value.response.headers["retry-after"]) > 50
            left = refused.value.response.headers["x-ratelimit-remaining-tokens"]
            assert int(left) == 9000 - 3 * used, "settled by the engine's own count"


async def test_with_keys_anthropics_client_raises_its_own(tmp_path):
    import anthropic

    keys = write_keys(tmp_path / "keys.json", tenant("alice", ALICE))
    ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    async with serving(tmp_path, "--keys", keys) as address:
        async with anthropic.AsyncAnthropic(base_url=address, api_key="x" * 30) as stranger:
            with pytest.raises(anthropic.AuthenticationError):
                await stranger.messages.create(**ask)
        async with anthropic.AsyncAnthropic(base_url=address, api_key=ALICE) as alice:
            assert (await alice.messages.create(**ask)).usage.output_tokens
            with pytest.raises(anthropic.PermissionDeniedError):
                await alice.messages.create(**(ask | {"model": "n"}))
