"""A small API server with nodes behind it, over real sockets, that fails as real ones do.

Faithful where the operator can tell: names and uids, resourceVersions, 409 for a name that is
taken and for preconditions, merge and JSON patches with their ``test``, the status subresource,
graceful and forced deletion, pages of lists, watches that start at a version, end, and are too
old (410). Nodes are played by ``Cluster.play``: pods are bound by their affinity, run, become
ready, and end when they are deleted.

Faults are asked for per call (``Cluster.fault``): a function from the call to an answer.
"""

import asyncio
import copy
import itertools
import json
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import ApiClient, Configuration

from memroute_kube import KubernetesClient
from memroute_kube.resources import object_key
from one_authority import authority_file

PLURALS = (
    "pods", "nodes", "modeldeployments", "events", "poddisruptionbudgets", "leases", "configmaps",
    "resourceslices", "resourceclaims", "priorityclasses", "inferencepools", "inferenceobjectives",
    "services", "endpointslices",
)  # fmt: skip
# Versions that a watch may still start from.
KEPT_VERSIONS = 400
STAMP = "2026-01-01T00:00:00Z"
HANG = "hang"


@dataclass(frozen=True)
class Call:
    """One call as a fault sees it."""

    method: str
    plural: str
    namespace: str
    name: str
    sub: str
    body: object
    is_watch: bool


def status(code, reason, message="", *, retry_after=None):
    """A Status, as the API server answers."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    body = {"kind": "Status", "code": code, "reason": reason, "message": message or reason}
    return web.json_response(body, status=code, headers=headers)


def refuse(code, reason, message="", *, retry_after=None):
    """The same as a fault."""
    return lambda: status(code, reason, message, retry_after=retry_after)


class Cluster:
    """All objects, and what was asked of them. Owns both."""

    def __init__(self):
        self.objects = {plural: {} for plural in PLURALS}
        self.calls = []
        self.fault = lambda _call: None
        self.pruned_status_fields = ()
        self.is_ready_at_once = True
        self.cut_off = set()
        """Nodes whose kubelet does not hear of anything."""
        self.not_bound = set()
        """Pods (``namespace/name``) that kube-scheduler finds no room for."""
        self._versions = itertools.count(100)
        self._uids = itertools.count(1)
        self._log = []
        """(version, plural, type, object)"""
        self._news = asyncio.Event()

    # -- what tests look at and do ------------------------------------------------------------

    @property
    def version(self):
        return self._log[-1][0] if self._log else 99

    def count(self, method, plural, **fields):
        """How many such calls there were."""
        return sum(
            call.method == method
            and call.plural == plural
            and all(getattr(call, name) == value for name, value in fields.items())
            for call in self.calls
        )

    def tally(self):
        return Counter((call.method, call.plural, call.sub) for call in self.calls)

    def put(self, plural, obj):
        """Create or replace an object, as somebody else would."""
        obj = copy.deepcopy(obj)
        metadata = obj["metadata"]
        key = object_key(obj)
        known = self.objects[plural].get(key)
        metadata.setdefault("uid", f"uid-{next(self._uids)}")
        metadata.setdefault("creationTimestamp", STAMP)
        self._store(plural, obj, "ADDED" if known is None else "MODIFIED")
        return obj

    def remove(self, plural, key):
        obj = self.objects[plural].pop(key)
        obj = copy.deepcopy(obj)
        obj["metadata"]["resourceVersion"] = str(self._next())
        self._tell(plural, "DELETED", obj)

    def change(self, plural, key, change):
        """Edit an object in place, as somebody else would."""
        obj = copy.deepcopy(self.objects[plural][key])
        change(obj)
        self._store(plural, obj, "MODIFIED")

    def pods(self):
        return list(self.objects["pods"].values())

    def play(self):
        """One round of kube-scheduler and kubelets."""
        for key, pod in list(self.objects["pods"].items()):
            spec, metadata = pod["spec"], pod["metadata"]
            if spec.get("nodeName") in self.cut_off:
                continue
            if "deletionTimestamp" in metadata:
                self.remove("pods", key)
            elif spec.get("schedulingGates") or pod["status"].get("phase") in (
                "Failed",
                "Succeeded",
            ):
                continue
            elif not spec.get("nodeName") and "affinity" in spec and key not in self.not_bound:
                self.change("pods", key, _bind)
            elif pod["status"].get("phase") == "Pending" and spec.get("nodeName"):
                self.change("pods", key, _run if self.is_ready_at_once else _start)

    # -- the API ------------------------------------------------------------------------------

    async def handle(self, request):
        if request.path == "/version":
            return web.json_response({"gitVersion": "v1.34.0"})
        call = await self._read(request)
        self.calls.append(call)
        fault = self.fault(call)
        if fault is HANG:
            await asyncio.sleep(3600)
        if isinstance(fault, asyncio.Event):  # a call that is slow: it goes on when that is set
            await fault.wait()
            fault = None
        if fault is not None:
            return fault()
        if call.plural.endswith("subjectaccessreviews"):
            return web.json_response({"status": {"allowed": True}})
        if call.plural not in self.objects:
            return status(404, "NotFound", "the server could not find the requested resource")
        if call.is_watch:
            return await self._watch(request, call)
        return getattr(self, f"_{call.method.lower()}")(request, call)

    async def _read(self, request):
        parts = request.path.strip("/").split("/")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = ""
        if parts[0] == "namespaces" and len(parts) > 1:
            namespace, parts = parts[1], parts[2:]
        plural, name, sub = [*parts, "", ""][:3]
        text = await request.text()
        body = json.loads(text) if text else None
        return Call(request.method, plural, namespace, name, sub, body, "watch" in request.query)

    def _key(self, call):
        return f"{call.namespace}/{call.name}" if call.namespace else call.name

    def _get(self, request, call):
        if call.name:
            found = self.objects[call.plural].get(self._key(call))
            return status(404, "NotFound") if found is None else web.json_response(found)
        items = sorted(
            (key, obj)
            for key, obj in self.objects[call.plural].items()
            if _is_asked_for(obj, call.namespace)
        )
        uid = request.query.get("fieldSelector", "").removeprefix("involvedObject.uid=")
        if uid:
            items = [
                (key, obj) for key, obj in items
                if obj["involvedObject"]["uid"] == uid
                and obj["metadata"]["namespace"] == call.namespace
            ]  # fmt: skip
        limit, start = int(request.query.get("limit", 500)), int(request.query.get("continue", 0))
        page = [copy.deepcopy(obj) for _, obj in items[start : start + limit]]
        metadata = {"resourceVersion": str(self.version)}
        if start + limit < len(items):
            metadata["continue"] = str(start + limit)
        return web.json_response({"metadata": metadata, "items": page})

    def _post(self, request, call):
        obj = copy.deepcopy(call.body)
        obj["metadata"]["namespace"] = call.namespace
        if request.query.get("dryRun"):
            return web.json_response(obj, status=201)
        key = object_key(obj)
        if key in self.objects[call.plural]:
            name = obj["metadata"]["name"]
            return status(409, "AlreadyExists", f'{call.plural} "{name}" already exists')
        if call.plural == "pods":
            obj["kind"] = "Pod"
            obj["status"] = {"phase": "Pending", "conditions": []}
        return web.json_response(self.put(call.plural, obj), status=201)

    def _patch(self, request, call):
        key = self._key(call)
        known = self.objects[call.plural].get(key)
        if known is None:
            return status(404, "NotFound")
        obj = copy.deepcopy(known)
        if request.content_type == "application/json-patch+json":
            if not _json_patch(obj, call.body):
                return status(422, "Invalid", "the server rejected our request: test failed")
        else:
            uid = (call.body.get("metadata") or {}).get("uid")
            if uid is not None and uid != obj["metadata"]["uid"]:
                return status(409, "Conflict", "uid precondition")
            version = (call.body.get("metadata") or {}).get("resourceVersion")
            if version is not None and version != obj["metadata"]["resourceVersion"]:
                return status(409, "Conflict", "resourceVersion precondition")
            _merge(obj, call.body)
        if call.sub == "status":
            for field in self.pruned_status_fields:
                obj["status"].pop(field, None)
        if obj != known:
            self._store(call.plural, obj, "MODIFIED")
        return web.json_response(self.objects[call.plural][key])

    def _delete(self, _request, call):
        key = self._key(call)
        known = self.objects[call.plural].get(key)
        if known is None:
            return status(404, "NotFound")
        options = call.body or {}
        uid = (options.get("preconditions") or {}).get("uid")
        if uid is not None and uid != known["metadata"]["uid"]:
            return status(409, "Conflict", "uid precondition")
        version = (options.get("preconditions") or {}).get("resourceVersion")
        if version is not None and version != known["metadata"]["resourceVersion"]:
            return status(409, "Conflict", "resourceVersion precondition")
        if options.get("gracePeriodSeconds") == 0 or not known.get("spec", {}).get("nodeName"):
            self.remove(call.plural, key)
            return web.json_response(known)
        self.change(call.plural, key, lambda obj: obj["metadata"].update(deletionTimestamp=STAMP))
        return web.json_response(self.objects[call.plural][key])

    async def _watch(self, request, call):
        since = int(request.query["resourceVersion"])
        if self._log and since < self._log[0][0] - 1:
            return status(410, "Expired", "too old resource version")
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            news = [entry for entry in self._log if entry[0] > since and entry[1] == call.plural]
            for version, _, kind, obj in news:
                since = version
                if not _is_asked_for(obj, call.namespace):
                    continue
                line = json.dumps({"type": kind, "object": obj}) + "\n"
                await response.write(line.encode())
            event = self._news
            if not [entry for entry in self._log if entry[0] > since and entry[1] == call.plural]:
                await event.wait()

    # -- the store ----------------------------------------------------------------------------

    def _next(self):
        return next(self._versions)

    def _store(self, plural, obj, kind):
        obj["metadata"]["resourceVersion"] = str(self._next())
        self.objects[plural][object_key(obj)] = obj
        self._tell(plural, kind, obj)

    def _tell(self, plural, kind, obj):
        self._log.append(
            (int(obj["metadata"]["resourceVersion"]), plural, kind, copy.deepcopy(obj))
        )
        del self._log[:-KEPT_VERSIONS]
        self._news.set()
        self._news = asyncio.Event()


def _is_asked_for(obj, namespace):
    return namespace in ("", obj["metadata"].get("namespace"))


def _bind(pod):
    required = pod["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    pod["spec"]["nodeName"] = required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0]


def _start(pod):
    pod["status"] |= {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}


def _run(pod):
    pod["status"] |= {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


def _merge(target, patch):
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            target[key] = target[key] if isinstance(target.get(key), dict) else {}
            _merge(target[key], value)
        else:
            target[key] = value


def _json_patch(obj, operations):
    """Whether all of it applied; as much as is used: test and remove."""
    for operation in operations:
        *path, last = operation["path"].strip("/").split("/")
        place = obj
        try:
            for part in path:
                place = place[int(part)] if isinstance(place, list) else place[part]
            at = int(last) if isinstance(place, list) else last
            if operation["op"] == "test":
                if place[at] != operation["value"]:
                    return False
            else:
                assert operation["op"] == "remove"
                del place[at]
        except (KeyError, IndexError):
            return False
    return True


@asynccontextmanager
async def cluster_stub(*, request_seconds=5.0, client_class=KubernetesClient):
    """The cluster, and a client of it."""
    cluster = Cluster()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", cluster.handle)
    server = TestServer(app)
    await server.start_server(shutdown_timeout=0.1)
    configuration = Configuration()
    configuration.host = str(server.make_url("")).rstrip("/")
    configuration.ssl_ca_cert = authority_file()
    client = client_class(ApiClient(configuration), component="memroute-operator")
    client.request_seconds = request_seconds
    try:
        yield cluster, client
    finally:
        await client.close()
        await server.close()
