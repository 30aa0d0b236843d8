"""What a router says of targets that its engines cannot meet: the log once, the metrics always."""

import logging
import random

import pytest

from memroute.traffic.admission import QueueLimits
from memroute.traffic.replica import ReplicaLedger
from memroute_router.http.client import Endpoint
from memroute_router.metrics import RouterMetrics
from memroute_router.pools import CommonSettings, Pools, PoolSettings, ReplicaInfo


@pytest.fixture
def pools():
    """One model with one replica, on a default ModelDeployment."""
    pools = Pools(
        random.Random(1),
        common=CommonSettings(queue_limits=QueueLimits()),
        call_soon=lambda *_: None,
        call_later=lambda *_: None,
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


def told(caplog):
    return [record.getMessage() for record in caplog.records if "targets" in record.getMessage()]


def test_nothing_is_said_before_a_replica_has_shown_its_speed(pools, caplog):
    """0 would read as "the targets are met"."""
    with caplog.at_level(logging.INFO):
        pools.tick()
    assert told(caplog) == []
    assert series(pools, "targets_unmet") == series(pools, "tpot_alone_seconds") == []
    assert series(pools, "tpot_target_seconds") == [0.05]


def test_it_is_said_once_when_it_begins_and_once_when_it_ends(pools, caplog, monkeypatch):
    """An engine of 68 ms under the default of 50 ms; then somebody asks for 150 ms."""
    monkeypatch.setattr(ReplicaLedger, "alone_tpot_seconds", 0.068, raising=False)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            pools.tick()
        (line,) = told(caplog)
        assert "model=llama" in line
        assert "targets cannot be met here: 68 ms per token alone, 50 ms asked" in line
        assert series(pools, "targets_unmet") == [1.0]
        assert series(pools, "tpot_alone_seconds") == [0.068]
        configure(pools, tpot_target_seconds=0.15)
        for _ in range(3):
            pools.tick()
    assert len(told(caplog)) == 2
    assert "they can be met" in told(caplog)[1]
    assert series(pools, "targets_unmet") == [0.0]


def test_a_verdict_ends_with_the_replicas_that_it_was_of(pools, caplog, monkeypatch):
    monkeypatch.setattr(ReplicaLedger, "alone_tpot_seconds", 0.068, raising=False)
    pools.tick()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        pools.remove_replica("shop/m-0")
        pools.tick()
    (line,) = told(caplog)
    assert "no replica has shown its speed" in line
    assert series(pools, "targets_unmet") == []
