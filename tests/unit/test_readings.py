"""Readings of exporters, routers and engines: each page fails alone, and all are read in time."""

import asyncio
import itertools
import logging
from dataclasses import replace
from functools import partial

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from memroute.placement import Node, PlacementMode
from memroute_kube import ApiError
from memroute_operator.readings import device_metrics, engine_reports
from memroute_operator.readings.device_metrics import DeviceMetrics, find_exporters
from memroute_operator.readings.engine_reports import EngineReports
from memroute_operator.readings.finding import Finder
from memroute_operator.readings.loops import ReadingMetrics, Readings
from memroute_operator.readings.pages import (
    MAX_PAGE_BYTES,
    PageFailure,
    PageFailureReason,
    open_page_reader,
    page_url,
)
from memroute_operator.readings.router_metrics import RouterMetrics
from memroute_operator.readings.sources import (
    PodSelector,
    SelectorError,
    SourceLog,
    parse_pod_selector,
)
from memroute_operator.settings import parse_settings
from memroute_operator.store.store import Store
from served_pages import counter, says, serving

PAGE = (
    'DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-1",modelName="NVIDIA L4"} 20000\n'
    'DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-1",modelName="NVIDIA L4"} 2000\n'
)
SELECTOR = parse_pod_selector("gpu-operator/app=nvidia-dcgm-exporter", needs_daemon_set=True)
DAEMON_SET = {"kind": "DaemonSet", "name": "x", "uid": "d", "controller": True}


def pod(name="dcgm", *, namespace="gpu-operator", node="gpu-a", ip="127.0.0.1", **metadata):
    """A pod that is ready; an exporter's unless said otherwise."""
    defaults = {"labels": {"app": "nvidia-dcgm-exporter"}, "ownerReferences": [DAEMON_SET]}
    return {
        "metadata": {"namespace": namespace, "name": name, "uid": name} | defaults | metadata,
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": []}]},
        "status": {
            "phase": "Running",
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


class Pods:
    """The pods that a cluster has."""

    def __init__(self, *pods):
        self._pods, self.num_changes = list(pods), len(pods)

    def values(self):
        return self._pods

    def add(self, pod):
        self._pods.append(pod)
        self.num_changes += 1


@pytest.mark.slow
async def test_five_hundred_exporters_and_a_thousand_engines_are_all_read_at_once(monkeypatch):
    """After a restart nothing is known: with httpx, 0 of 500 and 0 of 1,000 were, every round."""
    async with serving(says(PAGE)) as port, open_page_reader() as reader:
        monkeypatch.setattr(engine_reports, "ENGINE_PORT", port)
        exporters = [(pod(f"e{i}", node=f"n{i}"), port) for i in range(500)]
        engines = [
            pod(f"m-{i}", labels={"memroute.dev/model-deployment": "m"}) for i in range(1000)
        ]
        devices, reports = DeviceMetrics(scrape_seconds=5), EngineReports()
        await asyncio.gather(
            devices.scrape(reader.lane(), exporters, counter()),
            reports.scrape(reader.lane(), engines, counter()),
        )
    assert len(devices.readings) == 500
    assert len(reports.by_pod) == 1000
    assert not devices.log.troubles
    assert not reports.log.troubles


async def test_an_engine_that_cannot_be_read_is_asked_less_and_less(monkeypatch):
    """A NetworkPolicy keeps the operator out for good; one that comes late is read in the end."""
    monkeypatch.setattr(engine_reports, "ENGINE_PORT", 1)  # nobody listens
    labels = {"memroute.dev/model-deployment": "m"}
    engine, reports, asked_at = pod("m-0", labels=labels), EngineReports(), []
    rounds = [15.0 * n for n in range(240)]
    async with open_page_reader() as reader:
        for now in rounds:
            unread = reports.unread([engine], now)
            asked_at += [now] * len(unread)
            await reports.scrape(reader.lane(), unread, partial(float, now))
    assert 6 <= len(asked_at) <= 14
    assert max(b - a for a, b in itertools.pairwise(asked_at)) <= 615.0
    assert reports.unread([], rounds[-1]) == []
    (new,) = reports.unread([engine, pod("new", labels=labels)], rounds[-1])
    assert new["metadata"]["name"] == "new"


async def test_pods_may_have_ipv6_addresses():
    """On IPv6 clusters the operator ended at its first scrape, again after each restart."""
    assert page_url("fd00:10:244::5", 9400) == "http://[fd00:10:244::5]:9400/metrics"
    try:
        async with serving(says(PAGE), host="::1") as port, open_page_reader() as reader:
            devices = DeviceMetrics(scrape_seconds=5)
            await devices.scrape(reader, [(pod(ip="::1"), port)], counter())
        assert devices.readings["gpu-a"].devices[0].uuid == "GPU-1"
    except OSError:
        pytest.skip("this machine has no IPv6")


@pytest.mark.parametrize("address", [None, "", "nonsense", "10.0.0.256", "host/path", "::g"])
async def test_what_is_no_address_is_no_page(address):
    async with open_page_reader() as reader:
        failure = await reader.read(address, 9400)
    assert failure.reason is PageFailureReason.NO_ADDRESS


async def answer_500(_request):
    raise web.HTTPInternalServerError


async def answer_too_much(_request):
    return web.Response(body=b"x" * (MAX_PAGE_BYTES + 1))


async def answer_elsewhere(_request):
    raise web.HTTPFound(location="http://169.254.169.254/latest")


async def answer_compressed(_request):
    return web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (answer_500, PageFailureReason.STATUS),
        (answer_too_much, PageFailureReason.TOO_LARGE),
        (answer_elsewhere, PageFailureReason.STATUS),
        (answer_compressed, PageFailureReason.UNREADABLE),
    ],
)
async def test_whatever_a_page_does_is_a_failure_of_that_page(answer, reason):
    """Also a redirect to the cloud's credentials, and bytes that could unpack without end."""
    async with serving(answer) as port, open_page_reader() as reader:
        failure = await reader.read("127.0.0.1", port)
    assert isinstance(failure, PageFailure)
    assert failure.reason is reason


async def test_a_peer_that_speaks_no_http_is_a_failure_of_that_page():
    async def speak(_reader, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server, open_page_reader() as reader:
        failure = await reader.read("127.0.0.1", server.sockets[0].getsockname()[1])
    assert isinstance(failure, PageFailure)


async def test_a_failing_exporter_is_logged_once_and_once_when_it_is_well_again(caplog):
    """A warning every five seconds per silent exporter is what hides the next trouble."""
    caplog.set_level(logging.INFO)
    devices = DeviceMetrics(scrape_seconds=5)
    pages = [answer_500, answer_500, answer_500, says(PAGE), says(PAGE)]
    for answer in pages:
        async with serving(answer) as port, open_page_reader() as reader:
            await devices.scrape(reader, [(pod(), port)], counter())
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "exporter has trouble" in line]) == 1
    assert len([line for line in lines if "well again" in line]) == 1


def test_only_exporters_where_exporters_belong_are_believed():
    """Anyone who may create a pod may label it; the last answer won, and 81,000 MiB were free."""
    real = pod()
    forged = pod("mine", namespace="tenant-x")
    by_hand = pod("mine", ownerReferences=[{"kind": "ReplicaSet", "controller": True}])
    found = find_exporters([forged, by_hand, real], [SELECTOR], default_port=9400)
    assert found == [(real, 9400)]


def test_of_two_exporters_of_a_node_one_is_read():
    """Two that disagree would make the node's readings jump at every round."""
    first, second = pod("a"), pod("b")
    found = find_exporters([second, first], [SELECTOR], default_port=9400)
    assert (
        found == find_exporters([first, second], [SELECTOR], default_port=9400) == [(first, 9400)]
    )


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        ("gpu/app=x", {"app": "x"}, True),
        ("gpu/app==x", {"app": "x"}, True),
        ("gpu/app=x", {"app": "y"}, False),
        ("gpu/app!=y", {"app": "x"}, True),
        ("gpu/app!=y", {}, True),
        ("gpu/app!=y", {"app": "y"}, False),
        ("gpu/app in (x, y)", {"app": "y"}, True),
        ("gpu/app in (x,y),tier=a", {"app": "y", "tier": "a"}, True),
        ("gpu/app in (x,y),tier=a", {"app": "y", "tier": "b"}, False),
        ("gpu/app notin (x)", {"app": "y"}, True),
        ("gpu/app", {"app": "anything"}, True),
        ("gpu/app", {}, False),
        ("gpu/!app", {}, True),
        ("gpu/app.kubernetes.io/name=dcgm-exporter", {"app.kubernetes.io/name": "dcgm-exporter"},
         True),
        ("app.kubernetes.io/name=x", {"app.kubernetes.io/name": "x"}, True),
        ("*/app=x", {"app": "x"}, True),
        ("other/app=x", {"app": "x"}, False),
    ],
)  # fmt: skip
def test_selectors_are_kubernetes_own(selector, labels, matches):
    """``in (...)`` and ``!=`` matched nothing, and said nothing of it."""
    parsed = parse_pod_selector(selector, own_namespace="gpu")
    assert parsed.matches(pod(namespace="gpu", labels=labels)) is matches


@pytest.mark.parametrize(
    "selector", ["", "gpu/", "gpu/=x", "gpu/app in", "gpu/app=x,", "gpu/app=x:99999", "gpu/a b=c"]
)
def test_a_selector_that_selects_all_or_nothing_is_refused(selector):
    """An empty one matched every pod of the cluster."""
    with pytest.raises(SelectorError):
        parse_pod_selector(selector)


def test_a_selector_may_name_the_port():
    """AMD's exporter serves on 5000, NVIDIA's on 9400, in one cluster."""
    amd = parse_pod_selector("kube-amd-gpu/app=metrics-exporter:5000", needs_daemon_set=True)
    exporter = pod(namespace="kube-amd-gpu", labels={"app": "metrics-exporter"})
    assert find_exporters([exporter], [SELECTOR, amd], default_port=9400) == [(exporter, 5000)]


def page(free, *, power=100.0):
    """Two scrapes of one collection are equal, but for the pod's name."""
    return (
        f'DCGM_FI_DEV_FB_FREE{{gpu="0",UUID="GPU-1"}} {free}\n'
        f'DCGM_FI_DEV_FB_USED{{gpu="0",UUID="GPU-1"}} {22000 - free}\n'
        f'DCGM_FI_DEV_POWER_USAGE{{gpu="0",UUID="GPU-1"}} {power}\n'
    )


def test_a_first_reading_may_be_as_old_as_the_exporters_interval():
    """dcgm-exporter collects every 30 s and puts no time on values: 35 s where nothing tells."""
    devices = DeviceMetrics(scrape_seconds=5)
    reading = devices.take("n", page(1000), asked_at_seconds=100.0)
    assert reading.age_seconds(101.0) == 36.0


def test_a_reading_is_as_young_as_the_change_that_was_seen():
    """Collected between the scrapes at 100 and 105: at 106 the values are 6 s old at most."""
    devices = DeviceMetrics(scrape_seconds=5)
    devices.take("n", page(1000), asked_at_seconds=100.0)
    reading = devices.take("n", page(2000), asked_at_seconds=105.0)
    assert reading.age_seconds(106.0) == 6.0
    same = devices.take("n", page(2000), asked_at_seconds=110.0)
    assert same.age_seconds(111.0) == 11.0, "the same values are no younger for being read again"


def test_a_change_of_power_tells_of_a_collection_too():
    """Free bytes of an idle device stay for hours; its power and temperature never do."""
    devices = DeviceMetrics(scrape_seconds=5)
    devices.take("n", page(1000, power=100.0), asked_at_seconds=100.0)
    assert devices.take("n", page(1000, power=101.0), asked_at_seconds=105.0).age_seconds(105) == 5


def test_another_pods_name_is_no_collection():
    """The exporter attributes devices at each scrape, whatever the age of its values."""
    devices = DeviceMetrics(scrape_seconds=5)
    devices.take("n", page(1000), asked_at_seconds=100.0)
    named = page(1000).replace('UUID="GPU-1"', 'UUID="GPU-1",namespace="a",pod="b"')
    assert devices.take("n", named, asked_at_seconds=105.0).age_seconds(105.0) == 35.0


def test_exporters_that_time_out_do_not_hold_up_the_others():
    """450 that a NetworkPolicy drops took 3 s each of every round, and the good ones went stale."""
    devices = DeviceMetrics(scrape_seconds=5)
    exporters = [(pod(f"e{i}", node=f"n{i}"), 1) for i in range(500)]
    for index in range(450):
        devices.log.report(f"n{index}", PageFailureReason.TIMEOUT.value)
        devices.tried_at_seconds[f"n{index}"] = float(index)
    due = {exporter["metadata"]["name"] for exporter, _ in devices._due(exporters)}
    assert {f"e{i}" for i in range(450, 500)} <= due
    assert due - {f"e{i}" for i in range(450, 500)} == {
        f"e{i}" for i in range(device_metrics.MAX_SILENT_PER_ROUND)
    }


def router(name="r", *, ready=True, port=None):
    found = pod(name, namespace="memroute-system")
    found["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": port}]
    found["status"]["conditions"][0]["status"] = str(ready)
    return found


IN_FLIGHT = 'memroute_router_requests_in_flight{namespace="d",pod="m-0"} %s\n'


async def test_a_router_that_drains_is_asked_for_what_it_still_has():
    """It is not ready any more, and its answers under way are cut off if nobody counts them."""
    metrics = RouterMetrics()
    async with serving(says(IN_FLIGHT % 3)) as port, open_page_reader() as reader:
        await metrics.scrape(reader, [router(ready=False, port=port)], lambda: 50.0)
    assert metrics.in_flight == {"d/m-0": 3}
    assert metrics.read_at_seconds == 50.0, "what came after the question is not in the answer"


async def test_a_router_that_has_not_started_has_nothing_and_one_that_is_silent_is_unknown():
    metrics = RouterMetrics()
    async with serving(says(IN_FLIGHT % 1)) as port, open_page_reader() as reader:
        starting = router("new", ready=False, port=1)
        await metrics.scrape(reader, [router(port=port), starting], lambda: 0.0)
        assert metrics.is_known
        await metrics.scrape(reader, [router(port=port), router("old", port=1)], lambda: 0.0)
        assert not metrics.is_known
        assert metrics.read_at_seconds is None


def with_ports(**ports):
    found = router()
    declared = [{"name": name, "containerPort": port} for name, port in ports.items()]
    found["spec"]["containers"][0]["ports"] = declared
    return found


async def read_in_flight(pod):
    metrics = RouterMetrics()
    async with open_page_reader() as reader:
        await metrics.scrape(reader, [pod], lambda: 0.0)
    return metrics.in_flight.get("d/m-0") if metrics.is_known else None


async def test_routers_before_and_after_the_operations_port_are_both_read(monkeypatch):
    """An upgrade rolls operator and routers in any order; drains see requests all the while."""

    async def without_metrics(_request):
        return web.Response(status=404)

    async with serving(says(IN_FLIGHT % 1)) as page, serving(without_metrics) as api:
        assert await read_in_flight(with_ports(http=api, ops=page)) == 1, "this release"
        assert await read_in_flight(with_ports(http=page)) == 1, "the one before"
        assert await read_in_flight(with_ports(http=page, ops=1)) == 1, "its image, our manifest"
        monkeypatch.setattr("memroute_operator.readings.router_metrics.OPERATIONS_PORT", page)
        assert await read_in_flight(with_ports(http=api)) == 1, "our image, its manifest"
        monkeypatch.setattr("memroute_operator.readings.router_metrics.OPERATIONS_PORT", 1)
        assert await read_in_flight(with_ports(http=api)) is None, "unknown is not idle"
        assert await read_in_flight(with_ports(http=api, ops=1)) is None


@pytest.mark.parametrize("value", ["NaN", "-Inf", "+Inf", "-1", "1e30", "nope"])
def test_a_number_of_requests_that_cannot_be_is_not_idle(value):
    """Unknown is not 0: a drain that believes it cuts off everything under way."""
    metrics = RouterMetrics()
    metrics.take([IN_FLIGHT % value], asked_at_seconds=0.0)
    assert not metrics.is_known or value == "nope"
    assert metrics.in_flight.get("d/m-0") is None


async def test_a_bug_in_one_round_does_not_end_the_readings(caplog):
    """The loop is what keeps drains and placements seeing; it must outlive everything."""
    calls = []

    class OddOnce(Pods):
        def values(self):
            calls.append(1)
            if len(calls) == 1:
                msg = "an odd pod"
                raise RuntimeError(msg)
            return super().values()

    pods = OddOnce()

    async with open_page_reader() as reader:
        metrics = ReadingMetrics(CollectorRegistry())
        readings = Readings(
            reader, pods, metrics, exporters=[SELECTOR], exporter_port=9400,
            routers=[PodSelector(namespace=None, requirements=())], scrape_seconds=5,
            on_change=lambda: None,
        )  # fmt: skip
        await readings.read_once()
        await readings.read_once()
    assert len(calls) == 3, "the exporters' twice, the routers' once: no pod has changed"
    assert "an odd pod" in caplog.text


async def test_readings_that_did_not_change_are_no_reason_to_plan_anew():
    """Every round marked everything dirty: a busy cluster reconciled back to back."""
    changes = []
    async with serving(says(PAGE)) as port, open_page_reader() as reader:
        readings = Readings(
            reader, Pods(pod()), ReadingMetrics(CollectorRegistry()), exporters=[SELECTOR],
            exporter_port=port, routers=[], scrape_seconds=5,
            on_change=lambda: changes.append(1),
        )  # fmt: skip
        for _ in range(3):
            await readings.read_once()
    assert readings.devices.readings["gpu-a"].devices
    assert len(changes) == 2, "the empty start, and the first reading"


def test_pods_are_looked_through_again_once_they_have_changed():
    """Ten thousand pods of others, looked through four times each 5 s, were half of idle's CPU."""
    looks = []

    def find(found):
        looks.append(1)
        return [one["metadata"]["name"] for one in found]

    pods = Pods(pod("a"))
    names = Finder(pods, find)
    assert (names(), names(), len(looks)) == (["a"], ["a"], 1)
    pods.add(pod("b"))
    assert (names(), names(), len(looks)) == (["a", "b"], ["a", "b"], 2)


def test_a_store_counts_what_comes_changes_and_goes():
    """What is told again, or late, is no change: resyncs list every pod anew."""
    store = Store()
    first = {"kind": "Pod", **pod("a")}
    first["metadata"] |= {"resourceVersion": "5", "uid": "u"}
    store.pods.upsert(first)
    store.pods.upsert(first)
    assert store.pods.num_changes == 1
    store.pods.upsert(first | {"metadata": first["metadata"] | {"resourceVersion": "6"}})
    assert store.pods.num_changes == 2
    store.pods.delete(first | {"metadata": first["metadata"] | {"resourceVersion": "7"}})
    assert store.pods.num_changes == 3


def test_troubles_of_sources_that_are_gone_are_forgotten():
    log = SourceLog("exporter")
    log.report("a", "timeout")
    log.keep(["b"])
    assert log.troubles == {}


async def test_what_dra_drivers_publish_is_read_and_a_cluster_without_it_is_fine():
    """Older clusters, and those that do not grant it, answer 404 or 403: that is no failure."""
    answers = [
        ApiError(404, "NotFound", "the server could not find the requested resource"),
        [{"metadata": {}, "spec": {"nodeName": "a"}}, {"metadata": {}, "spec": None}],
        ApiError(500, "InternalError", "etcd is away"),
    ]
    claims = [[], ApiError(403, "Forbidden", "resourceclaims is forbidden")]

    def told(answer):
        if isinstance(answer, ApiError):
            raise answer
        return answer

    async def list_slices():
        return told(answers.pop(0))

    async def list_claims():
        return told(claims.pop(0))

    async with open_page_reader() as reader:
        readings = Readings(
            reader, Pods(), ReadingMetrics(CollectorRegistry()), exporters=[], exporter_port=1,
            routers=[], scrape_seconds=5, on_change=lambda: None, list_slices=list_slices,
            list_claims=list_claims,
        )  # fmt: skip
        await readings.read_once()
        assert readings.slices_by_node == {}
        await readings.read_once()
        assert list(readings.slices_by_node) == ["a"]
        await readings.read_once()
        assert list(readings.slices_by_node) == ["a"], "what was known stays known"
        answers.append([{"metadata": {}, "spec": {"nodeName": "b"}}])
        await readings.read_once()
        assert list(readings.slices_by_node) == ["a"], "what may be taken is not given away"


async def test_what_a_node_says_that_cannot_be_is_told_once(caplog):
    """And once more when it has ended; a metric counts the nodes meanwhile."""
    caplog.set_level(logging.INFO)
    registry = CollectorRegistry()
    odd = Node(name="a", mode=PlacementMode.EXCLUSIVE, notes=("a terabyte of HBM",))
    async with open_page_reader() as reader:
        readings = Readings(
            reader, Pods(), ReadingMetrics(registry), exporters=[], exporter_port=1, routers=[],
            scrape_seconds=5, on_change=lambda: None,
        )  # fmt: skip
    labels = {"kind": "node", "trouble": "contradicts-node"}
    for nodes, count in (([odd], 1), ([odd], 1), ([replace(odd, notes=())], 0)):
        readings.tell_notes(nodes)
        assert registry.get_sample_value("memroute_operator_sources_failing", labels) == count
    assert caplog.text.count("a terabyte of HBM") == 1
    assert caplog.text.count("well again") == 1


async def test_what_a_picker_has_in_flight_counts_as_a_routers():
    """A replica that drains, or is put to sleep, must not be empty for routers alone."""
    settings = parse_settings(
        ["--router-selector", "memroute/part=router", "--picker-selector", "memroute/part=picker"]
    )
    page = (
        "memroute_router_requests_in_flight"
        '{model_namespace="default",model_deployment="m",replica="m-0"} 3\n'
    )

    async with serving(says(page)) as port, open_page_reader() as reader:
        doors = [
            pod(name, namespace="memroute", labels={"part": name})
            for name in ("router", "picker", "else")
        ]
        for one in doors:
            one["spec"]["containers"][0]["ports"] = [{"name": "ops", "containerPort": port}]
        readings = Readings(
            reader, Pods(*doors), ReadingMetrics(CollectorRegistry()), exporters=[],
            exporter_port=9400, routers=settings.front_doors, scrape_seconds=5,
            on_change=lambda: None,
        )  # fmt: skip
        await readings.read_once()
    assert readings.routers.is_known
    assert readings.routers.in_flight == {"default/m-0": 6}, "three at each"
