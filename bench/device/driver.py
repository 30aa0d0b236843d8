"""The CUDA driver by ctypes: devices, memory, copies. No compiler and no package is needed.

Timing is by the clock of the process around copies that a stream has finished. A copy that is
issued from Python costs one to two microseconds of its CPU, less than the copy itself from 4 KiB up
(3.7 us); below, the CPU would be measured.
"""

import ctypes
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

LIBRARY = "libcuda.so.1"
# CU_MEMHOSTALLOC_PORTABLE: pinned for every context.
_PORTABLE = 1
_SUCCESS = 0
_ALREADY_ENABLED = 704


class NoDeviceError(Exception):
    """There is nothing to measure here; the message is for people."""


class DriverError(Exception):
    """A call of the driver failed."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(f"{call} failed with CUDA error {code}")
        self.call, self.code = call, code


class Way(StrEnum):
    """Which way bytes go."""

    READ = "read"
    """Host to device."""
    WRITE = "write"
    """Device to host."""
    BOTH = "both"
    """Both at once, each on a stream of its own; bytes of both ways are counted."""
    LOCAL = "local"
    """Within the device: each byte is read and written."""


class Device(Protocol):
    """What a part measures with; one context on one device."""

    index: int
    name: str

    def open(self) -> None:
        """Make the context; costs its memory on the device."""
        ...

    def memory(self) -> tuple[int, int]:
        """Bytes free and in all, as ``cudaMemGetInfo`` has them. Needs an open context."""
        ...

    def allocate(self, size: int) -> int:
        """Bytes on the device; an address. Raises ``DriverError`` where there are not as many."""
        ...

    def free(self, address: int) -> None:
        """Give them back."""
        ...

    def copy_seconds(self, way: Way, block_bytes: int, num_copies: int, *, pinned: bool) -> float:
        """Seconds of so many copies, each of other bytes of a buffer than the one before."""
        ...

    def peer_seconds(self, other: int, block_bytes: int, num_copies: int) -> float | None:
        """The same to another device; None where it has no peer access."""
        ...


class CudaDevice:
    """A device by the driver's own calls. Owns its context and buffers while it is open."""

    def __init__(self, library: Any, index: int) -> None:
        self.index = index
        self._cuda = library
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), index)
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, 256, self._device)
        self.name = text.value.decode(errors="replace")
        self._context = ctypes.c_void_p()
        self._streams: list[ctypes.c_void_p] = []

    def open(self) -> None:
        """Make the context, and make it this thread's."""
        if not self._context:
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._call("cuCtxSetCurrent", self._context)
        while len(self._streams) < 2:  # noqa: PLR2004 - one for each direction
            stream = ctypes.c_void_p()
            self._call("cuStreamCreate", ctypes.byref(stream), 1)
            self._streams.append(stream)

    def memory(self) -> tuple[int, int]:
        """Bytes free and in all."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuCtxSetCurrent", self._context)
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> int:
        """Bytes on the device."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        """Give them back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def copy_seconds(self, way: Way, block_bytes: int, num_copies: int, *, pinned: bool) -> float:
        """Seconds of so many copies."""
        span = _span(block_bytes, num_copies)
        here = [self.allocate(span) for _ in range(2)]
        there = [] if way is Way.LOCAL else [self._host(span, pinned=pinned) for _ in range(2)]
        try:
            self._copy(way, block_bytes, min(num_copies, 8), here, there, span)
            begun = time.perf_counter()
            self._copy(way, block_bytes, num_copies, here, there, span)
            return time.perf_counter() - begun
        finally:
            for address in here:
                self.free(address)
            for address, keeper in there:
                if keeper is None:
                    self._call("cuMemFreeHost", ctypes.c_void_p(address))

    def peer_seconds(self, other: int, block_bytes: int, num_copies: int) -> float | None:
        """Seconds of copies to another device; None without peer access."""
        can = ctypes.c_int()
        second = CudaDevice(self._cuda, other)
        self._call("cuDeviceCanAccessPeer", ctypes.byref(can), self._device, second._device)
        if not can.value:
            return None
        second.open()
        span = _span(block_bytes, num_copies)
        target = second.allocate(span)
        self.open()
        code = self._cuda.cuCtxEnablePeerAccess(second._context, 0)
        if code not in {_SUCCESS, _ALREADY_ENABLED}:
            call = "cuCtxEnablePeerAccess"
            raise DriverError(call, code)
        source = self.allocate(span)
        try:
            begun = time.perf_counter()
            for number in range(num_copies):
                at = number * block_bytes % span
                self._call(
                    "cuMemcpyPeerAsync", ctypes.c_uint64(target + at), second._context,
                    ctypes.c_uint64(source + at), self._context, ctypes.c_size_t(block_bytes),
                    self._streams[0],
                )  # fmt: skip
            self._call("cuStreamSynchronize", self._streams[0])
            return time.perf_counter() - begun
        finally:
            self.free(source)
            second.open()
            second.free(target)
            self.open()

    # Inside.

    def _copy(
        self,
        way: Way,
        block_bytes: int,
        num_copies: int,
        here: Sequence[int],
        there: Sequence[tuple[int, Any]],
        span: int,
    ) -> None:
        size = ctypes.c_size_t(block_bytes)
        read, write = self._streams[:2]
        for number in range(num_copies):
            at = number * block_bytes % span
            if way is Way.LOCAL:
                self._call("cuMemcpyDtoDAsync_v2", ctypes.c_uint64(here[1] + at),
                           ctypes.c_uint64(here[0] + at), size, read)  # fmt: skip
            if way in {Way.READ, Way.BOTH}:
                self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(here[0] + at),
                           ctypes.c_void_p(there[0][0] + at), size, read)  # fmt: skip
            if way in {Way.WRITE, Way.BOTH}:
                self._call("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(there[1][0] + at),
                           ctypes.c_uint64(here[1] + at), size, write)  # fmt: skip
        self._call("cuStreamSynchronize", read)
        self._call("cuStreamSynchronize", write)

    def _host(self, size: int, *, pinned: bool) -> tuple[int, Any]:
        """An address, and what keeps it alive where the driver does not."""
        if not pinned:
            keeper = bytearray(size)
            view = (ctypes.c_char * size).from_buffer(keeper)
            return ctypes.addressof(view), (keeper, view)
        address = ctypes.c_void_p()
        self._call(
            "cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(_PORTABLE)
        )
        return address.value or 0, None

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code != _SUCCESS:
            raise DriverError(name, code)


# What copies of one measurement lie in, at the most: larger than any cache, and quickly pinned.
MAX_SPAN_BYTES = 256 * 1024**2


def _span(block_bytes: int, num_copies: int) -> int:
    """Bytes that copies lie in: whole blocks."""
    blocks = max(1, min(num_copies, MAX_SPAN_BYTES // block_bytes))
    return blocks * block_bytes


def load_devices() -> list[CudaDevice]:
    """Every device that the driver shows. Raises ``NoDeviceError``."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        msg = (
            f"no NVIDIA driver here ({LIBRARY} cannot be loaded): run this on a node with a GPU, "
            "or in a pod that asks for one"
        )
        raise NoDeviceError(msg) from None
    code = library.cuInit(0)
    count = ctypes.c_int()
    if code != _SUCCESS or library.cuDeviceGetCount(ctypes.byref(count)) != _SUCCESS:
        msg = f"the NVIDIA driver is here and shows no device (cuInit: CUDA error {code})"
        raise NoDeviceError(msg)
    if not count.value:
        msg = "the NVIDIA driver is here and shows no device (CUDA_VISIBLE_DEVICES?)"
        raise NoDeviceError(msg)
    return [CudaDevice(library, index) for index in range(count.value)]
