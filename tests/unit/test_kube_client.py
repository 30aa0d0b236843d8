"""The layer over the API server: who we say we are, what errors tell, lists, watches."""

import asyncio
import json

import pytest
from aiohttp import web

from cluster_stub import cluster_stub, refuse
from memroute_kube import NODES, PODS, ApiError, watch_forever
from memroute_kube.client import PAGE_SIZE


def pod(name):
    return {"metadata": {"namespace": "n", "name": name}, "spec": {}, "status": {}}


async def test_writes_say_who_writes():
    """r34: "Python/3.11 aiohttp" in the audit log, and no manager in managedFields."""
    seen = []
    async with cluster_stub() as (cluster, client):
        read = cluster._read

        async def reading(request):
            seen.append((request.headers["User-Agent"], request.query.get("fieldManager")))
            return await read(request)

        cluster._read = reading
        await client.create(PODS, "n", pod("p"))
        await client.patch(PODS, "n", "p", {"metadata": {"labels": {"a": "b"}}})
        await client.list(PODS)
    agents = {agent for agent, _ in seen}
    assert all(agent.startswith("memroute-operator/") for agent in agents)
    assert [manager for _, manager in seen] == ["memroute-operator", "memroute-operator", None]


@pytest.mark.parametrize(
    ("header", "seconds"), [(7, 7.0), ("1.5", 1.5), ("soon", None), (None, None), (10**9, 120.0)]
)
async def test_an_error_tells_how_long_to_wait(header, seconds):
    async with cluster_stub() as (cluster, client):
        cluster.fault = lambda _: refuse(429, "TooManyRequests", "slow down", retry_after=header)
        with pytest.raises(ApiError) as caught:
            await client.create(PODS, "n", pod("p"))
    assert caught.value.retry_after_seconds == seconds
    assert not caught.value.is_global


async def test_the_wait_is_read_from_the_status_as_well():
    body = {"kind": "Status", "reason": "ServerTimeout", "details": {"retryAfterSeconds": 3}}
    async with cluster_stub() as (cluster, client):
        cluster.fault = lambda _: lambda: web.json_response(body, status=504)
        with pytest.raises(ApiError) as caught:
            await client.list(PODS)
    assert caught.value.retry_after_seconds == 3.0


@pytest.mark.parametrize("text", ["<html>x</html>", '{"items": [{"met', "[]", "7"])
async def test_an_answer_that_is_none_is_an_error_like_any_other(text):
    """A proxy's page with status 200, or one that was cut off: never a ValueError."""
    async with cluster_stub() as (cluster, client):
        cluster.fault = lambda _: lambda: web.Response(text=text)
        with pytest.raises(ApiError) as caught:
            await client.list(PODS)
    assert caught.value.reason == "BadAnswer"
    assert not caught.value.is_global


async def test_no_answer_in_time_is_that_calls_alone_and_no_connection_is_everybodys():
    async with cluster_stub(request_seconds=0.05) as (cluster, client):
        cluster.fault = lambda _: "hang"
        with pytest.raises(ApiError) as late:
            await client.create(PODS, "n", pod("p"))
        assert not late.value.is_global
        assert not late.value.is_outcome_known
        client._api.configuration.host = "http://127.0.0.1:1"
        client.request_seconds = 30.0
        with pytest.raises(ApiError) as refused:
            await client.create(PODS, "n", pod("p"))
        assert refused.value.is_global
    assert late.value.message == "no answer in time"
    # What a person reads of a cluster that is not there; once it was the repr of a connection.
    assert refused.value.message == "cannot connect to 127.0.0.1:1 (Connection refused)"


async def test_a_list_comes_page_by_page():
    async with cluster_stub() as (cluster, client):
        for i in range(4 * PAGE_SIZE + 203):
            cluster.put("pods", pod(f"p{i:04}"))
        pages = [len(items) async for items, _ in client.list_pages(PODS)]
        assert pages == [PAGE_SIZE] * 4 + [203]
        items, version = await client.list(PODS)
        assert len(items) == 4 * PAGE_SIZE + 203
        assert version == str(cluster.version)


async def test_a_deletion_says_what_is_left():
    async with cluster_stub() as (cluster, client):
        made = cluster.put("pods", pod("p") | {"spec": {"nodeName": "a"}, "kind": "Pod"})
        answer = await client.delete(PODS, "n", "p", uid=made["metadata"]["uid"])
        assert "deletionTimestamp" in answer["metadata"]
        assert await client.delete(PODS, "n", "p", uid="another") is None
        assert await client.delete(PODS, "n", "gone") is None


class Pauses:
    """In place of sleeping: how long each wait would have been."""

    def __init__(self, enough):
        self.waits = []
        self.enough = enough
        self.done = asyncio.Event()

    async def __call__(self, seconds):
        self.waits.append(seconds)
        if len(self.waits) >= self.enough:
            self.done.set()
            await asyncio.Event().wait()


async def collect(client, pauses, resource=PODS):
    """The events of ``watch_forever`` until it has waited often enough."""
    events = []

    async def consume():
        async for event in watch_forever(client, resource, random_=lambda: 1.0, sleep=pauses):
            events.append(event)  # noqa: PERF401 - as they come

    task = asyncio.create_task(consume())
    async with asyncio.timeout(30):
        await pauses.done.wait()
    assert not task.done()
    task.cancel()
    return events


async def test_watches_that_end_at_once_are_opened_ever_more_slowly():
    """r17: 4,000 requests a second. 0.1, 0.2, ... 5 s, as a client that has lost the server."""
    pauses = Pauses(enough=8)
    async with cluster_stub() as (cluster, client):
        cluster.fault = lambda call: (lambda: web.Response(text="")) if call.is_watch else None
        await collect(client, pauses)
        assert pauses.waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
        lists = [call for call in cluster.calls if not call.is_watch]
        assert len(lists) == 1, "an end is no reason to list anew"


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"MODIFIED","object":{"metadata":{"na',
        b'{"type":"MODIFIED"}\n',
        b'{"type":"MODIFIED","object":{"metadata":null}}\n',
        b"7\n",
        b"\xff\xfe\n",
    ],
)
async def test_a_watch_survives_half_a_line(line):
    """r17: JSONDecodeError ended the router's discovery."""
    pauses = Pauses(enough=3)
    async with cluster_stub() as (cluster, client):
        cluster.put("pods", pod("p"))
        cluster.fault = lambda call: (lambda: web.Response(body=line)) if call.is_watch else None
        events = await collect(client, pauses)
    assert [event.type for event in events] == ["UPSERT", "SYNCED"]


async def test_an_expired_watch_lists_again_and_tells_what_is_gone():
    pauses = Pauses(enough=2)
    async with cluster_stub() as (cluster, client):
        cluster.put("nodes", {"metadata": {"name": "a"}})
        cluster.put("nodes", {"metadata": {"name": "b"}})

        def expire(call):
            if not call.is_watch:
                return None
            if "nodes" in cluster.objects and "b" in cluster.objects["nodes"]:
                cluster.remove("nodes", "b")
            return refuse(410, "Expired")

        cluster.fault = expire
        events = await collect(client, pauses, NODES)
    told = [(event.type, event.key) for event in events]
    assert told == [
        ("UPSERT", "a"), ("UPSERT", "b"), ("SYNCED", ""),
        ("DELETE", "b"), ("UPSERT", "a"), ("SYNCED", ""),
    ]  # fmt: skip


async def test_a_watch_tells_changes_in_their_order():
    pauses = Pauses(enough=1)
    lines = [
        {"type": "ADDED", "object": pod("p") | {"metadata": {"name": "p", "resourceVersion": "7"}}},
        {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "8"}}},
        {"type": "MODIFIED", "object": {"metadata": {"resourceVersion": "9"}}},
        {"type": "DELETED", "object": {"metadata": {"name": "p", "resourceVersion": "10"}}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    async with cluster_stub() as (cluster, client):
        cluster.fault = lambda call: (lambda: web.Response(text=text)) if call.is_watch else None
        events = await collect(client, pauses)
    assert [(e.type, e.key) for e in events] == [("SYNCED", ""), ("UPSERT", "p"), ("DELETE", "p")]


async def test_the_wait_that_the_server_asks_for_is_kept():
    pauses = Pauses(enough=1)
    async with cluster_stub() as (cluster, client):
        cluster.fault = lambda _: refuse(429, "TooManyRequests", retry_after=9)
        await collect(client, pauses)
    assert pauses.waits == [9.0]
