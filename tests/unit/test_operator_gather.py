"""From the store and the readings to facts: what engines measured, and what cannot be used."""

from types import SimpleNamespace

import pytest

from cluster_stub import cluster_stub, refuse
from memroute_kube import NODES, KubernetesClient
from memroute_operator.engines.registry import PoolReport
from memroute_operator.readings.calibration_book import BOOK_NAME, read_book
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.status.events import EventWriter
from memroute_operator.store import listing
from memroute_operator.store.listing import Lister
from memroute_operator.store.store import Store
from operator_rig import PRODUCT, mdep, node, operator_rig


def whole_gpus(name="a", gpus=2):
    plain = node(name, gpus=gpus)
    del plain["metadata"]["labels"]["memroute.dev/gpu-sharing"]
    plain["status"]["allocatable"] = {"nvidia.com/gpu": str(gpus)}
    return plain


async def test_what_an_engine_has_measured_is_kept_and_told():
    """A pool of 0.9 of the device, less weights and 1.5 times the overhead that was expected."""
    async with operator_rig(
        nodes=[whole_gpus()], mdeps=[mdep("m", mode="Exclusive", model="Qwen/Qwen3-8B")]
    ) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        (pod,) = rig.cluster.pods()
        footprint = read_deployment(rig.cluster.objects["modeldeployments"]["default/m"]).footprint
        expected = (
            footprint.peak_activation + footprint.cuda_graphs + footprint.non_torch
        ).expected
        facts = rig.reconciler._thinker.gather(rig.reconciler._look())
        usable = min(d.usable_bytes for n in facts.inventory.nodes for d in n.devices)
        pool = int(0.9 * usable) - footprint.weights.low - int(1.5 * expected)
        report = PoolReport(
            num_blocks=pool // footprint.kv_layout.bytes_per_block, utilization_ratio=0.9
        )
        rig.readings.engines.by_pod[pod["metadata"]["uid"]] = report
        await rig.steps(2)
        shown = rig.cluster.objects["modeldeployments"]["default/m"]["status"]
        (kept,) = book(rig)
        assert kept.key.product == PRODUCT
        assert kept.overhead_bytes == pytest.approx(1.5 * expected, rel=0.01)
        assert shown["footprint"]["source"] == "calibrated"
        patches = rig.cluster.count("PATCH", "modeldeployments")
        await rig.steps(5)
        assert rig.cluster.count("PATCH", "modeldeployments") == patches


async def test_what_a_cache_really_holds_is_told_once_its_engine_has_said_it():
    """A column of an estimate beside a router that goes by another number misleads both ways."""
    async with operator_rig(nodes=[whole_gpus()], mdeps=[mdep("m", mode="Exclusive")]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))

        def told():
            status = rig.cluster.objects["modeldeployments"]["default/m"]["status"]
            (placement,) = status["placements"]
            assert placement["kvCapacityTokens"] == status["kvCapacityTokens"]
            return status["kvCapacityTokens"]

        (pod,) = rig.cluster.pods()
        expected = int(pod["metadata"]["annotations"]["memroute.dev/kv-capacity-tokens"])
        assert told() == expected
        report = PoolReport(
            num_blocks=5565, utilization_ratio=0.9, block_size_tokens=16,
            kv_cache_size_tokens=expected + 4_016, num_ranks=1,
        )  # fmt: skip
        reports = rig.readings.engines.by_pod
        reports[pod["metadata"]["uid"]] = report
        await rig.steps(2)
        assert told() == expected + 4_000, "less the block that no request can have"
        reports.clear()  # a restarted operator has not read it yet
        await rig.steps(2)
        assert told() == expected + 4_000
        reports[pod["metadata"]["uid"]] = None  # started with the bytes of its pool: no estimate
        await rig.steps(2)
        assert told() == expected


def measured(rig, *, ratio):
    """Every replica's engine reports this many times the overhead that was expected."""
    (obj,) = rig.cluster.objects["modeldeployments"].values()
    footprint = read_deployment(obj).footprint
    expected = (footprint.peak_activation + footprint.cuda_graphs + footprint.non_torch).expected
    facts = rig.reconciler._thinker.gather(rig.reconciler._look())
    usable = min(d.usable_bytes for n in facts.inventory.nodes for d in n.devices)
    pool = int(0.9 * usable) - footprint.weights.low - int(ratio * expected)
    blocks = pool // footprint.kv_layout.bytes_per_block
    for pod in rig.cluster.pods():
        report = PoolReport(num_blocks=blocks, utilization_ratio=0.9)
        rig.readings.engines.by_pod[pod["metadata"]["uid"]] = report


def book(rig):
    """What is kept of measurements."""
    kept = rig.cluster.objects["configmaps"][f"memroute-system/{BOOK_NAME}"]
    return list(read_book(kept).values())


def calibrated(rig):
    """Whether replicas are sized by what was measured, and of which images something is kept."""
    (obj,) = rig.cluster.objects["modeldeployments"].values()
    source = obj["status"]["footprint"]["source"]
    return source == "calibrated", [one.key.engine for one in book(rig)]


@pytest.mark.slow
async def test_a_new_default_image_is_not_sized_by_what_the_old_one_measured():
    """Engines of the old image run on after an upgrade, and go on reporting."""
    async with operator_rig(
        nodes=[whole_gpus()], mdeps=[mdep("m", mode="Exclusive")], argv=["--engine-image", "v:1"]
    ) as old:
        await old.until("it serves", lambda: old.is_ready("default/m"))
        measured(old, ratio=1.5)
        await old.steps(2)
        assert calibrated(old) == (True, ["v:1"])
        objects = {plural: list(kept.values()) for plural, kept in old.cluster.objects.items()}
    async with operator_rig(
        nodes=objects["nodes"],
        pods=objects["pods"],
        mdeps=objects["modeldeployments"],
        argv=["--engine-image", "v:2"],
    ) as new:
        for kept in objects["configmaps"]:
            new.cluster.put("configmaps", kept)
        await new.reconciler._list_all()
        await new.steps(2)
        measured(new, ratio=1.5)
        await new.steps(2)
        # What it says is kept: it counts again for whoever goes back.
        assert calibrated(new) == (False, ["v:1"])


async def test_a_mirror_of_registries_does_not_hide_what_was_measured():
    """A webhook that writes another registry into pods is common: the image is the same."""
    async with operator_rig(nodes=[whole_gpus()], mdeps=[mdep("m", mode="Exclusive")]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))

        def mirrored(pod):
            pod["spec"]["containers"][0]["image"] = "mirror.example/vllm:v"

        rig.cluster.change("pods", rig.pod("default/m"), mirrored)
        await rig.step()
        measured(rig, ratio=1.5)
        await rig.steps(2)
        assert calibrated(rig) == (True, [rig.settings.engine_image])


async def test_a_replica_of_an_earlier_release_measures_for_the_image_of_its_container():
    """Such a pod does not say what was asked for; one without an image measures for nobody."""
    async with operator_rig(nodes=[whole_gpus()], mdeps=[mdep("m", mode="Exclusive")]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))

        def older(pod):
            del pod["metadata"]["annotations"]["memroute.dev/engine-image"]
            pod["spec"]["containers"][0]["image"] = "v:0"

        rig.cluster.change("pods", rig.pod("default/m"), older)
        await rig.step()
        measured(rig, ratio=1.5)
        facts = rig.reconciler._thinker.gather(rig.reconciler._look())
        assert facts.replicas[0].engine_image == "v:0"
        await rig.steps(2)
        # It is kept for whoever names that image; the default of today is sized by estimates.
        assert calibrated(rig) == (False, ["v:0"])


async def test_a_report_that_makes_no_sense_is_left_out():
    async with operator_rig(nodes=[whole_gpus()], mdeps=[mdep("m", mode="Exclusive")]) as rig:
        await rig.until("it serves", lambda: rig.is_ready("default/m"))
        (pod,) = rig.cluster.pods()
        rig.readings.engines.by_pod[pod["metadata"]["uid"]] = SimpleNamespace()
        await rig.step()
        assert (
            "AttributeError"
            in rig.reconciler._thinker.gather(rig.reconciler._look()).unreadable_objects[
                f"Pod {rig.pod('default/m')} report"
            ]
        )
        assert rig.is_ready("default/m")


async def test_the_first_list_is_waited_for(monkeypatch):
    """An API server that comes up takes a while, and says how long."""
    monkeypatch.setattr(listing, "FIRST_WAITS_SECONDS", (0.0, 0.0))
    async with cluster_stub() as (cluster, client):
        cluster.put("nodes", node())
        cluster.fault = lambda _: (
            refuse(503, "ServiceUnavailable") if len(cluster.calls) < 5 else None
        )
        store = Store()
        await Lister(client, store, lambda: 0.0).list_all_patiently()
        assert len(store.nodes) == 1
        assert len(cluster.calls) == 7


async def test_a_list_without_a_version_is_an_error_like_any_other(monkeypatch):
    monkeypatch.setattr(listing, "FIRST_WAITS_SECONDS", (0.0,))
    async with cluster_stub() as (cluster, client):
        get, calls = cluster._get, []

        def odd(request, call):
            calls.append(call)
            if len(calls) > 2:
                return get(request, call)
            from aiohttp import web

            return web.json_response({"items": [], "metadata": {"resourceVersion": "x"}})

        cluster._get = odd
        await Lister(client, Store(), lambda: 0.0).list_all_patiently()
        assert len(calls) == 5


async def test_an_event_that_is_refused_is_nobodys_concern():
    async with cluster_stub() as (cluster, client):
        cluster.fault = lambda _: refuse(403, "Forbidden")
        deployment = read_deployment(mdep("m"))
        await EventWriter(client).write(deployment, reason="R", message="m" * 5000)
        (call,) = cluster.calls
        assert len(call.body["message"]) == 1024


@pytest.mark.slow
async def test_credentials_come_from_a_kubeconfig(tmp_path, monkeypatch):
    async with cluster_stub() as (cluster, client):
        cluster.put("nodes", node())
        (tmp_path / "config").write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
            f"clusters: [{{name: k, cluster: {{server: '{client._api.configuration.host}'}}}}]\n"
            "users: [{name: u, user: {token: secret}}]\n"
            "contexts: [{name: c, context: {cluster: k, user: u}}]\n"
        )
        monkeypatch.delenv("KUBECONFIG", raising=False)
        async with await KubernetesClient.from_environment(
            kubeconfig=tmp_path / "config", component="x"
        ) as other:
            found, _ = await other.list(NODES, label_selector="a=b")
            assert len(found) == 1


async def test_facts_after_a_steps_actions_have_its_nodes_and_the_new_pods():
    """A status tells what was just created; 500 nodes are not read a second time for that."""
    broken = node("b")
    broken["spec"]["taints"] = [5]
    async with operator_rig(nodes=[node("a"), broken], mdeps=[mdep("m")]) as rig:
        rig.cluster.cut_off.add("b")
        await rig.catch_up()
        thinker, look = rig.reconciler._thinker, rig.reconciler._look
        before = thinker.gather(look())
        assert not before.replicas
        await rig.steps(3)
        after = thinker.gather(look(), before)
        assert [replica.key for replica in after.replicas] == [rig.pod("default/m")]
        assert after.inventory.nodes == before.inventory.nodes
        assert [one.owner for one in after.inventory.reservations] == [rig.pod("default/m")]
        assert "Node b" in after.unreadable_objects
