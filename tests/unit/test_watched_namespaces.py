"""Operators that look after some namespaces, beside others that have the rest."""

import pytest

from memroute_operator.settings import parse_settings
from memroute_router.settings import parse_settings as parse_router
from operator_rig import Rig, mdep, node, operator_rig

LARGE = {"model": "Qwen/Qwen3-32B", "maxContextTokens": 1024, "concurrency": 1}


def test_namespaces_may_be_named_several_times():
    argv = ["--watch-namespace=a", "--watch-namespace", "b"]
    assert parse_settings(argv).watch_namespace == ("a", "b")
    assert parse_settings([]).watch_namespace == ()
    assert parse_router(["--namespace=a", "--namespace=b"]).namespace == ("a", "b")
    assert parse_router([]).namespace == ()


@pytest.mark.slow
async def test_an_operator_leaves_other_namespaces_alone_and_counts_what_they_hold():
    """Two releases on the same nodes: neither deletes the other's pods, nor books their bytes."""
    async with operator_rig(
        nodes=[node()],
        mdeps=[mdep("m", "a", **LARGE), mdep("m", "b", **LARGE)],
        argv=["--watch-namespace=a"],
    ) as first:
        await first.until("a's serves", lambda: first.is_ready("a/m"))
        assert "status" not in first.cluster.objects["modeldeployments"]["b/m"]
        second = Rig(first.cluster, first._client, argv=["--watch-namespace=b"])
        await second.start()
        try:
            await second.until(
                "b's is refused",
                lambda: second.condition("b/m", "Placed").get("reason") == "InsufficientHBM",
            )
            await second.list_and_step(5)
            await first.list_and_step(5)
        finally:
            await second.stop()
        (only,) = first.cluster.pods()
        assert only["metadata"]["namespace"] == "a"
        assert first.is_ready("a/m")
