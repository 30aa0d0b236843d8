"""Whatever stands on a page, nothing leaves a scrape but readings within their bounds."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute.units import MIB
from memroute_operator.readings.device_metrics import DeviceMetrics
from memroute_operator.readings.engine_reports import read_report
from memroute_operator.readings.exporter_page import (
    INT32_BLANK,
    parse_exporter_page,
    read_exporter_page,
)
from memroute_operator.readings.router_metrics import RouterMetrics
from memroute_operator.readings.samples import parse_labels, parse_samples
from sizes import examples

# The issue asks for 10,000; ordinary runs take 500.
EXAMPLES = examples()
PAGES = [path.read_text() for path in sorted(Path(__file__).parents[1].glob("data/*.txt"))]

NUMBERS = st.one_of(
    st.sampled_from(
        ["0", "1", "80000", "-5", "nope", "NaN", "-Inf", "+Inf", "1e308", "1e999", "0x10", "",
         "9223372036854775794", "2147483632", "1_000", "٣", " ", "None", "5565", "0.92"]
    ),
    st.floats().map(str),
    st.integers().map(str),
)  # fmt: skip
NAMES = st.sampled_from(
    ["DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_RESERVED",
     "DCGM_FI_DEV_FB_TOTAL", "DCGM_FI_DEV_XID_ERRORS", "gpu_total_vram", "gpu_used_vram",
     "vllm:cache_config_info", "memroute_router_requests_in_flight",
     "memroute_router_kv_projected_ratio", "memroute_router_targets_unmet",
     "memroute_router_tpot_alone_seconds"]
)  # fmt: skip
KEYS = st.sampled_from(
    ["gpu", "UUID", "modelName", "GPU_I_ID", "GPU_I_PROFILE", "pod", "namespace", "gpu_id",
     "gpu_uuid", "num_gpu_blocks", "gpu_memory_utilization", "block_size", "kv_cache_memory_bytes",
     "kv_cache_size_tokens", "engine", "model_deployment", "exported_pod"]
)  # fmt: skip
VALUES = st.one_of(NUMBERS, st.text(max_size=12), st.sampled_from(["GPU-1", "x", 'a"b', "a\\b"]))
LABELS = st.dictionaries(KEYS, VALUES, max_size=6).map(
    lambda labels: ",".join(f'{key}="{value}"' for key, value in labels.items())
)
LINES = st.one_of(
    st.builds(lambda n, ls, v: f"{n}{{{ls}}} {v}", NAMES, LABELS, NUMBERS),
    st.builds(lambda n, t: f"{n}{t}", NAMES, st.text(max_size=30)),
    st.text(max_size=40),
)
GENERATED = st.lists(LINES, max_size=12).map("\n".join)


@st.composite
def damaged(draw):
    """A real page with some of its characters replaced, dropped or doubled."""
    text = draw(st.sampled_from(PAGES))
    start = draw(st.integers(0, len(text)))
    part = text[start : start + draw(st.integers(0, 4000))]
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(part)))
        part = part[:at] + draw(st.text(max_size=5)) + part[at + draw(st.integers(0, 3)) :]
    return part


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(st.one_of(GENERATED, damaged()), st.one_of(GENERATED, damaged()))
def test_no_exception_leaves_a_scrape(text, then):
    """One odd value of one page ended the operator of the whole cluster, after each restart."""
    metrics = DeviceMetrics(scrape_seconds=5)
    for at, page in enumerate((text, then)):
        reading = metrics.take("n", page, asked_at_seconds=5.0 * at)
        assert 0 <= reading.age_seconds(5.0 * at) <= 35
        for device in reading.devices:
            for value in (device.free_bytes, device.used_bytes, device.total_bytes):
                assert value is None or 0 <= value < 3 * INT32_BLANK * MIB
            assert device.index >= 0
    report = read_report(text)
    assert report is None or (report.num_blocks >= 1 and 0 < report.utilization_ratio <= 1)
    routers = RouterMetrics()
    routers.take([text, then, None][: 1 + len(text) % 3])
    assert all(count >= 0 for count in routers.in_flight.values())
    assert all(math.isfinite(ratio) for ratio in routers.kv_projected_ratio.values())


@pytest.mark.parametrize("value", ["nope", "-Inf", "NaN", "-5", "1e308", "2147483633"])
def test_a_value_that_cannot_be_is_unknown_and_the_rest_of_the_page_is_used(value):
    text = (
        f'DCGM_FI_DEV_FB_FREE{{gpu="0",UUID="GPU-1"}} {value}\n'
        'DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-1"} 7\n'
        'DCGM_FI_DEV_FB_FREE{gpu="x",UUID="GPU-2"} 1\n'
        'DCGM_FI_DEV_FB_FREE{gpu="3",UUID="GPU-3"} 8\n'
    )
    broken, whole = parse_exporter_page(text)
    assert (broken.free_bytes, broken.used_bytes, broken.total_bytes) == (None, 7 * MIB, None)
    assert whole.free_bytes == 8 * MIB


def test_what_could_not_be_read_is_counted():
    text = (
        'DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-1"} nope\n'
        'DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-1" 5\n'
        'DCGM_FI_DEV_FB_FREE{gpu="0"} 5\n'
        'DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-1"} -5\n'
        'DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-1"} nope\n'
        'DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-1"} 9223372036854775794\n'
    )
    assert read_exporter_page(text).num_unreadable == 4


def test_of_a_device_that_several_pods_share_the_worst_sample_counts():
    """One series per pod: added up, one device would have the memory of several."""
    text = "".join(
        f'DCGM_FI_DEV_FB_FREE{{gpu="0",UUID="G",namespace="n",pod="{pod}"}} {free}\n'
        f'DCGM_FI_DEV_FB_USED{{gpu="0",UUID="G",namespace="n",pod="{pod}"}} {used}\n'
        for pod, free, used in (("b", 900, 100), ("a", 800, 200))
    )
    (device,) = parse_exporter_page(text)
    assert (device.free_bytes, device.used_bytes) == (800 * MIB, 200 * MIB)
    assert device.assigned_pods == ("n/a", "n/b")


def test_slices_are_devices_of_their_own():
    line = 'DCGM_FI_DEV_FB_FREE{gpu="0",UUID="G",GPU_I_PROFILE="%s",GPU_I_ID="%s"} %s\n'
    text = line % ("1g.10gb", "7", 9000) + line % ("3g.40gb", "1", 40000)
    first, second = parse_exporter_page(text)
    assert (first.slice_profile, first.free_bytes) == ("3g.40gb", 40000 * MIB)
    assert (second.slice_profile, second.slice_id) == ("1g.10gb", "7")


def test_amds_exporter_is_read_as_well():
    """Names, units (MB that are MiB) and labels of device-metrics-exporter."""
    labels = 'card_series="AMD Instinct MI300X",gpu_id="2",gpu_uuid="u-2",namespace="n",pod="p"'
    text = "".join(
        f"gpu_{name}_vram{{{labels}}} {value}\n"
        for name, value in (("total", 196592), ("used", 592), ("free", 196000))
    )
    (device,) = parse_exporter_page(text)
    assert (device.index, device.uuid, device.product) == (2, "u-2", "AMD-Instinct-MI300X")
    assert device.total_bytes == 196592 * MIB
    assert device.free_bytes == 196000 * MIB
    assert device.assigned_pod == "n/p"


def test_an_xid_of_an_application_is_no_fault_of_the_device():
    """XID 31 is an engine's page fault, XID 79 a device that has fallen off the bus."""
    line = 'DCGM_FI_DEV_XID_ERRORS{gpu="%d",UUID="G%d"} %d\n'
    text = "".join(line % (i, i, xid) for i, xid in enumerate((0, 31, 79)))
    assert [one.is_failing for one in parse_exporter_page(text)] == [False, False, True]


def test_labels_are_read_with_their_escapes():
    assert parse_labels(r'a="x\"y",b="\\",c="\n"') == {"a": 'x"y', "b": "\\", "c": "\n"}


def test_samples_with_timestamps_and_without_labels_are_read():
    page = parse_samples('up 1 1700000000\nup{} 2\nup 3 # {trace="x"} 1\nupper 4\n', {"up"})
    assert [sample.value for sample in page] == [1.0, 2.0, 3.0]
