"""Readings of replicas over real sockets: what is asked for, how often, and what if it fails."""

import asyncio
import logging

import pytest
from prometheus_client import CollectorRegistry, Gauge, make_asgi_app

from memroute_router.engines.vllm import NARROW_TARGET
from router_rig import Rig, until, whole

PAGE = (
    b"# HELP vllm:kv_cache_usage_perc KV-cache usage.\n# TYPE vllm:kv_cache_usage_perc gauge\n"
    b'vllm:kv_cache_usage_perc{engine="0"} 0.25\n'
    b'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting{engine="0"} 1.0\n'
    b'vllm:cache_config_info{block_size="16",kv_cache_size_tokens="1616"} 1.0\n'
)


def page(narrow=(b"200 OK", PAGE), full=(b"200 OK", PAGE)):
    """An engine that answers its metrics page, a part of it or all."""

    async def script(engine, writer):
        target = engine.requests[-1][0].split(b" ")[1]
        status, text = narrow if target == NARROW_TARGET else full
        return await whole(text, status)(engine, writer)

    return script


@pytest.fixture
async def rig():
    it = Rig("--scrape-seconds", "0.05")
    await it.start()
    yield it
    await it.stop()


def targets(engine):
    return [head.split(b" ")[1] for head, _ in engine.requests]


async def test_only_the_families_that_matter_are_asked_for(rig, engine_factory):
    """101 blocks of 16, one of them the null block: 1,600 tokens, of which a quarter is used."""
    engine = await engine_factory(page())
    replica = rig.add("a", engine.port)
    rig.router.scraper.follow(replica)
    await until(lambda: len(engine.requests) > 3)
    assert set(targets(engine)) == {NARROW_TARGET}
    assert replica.ledger.capacity_tokens == 1600
    assert replica.ledger.projected_tokens() == 400
    assert engine.num_open == 1, "one connection, kept"


@pytest.mark.slow
@pytest.mark.parametrize(
    "narrow", [(b"404 Not Found", b"{}"), (b"307 Temporary Redirect", b""), (b"200 OK", b"\n")]
)
async def test_an_engine_that_cannot_tell_a_part_is_asked_for_all(rig, engine_factory, narrow):
    """Once: from then on it is asked for what it can tell."""
    engine = await engine_factory(page(narrow=narrow))
    replica = rig.add("a", engine.port)
    rig.router.scraper.follow(replica)
    await until(lambda: replica.ledger.reading is not None and len(engine.requests) > 4)
    assert targets(engine)[0] == NARROW_TARGET
    assert set(targets(engine)[1:]) == {b"/metrics"}


@pytest.mark.slow
async def test_one_that_fails_is_asked_less_and_less_and_counted(rig, engine_factory, caplog):
    engine = await engine_factory(page(narrow=(b"500 No", b""), full=(b"500 No", b"")))
    replica = rig.add("a", engine.port)
    rig.router.scraper.follow(replica)
    await until(lambda: len(engine.requests) > 3)
    assert replica.ledger.reading is None
    assert b"memroute_router_scrape_errors_total" in rig.router.metrics.render()
    assert "status 500" in caplog.text
    await asyncio.sleep(0.5)
    assert len(engine.requests) < 8, "0.1, 0.2, 0.4 s apart, not 0.05"


async def test_a_pool_whose_readings_fall_behind_says_so_once(rig, engine_factory, caplog):
    caplog.set_level(logging.INFO)
    engine = await engine_factory(page())
    replica = rig.add("a", engine.port)
    for _ in range(3):
        rig.router.scraper.tick()
    assert caplog.text.count("readings are out of date model=m replicas=1 of=1") == 1
    assert b'stale_replicas{model_deployment="m",model_namespace="default"} 1.0' in (
        rig.router.metrics.render()
    )
    rig.router.scraper.follow(replica)
    await until(lambda: replica.ledger.reading is not None)
    rig.router.scraper.tick()
    assert "readings are up to date model=m" in caplog.text


async def test_a_replica_that_goes_is_read_no_more(rig, engine_factory):
    engine = await engine_factory(page())
    replica = rig.add("a", engine.port)
    rig.router.scraper.follow(replica)
    await until(lambda: engine.requests)
    rig.router.on_gone(replica)
    seen = len(engine.requests)
    await asyncio.sleep(0.2)
    assert len(engine.requests) <= seen + 1
    await until(lambda: engine.num_open == 0)


async def test_the_target_is_what_prometheus_client_understands():
    """Its ASGI application is what vLLM mounts."""
    registry = CollectorRegistry()
    Gauge("vllm:num_requests_running", "Running.", registry=registry).set(3)
    Gauge("vllm:something_else", "Else.", registry=registry).set(4)
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request"}

    query = NARROW_TARGET.partition(b"?")[2]
    scope = {"type": "http", "method": "GET", "query_string": query, "headers": []}
    await make_asgi_app(registry)(scope, receive, send)
    text = sent[-1]["body"]
    assert b"vllm:num_requests_running 3.0" in text
    assert b"something_else" not in text


async def test_a_metric_that_an_engine_lacks_is_told_once_and_counted(rig, engine_factory, caplog):
    """Renamed by a new version, it would read as 0 elsewhere: here it is unknown, and shows."""
    lacking = PAGE.replace(b"vllm:num_requests_waiting", b"vllm:num_requests_queued")
    engine = await engine_factory(page(narrow=(b"200 OK", lacking)))
    replica = rig.add("a", engine.port)
    rig.router.scraper.follow(replica)
    await until(lambda: len(engine.requests) > 4)
    assert replica.ledger.reading.num_requests_waiting is None
    assert caplog.text.count("MetricsIncompatible") == 1
    assert b"memroute_router_metrics_incompatible" in rig.router.metrics.render()
    assert replica.missing_metrics == {"vllm:num_requests_waiting"}


SGLANG = (
    b"sglang:num_running_reqs 3.0\nsglang:num_queue_reqs 1.0\nsglang:token_usage 0.25\n"
    b"sglang:max_total_num_tokens 1600.0\nsglang:num_retracted_requests_total 7.0\n"
    b"sglang:prompt_tokens_total 900.0\nsglang:generation_tokens_total 100.0\n"
)
LOADS = (
    b'{"loads": [{"num_running_reqs": 64, "num_waiting_reqs": 2, "token_usage": 0.5,'
    b' "max_total_num_tokens": 1600, "max_running_requests": 64}]}'
)


def sglang(loads):
    async def script(engine, writer):
        target = engine.requests[-1][0].split(b" ")[1]
        status, text = loads if target == b"/v1/loads" else (b"200 OK", SGLANG)
        return await whole(text, status)(engine, writer)

    return script


@pytest.mark.slow
async def test_sglang_is_asked_for_its_snapshot_and_now_and_then_for_its_page(rig, engine_factory):
    engine = await engine_factory(sglang((b"200 OK", LOADS)))
    replica = rig.add("a", engine.port)
    rig.router.scraper.follow(replica)
    await until(lambda: len(engine.requests) > 11)
    asked = [target.partition(b"?")[0].rstrip(b"/") for target in targets(engine)]
    assert asked[:11] == [b"/metrics", *[b"/v1/loads"] * 4] * 2 + [b"/metrics"]
    await until(lambda: replica.ledger.reading.num_requests_running == 64)
    assert replica.ledger.reading.num_preemptions_total == 7
    assert replica.ledger.limits.running_limit == 64


@pytest.mark.slow
@pytest.mark.parametrize("loads", [(b"404 Not Found", b"{}"), (b"200 OK", b"<html>")])
async def test_an_sglang_without_a_snapshot_is_asked_for_it_once(rig, engine_factory, loads):
    engine = await engine_factory(sglang(loads))
    replica = rig.add("a", engine.port)
    rig.router.scraper.follow(replica)
    await until(lambda: len(engine.requests) > 6)
    assert targets(engine).count(b"/v1/loads") == 1
    assert replica.ledger.reading.num_requests_running == 3
