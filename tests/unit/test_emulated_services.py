"""An address that a demo prints must be good for as long as the demo lives, whatever pods do."""

import asyncio

import pytest

from memroute_simulator.nodes.services import (
    ANNOTATION_ADDRESSES,
    ServiceProxy,
    addresses_of,
    targets_of,
)

SERVICE = {
    "metadata": {"name": "router", "namespace": "system"},
    "spec": {
        "selector": {"app": "router"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}, {"port": 8002}],
    },
}


def pod(name, address, *, ready=True, port=8000, labels=None, namespace="system", **metadata):
    return {
        "metadata": {
            "name": name, "namespace": namespace, "labels": labels or {"app": "router"}, **metadata
        },
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": port}]}]},
        "status": {
            "podIP": address,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }  # fmt: skip


def test_connections_go_to_ready_pods_that_are_selected():
    pods = [
        pod("b", "127.0.0.2", port=9000),
        pod("a", "127.0.0.1"),
        pod("not-ready", "127.0.0.3", ready=False),
        pod("other", "127.0.0.4", labels={"app": "other"}),
        pod("elsewhere", "127.0.0.5", namespace="default"),
        pod("leaving", "127.0.0.6", deletionTimestamp="2026-11-29T00:00:00Z"),
        pod("young", None),
    ]
    assert targets_of(SERVICE, 80, iter(pods)) == [("127.0.0.1", 8000), ("127.0.0.2", 9000)]
    assert targets_of(SERVICE, 8002, iter(pods)) == [("127.0.0.1", 8002), ("127.0.0.2", 8002)]
    assert targets_of(SERVICE, 81, iter(pods)) == []


def test_a_port_that_only_root_may_have_is_moved():
    assert addresses_of("127.7.255.1", SERVICE) == {
        "http": "127.7.255.1:8080",
        "8002": "127.7.255.1:8002",
    }


class Annotated:
    """What a proxy writes to the API server."""

    def __init__(self):
        self.patches = []

    async def patch(self, _resource, namespace, name, change):
        self.patches.append((namespace, name, change))


async def says(name):
    """A pod that says who it is, and then what it hears."""

    async def talk(reader, writer):
        writer.write(name.encode() + b"\n")
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


@pytest.fixture
async def proxy():
    pods = []
    found = ServiceProxy(Annotated(), 251, lambda: iter(list(pods)))
    found.pods = pods
    yield found
    found._remove(("system", "router"))
    for task in found._connections:
        task.cancel()


async def ask(address):
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"hello")
    writer.write_eof()
    try:
        return (await reader.read()).decode()
    except ConnectionResetError:
        return "nobody"
    finally:
        writer.close()


async def test_an_address_outlives_its_pods(proxy):
    """Each in turn; one that is gone is left out; with none left a connection ends at once."""
    first, second = await says("first"), await says("second")
    proxy.pods += [
        pod("first", "127.0.0.1", port=first[1]), pod("second", "127.0.0.1", port=second[1])
    ]  # fmt: skip
    await proxy._update(("system", "router"), SERVICE)
    ((_, _, change),) = proxy._client.patches
    assert ANNOTATION_ADDRESSES in change["metadata"]["annotations"]
    address = addresses_of("127.251.255.1", SERVICE)["http"]
    assert [await ask(address) for _ in range(2)] == ["first\nhello", "second\nhello"]
    first[0].close()
    assert await ask(address) == "second\nhello"
    proxy.pods.clear()
    assert await ask(address) in ("", "nobody")
    third = await says("third")
    proxy.pods.append(pod("third", "127.0.0.1", port=third[1]))
    assert await ask(address) == "third\nhello"
    second[0].close()
    third[0].close()


async def test_a_service_that_changes_keeps_its_address(proxy):
    await proxy._update(("system", "router"), SERVICE)
    changed = SERVICE | {"spec": SERVICE["spec"] | {"ports": [{"name": "ops", "port": 8003}]}}
    await proxy._update(("system", "router"), changed)
    said = proxy._client.patches[-1][2]["metadata"]["annotations"][ANNOTATION_ADDRESSES]
    assert said == '{"ops": "127.251.255.1:8003"}'
    with pytest.raises(OSError, match="Connect"):
        await ask("127.251.255.1:8080")
