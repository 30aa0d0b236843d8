import pytest

from memroute.units import GIB
from memroute_operator.device_metrics import parse_exporter_page
from memroute_simulator.nodes import dcgm
from memroute_simulator.nodes.devices import DeviceTable, OutOfMemoryError
from memroute_simulator.nodes.environment import ConfigurationError, downward_field, expand
from memroute_simulator.nodes.fleet import FleetFileError, load_fleet
from memroute_simulator.nodes.images import entrypoint_for, repository_of
from memroute_simulator.nodes.labels import gpu_labels
from memroute_simulator.nodes.machines import H100, L4, MACHINES


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
