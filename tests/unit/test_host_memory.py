"""Whatever a replica pins of its node is requested of the node, once, and placement counts it."""

import pytest

from memroute.footprint import EngineType, host_request
from memroute.hierarchy.links import PCIE_5
from memroute.hierarchy.sleep import SleepLevel, sleep_of
from memroute.units import GIB
from memroute_operator.engines import sleep_mode
from memroute_operator.engines.host_memory import host_bytes, host_fields, pinned_bytes
from memroute_operator.spec.deployment import read_deployment
from operator_rig import mdep

SLEEP = {"afterSeconds": 300, "level": "WeightsOnHost"}


def deployment(sleep=None, **memory):
    obj = mdep("m", model="Qwen/Qwen3-8B", **memory)
    if sleep is not None:
        obj["spec"]["sleep"] = sleep
    return read_deployment(obj)


@pytest.mark.parametrize(
    ("sleep", "memory", "gib"),
    [
        (None, {}, 0),
        (None, {"hostKVCacheGiB": 64}, 64),
        (None, {"weightsOnHostGiB": 4}, 4),
        (None, {"hostKVCacheGiB": 64, "weightsOnHostGiB": 4}, 68),
    ],
)
def test_tiers_add_up(sleep, memory, gib):
    of = deployment(sleep, **memory)
    assert pinned_bytes(of, of.footprint) == gib * GIB
    assert host_fields(of) == tuple(f"spec.memory.{name}" for name in memory)
    own = host_request(of.footprint).memory_bytes
    assert host_bytes(of, of.footprint) == (own + gib * GIB if gib else 0)


def test_a_sleep_is_added_at_its_most_whatever_the_link():
    of = deployment(SLEEP, hostKVCacheGiB=8)
    sleep = sleep_of(of.footprint, SleepLevel.WEIGHTS_ON_HOST, PCIE_5)
    assert pinned_bytes(of, of.footprint) == 8 * GIB + sleep.host_bytes_most
    assert host_fields(of) == ("spec.memory.hostKVCacheGiB", "spec.sleep")


def test_weights_that_stay_on_the_host_do_not_sleep():
    spec = deployment(SLEEP, weightsOnHostGiB=4).obj["spec"]
    said = sleep_mode.refusal(spec, EngineType.VLLM)
    assert "spec.sleep and spec.memory.weightsOnHostGiB" in said
    assert "leave one of them out" in said
