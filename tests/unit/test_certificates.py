"""Certificates: read again when they change, of the listener and towards engines, and of both."""

import asyncio
import os
import ssl

import pytest

from memroute_router.discovery.static import ConfigError, read_config
from memroute_router.http.tls import EngineTLS, server_files
from memroute_simulator.controlplane.certificates import CertificateAuthority
from router_rig import Engine, Rig, body, raw, read_answer, whole


class Files:
    """An authority, and what it has signed, in a folder."""

    def __init__(self, folder, name="ca"):
        self.folder = folder
        self.authority = CertificateAuthority()
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(self.authority.certificate)

    def sign(self, name, into=None):
        pair = self.authority.sign(name, addresses=("127.0.0.1",))
        path = self.folder / f"{into or name}.pem"
        # As kubelet does: another file of the same name.
        beside = path.with_suffix(".new")
        beside.write_bytes(pair.key + pair.certificate)
        beside.replace(path)
        return path


def client_of(files, own=None):
    context = ssl.create_default_context(cafile=str(files.ca))
    if own is not None:
        context.load_cert_chain(own)
    return context


async def ask(port, context):
    """The status; raises where the handshake fails."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(raw(body()))
        async with asyncio.timeout(30):
            return (await read_answer(reader))[0]
    finally:
        writer.close()


def certificate_of(writer):
    return writer.get_extra_info("peercert")["serialNumber"]


@pytest.fixture
async def served(engine_factory):
    rigs = []

    async def make(*flags):
        rig = Rig("--max-queue-seconds", "0", *flags)
        rigs.append(rig)
        await rig.start()
        engine = await engine_factory(whole())
        rig.add("a", engine.port)
        return rig

    yield make
    for rig in rigs:
        await rig.stop()


async def test_a_new_certificate_is_shown_to_new_clients_and_old_connections_stay(served, tmp_path):
    """cert-manager replaces it every two months; a router lives for longer."""
    files = Files(tmp_path)
    path = files.sign("router")
    rig = await served("--tls-cert", str(path))
    context = client_of(files)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, ssl=context)
    first = certificate_of(writer)
    files.sign("router")
    await rig.router.server.refresh_certificates()
    _, other = await asyncio.open_connection("127.0.0.1", rig.port, ssl=context)
    assert certificate_of(other) != first
    writer.write(raw(body()))
    assert (await read_answer(reader))[0] == 200
    for each in (writer, other):
        each.close()


async def test_a_broken_certificate_changes_nothing_and_is_read_again(served, tmp_path, caplog):
    """Half way through a rotation the certificate is new and the key is old."""
    files = Files(tmp_path)
    path = files.sign("router")
    rig = await served("--tls-cert", str(path))
    good = path.read_bytes()
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\nnonsense")
    for _ in range(3):
        await rig.router.server.refresh_certificates()
    assert await ask(rig.port, client_of(files)) == 200
    assert caplog.text.count("certificates not applied") == 1
    path.write_bytes(good)
    await rig.router.server.refresh_certificates()
    path.unlink()
    await rig.router.server.refresh_certificates()
    assert await ask(rig.port, client_of(files)) == 200


@pytest.mark.slow
async def test_connections_are_accepted_all_the_while_that_certificates_change(served, tmp_path):
    files = Files(tmp_path)
    path = files.sign("router")
    rig = await served("--tls-cert", str(path))
    context = client_of(files)

    async def keep_asking():
        return [await ask(rig.port, context) for _ in range(20)]

    asking = [asyncio.create_task(keep_asking()) for _ in range(3)]
    for _ in range(5):
        files.sign("router")
        await rig.router.server.refresh_certificates()
        await asyncio.sleep(0)
    assert await asyncio.gather(*asking) == [[200] * 20] * 3


async def test_clients_need_a_certificate_of_the_authority_that_is_named(served, tmp_path):
    """And another authority, once the file names it: sessions of the old one end."""
    files, foreign = Files(tmp_path), Files(tmp_path, "foreign")
    path, mine = files.sign("router"), files.sign("client")
    theirs = foreign.sign("stranger")
    rig = await served("--tls-cert", str(path), "--tls-client-ca", str(files.ca))
    assert await ask(rig.port, client_of(files, mine)) == 200
    for context in (client_of(files), client_of(files, theirs)):
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await ask(rig.port, context)
    files.ca.with_suffix(".both").write_bytes(foreign.authority.certificate)
    trusted = client_of(files, mine)
    os.replace(files.ca.with_suffix(".both"), files.ca)  # noqa: PTH105 - as kubelet does
    await rig.router.server.refresh_certificates()
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await ask(rig.port, trusted)
    trusted.load_cert_chain(theirs)
    assert await ask(rig.port, trusted) == 200


class TLSEngine:
    """An engine that wants a client certificate."""

    def __init__(self, files):
        self.files = files
        self.engine = Engine(whole())

    async def start(self, path):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.files.ca))
        context.load_cert_chain(path)
        context.verify_mode = ssl.CERT_REQUIRED
        self.serials = []

        async def serve(reader, writer):
            self.serials.append(certificate_of(writer))
            await self.engine._serve(reader, writer)

        self.server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        return self.server.sockets[0].getsockname()[1]


async def test_engines_see_the_routers_certificate_and_the_new_one_after_a_rotation(
    served, tmp_path
):
    files = Files(tmp_path)
    own = files.sign("router")
    engine = TLSEngine(files)
    port = await engine.start(files.sign("engine"))
    rig = await served()
    rig.router.on_gone(rig.pools.remove_replica("default/a"))
    text = (
        f"engineCA: {files.ca}\nengineCertificate: {own}\n"
        f"models: [{{name: m, replicas: ['https://127.0.0.1:{port}']}}]"
    )
    info = read_config(text).replicas[0]
    replica = rig.pools.upsert_replica(info)

    async def once():
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(raw(body()))
        status = (await read_answer(reader))[0]
        writer.close()
        return status

    assert await once() == 200
    files.sign("router")
    info.endpoint.tls._files._looked_at -= 10
    assert await once() == 200
    assert len(engine.serials) == 1  # the connection is kept: nothing that runs is disturbed
    for connection in list(replica.upstream.idle):
        connection.close()
    assert await once() == 200
    assert len(set(engine.serials)) == 2
    assert rig.pools.upsert_replica(read_config(text).replicas[0]) is replica
    engine.server.close()


async def test_an_engine_is_refused_that_the_named_authority_has_not_signed(served, tmp_path):
    files, foreign = Files(tmp_path), Files(tmp_path, "foreign")
    engine = TLSEngine(files)
    port = await engine.start(foreign.sign("engine"))
    rig = await served()
    rig.router.on_gone(rig.pools.remove_replica("default/a"))
    text = f"engineCA: {files.ca}\nmodels: [{{name: m, replicas: ['https://127.0.0.1:{port}']}}]"
    rig.pools.upsert_replica(read_config(text).replicas[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(raw(body()))
    status, headers, _ = await read_answer(reader)
    assert (status, headers["x-memroute-reason"]) == (502, "replicas-failed")
    writer.close()
    engine.server.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("engineCA: /nowhere", "engineCA"),
        ("engineCA: 3", "engineCA must be a text"),
        ("engineKey: /x", "engineKey needs engineCertificate"),
        ("engineCertificate: /nowhere", "engineCertificate"),
        ("engineCertificate: []", "engineCertificate must be a text"),
    ],
)
def test_certificates_that_cannot_be_used_are_told_when_the_file_is_read(text, words):
    with pytest.raises(ConfigError, match=words):
        read_config(f"{text}\nmodels: [{{name: m, replicas: ['https://e']}}]")


def test_the_same_files_are_the_same_way_to_speak_to_an_engine(tmp_path):
    files = Files(tmp_path)
    one, two = EngineTLS(ca=str(files.ca)), EngineTLS(ca=str(files.ca))
    assert one == two
    assert hash(one) == hash(two)
    assert one != EngineTLS(ca=str(files.ca), server_name="engine")
    assert one != EngineTLS()


def test_a_certificate_and_its_key_may_be_in_two_files_that_change_one_after_the_other(tmp_path):
    files = Files(tmp_path)
    first, second = (files.authority.sign("r", addresses=("127.0.0.1",)) for _ in range(2))
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_bytes(first.certificate)
    key.write_bytes(first.key)
    found = server_files(str(certificate), str(key), None)
    before = found.context
    certificate.write_bytes(second.certificate)
    os.utime(certificate, (1, 1))
    assert not found.refresh()
    assert found.context is before
    key.write_bytes(second.key)
    assert found.refresh()
    assert found.context is not before


async def certificate_at(port: int) -> bytes:
    """What a listener shows to whoever comes now."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown


@pytest.mark.slow
async def test_a_rotation_is_seen_without_being_told(tmp_path, monkeypatch):
    monkeypatch.setattr("memroute_router.app.CERTIFICATE_SECONDS", 0.01)
    files = Files(tmp_path)
    rig = Rig("--tls-cert", str(files.sign("router")))
    await rig.start()
    following = asyncio.create_task(rig.router._follow_certificates())
    before = await certificate_at(rig.port)
    assert await certificate_at(rig.port) == before
    files.sign("router")
    async with asyncio.timeout(10):
        while await certificate_at(rig.port) == before:
            await asyncio.sleep(0.01)
    following.cancel()
    await rig.stop()


async def test_a_handshake_that_does_not_come_to_its_end_ends(served, tmp_path):
    """No connection is counted before: without an end they would take all files there are."""
    files = Files(tmp_path)
    rig = await served("--tls-cert", str(files.sign("router")), "--header-timeout-seconds", "0.05")
    for sent in (b"", b"\x16\x03\x01\x02\x00\x01"):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(sent)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
    assert rig.router.server.num_connections == 0
