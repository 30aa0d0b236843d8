"""A small API server: objects by path with resourceVersions and conflicts, over real HTTP.

What a fake of the client could not show: what leaves the process, over which connection, when.
"""

import asyncio
import itertools
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import ApiClient, Configuration

from memroute_kube import KubernetesClient
from one_authority import authority_file


class ApiStub:
    """Keeps objects, and the methods and paths of all calls in the order of their arrival."""

    def __init__(self):
        self.objects = {}
        self.calls = []
        self.writes = []
        self.gate = asyncio.Event()
        """Answers to writes wait for it."""
        self.gate.set()
        self.is_down = False
        self._versions = itertools.count(1)

    def api(self, server):
        """A client's view of it."""
        configuration = Configuration()
        configuration.host = str(server.make_url("")).rstrip("/")
        configuration.ssl_ca_cert = authority_file()
        return ApiClient(configuration)

    async def handle(self, request):
        self.calls.append((request.method, request.path))
        if self.is_down:
            return _status(503, "ServiceUnavailable")
        if request.method == "GET":
            found = self.objects.get(request.path)
            return _status(404, "NotFound") if found is None else web.json_response(found)
        self.writes.append((request.method, request.path))
        body = await request.json()
        await self.gate.wait()
        path = request.path
        if request.method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                return _status(409, "AlreadyExists")
        elif request.method == "PUT":
            known = self.objects.get(path)
            if known is None:
                return _status(404, "NotFound")
            version = body["metadata"].get("resourceVersion")
            if version != known["metadata"]["resourceVersion"]:
                return _status(409, "Conflict")
        version = str(next(self._versions))
        self.objects[path] = body | {
            "metadata": body.get("metadata", {}) | {"resourceVersion": version}
        }
        return web.json_response(self.objects[path])


def _status(code, reason):
    return web.json_response({"kind": "Status", "reason": reason, "message": reason}, status=code)


@asynccontextmanager
async def api_stub(client_class=KubernetesClient, *, num_clients=1):
    """The server, and clients of it."""
    stub = ApiStub()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stub.handle)
    server = TestServer(app)
    await server.start_server()
    clients = [client_class(stub.api(server)) for _ in range(num_clients)]
    try:
        yield (stub, *clients)
    finally:
        stub.gate.set()
        for client in clients:
            await client.close()
        await server.close()
