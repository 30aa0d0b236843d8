"""What ``kubectl get mdep`` says of latency targets that the engines cannot meet."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from memroute.traffic.admission import AloneLatency
from memroute_operator.plan import Outcome
from memroute_operator.readings.router_metrics import RouterMetrics, TargetsReport
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.status.events import EventWriter
from memroute_operator.status.status import deployment_status
from memroute_operator.status.status_writer import StatusWriter

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SENTENCE = "targets cannot be met here: 68 ms per token alone, 50 ms asked"


def page(tpot=None, ttft=None, unmet=None, in_flight=2):
    """What a router exports, as far as the operator reads it."""
    labels = 'model_deployment="m",namespace="d",pod="m-0"'
    lines = [f"memroute_router_requests_in_flight{{{labels}}} {in_flight}.0"]
    gauges = {"tpot_alone_seconds": tpot, "ttft_alone_seconds": ttft, "targets_unmet": unmet}
    for name, value in gauges.items():
        if value is not None:
            labels = 'model_deployment="m",namespace="d"'
            lines.append(f"memroute_router_{name}{{{labels}}} {value}")
    return "\n".join(lines) + "\n"


def read(*pages):
    metrics = RouterMetrics()
    metrics.take(pages)
    return metrics


def test_the_router_that_has_seen_targets_met_has_the_proof():
    """Answers of 40 ms per token were seen there; other routers saw busy replicas only."""
    metrics = read(page(0.068, 1.4, unmet=1.0), page(0.04, unmet=0.0), page())
    assert metrics.targets == {
        "d/m": TargetsReport(
            are_unmet=False, alone=AloneLatency(tpot_seconds=0.04, ttft_seconds=1.4)
        )
    }
    assert metrics.in_flight == {"d/m-0": 6}


def test_while_nobody_knows_nothing_is_reported():
    """A time alone is no verdict: a router says what it makes of it once it is sure."""
    assert read(page()).targets == read(page(0.068)).targets == read().targets == {}


def test_what_engines_need_is_remembered_while_a_router_does_not_answer():
    """Else the condition would come and go with every restart of a router."""
    metrics = read(page(0.068, unmet=1.0), page(0.07, unmet=1.0))
    metrics.take([page(0.04, unmet=0.0), None])
    assert not metrics.is_known
    assert metrics.targets["d/m"].alone.tpot_seconds == 0.068
    metrics.take([])
    assert metrics.targets == {}, "no router is there any more"


def deployment(generation=1, **routing):
    memory = {
        "maxContextTokens": 8192, "concurrency": 4, "kvCacheDtype": "Auto", "quantization": "Auto",
    }  # fmt: skip
    return read_deployment(
        {
            "metadata": {
                "namespace": "d", "name": "m", "uid": "u", "generation": generation,
                "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1",
            },
            "spec": {
                "model": {"name": "Qwen/Qwen3-8B"},
                "engine": {"type": "VLLM"},
                "memory": memory,
                "parallelism": {"tensorParallelSize": 1},
                "replicas": 0,
                "placement": {"mode": "Exclusive", "strategy": "Pack"},
                "routing": {"ttftTargetMilliseconds": 1000, "tpotTargetMilliseconds": 50} | routing,
            },
        }
    )  # fmt: skip


def unmet(milliseconds):
    return TargetsReport(are_unmet=True, alone=AloneLatency(tpot_seconds=milliseconds / 1e3))


def met(milliseconds):
    return TargetsReport(are_unmet=False, alone=AloneLatency(tpot_seconds=milliseconds / 1e3))


def status(of, targets, now=NOW):
    return deployment_status(
        of,
        [],
        Outcome(),
        assigned_devices={},
        stale_nodes=frozenset(),
        kv_projected_ratio=None,
        targets=targets,
        now=now,
    )


def conditions(of, targets):
    return {c["type"]: c for c in status(of, targets)["conditions"]}


def test_slow_engines_are_a_condition_and_the_service_is_ready():
    """Whoever asks why answers are slow finds the numbers; nothing waits for it to be fast."""
    found = conditions(deployment(), unmet(68))
    told = found["TargetsUnmet"]
    assert (told["status"], told["reason"]) == ("True", "EngineSlowerThanTargets")
    assert told["message"] == SENTENCE
    assert found["Ready"]["status"] == "True"


def test_a_condition_is_absent_while_nobody_knows():
    assert "TargetsUnmet" not in conditions(deployment(), None)


def test_targets_that_the_engines_meet_are_nothing_to_tell():
    assert "TargetsUnmet" not in conditions(deployment(), met(20))


def test_the_spec_is_what_is_asked():
    """A router may not have heard of a new target; an old object may have none: then 50 ms."""
    of = deployment(tpotTargetMilliseconds=150)
    assert "TargetsUnmet" not in conditions(of, unmet(68))
    del of.obj["spec"]["routing"]
    assert conditions(of, unmet(68))["TargetsUnmet"]["message"] == SENTENCE


def test_a_verdict_stands_until_the_router_takes_it_back():
    """50 ms asked, 49 measured: said before, it stays as it was said; a new spec is new."""
    of = deployment()
    of.obj["status"] = status(of, unmet(68))
    told = conditions(of, unmet(49))["TargetsUnmet"]
    assert (told["status"], told["message"]) == ("True", SENTENCE)
    assert "TargetsUnmet" not in conditions(of, met(47))
    again = deployment(generation=2)
    again.obj["status"] = of.obj["status"]
    assert "TargetsUnmet" not in conditions(again, unmet(49))


class _Client:
    def __init__(self):
        self.written = []

    async def patch(self, _resource, _namespace, _name, patch, *, sub):
        self.written.append(patch["status"])
        return {"metadata": {}, "status": patch["status"], "sub": sub}

    async def create(self, *_):
        return None


def test_a_learned_time_that_moves_does_not_write_the_status_again():
    """Status is not telemetry: 68 ms, 69, 68, every five seconds, are no news to the API server."""
    client, of = _Client(), deployment()
    store = SimpleNamespace(model_deployments=SimpleNamespace(upsert=lambda _: None))
    writer = StatusWriter(client, store, EventWriter(client), clock=lambda: 0.0)

    def write(shown):
        if writer.is_due(of, shown):
            asyncio.run(writer.write(of, shown))

    for milliseconds in (68, 69, 68):
        write(status(of, unmet(milliseconds), NOW + timedelta(seconds=5)))
        of.obj["status"] = of.obj.get("status", {}) | client.written[-1]
    assert len(client.written) == 1
    write(status(of, met(20)))
    assert len(client.written) == 2, "that the targets are met is"
