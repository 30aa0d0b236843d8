"""No client takes the listener from the others; a gateway, which is one client, may have it all."""

import asyncio
import json

import pytest

from memroute_router.access.proxies import TrustedProxies, parse_networks, plain_address
from memroute_router.http.clients import MAX_LOOKED_AT, Clients, LimitKind, client_name
from router_rig import Rig, body, exchange, held, raw, read_answer, until, whole

HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


class Line:
    """A connection, as its client's account sees it."""

    def __init__(self, *, is_answering=False):
        self.is_answering = is_answering


async def rig_with(*flags):
    rig = Rig("--max-queue-seconds", "0", *flags)
    await rig.start()
    return rig


async def connect(rig, address="127.0.0.1"):
    return await asyncio.open_connection("127.0.0.1", rig.port, local_addr=(address, 0))


async def ask_from(rig, address, data=HEALTH):
    reader, writer = await connect(rig, address)
    writer.write(data)
    try:
        return await asyncio.wait_for(read_answer(reader), 5)
    finally:
        writer.close()


def refused(rig):
    return {kind.value: n for kind, n in rig.router.server.clients.refused.items() if n}


def accounts_are_empty(rig):
    clients = rig.router.server.clients
    return not clients.num_clients and not clients._by_count


# Connections


async def test_a_gateway_which_is_alone_has_every_connection():
    """It is one address with everybody behind it: a number for each address would throttle all."""
    rig = await rig_with("--max-connections", "20")
    lines = [await connect(rig) for _ in range(20)]
    for reader, writer in lines:
        writer.write(HEALTH)
        assert (await read_answer(reader))[0] == 200
    assert not refused(rig)
    for _, writer in lines:
        writer.close()
    await until(lambda: accounts_are_empty(rig))
    await rig.stop()


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"])
async def test_who_has_taken_every_connection_makes_room_for_others(sent):
    """Idle ones, and those on which a request never comes to its end."""
    rig = await rig_with("--max-connections", "10")
    flood = [await connect(rig) for _ in range(10)]
    for _, writer in flood:
        writer.write(sent)
    await until(lambda: rig.router.server.num_connections == 10)
    for number in range(2, 6):
        assert (await ask_from(rig, f"127.0.0.{number}"))[0] == 200
    assert 1 <= refused(rig)["displaced"] <= 4, "later ones may find the place of the first"
    page = (await exchange(rig.ops_port, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"))[2].decode()
    assert 'memroute_router_clients_refused_total{reason="displaced"}' in page
    for _, writer in flood:
        writer.close()
    await rig.stop()


async def test_who_has_as_many_as_anybody_gets_503_and_displaces_nobody():
    """Else two clients that both want more would take turns in closing each other's."""
    rig = await rig_with("--max-connections", "4")
    lines = [await connect(rig, f"127.0.0.{1 + number % 2}") for number in range(4)]
    await until(lambda: rig.router.server.num_connections == 4)
    for address in ("127.0.0.1", "127.0.0.2"):
        status, headers, _ = await ask_from(rig, address, b"")
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
    await until(lambda: rig.router.server.num_connections <= 6)
    assert set(refused(rig)) == {"connections"}
    for reader, writer in lines:
        writer.write(HEALTH)
        assert (await read_answer(reader))[0] == 200
        writer.close()
    await rig.stop()


async def test_an_answer_under_way_is_never_broken_off_to_make_room(engine_factory):
    rig = await rig_with("--max-connections", "4", "--max-client-requests", "9")
    release = asyncio.Event()
    rig.add("a", (await engine_factory(held(release))).port)
    lines = [await connect(rig) for _ in range(4)]
    for _, writer in lines:
        writer.write(raw(body()))
    await until(lambda: rig.num_leases == 4)
    assert (await ask_from(rig, "127.0.0.2", b""))[0] == 503
    release.set()
    for reader, writer in lines:
        assert (await read_answer(reader))[0] == 200
        writer.close()
    await rig.stop()


async def test_an_addresss_connections_can_have_a_number():
    """The refusal can be seen: by its client, in the log, and as a metric."""
    rig = await rig_with("--max-client-connections", "3")
    lines = [await connect(rig) for _ in range(3)]
    await until(lambda: rig.router.server.num_connections == 3)
    status, headers, content = await ask_from(rig, "127.0.0.1", b"")
    assert (status, headers["retry-after"]) == (429, "1")
    assert headers["x-memroute-reason"] == "client-connections"
    assert "at most 3" in json.loads(content)["error"]["message"]
    assert (await ask_from(rig, "127.0.0.2"))[0] == 200
    assert refused(rig) == {"client-connections": 1}
    rig.router.journal.flush()
    assert "outcome=rate-limited status=429 cause=client-connections" in "".join(rig.lines)
    for _, writer in lines:
        writer.close()
    await rig.stop()


@pytest.mark.parametrize(
    "flags", [("--trusted-proxies", "127.0.0.0/30"), ("--trust-headers",)], ids=["named", "all"]
)
async def test_a_proxy_that_is_believed_has_as_many_connections_as_it_likes(flags):
    """Its connections are many clients'."""
    rig = await rig_with("--max-client-connections", "2", *flags)
    lines = [await connect(rig) for _ in range(6)]
    for reader, writer in lines:
        writer.write(HEALTH)
        assert (await read_answer(reader))[0] == 200
        writer.close()
    assert not refused(rig)
    await until(lambda: accounts_are_empty(rig))
    await rig.stop()


def test_a_proxy_that_is_believed_is_never_displaced_and_always_finds_a_place():
    clients = Clients(is_proxy=lambda address: address == b"10.0.0.1")
    for _ in range(100):
        proxy = clients.connected(b"10.0.0.1", Line())
    other = clients.connected(b"10.0.0.2", Line())
    assert clients.place_for(other) is None
    assert clients.place_for(proxy) in other.connections


def test_the_idle_connection_is_found_behind_any_number_of_busy_ones():
    """Else a few requests under way on the oldest ones would keep all the others open."""
    clients = Clients()
    busy = [Line(is_answering=True) for _ in range(10 * MAX_LOOKED_AT)]
    for line in busy:
        clients.connected(b"10.0.0.1", line)
    idle = Line()
    clients.connected(b"10.0.0.1", idle)
    newcomer = clients.connected(b"10.0.0.2", Line())
    found = [clients.place_for(newcomer) for _ in range(12)]
    assert idle in found


def test_a_busy_gateway_does_not_keep_others_idle_connections_open():
    """Who has most may have none to spare: the next one is asked."""
    clients = Clients()
    for _ in range(50):
        clients.connected(b"10.0.0.1", Line(is_answering=True))
    idle = [Line() for _ in range(49)]
    for line in idle:
        clients.connected(b"10.0.0.2", line)
    assert clients.place_for(clients.connected(b"10.0.0.3", Line())) in idle


@pytest.mark.slow
def test_accounts_end_with_what_they_count():
    """A million addresses, one after the other, leave nothing."""
    clients = Clients()
    for number in range(20_000):
        line = Line()
        client = clients.connected(b"2001:db8:%x:%x::1" % (number >> 8, number & 255), line)
        clients.disconnected(client, line)
        clients.disconnected(client, line)
    assert not clients.num_clients
    assert not clients._by_count
    assert len(clients._names) <= 4096


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        (b"2001:db8:1:2::1", b"2001:db8:1:2:ffff::9", True),
        (b"2001:db8:1:2::1", b"2001:db8:1:3::1", False),
        (b"fe80::1%eth0", b"fe80::2%eth0", True),
        (b"10.0.0.1", b"10.0.0.2", False),
        (b"unknown", b"unknown", True),
        (b"::", b":::", False),
    ],
)
def test_one_customer_of_a_network_is_one_client(one, other, are_same):
    """Of IPv6 anybody has 2^64 addresses."""
    assert (client_name(one) == client_name(other)) is are_same


# Requests


async def test_an_address_has_so_many_requests_under_way(engine_factory):
    """In OpenAI's words, with a time to come back; when one has ended there is room again."""
    rig = await rig_with("--max-client-requests", "2")
    release = asyncio.Event()
    rig.add("a", (await engine_factory(held(release))).port)
    lines = [await connect(rig) for _ in range(2)]
    for _, writer in lines:
        writer.write(raw(body()))
    await until(lambda: rig.num_leases == 2)
    status, headers, content = await ask_from(rig, "127.0.0.1", raw(body()))
    assert (status, headers["retry-after"]) == (429, "1")
    assert headers["x-memroute-reason"] == "client-requests"
    error = json.loads(content)["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "requests")
    status, _, content = await ask_from(rig, "127.0.0.1", raw(body(), b"/v1/messages"))
    assert (status, json.loads(content)["error"]["type"]) == (429, "rate_limit_error")
    assert (await ask_from(rig, "127.0.0.1"))[0] == 200, "who asks how it goes is answered"
    other = asyncio.create_task(ask_from(rig, "127.0.0.2", raw(body())))
    await until(lambda: rig.num_leases == 3)
    release.set()
    for reader, writer in lines:
        assert (await read_answer(reader))[0] == 200
        writer.close()
    assert (await other)[0] == 200
    assert (await ask_from(rig, "127.0.0.1", raw(body())))[0] == 200
    assert refused(rig) == {"client-requests": 2}
    rig.router.journal.flush()
    lines = [line for line in "".join(rig.lines).splitlines() if "cause=client-requests" in line]
    assert len(lines) == 2
    assert all("outcome=rate-limited status=429" in line for line in lines)
    await until(lambda: accounts_are_empty(rig))
    await rig.stop()


async def test_clients_that_leave_at_any_time_leave_no_account(engine_factory):
    """A request counts until it ends, however it ends."""
    rig = await rig_with()
    release = asyncio.Event()
    rig.add("a", (await engine_factory(held(release))).port)
    for sent in (b"", b"POST", raw(body())[:-4], raw(body()), raw(body()) * 3, b"nonsense\r\n\r\n"):
        for _ in range(3):
            _, writer = await connect(rig)
            writer.write(sent)
            await writer.drain()
            writer.transport.abort()
    await until(lambda: accounts_are_empty(rig) and not rig.num_leases)
    await rig.stop()


async def test_pipelined_requests_count_one_by_one(engine_factory):
    """They are answered in order: one connection has one under way."""
    rig = await rig_with("--max-client-requests", "1")
    rig.add("a", (await engine_factory(whole())).port)
    reader, writer = await connect(rig)
    writer.write(raw(body()) * 4)
    for _ in range(4):
        assert (await read_answer(reader))[0] == 200
    assert not refused(rig)
    writer.close()
    await rig.stop()


def from_proxy(told):
    return raw(body()).replace(b"host: x\r\n", b"host: x\r\nx-forwarded-for: %b\r\n" % told)


async def test_behind_a_proxy_each_address_that_it_tells_is_a_client(engine_factory):
    """And what a client writes into the field itself makes it nobody else."""
    rig = await rig_with("--max-client-requests", "1", "--trusted-proxies", "127.0.0.1,10.9.0.0/16")
    release = asyncio.Event()
    rig.add("a", (await engine_factory(held(release))).port)
    lines = []
    for told in (b"203.0.113.1", b"203.0.113.2, 10.9.1.1", b"junk"):
        reader, writer = await connect(rig)
        writer.write(from_proxy(told))
        lines.append((reader, writer))
    await until(lambda: rig.num_leases == 3)
    for told in (
        b"203.0.113.1", b"1.2.3.4, 203.0.113.1", b"5.6.7.8,203.0.113.1:4711",
        b"x, 203.0.113.2, 10.9.3.3", b"::ffff:203.0.113.1", b"more junk",
    ):  # fmt: skip
        assert (await ask_from(rig, "127.0.0.1", from_proxy(told)))[0] == 429, told
    # Who is no proxy tells nothing.
    assert (await ask_from(rig, "127.0.0.2", HEALTH))[0] == 200
    other = await connect(rig, "127.0.0.2")
    other[1].write(from_proxy(b"203.0.113.9"))
    await until(lambda: rig.num_leases == 4)
    assert (await ask_from(rig, "127.0.0.2", from_proxy(b"203.0.113.10")))[0] == 429
    release.set()
    for reader, writer in (*lines, other):
        assert (await read_answer(reader))[0] == 200
        writer.close()
    await until(lambda: accounts_are_empty(rig))
    await rig.stop()


async def test_one_client_cannot_hold_every_connection_by_requests_unless_told_so(engine_factory):
    """Answers under way make no room: nine tenths of the connections are one client's at most."""
    rig = await rig_with("--max-connections", "5")
    release = asyncio.Event()
    rig.add("a", (await engine_factory(held(release))).port)
    lines = [await connect(rig) for _ in range(5)]
    for _, writer in lines:
        writer.write(raw(body()))
    await until(lambda: rig.num_leases == 4 and refused(rig).get("client-requests") == 1)
    assert (await ask_from(rig, "127.0.0.2"))[0] == 200
    release.set()
    answers = [(await read_answer(reader))[0] for reader, _ in lines if not reader.at_eof()]
    assert answers.count(200) == 4
    for _, writer in lines:
        writer.close()
    await rig.stop()


@pytest.mark.parametrize(
    ("given", "address"),
    [
        (b"10.0.0.1", b"10.0.0.1"),
        (b" 10.0.0.1:80 ", b"10.0.0.1"),
        (b"[2001:DB8::1]:443", b"2001:db8::1"),
        (b"2001:db8:0::1", b"2001:db8::1"),
        (b"::ffff:10.0.0.1", b"10.0.0.1"),
        (b"unknown", None),
        (b"", None),
        (b"[", None),
        (b"10.0.0.1 10.0.0.2", None),
        (b"0x7f.1", None),
        (b"\xff\xfe", None),
        (b"1" * 10_000, None),
    ],
)
def test_an_address_that_a_proxy_tells_is_one_or_nothing(given, address):
    assert plain_address(given) == address


@pytest.mark.slow
def test_what_is_remembered_of_addresses_that_are_told_is_bounded():
    proxies = TrustedProxies(parse_networks("10.0.0.1"))
    for number in range(20_000):
        told = b"%d.%d.%d.7" % (11 + (number >> 16), number >> 8 & 255, number & 255)
        assert proxies.client_of(b"10.0.0.1", {b"x-forwarded-for": told}) == told
    long = b"x, " * 10_000 + b"192.0.2.1"
    assert proxies.client_of(b"10.0.0.1", {b"x-forwarded-for": long}) == b"192.0.2.1"
    assert len(proxies._told) <= 4096
    assert len(proxies._kept) <= 4096
    assert {len(kind.value) > 0 for kind in LimitKind} == {True}
