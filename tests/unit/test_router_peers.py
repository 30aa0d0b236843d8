"""Two routers of the same replicas over real sockets: one sends where the other has sent."""

import asyncio
import contextlib
import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_stub import cluster_stub
from memroute.traffic.peers import Dropped, PeerGroup
from memroute_router.discovery.static import ConfigError, read_config
from memroute_router.peer_addresses import parse_peer
from memroute_router.peers import PeerLink, PeerNames, PeerSecretError, follow_pods, read_secret
from memroute_router.settings import parse_settings
from peer_rig import alike, heard, num_keys
from router_rig import Engine, Rig, exchange, until, whole

NUM_REPLICAS = 4
PROMPT_TOKENS = 2048
NUM_PROMPTS = 8


class PeerRig(Rig):
    """A router's data path, and its socket for other routers."""

    async def start(self, port=0):
        await super().start()
        self.link = self.router.peers
        await self.link.start("127.0.0.1", port)

    async def stop(self):
        await super().stop()
        self.link.close()

    @property
    def address(self):
        return "127.0.0.1", self.link.port

    @property
    def group(self):
        return self.pools.peers

    async def ask(self, number, session=None, *, is_text=False):
        """The replica that the prompt of that number, of token ids or of text, went to."""
        prompt = [number * 10_000 + token for token in range(PROMPT_TOKENS)]
        if is_text:
            prompt = f"{number} is the number of this prompt. " * 300
        data = json.dumps({"model": "m", "prompt": prompt, "max_tokens": 1}).encode()
        named = f"x-session-id: {session}\r\n" if session else ""
        head = (
            f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-memroute-explain: 1\r\n{named}"
            f"content-length: {len(data)}\r\n\r\n"
        )
        status, headers, _ = await exchange(self.port, head.encode() + data)
        assert status == 200
        return headers["x-memroute-replica"]


@contextlib.asynccontextmanager
async def routers(count, *flags):
    """So many routers of the same four engines, which do not know of each other yet."""
    engines = [Engine(whole()) for _ in range(NUM_REPLICAS)]
    rigs = [PeerRig(*flags, body_bytes=1_000_000) for _ in range(count)]
    for engine in engines:
        await engine.start()
    for rig in rigs:
        await rig.start()
        for number, engine in enumerate(engines):
            rig.add(f"r{number}", engine.port, capacity=1_000_000)
    try:
        yield rigs
    finally:
        for rig in rigs:
            await rig.stop()
        for engine in engines:
            await engine.stop()


def introduce(*rigs):
    for rig in rigs:
        rig.link.set_addresses("test", [other.address for other in rigs if other is not rig])


def dead_address():
    """One that nobody listens at, and nobody else will be given meanwhile."""
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.bind(("127.0.0.1", 0))
    return found, found.getsockname()


@pytest.mark.parametrize("is_text", [False, True])
async def test_a_prompt_goes_where_the_other_router_has_sent_it(is_text):
    """Each router has half of every conversation: the other half would be computed again."""
    async with routers(2) as (one, two):
        introduce(one, two)
        for number in range(NUM_PROMPTS):
            replica = await one.ask(number, is_text=is_text)
            await heard(one, two)
            alike(one, two)
            assert await two.ask(number, is_text=is_text) == replica
        assert two.group.others.num_heard == 1
        assert two.group.dropped == {}


async def test_a_session_goes_where_the_other_router_has_served_it():
    async with routers(2) as (one, two):
        introduce(one, two)
        for number in range(NUM_PROMPTS):
            replica = await one.ask(number, session=f"chat-{number}")
            await heard(one, two)
            alike(one, two)
            assert await two.ask(number + 100, session=f"chat-{number}") == replica


@pytest.mark.parametrize("is_text", [False, True])
async def test_routers_that_cannot_hear_each_other_agree_all_the_same(is_text):
    """Every datagram is lost: unknown prompts go to the replica that all take for theirs."""
    holder, address = dead_address()
    async with routers(2) as (one, two):
        for rig in (one, two):
            rig.link.set_addresses("test", [address])
        sent = []
        for number in range(NUM_PROMPTS):
            alike(one, two)
            sent.append([await rig.ask(number, is_text=is_text) for rig in (one, two)])
        assert all(first == second for first, second in sent)
        assert len({first for first, _ in sent}) > 1
        assert (one.num_leases, two.num_leases) == (0, 0)
    holder.close()


async def test_a_router_that_comes_later_knows_of_what_was_sent_before():
    async with routers(2) as (one, two):
        replicas = [await one.ask(number) for number in range(NUM_PROMPTS)]
        introduce(one, two)
        index = two.pools.by_model["m"].dispatcher.cached
        await until(lambda: sum(num_keys(index, r.info.key) for r in two.replicas) >= 64)
        again = []
        for number in range(NUM_PROMPTS):
            alike(two)
            again.append(await two.ask(number))
        assert again == replicas


async def test_a_router_that_is_started_again_is_heard_again():
    async with routers(2) as (one, two):
        introduce(one, two)
        await one.ask(1)
        await until(lambda: two.group.others.num_heard == 1)
        port = one.link.port
        one.link.close()
        anew = PeerLink(PeerGroup())
        while True:
            # The port is free once the loop has closed it.
            with contextlib.suppress(OSError):
                await anew.start("127.0.0.1", port)
                break
            await asyncio.sleep(0)
        anew.set_addresses("test", [two.address])
        before = two.group.num_received
        anew.tick()
        await until(lambda: two.group.num_received > before)
        assert two.group.peers[f"127.0.0.1:{port}"].incarnation == anew._incarnation
        assert two.group.dropped == {}
        anew.close()


async def test_what_strangers_send_is_dropped_and_counted_and_nothing_else_happens():
    async with routers(1) as (one,):
        stranger, own_address = dead_address()
        for data in (b"", b"\0" * 21, b"mr\x01\x00" + b"\xff" * 1200, b"x" * 60_000):
            stranger.sendto(data, one.address)
        await until(lambda: one.group.dropped.get(Dropped.UNKNOWN_PEER, 0) >= 3)
        one.link.set_addresses("test", [own_address])
        for data in (b"\0", b"\0" * 21, b"mr\x01\x00" + b"\xff" * 1200):
            stranger.sendto(data, one.address)
        await until(lambda: sum(one.group.dropped.values()) >= 6)
        assert one.group.dropped[Dropped.RECORD] == 1
        await one.ask(1)
        stranger.close()


@given(st.binary(max_size=400), st.booleans())
def test_no_datagram_raises(data, has_header):
    """The loop would survive it; the log would not."""
    link = PeerLink(PeerGroup())
    link.set_addresses("test", [("10.0.0.1", 8001)])
    header = b"mr\x01\x00" + b"\x11" * 16 if has_header else b""
    link.datagram_received(header + data, ("10.0.0.1", 8001))
    link.error_received(OSError("nobody there"))
    assert link.group.num_received == 1


async def test_routers_with_a_key_hear_only_those_who_have_it(tmp_path):
    keys = []
    for name in ("one", "two"):
        keys.append(tmp_path / name)
        keys[-1].write_text(f"the key of all the routers of {name}\n")
    async with (
        routers(2, "--peer-secret-file", str(keys[0])) as (one, two),
        routers(1, "--peer-secret-file", str(keys[1])) as (other,),
    ):
        introduce(one, two, other)
        await one.ask(1)
        await other.ask(1)
        await until(lambda: two.group.others.num_heard == 1)
        await until(lambda: two.group.dropped.get(Dropped.UNAUTHENTICATED, 0) >= 1)
        assert two.group.peers[f"127.0.0.1:{other.link.port}"].heard_at_seconds < 0


def test_a_key_that_is_too_short_or_not_there_is_refused(tmp_path):
    short = tmp_path / "short"
    short.write_text("secret\n")
    with pytest.raises(PeerSecretError, match="it has 6 bytes; 16 or more are needed"):
        read_secret(str(short))
    with pytest.raises(PeerSecretError, match="cannot read it"):
        read_secret(str(tmp_path / "none"))


async def test_a_router_leaves_itself_out_of_the_list_that_all_are_given():
    """One list, or one name with all addresses, serves every router of a fleet."""
    async with routers(2) as rigs:
        for rig in rigs:
            rig.link._own.clear()  # as where it listens on all addresses: it knows none as its own
            rig.link.set_addresses("test", [other.address for other in rigs])
        assert [rig.group.others.num for rig in rigs] == [2, 2]
        await rigs[0].ask(1)
        await rigs[1].ask(1)
        await until(lambda: all(rig.group.others.num == 1 for rig in rigs))


async def test_a_port_that_is_taken_is_said_once_and_waited_for(monkeypatch, caplog):
    """The router serves alone meanwhile: before, it ended."""
    monkeypatch.setattr("memroute_router.peers.RETRY_SECONDS", 0.001)
    taken, (host, port) = dead_address()
    link = PeerLink(PeerGroup())
    starting = asyncio.create_task(link.start_when_it_can(host, port))
    await until(lambda: "peers cannot be heard" in caplog.text)
    taken.close()
    await starting
    assert link.port == port
    assert caplog.text.count("peers cannot be heard") == 1
    link.close()


async def test_names_are_resolved_and_followed():
    link = PeerLink(PeerGroup())
    names = PeerNames(link, [("localhost", 9001)])
    following = asyncio.create_task(names.follow())
    await until(lambda: "127.0.0.1:9001" in link.group.peers)
    names.in_file([("127.0.0.1", 9002)])
    await until(lambda: "127.0.0.1:9002" in link.group.peers)
    assert "127.0.0.1:9001" in link.group.peers
    names.in_file([])
    await until(lambda: "127.0.0.1:9002" not in link.group.peers)
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following


def router_pod(name, address, **status):
    labels = {"app": "router"}
    return {
        "metadata": {"namespace": "memroute", "name": name, "labels": labels},
        "status": {"podIP": address} | status,
    }


async def test_pods_are_peers_from_their_address_to_their_end():
    """One that was evicted stays an object for weeks.

    It would be waited for, and have its part of every tenant's quota.
    """
    link = PeerLink(PeerGroup())
    names = link.group.peers
    async with cluster_stub() as (cluster, client):
        cluster.put("pods", router_pod("a", "10.0.0.1"))
        cluster.put("pods", router_pod("b", "10.0.0.2", phase="Failed"))
        cluster.put("pods", router_pod("c", ""))
        cluster.put("pods", router_pod("d", "router.example"))
        task = asyncio.create_task(
            follow_pods(link, client, namespace="memroute", selector="app=router", port=8001)
        )
        await until(lambda: set(names) == {"10.0.0.1:8001"})
        assert link.group.num_alike == 1
        cluster.put("pods", router_pod("c", "10.0.0.3"))
        await until(lambda: set(names) == {"10.0.0.1:8001", "10.0.0.3:8001"})
        cluster.put("pods", router_pod("a", "10.0.0.1", phase="Succeeded"))
        await until(lambda: set(names) == {"10.0.0.3:8001"})
        cluster.remove("pods", "memroute/c")
        await until(lambda: not names)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_peers_stay_while_their_pods_are_listed_again():
    """Else what they have under way would count for nothing, and they for strangers."""
    link = PeerLink(PeerGroup())
    async with cluster_stub() as (cluster, client):
        for number in (1, 2):
            cluster.put("pods", router_pod(f"r{number}", f"10.0.0.{number}"))
        where = {"namespace": "memroute", "selector": "app=router", "port": 8001}
        for _ in range(2):
            before = dict(link.group.peers)
            task = asyncio.create_task(follow_pods(link, client, **where))
            await until(lambda: cluster.count("GET", "pods", is_watch=True) and link.group.peers)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert len(link.group.peers) == 2
            assert not before or before == link.group.peers
            cluster.calls.clear()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("router-b", ("router-b", 8001)),
        ("router-b:9", ("router-b", 9)),
        ("[fd00::1]:9", ("fd00::1", 9)),
        ("fd00::1", ("fd00::1", 8001)),
    ],
)
def test_peers_are_written_as_hosts_with_or_without_a_port(text, address):
    assert parse_peer(text) == address


@pytest.mark.parametrize("text", ["", ":1", "a:b", "a:0", "a:65536", "[fd00::1]x"])
def test_others_are_refused(text, capsys):
    with pytest.raises(ValueError, match=r"."):
        parse_peer(text)
    with pytest.raises(SystemExit):
        parse_settings(["--peer", text])
    assert "--peer" in capsys.readouterr().err


def test_the_file_can_name_them():
    text = "models: [{name: m, replicas: []}]\npeers: [router-b, '10.0.0.2:9']"
    assert read_config(text).peers == [("router-b", 8001), ("10.0.0.2", 9)]
    with pytest.raises(ConfigError, match="peers"):
        read_config("models: [{name: m, replicas: []}]\npeers: ['a:b']")
