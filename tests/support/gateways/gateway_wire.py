"""A gateway's connection to a picker in memory: what it says is heard at once."""

import asyncio
import contextlib

from gateway_rig import Gateway, PickerRig
from memroute_picker.grpc.connection import GrpcConnection
from memroute_picker.grpc.frames import PREFACE, settings, window_update


class Socket:
    """A transport that takes only what it is told to."""

    def __init__(self, takes=True):
        self._takes = takes
        self.written = bytearray()
        self.waiting_bytes = self.most_bytes = 0
        self.is_closed = self.is_full = False
        self.protocol = None
        self.look = lambda: None
        self.looks = []
        """What was seen at each write."""

    def get_extra_info(self, _name):
        return None

    def write(self, data):
        self.written += data
        self.looks.append(self.look())
        if not self._takes:
            self.waiting_bytes += len(data)
            self.most_bytes = max(self.most_bytes, self.waiting_bytes)
            if self.waiting_bytes > 64 * 1024 and not self.is_full:
                self.is_full = True
                self.protocol.pause_writing()

    def take_all(self):
        self.waiting_bytes = 0
        if self.is_full:
            self.is_full = False
            self.protocol.resume_writing()

    def get_write_buffer_size(self):
        return self.waiting_bytes

    def is_closing(self):
        return self.is_closed

    def close(self):
        self.is_closed = True

    abort = close


def frames_of(data):
    """Kind, flags, stream and payload of each frame."""
    found, at = [], 0
    while at + 9 <= len(data):
        length = int.from_bytes(data[at : at + 3], "big")
        stream = int.from_bytes(data[at + 5 : at + 9], "big")
        found.append((data[at + 3], data[at + 4], stream, bytes(data[at + 9 : at + 9 + length])))
        at += 9 + length
    return found


class Wire(Gateway):
    """A gateway whose connection is in memory: what it says is heard at once."""

    def __init__(self, connection):
        self._connection = connection
        self._streams = {}
        self._next = 1

    def write(self, data):
        self._connection.data_received(data)


@contextlib.asynccontextmanager
async def wired_up(*flags, takes=True, greets=True, capacity=10_000, **options):
    """A rig, a connection to it in memory, and its transport."""
    rig = PickerRig("--scrape-seconds", "3600", *flags, **options)
    rig.add("a", 1001, capacity=capacity)
    rig.add("b", 1002, capacity=capacity)
    rig.trust_all()
    faults = []
    grpc = rig.router.grpc
    grpc._side.on_fault = lambda place, error: faults.append((place, error))
    connection, socket = GrpcConnection(grpc._side), Socket(takes)
    socket.protocol = connection
    connection.connection_made(socket)
    wire = Wire(connection)
    if greets:
        wire.write(PREFACE + settings([(4, 2**31 - 1)]) + window_update(0, 2**30))
    try:
        yield rig, wire, socket
        assert not faults
    finally:
        connection.connection_lost(None)
        await asyncio.sleep(0)
        await rig.router.engines.close()
        grpc.deadlines.close()


def nothing_is_held(rig):
    budget = rig.router.grpc.budget
    nothing = rig.num_leases == rig.reserved == rig.num_held == budget.held_bytes == 0
    return nothing and not budget._slow


@contextlib.contextmanager
def together(wire):
    """What is said comes by one read."""
    said = []
    wire.write = said.append
    yield
    del wire.write
    wire.write(b"".join(said))
