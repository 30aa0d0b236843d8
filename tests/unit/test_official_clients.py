"""OpenAI's and Anthropic's own clients and curl, unchanged, through the router to the engine."""

import asyncio
import contextlib
import json

import pytest
from aiohttp.test_utils import TestServer

import client_conversations
from engine_probe import TINY
from memroute_simulator.engine.arguments import parse_arguments
from memroute_simulator.engine.http.app import EngineServer
from router_rig import Rig


@pytest.fixture
async def base(tmp_path):
    """The address of a router before a simulated engine."""
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    flags = ["--served-model-name", "m", "--max-model-len", "1024", "--block-size", "16"]
    flags += ["--kv-cache-memory-bytes", str(4 * 1024**2), "--simulator-accelerator", "RTX-4090"]
    arguments = parse_arguments(["--model", str(tmp_path), *flags])
    engine = EngineServer(arguments, arguments.standalone_spec())
    stepping = asyncio.create_task(engine.run())
    server = TestServer(engine.application(), handler_cancellation=True)
    await server.start_server()
    rig = Rig("--scrape-seconds", "0.1", body_bytes=1_000_000)
    await rig.start()
    replica = rig.add("a", server.port, context=1024, capacity=None)
    rig.router.scraper.follow(replica)
    async with asyncio.timeout(5):
        while replica.ledger.reading is None:
            await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{rig.port}"
    async with asyncio.timeout(5):
        while rig.num_leases:
            await asyncio.sleep(0.01)
    await rig.stop()
    await server.close()
    stepping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stepping


@pytest.mark.parametrize(
    "conversation",
    [
        client_conversations.openai_chats,
        client_conversations.openai_completions,
        client_conversations.openai_responses,
        client_conversations.openai_errors,
        client_conversations.anthropic_messages,
    ],
    ids=lambda conversation: conversation.__name__,
)
async def test_official_clients_work_unchanged(base, conversation):
    """Served by the engine, with its own usage; nothing is left reserved afterwards."""
    await conversation(base, "m")


async def test_curl_works_unchanged(base):
    await asyncio.to_thread(client_conversations.curl, base, "m")
