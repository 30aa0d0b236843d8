import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from memroute.units import GIB
from memroute_kube import ApiError
from memroute_operator.nodes import read_node
from memroute_operator.readings.device_metrics import DeviceMetrics, parse_exporter_page
from memroute_operator.readings.exporter_page import read_exporter_page
from memroute_simulator.nodes import dcgm, pod_worker
from memroute_simulator.nodes.devices import DeviceTable, OutOfMemoryError
from memroute_simulator.nodes.environment import (
    ANY_ADDRESS,
    ConfigurationError,
    command_line,
    downward_field,
    expand,
)
from memroute_simulator.nodes.fleet import FleetFileError, load_fleet
from memroute_simulator.nodes.images import entrypoint_for, repository_of
from memroute_simulator.nodes.labels import gpu_labels, node_labels
from memroute_simulator.nodes.machines import H100, L4, MACHINES
from memroute_simulator.nodes.pod_worker import PodWorker
from memroute_simulator.nodes.spec import HELP, NodeSpec
from memroute_simulator.nodes.volumes import SCRATCH, in_folders, mounts_of


def test_a_device_grants_what_is_free_and_no_byte_more():
    table = DeviceTable("n", (H100,), cluster="c")
    gpu = table.devices[0]
    table.allocate("a", gpu.uuid, 50 * GIB)
    with pytest.raises(OutOfMemoryError):
        table.allocate("b", gpu.uuid, gpu.usable_bytes - 50 * GIB + 1)
    table.release("a")
    assert gpu.free_bytes == gpu.usable_bytes


def test_the_device_plugin_never_gives_a_device_twice():
    table = DeviceTable("n", (L4, L4), cluster="c")
    first = table.assign("pod-1", 1)
    second = table.assign("pod-2", 1)
    assert set(first).isdisjoint(second)
    assert table.assign("pod-3", 1) is None
    table.unassign("pod-1")
    assert table.assign("pod-3", 1) == first


def test_visible_devices_follow_the_environment():
    table = DeviceTable("n", (L4, L4), cluster="c")
    uuid = table.devices[1].uuid
    assert [d.index for d in table.visible(uuid)] == [1]
    assert [d.index for d in table.visible("0")] == [0]
    assert len(table.visible("all")) == 2
    assert table.visible(None) == table.visible("none") == []


def test_the_exporters_page_is_what_the_operator_reads():
    """Free + used + reserved is what the label reports: 81,559 MiB for an H100."""
    table = DeviceTable("n", (H100,), cluster="c")
    table.assign("uid", 1)
    table.allocate("uid/engine", table.devices[0].uuid, 10 * GIB)
    page = dcgm.render_metrics("n", table, {"uid": ("default", "m-0")})
    (device,) = parse_exporter_page(page)
    assert device.total_bytes // 1024**2 == pytest.approx(81559, abs=1)
    assert device.assigned_pod == "default/m-0"
    assert device.used_bytes == 10 * GIB


def test_labels_of_a_mixed_machine_speak_of_its_last_gpu_only():
    """As GPU feature discovery does: labels are not the truth."""
    labels = gpu_labels(MACHINES["mixed"])
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-L4"
    assert labels["nvidia.com/gpu.count"] == "2"


def test_variables_expand_as_kubelet_expands_them():
    assert expand("$(A)-$(B)-$$(A)", {"A": "1"}) == "1-$(B)-$(A)"


def test_downward_fields():
    pod = {
        "metadata": {
            "name": "p", "namespace": "n", "uid": "u", "labels": {"a/b": "c"}
        },
        "spec": {"nodeName": "x"},
        "status": {"podIP": "127.1.2.3"},
    }  # fmt: skip
    assert downward_field(pod, "status.podIP") == "127.1.2.3"
    assert downward_field(pod, "metadata.labels['a/b']") == "c"
    with pytest.raises(ConfigurationError):
        downward_field(pod, "spec.whatever")


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("vllm/vllm-openai:v0.32.0", "vllm/vllm-openai"),
        ("registry.example:5000/vllm/vllm-openai@sha256:ab", "vllm/vllm-openai"),
        ("busybox", "busybox"),
    ],
)
def test_images_are_known_by_their_repository(image, repository):
    assert repository_of(image) == repository
    assert entrypoint_for(image) is not None


def test_an_unknown_image_is_nobodys():
    assert entrypoint_for("acme/thing:1") is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[]", "mapping"),
        ("nodes: [{name: a, machine: abacus}]", "abacus"),
        ("nodes: [{name: a, machine: l4, colour: red}]", "colour"),
        ("nodes: [{name: a, machine: l4}, {name: a, machine: l4}]", "same name"),
        ("nodes: [{name: a, machine: l4, gpuSharing: maybe}]", "maybe"),
    ],
)
def test_a_wrong_fleet_file_says_what_is_wrong(tmp_path, text, word):
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    with pytest.raises(FleetFileError, match=word):
        load_fleet(path)


def spec_of(**fields):
    return NodeSpec.parse({"name": "n", "machine": "h100-1"} | fields)


def test_an_exporter_says_what_it_collected_last_and_whose_devices_are_now():
    """As a real one: values up to 30 s old without a time on them, pods' names of this moment."""
    table = DeviceTable("n", (H100,), cluster="c")
    exporter = dcgm.Exporter("n", table)
    exporter.collect()
    table.assign("uid", 1)
    table.allocate("uid/engine", table.devices[0].uuid, 10 * GIB)
    (before,) = parse_exporter_page(exporter.page({"uid": ("d", "m-0")}))
    assert (before.used_bytes, before.assigned_pod) == (0, "d/m-0")
    exporter.collect()
    (after,) = parse_exporter_page(exporter.page({"uid": ("d", "m-0")}))
    assert after.used_bytes == 10 * GIB


def test_each_collection_shows_on_the_page_of_an_idle_device():
    """Its power does: by that a reader knows that the values are new."""
    exporter = dcgm.Exporter("n", DeviceTable("n", (H100,), cluster="c"))
    exporter.collect()
    first = read_exporter_page(exporter.page({})).fingerprint
    assert read_exporter_page(exporter.page({"x": ("a", "b")})).fingerprint == first
    exporter.collect()
    assert read_exporter_page(exporter.page({})).fingerprint != first


def test_a_time_sliced_device_is_handed_out_again_and_again_and_has_its_memory_once():
    table = DeviceTable(
        "n", (L4, L4), cluster="c", spec=spec_of(machine="l4-2", deviceSharing="time-slicing")
    )
    assert table.resources() == {"nvidia.com/gpu": 8}
    given = [table.assign(f"pod-{i}", 1)[0] for i in range(8)]
    assert [given.count(device.uuid) for device in table.devices] == [4, 4]
    assert table.assign("pod-8", 1) is None
    table.allocate("pod-0/e", given[0], 20 * GIB)
    with pytest.raises(OutOfMemoryError):
        table.allocate("pod-2/e", given[2], 20 * GIB)


def test_two_time_slices_of_one_device_are_one_device():
    """What a tensor-parallel group of two finds there."""
    table = DeviceTable("n", (H100,), cluster="c", spec=spec_of(deviceSharing="time-slicing"))
    assert len(table.visible(",".join(table.assign("pod", 2)))) == 1


@pytest.mark.parametrize(
    ("strategy", "resource"), [("single", "nvidia.com/gpu"), ("mixed", "nvidia.com/mig-3g.40gb")]
)
def test_slices_are_devices_with_their_own_memory(strategy, resource):
    """Two halves of an H100 of 79.65 GiB report 39.5 GiB each, by device plugin and exporter."""
    spec = spec_of(migStrategy=strategy, migSlices={"3g.40gb": 2})
    table = DeviceTable("n", (H100,), cluster="c", spec=spec)
    assert table.resources() == {resource: 2}
    (uuid,) = table.assign("uid", 1, resource)
    assert uuid.startswith("MIG-")
    first, second = parse_exporter_page(dcgm.render_metrics("n", table, {"uid": ("d", "m")}))
    assert {first.slice_profile, second.slice_profile} == {"3g.40gb"}
    assert first.total_bytes / GIB == pytest.approx(39.5, abs=0.1)
    assert [first.assigned_pod, second.assigned_pod] == ["d/m", None]


NASTY = {
    "plain": {},
    "time-sliced": {"deviceSharing": "time-slicing"},
    "mps": {"deviceSharing": "mps", "replicasPerGpu": 10},
    "mig single": {"migStrategy": "single", "migSlices": {"1g.10gb": 7}},
    "mig mixed": {"migStrategy": "mixed", "migSlices": {"1g.10gb": 1, "3g.40gb": 1}},
    "gke": {"labels": "gke"},
    "gke time-sharing": {"labels": "gke", "deviceSharing": "time-slicing"},
    "nothing but the device plugin": {"labels": "none"},
    "amd": {"machine": "mi300x-1"},
}


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("has_exporter", [True, False])
def test_what_the_operator_makes_of_an_emulated_node_is_what_the_node_has(name, has_exporter):
    """Never a device more, never a byte more: the emulation is what each plan is tried on."""
    spec = spec_of(**NASTY[name])
    table = DeviceTable("n", spec.kind.gpus, cluster="c", spec=spec)
    metrics = DeviceMetrics(scrape_seconds=5)
    if has_exporter:
        metrics.take("n", dcgm.render_metrics("n", table, {}), asked_at_seconds=0.0)
    resources = {resource: str(count) for resource, count in table.resources().items()}
    obj = {
        "metadata": {"name": "n", "labels": node_labels(spec)},
        "spec": {},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    found = [
        node
        for node in read_node(obj, metrics, {}, 0.0)
        if node.devices and node.unusable_reason is None
    ]
    for node in found:
        real = [one for one in table.devices if one.resource == node.resource]
        assert len(node.devices) == len(real)
        assert node.num_allocatable <= len(real)
        least = min(one.usable_bytes for one in real)
        assert all(device.usable_bytes <= least for device in node.devices)
        assert all(device.usable_bytes >= 0.9 * least for device in node.devices)
        sliced = bool(spec.mig_slices) or spec.sharing != "none"
        assert all(device.is_slice is sliced for device in node.devices)
    if name == "mps" or (name.startswith("nothing") and not has_exporter):
        assert not found
    else:
        assert {node.resource for node in found} == set(resources)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{name: a, machine: l4, deviceSharing: often}", "deviceSharing"),
        ("{name: a, machine: l4, replicasPerGpu: 4}", "needs deviceSharing"),
        ("{name: a, machine: h100, migStrategy: single}", "belong together"),
        ("{name: a, machine: l4, migStrategy: single, migSlices: {1g.5gb: 2}}", "no MIG profile"),
        ("{name: a, machine: h100, migStrategy: mixed, migSlices: {1g.10gb: 9}}", "1 to 7"),
        ("{name: a, machine: l4, exporterSeconds: -1}", "no number of seconds"),
        ("{name: a, machine: l4, gpuSharing: shared, deviceSharing: mps}", "no device plugin"),
        ("{name: a, machine: l4, podNetwork: 10.1.0.0/99}", "no network such as"),
        ("{name: a, machine: l4, podNetwork: 10.1.0.0/27, ipFamily: ipv6}", "ipFamily is ipv6"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong(entry, words, tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text(f"nodes: [{entry}]")
    with pytest.raises(FleetFileError, match=words):
        load_fleet(path)


def test_every_field_of_a_fleet_file_has_a_help_text(repository):
    """And the how-to lists them all."""
    text = (repository / "docs" / "how-to" / "emulate-faults.md").read_text()
    assert all(f"| `{name}` |" in text for name in HELP)


@pytest.mark.parametrize("every", ANY_ADDRESS)
def test_who_listens_on_every_address_listens_on_its_pods(every):
    """Pods share this machine's network here: on all of its addresses a port is only one pod's."""
    container = {"args": ["--host", "$(BIND)", "--host=$(BIND)", "--seed", "0"]}
    assert command_line(["python3"], container, {"BIND": every}, "127.1.2.3")[1:] == [
        "--host", "127.1.2.3", "--host=127.1.2.3", "--seed", "0",
    ]  # fmt: skip


def test_a_volume_is_a_folder_that_outlives_what_it_should(tmp_path):
    """Of the node, of the cluster, of the pod; a volume in memory is left alone."""
    pod = {
        "metadata": {"namespace": "n"},
        "spec": {
            "volumes": [
                {"name": "node", "hostPath": {"path": "/var/cache"}},
                {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
                {"name": "own", "emptyDir": {}},
                {"name": "shm", "emptyDir": {"medium": "Memory"}},
            ]
        },
    }
    paths = {"node": "/cache", "claim": "/claim", "own": "/own", "shm": "/dev/shm"}  # noqa: S108
    container = {
        "volumeMounts": [
            *({"name": name, "mountPath": path} for name, path in paths.items()),
            {"name": "node", "mountPath": "/cache/model", "subPath": "a/b"},
        ]
    }
    mounts = mounts_of(pod, container, root=tmp_path, node="x", pod_directory=tmp_path / "pod")
    found = {mount.path: mount.folder for mount in mounts}
    assert found == {
        "/cache": tmp_path / "nodes/x/var/cache",
        "/cache/model": tmp_path / "nodes/x/var/cache/a/b",
        "/claim": tmp_path / "claims/n/c",
        "/own": tmp_path / "pod/volumes/own",
    }
    assert all(folder.is_dir() for folder in found.values())
    assert in_folders("/cache/x", mounts) == f"{tmp_path}/nodes/x/var/cache/x"
    assert in_folders("--dir=/cache/model", mounts) == f"--dir={tmp_path}/nodes/x/var/cache/a/b"
    assert in_folders("/cached", mounts) == "/cached"


def test_scratch_is_this_machines_own(tmp_path):
    """Pods with a root that is only read mount /tmp, and tests name files that are there."""
    pod = {
        "metadata": {"namespace": "a"},
        "spec": {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]},
    }
    container = {"volumeMounts": [{"name": "tmp", "mountPath": SCRATCH}]}
    assert mounts_of(pod, container, root=tmp_path, node="x", pod_directory=tmp_path) == []


async def test_a_pod_that_is_deleted_while_its_container_ends_starts_it_no_more(
    tmp_path, monkeypatch
):
    """It took the end of its own task for that of its probes: the pod was never gone."""
    ending, go_on = asyncio.Event(), asyncio.Event()

    async def nothing(*_):
        return None

    async def probe(*_):
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await go_on.wait()

    async def resolved(*_):
        return {}, ["true"]

    for name, stand_in in (
        ("_run", nothing), ("_report", nothing), ("_probe", probe), ("_resolve", resolved),
    ):  # fmt: skip
        monkeypatch.setattr(PodWorker, name, stand_in)
    agent = SimpleNamespace(
        directory=tmp_path, pulled_images={"busybox"}, image_pull_seconds=0.0,
        close_driver=lambda _owner: None,
    )  # fmt: skip
    spec = {"name": "main", "image": "busybox"}
    metadata = {"name": "p", "namespace": "n", "uid": "u"}
    worker = PodWorker(agent, {"metadata": metadata, "spec": {"containers": [spec]}})
    running = asyncio.create_task(worker._run_once(spec, worker._states["main"]))
    await ending.wait()
    running.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert running.cancelled()


class Busy:
    """An API server that answers no call at first, and then each."""

    def __init__(self, num_unanswered=2):
        self._unanswered = iter(range(num_unanswered))
        self.calls = []

    async def patch(self, _resource, _namespace, _name, body, **_):
        self._answer(body["status"]["phase"])

    async def delete(self, _resource, _namespace, name, **_):
        self._answer(f"{name} deleted")

    def _answer(self, what):
        if next(self._unanswered, None) is not None:
            raise ApiError(0, "NoAnswer", "timed out")
        self.calls.append(what)


def worker_of(client, tmp_path):
    """A pod's worker that runs nothing, and what its agent has begun for it."""
    begun = []
    agent = SimpleNamespace(
        directory=tmp_path, client=client, is_gone=False, is_cut_off=False, address="127.0.0.1",
        finished=set(), forget=lambda _worker: None,
        run_soon=lambda coroutine: begun.append(asyncio.create_task(coroutine)),
    )  # fmt: skip
    metadata = {"name": "p", "namespace": "n", "uid": "u"}
    containers = [{"name": "main", "image": "busybox"}]
    return PodWorker(agent, {"metadata": metadata, "spec": {"containers": containers}}), begun


@pytest.fixture
def at_once(monkeypatch):
    """Nothing runs by itself, and no try waits for the last one."""

    async def nothing(*_):
        return None

    monkeypatch.setattr(PodWorker, "_run", nothing)
    monkeypatch.setattr(pod_worker, "RETRY_SECONDS", 0)


@pytest.mark.usefixtures("at_once")
async def test_a_status_that_got_no_answer_is_written_again(tmp_path):
    """As kubelet does. It was not: a pod that was ready was never called so."""
    client = Busy()
    worker, begun = worker_of(client, tmp_path)
    await worker._report()
    while begun:
        await begun.pop(0)
    assert client.calls == ["Pending"]


@pytest.mark.usefixtures("at_once")
async def test_a_pod_whose_last_deletion_got_no_answer_is_deleted_again(tmp_path):
    """It stayed in Terminating until something else about it changed."""
    client = Busy()
    worker, _ = worker_of(client, tmp_path)
    await worker._finish()
    assert client.calls == ["p deleted"]
