"""What the router's series say: zeros before the first event, real times, real tokens."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from memroute.traffic.admission import AdmissionSettings
from memroute_router.access.quotas import TenantUse
from memroute_router.access.rules import Limits
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.log.journal import Record
from memroute_router.metrics.pools import (
    CLOSED_REASONS,
    OUTCOMES,
    RETRY_CAUSES,
    SHED_REASONS,
)
from memroute_router.metrics.process import MAX_TENANTS, OTHER_TENANTS, _by_tenant
from memroute_router.metrics.statistics import PoolStatistics
from memroute_router.replicas.pool_settings import PoolSettings
from router_rig import Rig, begin_stream, body, exchange, raw, reset, send_chunk, until, whole

LIMITS = AdmissionSettings(ttft_target_seconds=1.0, tpot_target_seconds=0.05)


@pytest.fixture
async def rig():
    it = Rig()
    await it.start()
    yield it
    await it.stop()


def series(rig, name, **labels):
    """Values by the labels that were not asked for."""
    found = {}
    for family in text_string_to_metric_families(rig.router.metrics.render().decode()):
        for sample in family.samples:
            if sample.name == f"memroute_router_{name}" and labels.items() <= sample.labels.items():
                rest = {k: v for k, v in sample.labels.items() if k not in labels}
                found[tuple(sorted(rest.items()))] = sample.value
    return found


def by(found, label):
    return {dict(rest)[label]: value for rest, value in found.items()}


@pytest.mark.slow
async def test_everything_that_can_happen_has_a_zero_before_it_has_happened(rig):
    """``rate()`` of a series that is born at 1 shows no rise: the first broken stream is missed."""
    rig.pools.configure({"m": PoolSettings(namespace="shop", deployment="m")})
    rig.add("a", 1)
    mine = {"model_namespace": "shop", "model_deployment": "m"}
    for name, label, values in (
        ("requests_total", "outcome", OUTCOMES),
        ("shed_tokens_total", "reason", SHED_REASONS),
        ("retries_total", "cause", RETRY_CAUSES),
        ("closed_total", "reason", CLOSED_REASONS),
    ):
        assert by(series(rig, name, **mine), label) == dict.fromkeys(values, 0.0), name
    assert by(series(rig, "requests_total", model_deployment=""), "outcome").keys() == set(OUTCOMES)
    assert set(series(rig, "traces_total").values()) == {0.0}
    assert set(series(rig, "config_refused").values()) == {0.0}
    assert list(series(rig, "scrape_errors_total", replica="a").values()) == [0.0]
    assert list(series(rig, "replica_avoided", replica="a").values()) == [0.0]


async def test_requests_of_no_model_have_no_empty_histogram(rig):
    """A legend without a name, and NaN for its quantiles, was on every dashboard."""
    await exchange(rig.port, raw(body(model="nobody")))
    assert by(series(rig, "requests_total", model_deployment=""), "outcome")["unknown-model"] == 1.0
    assert not series(rig, "request_seconds_count", model_deployment="")


async def test_tokens_of_a_stream_are_counted_where_nobody_reports_them(rig, engine_factory):
    """OpenAI's clients do not ask for usage in streams: 500 of them counted as 0 tokens."""

    async def five(_engine, writer):
        begin_stream(writer)
        for _ in range(5):
            send_chunk(writer)
        writer.write(b"0\r\n\r\n")

    rig.add("a", (await engine_factory(five)).port)
    await exchange(rig.port, raw(body(stream=True)))
    assert by(series(rig, "output_tokens_total"), "counted_by") == {"engine": 0.0, "router": 5.0}
    assert by(series(rig, "prompt_tokens_total"), "counted_by")["router"] > 0
    assert sum(series(rig, "ttft_seconds_count").values()) == 1
    assert sum(series(rig, "tpot_seconds_count").values()) == 1
    judged = series(rig, "target_streams_total", target="both")
    assert sum(judged.values()) == 1


async def test_whole_answers_are_no_time_to_first_token(rig, engine_factory):
    """Their first byte is their last: 149 ms was shown as TTFT."""
    text = b'{"usage":{"prompt_tokens":7,"completion_tokens":3}}'
    rig.add("a", (await engine_factory(whole(text))).port)
    await exchange(rig.port, raw(body()))
    assert sum(series(rig, "first_byte_seconds_count").values()) == 1
    assert sum(series(rig, "ttft_seconds_count").values()) == 0
    assert by(series(rig, "output_tokens_total"), "counted_by") == {"engine": 3.0, "router": 0.0}
    assert by(series(rig, "prompt_tokens_total"), "counted_by") == {"engine": 7.0, "router": 0.0}


async def test_tokens_of_a_broken_stream_were_produced_and_not_served(rig, engine_factory):
    async def breaks(_engine, writer):
        begin_stream(writer)
        send_chunk(writer)
        send_chunk(writer)
        await writer.drain()
        writer.transport.abort()
        return False

    rig.add("a", (await engine_factory(breaks)).port)
    await exchange(rig.port, raw(body(stream=True)))
    await until(lambda: series(rig, "requests_total", outcome="stream-broken"))
    broken = sum(series(rig, "unserved_output_tokens_total").values())
    assert broken == sum(series(rig, "output_tokens_total").values())
    assert sum(series(rig, "ttft_seconds_count").values()) == 0


@pytest.mark.slow
async def test_a_replica_that_refuses_connections_is_avoided(rig, engine_factory):
    """``is_routable`` of the debug page says what its pod says; this says what the router does."""
    rig.add("a", (await engine_factory(reset)).port)
    rig.add("b", (await engine_factory(whole())).port)
    rig.prefer("a")
    await exchange(rig.port, raw(body()))
    assert by(series(rig, "replica_avoided"), "replica") == {"a": 1.0, "b": 0.0}
    assert by(series(rig, "replica_routable"), "replica") == {"a": 0.0, "b": 1.0}


async def test_a_replica_that_changes_its_name_is_told_once(rig):
    """Two pools have its replicas for a while: two series alike would be none."""
    rig.pools.configure({"new": PoolSettings(namespace="default", deployment="m")})
    rig.add("a", 1)
    page = rig.router.metrics.render().decode()
    lines = [line.rsplit(" ", 1)[0] for line in page.splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines))


def record(**facts):
    given = {
        "ended_at": 0.0, "request_id": b"r", "path": b"/", "model": "m", "outcome": Outcome.SERVED,
        "status": 200, "replica": "d/a", "refusal": "", "choice": None, "attempts": 1,
        "expected_tokens": 20, "prompt_tokens": None, "cached_tokens": None, "output_tokens": None,
        "queue_seconds": None, "first_byte_seconds": None, "seconds": 1.0,
    }  # fmt: skip
    return Record(**(given | facts))


@pytest.mark.parametrize(
    ("facts", "met"),
    [
        # 0.5 s to the first, then 10 tokens in 0.4 s: 40 ms each, of 50 asked.
        ({"ttft_seconds": 0.5, "seconds": 0.9, "output_tokens": 11}, (1, 1, 1)),
        # 60 ms each.
        ({"ttft_seconds": 0.5, "seconds": 1.1, "output_tokens": 11}, (1, 0, 0)),
        ({"ttft_seconds": 1.5, "seconds": 1.9, "output_tokens": 11}, (0, 1, 0)),
        # One token: there is no time between tokens to judge.
        ({"ttft_seconds": 0.5, "seconds": 0.5, "streamed_tokens": 1}, (1, None, 1)),
        ({"ttft_seconds": None, "output_tokens": 11}, (None, None, None)),
    ],
)
def test_a_stream_is_judged_by_its_targets(facts, met):
    """Attainment is what a service is promised by; worked by hand in the comments."""
    statistics = PoolStatistics()
    statistics.ended(record(**facts), LIMITS)
    assert [statistics.within[i] for i in range(3)] == [int(bool(one)) for one in met]
    assert [statistics.missed[i] for i in range(3)] == [int(one == 0) for one in met]


def test_refused_requests_are_in_no_attainment():
    statistics = PoolStatistics()
    statistics.ended(record(outcome=Outcome.SATURATED, status=429), LIMITS)
    assert statistics.within == statistics.missed == [0, 0, 0]


def test_tenants_have_a_bound():
    """A file of keys can name any number; what is beyond the bound is told together."""
    uses = {}
    for number in range(MAX_TENANTS + 5):
        use = uses[f"t{number}"] = TenantUse(f"t{number}", Limits(), None)
        use.settled_tokens = 1
    shown = _by_tenant(uses)
    assert len(shown) == MAX_TENANTS + 1
    assert shown[OTHER_TENANTS] == [0, 5, 0, 0]
    assert shown["t0"] == [0, 1, 0, 0]
