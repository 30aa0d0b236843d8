"""``python -m bench.device`` on a driver that obeys a law: what it measures, and leaves out."""

import ctypes
import io
import json
import subprocess
import sys
from contextlib import contextmanager

import pytest
from rich.console import Console

from bench.device.__main__ import main, work
from bench.device.driver import CudaDevice, DriverError, NoDeviceError, Way
from bench.device.parts import (
    BLOCK_BYTES,
    PART_SECONDS,
    TOTAL_SECONDS,
    Budget,
    measure,
    num_copies,
)
from bench.device.report import annotate, document, told
from memroute.hierarchy import measured_host_link
from memroute.hierarchy.measured import fit_link
from memroute.units import GIB, MIB
from memroute_cli.terminal.host_links import read_host_link

GRANULE = 2 * MIB
CONTEXT_BYTES = 400 * MIB
READ, WRITE, COPY = 55.1e9, 56.4e9, 3.7e-6


class Clock:
    """Seconds that pass as copies do."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class LawfulDevice:
    """A device whose copies take what the law says, and whose memory comes in granules."""

    def __init__(self, clock, index=0, total=80 * GIB):
        self.index, self.name = index, "NVIDIA H100 80GB HBM3"
        self.clock, self.total = clock, total
        self.taken = CONTEXT_BYTES
        self.addresses = {}
        self.is_open = False
        self.overhead = 1.0
        """Seconds that pass for each second of copies."""

    def open(self):
        self.is_open = True

    def memory(self):
        assert self.is_open
        return self.total - self.taken, self.total

    def allocate(self, size):
        size = -(-size // GRANULE) * GRANULE
        if self.taken + size > self.total:
            call = "cuMemAlloc_v2"
            raise DriverError(call, 2)
        address = 1 + len(self.addresses)
        while address in self.addresses:
            address += 1
        self.addresses[address] = size
        self.taken += size
        return address

    def free(self, address):
        self.taken -= self.addresses.pop(address)

    def copy_seconds(self, way, block_bytes, num_copies, *, pinned):
        rate = {Way.READ: READ, Way.WRITE: WRITE, Way.BOTH: 42e9, Way.LOCAL: 1.4e12}[way]
        seconds = num_copies * (COPY + block_bytes / (rate if pinned else rate / 4))
        self.clock.now += seconds * self.overhead
        return seconds

    def peer_seconds(self, other, block_bytes, num_copies):
        return num_copies * (1e-6 + block_bytes / 54e9) if other else None


class LawfulMachine:
    """Devices, and processes that share the first."""

    def __init__(self, num_devices=1, clock=None):
        self.clock = clock or Clock()
        self.devices = [LawfulDevice(self.clock, index) for index in range(num_devices)]

    @contextmanager
    def hold(self, index):
        self.devices[index].taken += CONTEXT_BYTES
        yield
        self.devices[index].taken -= CONTEXT_BYTES

    def sharers(self, index, count, seconds):
        self.clock.now += seconds
        return [2.8e12 / count * (1 if count == 1 else 0.97)] * count


def measured(machine, seconds=TOTAL_SECONDS):
    return dict(measure(machine, Budget(machine.clock, seconds)))


def test_all_parts_are_measured_and_read_back_as_a_link(tmp_path):
    """The annotation has the law that the device obeys, and a plan reads it from the file."""
    machine = LawfulMachine(num_devices=2)
    found = document(machine.devices[0].name, measured(machine))
    assert found["hostLink"] == "3.70us-55.1-56.4GBps"
    link = measured_host_link(json.dumps(found))
    assert link.read_rate(65_536) == pytest.approx(65_536 / (COPY + 65_536 / READ), rel=0.01)
    path = tmp_path / "node.json"
    path.write_text(json.dumps(found))
    assert read_host_link("--host-link", str(path)) == link
    assert annotate(found["hostLink"], "gpu-1") == (
        "kubectl annotate node gpu-1 --overwrite memroute.dev/host-link=3.70us-55.1-56.4GBps"
    )
    parts = found["parts"]
    assert parts["context"]["contextBytes"] == CONTEXT_BYTES
    assert parts["context"]["givenBackBytes"] == CONTEXT_BYTES
    assert parts["sharing"]["keptRatio"] == pytest.approx(0.97)
    assert parts["peer"]["hasPeerAccess"]
    assert machine.devices[0].taken == CONTEXT_BYTES


def test_four_models_are_allocated_and_what_does_not_fit_is_passed_over():
    """Granules of 2 MiB: 160 tensors lose at most 320 MiB, a small model most."""
    large, small = LawfulMachine(), LawfulMachine()
    small.devices[0].total = 24 * GIB
    (of_large, of_small) = (measured(one)["shapes"]["shapes"] for one in (large, small))
    assert [one["model"] for one in of_large] == [
        "Qwen/Qwen3-0.6B", "meta-llama/Llama-3.1-8B", "openai/gpt-oss-20b", "Qwen/Qwen3-32B",
    ]  # fmt: skip
    assert [one["model"] for one in of_small] == [
        "Qwen/Qwen3-0.6B", "meta-llama/Llama-3.1-8B", "openai/gpt-oss-20b",
    ]  # fmt: skip
    for one in of_large:
        counted = one["weightsBytes"] + one["kvCacheBytes"]
        assert 0 <= one["takenBytes"] - counted <= 161 * GRANULE


def test_a_part_without_time_is_left_out_and_named():
    """A stop in the middle of the rates leaves the rates that there are."""
    machine = LawfulMachine()
    machine.devices[0].overhead = 20.0
    results = measured(machine, seconds=40.0)
    assert results["host"]["numLeftOut"] > 0
    assert results["host"]["points"]
    assert results["shapes"] is results["sharing"] is results["peer"] is None
    text = "\n".join(str(one) for one in told(document("x", results)))
    assert "shapes: left out" in text


def test_a_part_that_fails_leaves_the_others():
    """A driver that refuses one call has still something to tell."""
    machine = LawfulMachine()

    def refuse(*_arguments):
        call = "cuMemHostAlloc"
        raise DriverError(call, 2)

    machine.sharers = refuse
    results = measured(machine)
    assert results["sharing"] == {"error": "cuMemHostAlloc failed with CUDA error 2"}
    assert results["peer"] is None
    assert document("x", results)["hostLink"] is not None


def test_parts_fit_into_the_time_that_was_given():
    """Under eight minutes, start of Python and killing included."""
    assert sum(PART_SECONDS.values()) <= TOTAL_SECONDS < 8 * 60
    for size in BLOCK_BYTES:
        assert 0.1 < num_copies(size) * (4e-6 + size / 50e9) < 0.3 or num_copies(size) == 20_000


def test_tables_are_for_people():
    machine = LawfulMachine(num_devices=2)
    console = Console(width=110, record=True, file=io.StringIO())
    for line in told(document("NVIDIA H100 80GB HBM3", measured(machine))):
        console.print(line)
    text = console.export_text()
    assert "another process's context takes 400 MiB" in text
    assert "link to the host: 3.70us-55.1-56.4GBps" in text
    assert "together 97% of it" in text
    assert "Qwen/Qwen3-32B (none)" in text


def test_a_worker_leaves_what_there_is_in_its_file(tmp_path):
    path = tmp_path / "m.json"
    assert work(path, LawfulMachine) == 0
    assert json.loads(path.read_text())["hostLink"] == "3.70us-55.1-56.4GBps"

    def nothing():
        msg = "no NVIDIA driver here"
        raise NoDeviceError(msg)

    assert work(path, nothing) == 1
    assert json.loads(path.read_text()) == {"noDevice": "no NVIDIA driver here"}


def test_what_was_written_is_told_again(tmp_path, capsys):
    path = tmp_path / "m.json"
    work(path, LawfulMachine)
    assert main(["--read", str(path), "--annotate", "--node", "a"]) == 0
    assert capsys.readouterr().out.startswith("kubectl annotate node a ")
    path.write_text(json.dumps(document("x", {"context": None})))
    assert main(["--read", str(path), "--annotate"]) == 1
    assert "was not measured" in capsys.readouterr().err
    path.write_text("{}")
    assert main(["--read", str(path)]) == 1


def test_a_machine_without_a_device_says_so():
    """The whole program, as somebody runs it on the wrong machine."""
    code = "import ctypes\ndef no(*a, **k): raise OSError\nctypes.CDLL = no\n"
    code += "from bench.device.driver import load_devices\nload_devices()"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert "no NVIDIA driver here (libcuda.so.1 cannot be loaded)" in ended.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "no measurement"), ("{", "no measurement"),
        ('{"format":"memroute.dev/device-measurement","version":9}', "version 9"),
        ('{"format":"memroute.dev/device-measurement","version":1,"hostLink":null}', "stopped"),
    ],
)  # fmt: skip
def test_what_is_no_measurement_is_refused(text, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        measured_host_link(text)
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"--host-link .*{words}"):
        read_host_link("--host-link", str(path))


def test_a_law_is_fitted_to_points_with_errors_and_not_to_one():
    """3 % of noise, alternating: rate and copy within 5 %."""
    points = [
        (size, size / (COPY + size / READ) * (1.03 if number % 2 else 0.97))
        for number, size in enumerate(BLOCK_BYTES)
    ]
    fit = fit_link(points)
    assert fit.bytes_per_second == pytest.approx(READ, rel=0.05)
    assert fit.seconds_per_copy == pytest.approx(COPY, rel=0.05)
    assert fit.error_ratio < 0.05
    assert fit_link(points[:1]) is None
    assert fit_link([(4096, 50e9), (MIB, 49e9)]).seconds_per_copy == 0.0


class HostCuda:
    """The driver's calls on plain memory: what is passed to it is used as the driver would."""

    def __init__(self, total=64 * MIB, peers=True):
        self.total, self.peers = total, peers
        self.buffers, self.pinned = {}, {}
        self.copied = dict.fromkeys(("to device", "from device", "within", "peer"), 0)

    def __getattr__(self, name):
        if name.startswith(("cuCtx", "cuStream", "cuDevicePrimaryCtx")):
            return lambda *_: 0
        raise AttributeError(name)

    def cuDeviceGet(self, device, index):  # noqa: N802 - the driver's name
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, text, _size, _device):  # noqa: N802
        text.value = b"Plain Memory"
        return 0

    def cuMemGetInfo_v2(self, free, total):  # noqa: N802
        free._obj.value = self.total - sum(map(len, self.buffers.values()))
        total._obj.value = self.total
        return 0

    def cuMemAlloc_v2(self, address, size):  # noqa: N802
        if sum(map(len, self.buffers.values())) + size.value > self.total:
            return 2
        buffer = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(buffer)
        self.buffers[ctypes.addressof(buffer)] = buffer
        return 0

    def cuMemFree_v2(self, address):  # noqa: N802
        del self.buffers[address.value]
        return 0

    def cuMemHostAlloc(self, address, size, _flags):  # noqa: N802
        buffer = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(buffer)
        self.pinned[ctypes.addressof(buffer)] = buffer
        return 0

    def cuMemFreeHost(self, address):  # noqa: N802
        del self.pinned[address.value]
        return 0

    def _copy(self, what, target, source, size):
        self.copied[what] += size.value
        ctypes.memmove(target.value, source.value, size.value)
        return 0

    def cuMemcpyHtoDAsync_v2(self, target, source, size, _stream):  # noqa: N802
        return self._copy("to device", target, source, size)

    def cuMemcpyDtoHAsync_v2(self, target, source, size, _stream):  # noqa: N802
        return self._copy("from device", target, source, size)

    def cuMemcpyDtoDAsync_v2(self, target, source, size, _stream):  # noqa: N802
        return self._copy("within", target, source, size)

    def cuDeviceCanAccessPeer(self, can, _device, _other):  # noqa: N802
        can._obj.value = int(self.peers)
        return 0

    def cuMemcpyPeerAsync(self, target, _there, source, _here, size, _stream):  # noqa: N802
        return self._copy("peer", target, source, size)


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize(
    ("way", "moved"),
    [
        (Way.READ, {"to device": 1}), (Way.WRITE, {"from device": 1}),
        (Way.BOTH, {"to device": 1, "from device": 1}), (Way.LOCAL, {"within": 1}),
    ],
)  # fmt: skip
def test_copies_stay_within_their_buffers_and_give_them_back(way, moved, pinned):
    """Eight to warm up, then twelve of 64 KiB each way; plain memory would fault outside."""
    cuda = HostCuda()
    device = CudaDevice(cuda, 0)
    device.open()
    assert device.name == "Plain Memory"
    assert device.copy_seconds(way, 65_536, 12, pinned=pinned) > 0
    expected = {name: moved.get(name, 0) * 20 * 65_536 for name in cuda.copied}
    assert cuda.copied == expected
    assert (cuda.buffers, cuda.pinned) == ({}, {})
    assert device.memory() == (64 * MIB, 64 * MIB)


def test_a_peer_is_copied_to_and_one_without_access_is_said():
    cuda = HostCuda()
    device = CudaDevice(cuda, 0)
    device.open()
    assert device.peer_seconds(1, 65_536, 4) > 0
    assert cuda.copied["peer"] == 4 * 65_536
    assert cuda.buffers == {}
    assert CudaDevice(HostCuda(peers=False), 0).peer_seconds(1, 65_536, 4) is None


def test_a_call_that_fails_says_which():
    device = CudaDevice(HostCuda(), 0)
    device.open()
    with pytest.raises(DriverError, match="cuMemAlloc_v2 failed with CUDA error 2"):
        device.allocate(GIB)
