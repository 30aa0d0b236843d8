"""``memroute decisions``, against a router over a real socket."""

import asyncio
import json
import re

import pytest
from typer.testing import CliRunner

from memroute_cli.main import app
from router_rig import Rig, body, exchange, held, raw, until, whole


def decisions(*arguments, columns=220):
    result = CliRunner().invoke(app, ["decisions", *arguments], env={"COLUMNS": str(columns)})
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
async def rig(engine_factory):
    it = Rig()
    await it.start()
    it.add("a", (await engine_factory(whole())).port, capacity=1000)
    yield it
    await it.stop()


async def told(rig, *arguments, columns=220):
    """The command runs in a thread: the router it asks is in this one."""
    address = f"http://127.0.0.1:{rig.ops_port}"
    return await asyncio.to_thread(decisions, "--router", address, *arguments, columns=columns)


@pytest.mark.slow
async def test_it_says_where_a_request_went_and_why(rig):
    _, headers, _ = await exchange(rig.port, raw(body()))
    status, output, _ = await told(rig, headers["x-request-id"])
    assert status == 0
    assert re.search(r"^outcome +served$", output, re.MULTILINE)
    assert max(map(len, output.splitlines())) <= 220
    assert "default/a" in output
    assert "projected KV use" in output


@pytest.mark.slow
async def test_a_sentence_of_one_request_is_folded_below_itself(rig):
    """The rest of the reason began below the names of fields, and read as one of them."""
    _, headers, _ = await exchange(rig.port, raw(body()))
    _, output, _ = await told(rig, headers["x-request-id"], columns=80)
    lines = output.splitlines()
    assert max(map(len, lines)) <= 80
    number = next(n for n, line in enumerate(lines) if line.startswith("why "))
    column = lines[number].index("memroute:")
    assert lines[number + 1][:column].isspace()
    assert lines[number + 1][column] != " "


@pytest.mark.slow
async def test_it_says_why_a_request_was_refused(rig):
    await exchange(rig.port, raw(body()))
    await exchange(rig.port, raw(body(max_tokens=5000)))
    status, output, _ = await told(rig, "--refused", "--output", "json")
    (decision,) = json.loads(output)["decisions"]
    assert status == 0
    assert decision["outcome"] == "never-fits"
    assert "holds 1000 tokens per request" in decision["why"]
    (replica,) = json.loads(output)["replicas"]
    assert replica["capacity_tokens"] == 1000


@pytest.mark.slow
async def test_it_says_who_waits_and_for_what(rig, engine_factory):
    rig.pools.remove_replica("default/a")
    release = asyncio.Event()
    engine = await engine_factory(held(release))
    rig.add("b", engine.port, capacity=100)
    asked = [asyncio.create_task(exchange(rig.port, raw(body(max_tokens=50)))) for _ in range(2)]
    await until(lambda: engine.requests and rig.num_held)
    status, output, _ = await told(rig)
    assert status == 0
    assert "1 request(s) wait now" in output
    assert "default/b is the cheapest, and closed to it: memory" in output
    release.set()
    assert [(await each)[0] for each in asked] == [200, 200]


@pytest.mark.slow
async def test_a_request_that_nobody_remembers_is_an_error_that_says_so(rig):
    status, _, errors = await told(rig, "no-such-id")
    assert status == 1
    assert "remembers no request" in errors


@pytest.mark.slow
async def test_an_address_is_taken_as_people_type_it(rig):
    """The demo prints one that ends in /v1, and nobody types http:// for localhost."""
    for address in (f"127.0.0.1:{rig.ops_port}", f"http://127.0.0.1:{rig.ops_port}/v1/"):
        status, _, errors = await asyncio.to_thread(decisions, "--router", address)
        assert status == 0, errors


def test_a_router_that_is_not_there_is_an_error_that_says_so():
    status, _, errors = decisions("--router", "http://127.0.0.1:9")
    assert status == 2
    assert "/debug/decisions" in errors
