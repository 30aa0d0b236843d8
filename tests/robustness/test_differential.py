"""The corpus through Envoy as well: ``make differential``."""

import asyncio
import contextlib
import re
import socket
from pathlib import Path

import pytest
import yaml

from http_corpus import cases
from router_rig import Engine, whole

ROOT = Path(__file__).parents[2]
ENVOY = ROOT / ".venv-bench" / "bin" / "envoy"
QUICK = [case for case in cases() if not case.is_slow]
# How long nothing may come before the first answer, and after one: a busy machine takes its time.
FIRST_SECONDS, QUIET_SECONDS = 5.0, 0.5
# Cases that are tried beside each other.
NUM_BESIDE = 16
KNOWN = {
    "the preface of HTTP/2": "Envoy speaks HTTP/2",
    "cut off: the second request": "Envoy says nothing to a client that has closed its side",
    "a body after a length of none is another request": "Envoy closes after its first answer",
}
"""Cases with fewer answers of Envoy's, and why that is no second reading."""


async def observe(port, case):
    """The statuses that come back until nothing has come for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    patience = FIRST_SECONDS
    with contextlib.suppress(ConnectionError):
        writer.write(case.data)
        if case.ends:
            writer.write_eof()
        with contextlib.suppress(TimeoutError):
            while piece := await asyncio.wait_for(reader.read(65_536), patience):
                received += piece
                patience = QUIET_SECONDS
    writer.close()
    return tuple(int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received))


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


@pytest.fixture
async def engine():
    it = Engine(whole())
    await it.start()
    yield it
    await it.stop()


@pytest.fixture
async def envoy(engine, tmp_path):
    """The port of an Envoy before the engine, as it comes."""
    peer = yaml.safe_load((ROOT / "bench/datapath/peers/envoy.yaml").read_text())
    port = free_port()
    text = peer["files"]["envoy.yaml"]
    text = text.replace('"{port}"', str(port)).replace("{engine_host}", "127.0.0.1")
    config = tmp_path / "envoy.yaml"
    config.write_text(text.replace('"{engine_port}"', str(engine.port)))
    command = [ENVOY, "-c", config, "--concurrency", "1", "--log-level", "error"]
    flags = ["--disable-hot-restart", "--use-dynamic-base-id"]
    process = await asyncio.create_subprocess_exec(*command, *flags)
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                break
    yield port
    process.terminate()
    await process.wait()


@pytest.fixture
async def answers(envoy):
    """What Envoy answers to each case."""
    some = asyncio.Semaphore(NUM_BESIDE)

    async def observed(case):
        async with some:
            return await observe(envoy, case)

    found = await asyncio.gather(*(observed(case) for case in QUICK))
    return {case.name: statuses for case, statuses in zip(QUICK, found, strict=True)}


async def test_what_is_served_here_is_served_by_envoy(answers):
    """A request that only we find sound would be one that we misread."""
    misread = {
        case.name: answers[case.name]
        for case in QUICK
        if case.num_forwarded and answers[case.name].count(200) < case.statuses.count(200)
    }
    assert misread == {}


async def test_no_second_request_is_found_where_envoy_finds_one(answers):
    """Two proxies in a row that read differently are what smuggling lives on."""
    more = {
        case.name
        for case in QUICK
        if len([s for s in case.statuses if s != 100]) > len(answers[case.name])
    }
    assert more == set(KNOWN)


async def test_whatever_envoy_refuses_as_malformed_is_refused_here(answers):
    """And more: the rest of the corpus shows where Envoy is lenient."""
    lenient = {
        case.name: (answers[case.name], case.statuses)
        for case in QUICK
        if answers[case.name] != case.statuses
        and set(answers[case.name]) & {400, 501}
        and 200 in case.statuses
    }
    assert lenient == {}
