"""What a router says of targets that its engines cannot meet: the log once, the metrics always."""

import logging
import random

import pytest

from memroute.traffic.admission import QueueLimits
from memroute.traffic.request import RequestProfile
from memroute_router.http.client import Endpoint
from memroute_router.metrics.exported import RouterMetrics
from memroute_router.replicas.pool_settings import CommonSettings, PoolSettings
from memroute_router.replicas.pools import Pools
from memroute_router.replicas.replica import ReplicaInfo


@pytest.fixture
def pools():
    """One model with one replica, on a default ModelDeployment."""
    pools = Pools(
        random.Random(1),
        common=CommonSettings(queue_limits=QueueLimits()),
        call_soon=lambda *_: None,
        call_later=lambda *_: None,
        on_error=lambda _: None,
    )
    configure(pools)
    pools.upsert_replica(
        ReplicaInfo(
            namespace="shop",
            pod="m-0",
            deployment="m",
            served_model="llama",
            endpoint=Endpoint("127.0.0.1", 1),
            promised_capacity_tokens=10_000,
            max_context_tokens=None,
            is_routable=True,
        )
    )
    return pools


def configure(pools, **targets):
    pools.configure({"llama": PoolSettings(namespace="shop", deployment="m", **targets)})


def series(pools, name):
    """Values by labels; empty where the page has no such series."""
    lines = RouterMetrics(pools).render().decode().splitlines()
    wanted = f"memroute_router_{name}{{"
    return [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(wanted)]


def serve_alone(pools, tpot_seconds, *, num_tokens=40):
    """One answer, read as it comes, by the only request there."""
    (replica,) = pools.by_model["llama"].replicas.values()
    ledger = replica.ledger
    profile = RequestProfile(
        num_prompt_tokens=100, min_prompt_tokens=100, max_output_tokens=num_tokens,
        assumed_output_tokens=num_tokens, is_stream=True,
    )  # fmt: skip
    lease = ledger.reserve(profile, now_seconds=0.0)
    for number in range(num_tokens):
        now = 0.1 + tpot_seconds * number
        ledger.streamed(lease, num_events=number + 1, now_seconds=now)
    ledger.release(lease, now_seconds=now)


def tick(pools, *, at):
    pool = pools.by_model["llama"]
    pool.now_seconds = lambda: at
    pool.tick()


def told(caplog):
    return [record.getMessage() for record in caplog.records if "targets" in record.getMessage()]


def test_nothing_is_said_before_a_replica_has_shown_its_speed(pools, caplog):
    """0 would read as "the targets are met"."""
    with caplog.at_level(logging.INFO):
        tick(pools, at=0.0)
        tick(pools, at=100.0)
    assert told(caplog) == []
    assert series(pools, "targets_unmet") == series(pools, "tpot_alone_seconds") == []
    assert series(pools, "tpot_target_seconds") == [0.05]


def test_it_is_said_once_when_it_begins_and_once_when_it_ends(pools, caplog):
    """An engine of 68 ms under the default of 50 ms; then somebody asks for 150 ms."""
    serve_alone(pools, 0.068)
    with caplog.at_level(logging.INFO):
        for at in (10.0, 30.0, 50.0, 70.0):
            tick(pools, at=at)
        (line,) = told(caplog)
        assert "model=llama" in line
        assert "targets cannot be met here: 68 ms per token alone, 50 ms asked" in line
        assert series(pools, "targets_unmet") == [1.0]
        assert series(pools, "tpot_alone_seconds") == [pytest.approx(0.068)]
        configure(pools, tpot_target_seconds=0.15)
        for at in (90.0, 110.0):
            tick(pools, at=at)
    assert len(told(caplog)) == 2
    assert "they can be met" in told(caplog)[1]
    assert series(pools, "targets_unmet") == [0.0]


def test_a_busy_start_of_a_fast_engine_is_no_verdict(pools, caplog):
    """The first tokens come between others' prompts; within half a minute it is seen alone."""
    serve_alone(pools, 0.12)
    with caplog.at_level(logging.INFO):
        tick(pools, at=10.0)
        assert series(pools, "targets_unmet") == [], "not known yet"
        serve_alone(pools, 0.008)
        tick(pools, at=30.0)
        tick(pools, at=90.0)
    assert told(caplog) == []
    assert series(pools, "targets_unmet") == [0.0]


def test_a_verdict_ends_with_the_replicas_that_it_was_of(pools, caplog):
    serve_alone(pools, 0.068)
    tick(pools, at=10.0)
    tick(pools, at=50.0)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        pools.remove_replica("shop/m-0")
        tick(pools, at=51.0)
    (line,) = told(caplog)
    assert "no replica has shown its speed" in line
    assert series(pools, "targets_unmet") == []
