"""kopf's events to the store. Each handler records, marks what a plan depends on, and returns.

All are coroutines: kopf runs plain functions in threads, and the store belongs to the loop.
"""

from typing import Any, cast

import kopf

from memroute_kube import KubeObject
from memroute_kube.client import PAGE_SIZE
from memroute_kube.resources import GROUP, VERSION
from memroute_operator.store.no_persistence import NoDiffs, NoProgress
from memroute_operator.store.store import Collection, Store


def build_registry(store: Store) -> kopf.OperatorRegistry:
    """The handlers, writing into ``store``. Low-level ones only: they add no finalizer."""
    registry = kopf.OperatorRegistry()

    def record(collection: Collection, event: kopf.RawEvent) -> None:
        obj = cast("KubeObject", event["object"])
        changed = collection.delete(obj) if event["type"] == "DELETED" else collection.upsert(obj)
        if changed:
            store.mark_dirty()

    @kopf.on.login(registry=registry)
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.peering.standalone = True
        settings.posting.enabled = False  # events are written by the reconciler, on transitions
        settings.networking.request_timeout = 30
        settings.networking.connect_timeout = 5
        settings.networking.enforce_retry_after = True
        settings.watching.server_timeout = 270
        settings.watching.chunk_size = PAGE_SIZE
        settings.persistence.diffbase_storage = NoDiffs()
        settings.persistence.progress_storage = NoProgress()

    @kopf.on.event(GROUP, VERSION, "modeldeployments", registry=registry)
    async def on_model_deployment(event: kopf.RawEvent, **_: Any) -> None:
        record(store.model_deployments, event)

    @kopf.on.event("v1", "pods", registry=registry)
    async def on_pod(event: kopf.RawEvent, **_: Any) -> None:
        # All pods: those of others hold whole devices too, or have a name that we want.
        record(store.pods, event)

    @kopf.on.event("v1", "nodes", registry=registry)
    async def on_node(event: kopf.RawEvent, **_: Any) -> None:
        record(store.nodes, event)

    return registry
