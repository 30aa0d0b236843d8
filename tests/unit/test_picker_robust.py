"""A picker lives through whatever comes over its port: bytes, frames, messages in any order."""

import asyncio
import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_rig import BUFFERED, DUPLEX, NONE, STREAMED, Gateway, PickerRig, Stream, picker
from memroute_picker.grpc.connection import GrpcConnection
from memroute_picker.grpc.frames import PREFACE, frame
from memroute_picker.protocol.names import PROCESS_PATH
from memroute_simulator.controlplane.certificates import CertificateAuthority
from router_rig import CHUNK, body, until
from sizes import tries

BLOCK = b"\x83\x86\x04" + bytes([len(PROCESS_PATH)]) + PROCESS_PATH
FRAMES = st.builds(
    frame,
    st.integers(0, 10),
    st.sampled_from([0, 1, 4, 5, 8, 0x24, 0x2D]),
    st.sampled_from([0, 1, 1, 3, 5, 2**31 - 1]),
    st.one_of(
        st.binary(max_size=40),
        st.just(BLOCK),
        st.just(b"\x00\x00\x00\x00\x02\x12\x00"),
        st.just((2**31 - 1).to_bytes(4, "big")),
    ),
)


class Socket:
    """A transport that takes everything."""

    def __init__(self):
        self.is_closed = False

    def get_extra_info(self, _name):
        return None

    def write(self, _data):
        pass

    def get_write_buffer_size(self):
        return 0

    def is_closing(self):
        return self.is_closed

    def close(self):
        self.is_closed = True

    abort = close


@pytest.mark.slow
@given(frames=st.lists(FRAMES, max_size=12), cuts=st.lists(st.integers(1, 30), max_size=20))
def test_any_frames_in_any_pieces_are_lived_with(frames, cuts):
    """Nothing raises, and nothing is held once the connection has gone."""

    async def run():
        rig = PickerRig("--scrape-seconds", "3600")
        rig.add("a", 1001)
        rig.trust_all()
        faults = []
        grpc = rig.router.grpc
        grpc._side.on_fault = lambda place, error: faults.append((place, error))
        connection, transport = GrpcConnection(grpc._side), Socket()
        connection.connection_made(transport)
        data = PREFACE + b"".join(frames)
        for cut in [*cuts, len(data)]:
            connection.data_received(data[:cut])
            data = data[cut:]
            await asyncio.sleep(0)
        connection.connection_lost(None)
        await asyncio.sleep(0)
        assert not faults
        assert not grpc.num_connections
        assert rig.num_leases == rig.num_held == grpc.budget.held_bytes == 0
        await rig.router.engines.close()
        grpc.deadlines.close()

    asyncio.run(run())


STEPS = st.lists(
    st.sampled_from(
        ["head", "last_head", "body", "last_body", "trailers", "answer", "last_answer", "busy",
         "local", "piece", "last_piece", "answer_trailers", "served", "half_close", "cancel"]
    ),
    max_size=14,
)  # fmt: skip
MODES = st.tuples(
    st.sampled_from([DUPLEX, BUFFERED, STREAMED, NONE]),
    st.sampled_from([DUPLEX, BUFFERED, STREAMED, NONE]),
)


def play(stream, step, data):
    """One message, whether it is its turn or not."""
    local = {"attributes": {"response.code_details": "no_healthy_upstream"}}
    {
        "head": stream.head,
        "last_head": lambda: stream.head(is_last=True),
        "body": lambda: stream.body(data[:9], is_last=False),
        "last_body": lambda: stream.body(data[9:]),
        "trailers": stream.trailers,
        "answer": lambda: stream.answer_head(content_type="text/event-stream"),
        "last_answer": lambda: stream.answer_head(is_last=True),
        "busy": lambda: stream.answer_head(429),
        "local": lambda: stream.answer_head(503, beside=local),
        "served": lambda: stream.answer_head(beside={"served": "127.0.0.1:1002"}),
        "piece": lambda: stream.answer_body(CHUNK, is_last=False),
        "last_piece": lambda: stream.answer_body(b"", is_last=True),
        "answer_trailers": stream.answer_trailers,
        "half_close": stream.half_close,
        "cancel": stream.cancel,
    }[step]()


@pytest.mark.slow
@settings(max_examples=tries(100))
@given(steps=STEPS, modes=MODES)
def test_any_order_of_messages_ends_with_nothing_held(steps, modes):
    """Gateways differ, and have bugs; a lease must not outlive one."""

    async def run():
        async with picker("--max-queue-seconds", "0") as (rig, gateway):
            stream = Stream(gateway, *modes)
            data = body(stream=True)
            play(stream, "head", data)
            for step in steps:
                play(stream, step, data)
            other = Stream(gateway)
            assert (await other.routed(body())).endpoint
            other.cancel()
            gateway._writer.transport.abort()
            await until(lambda: not rig.router.grpc.num_connections)
            assert rig.num_leases == rig.reserved == rig.num_held == 0
            assert rig.router.grpc.budget.held_bytes == 0
            page = rig.router.metrics.render().decode()
            assert 'internal_errors_total{place="client"} 0' in page or (
                'internal_errors_total{place="client"}' not in page
            )

    asyncio.run(run())


@pytest.fixture
def certificate(tmp_path):
    authority = CertificateAuthority()
    pair = authority.sign("picker", addresses=("127.0.0.1",))
    path = tmp_path / "picker.pem"
    path.write_bytes(pair.key + pair.certificate)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    return path, tmp_path / "ca.pem"


async def test_gateways_may_come_by_tls(certificate):
    """ALPN says h2: a client of gRPC goes away without it."""
    path, ca = certificate
    async with picker("--tls-cert", str(path)) as (rig, _):
        context = ssl.create_default_context(cafile=str(ca))
        context.set_alpn_protocols(["h2"])
        gateway = Gateway(rig.port, tls=context)
        async with gateway:
            spoken = gateway._writer.get_extra_info("ssl_object").selected_alpn_protocol()
            assert spoken == "h2"
            assert (await Stream(gateway).routed(body())).endpoint
