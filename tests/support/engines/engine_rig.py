"""A running engine of the tiny model behind HTTP, and short ways to ask it."""

import asyncio
import contextlib
import json
import re

from aiohttp.test_utils import TestClient, TestServer

from engine_probe import FLAGS, TINY
from memroute_simulator.engine.arguments import parse_arguments
from memroute_simulator.engine.http.app import EngineServer


@contextlib.asynccontextmanager
async def engine(folder, *flags, time_scale="0.05", driver=None):
    """A client of a running engine of the tiny model, and the server."""
    (folder / "config.json").write_text(json.dumps(TINY))
    arguments = parse_arguments(
        ["--model", str(folder), *FLAGS, "--simulator-time-scale", time_scale, *flags]
    )
    server = EngineServer(arguments, arguments.standalone_spec(), driver=driver)
    stepping = asyncio.create_task(server.run())
    client = TestClient(TestServer(server.application(), handler_cancellation=True))
    await client.start_server()
    try:
        yield client, server
    finally:
        await client.close()
        stepping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stepping


async def complete(client, output=20, prompt=(5,), **facts):
    body = {"model": "tiny", "prompt": list(prompt), "max_tokens": output, "ignore_eos": True}
    async with client.post("/v1/completions", json=body | facts) as response:
        return response.status, dict(response.headers), await response.read()


async def metrics(client):
    async with client.get("/metrics") as response:
        return (await response.read()).decode()


def value(page, name, labels=""):
    match = re.search(rf"^{re.escape(name)}\{{[^}}]*{labels}[^}}]*\}} (\S+)$", page, re.MULTILINE)
    return float(match[1]) if match else None
