"""Which replicas and models there are: watched at the API server, never asked per request."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from memroute.traffic.admission import OverloadObjective
from memroute.traffic.dispatch import AdmissionMode
from memroute.traffic.routing.published import LLM_D_TOKENS_PER_SECOND
from memroute_kube import (
    MODEL_DEPLOYMENTS,
    PODS,
    KubeObject,
    KubernetesClient,
    watch_forever,
)
from memroute_kube.resources import (
    ANNOTATION_DRAINING,
    ANNOTATION_KV_CAPACITY_TOKENS,
    ANNOTATION_MAX_CONTEXT_TOKENS,
    ANNOTATION_SERVED_MODEL,
    ENGINE_PORT,
    LABEL_DEPLOYMENT,
    container_port,
    is_condition_true,
)
from memroute_router.http.client import Endpoint
from memroute_router.pools import (
    DEFAULT_TPOT_TARGET_SECONDS,
    DEFAULT_TTFT_TARGET_SECONDS,
    Pools,
    PoolSettings,
    Replica,
    ReplicaInfo,
)

LOGGER = logging.getLogger(__name__)
DEFAULT_WEIGHT = 100.0


def read_replica_info(pod: KubeObject) -> ReplicaInfo | None:
    """A replica from its pod; None while it has no address, or when it is not one of ours."""
    metadata = pod["metadata"]
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    address = pod.get("status", {}).get("podIP")
    model, deployment = annotations.get(ANNOTATION_SERVED_MODEL), labels.get(LABEL_DEPLOYMENT)
    if not address or not model or not deployment:
        return None
    going = "deletionTimestamp" in metadata or ANNOTATION_DRAINING in annotations
    return ReplicaInfo(
        namespace=metadata["namespace"],
        pod=metadata["name"],
        deployment=deployment,
        served_model=model,
        endpoint=Endpoint(address, container_port(pod, "http", ENGINE_PORT)),
        promised_capacity_tokens=_integer(annotations.get(ANNOTATION_KV_CAPACITY_TOKENS)),
        max_context_tokens=_integer(annotations.get(ANNOTATION_MAX_CONTEXT_TOKENS)),
        is_routable=not going and is_serving(pod),
        version=f"{metadata['namespace']}/{deployment}",
        uid=str(metadata.get("uid") or ""),
    )


def is_serving(pod: KubeObject) -> bool:
    """Whether its kubelet has last said that it is ready.

    While a node does not report, the node controller sets its pods' ``Ready`` to False, and leaves
    the word of the kubelet on the containers as it was. All nodes may fall silent at once (a
    certificate, a load balancer of the control plane) while their engines serve on; whether this
    one does, the router sees for itself.
    """
    if is_condition_true(pod, "Ready"):
        return True
    conditions = pod.get("status", {}).get("conditions") or ()
    said = next((c for c in conditions if c["type"] == "Ready"), None)
    # A reason is the kubelet's own: a container, or a readiness gate of somebody else.
    is_marked = said is not None and said["status"] == "False" and not said.get("reason")
    return is_marked and is_condition_true(pod, "ContainersReady")


def read_pool_settings(obj: KubeObject) -> tuple[str, PoolSettings]:
    """The served model name of a ModelDeployment, and how its pool admits."""
    spec = obj["spec"]
    routing = spec.get("routing", {})
    settings = PoolSettings(
        namespace=obj["metadata"]["namespace"],
        deployment=obj["metadata"]["name"],
        watermark_ratio=float(routing["kvWatermarkRatio"]),
        assumed_output_tokens=int(routing["assumedOutputTokens"]),
        policy=routing.get("policy", "memroute"),
        prefill_tokens_per_second=float(
            routing.get("prefillTokensPerSecond", LLM_D_TOKENS_PER_SECOND)
        ),
        admission=AdmissionMode(routing.get("admission", "enforce")),
        ttft_target_seconds=float(routing.get("ttftTargetSeconds", DEFAULT_TTFT_TARGET_SECONDS)),
        tpot_target_seconds=float(routing.get("tpotTargetSeconds", DEFAULT_TPOT_TARGET_SECONDS)),
        overload_objective=_overload_objective(routing),
        adapters=tuple(routing.get("adapters") or ()),
        unready_reason=_unready_reason(obj),
    )
    return spec["model"].get("servedName") or spec["model"]["name"], settings


def complete_shares(weights: Mapping[str, float | None]) -> dict[str, float]:
    """Shares of the traffic by ModelDeployment; empty when none says a weight: memory decides.

    Beside one that does, those that say none count as ``DEFAULT_WEIGHT``.
    """
    if all(weight is None for weight in weights.values()):
        return {}
    return {
        version: DEFAULT_WEIGHT if weight is None else weight for version, weight in weights.items()
    }


class Discovery:
    """Keeps the pools' membership and settings true."""

    def __init__(
        self,
        client: KubernetesClient,
        pools: Pools,
        *,
        namespace: str | None,
        on_upsert: Callable[[Replica], None],
        on_gone: Callable[[Replica], None],
    ) -> None:
        """``on_upsert`` and ``on_gone`` are told of every replica that changes or ends."""
        self._client = client
        self._pools = pools
        self._namespace = namespace
        self._on_upsert = on_upsert
        self._on_gone = on_gone
        self._deployments: dict[str, KubeObject] = {}
        self.has_pods = False
        self.has_deployments = False

    @property
    def is_synced(self) -> bool:
        """Whether the first lists are complete: before that "unknown model" would be a lie."""
        return self.has_pods and self.has_deployments

    async def follow(self) -> None:
        """Follow pods and ModelDeployments for ever; a lost watch is a bug and raises."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_pods(), name="pods")
            group.create_task(self._watch_deployments(), name="deployments")

    async def _watch_pods(self) -> None:
        """Follow the replica pods for ever."""
        async for event in watch_forever(
            self._client, PODS, self._namespace, label_selector=LABEL_DEPLOYMENT
        ):
            if event.type == "SYNCED" or event.object is None:
                self.has_pods = True
                continue
            info = read_replica_info(event.object) if event.type == "UPSERT" else None
            if info is None:
                replica = self._pools.remove_replica(event.key)
                if replica is not None:
                    self._on_gone(replica)
            else:
                self._on_upsert(self._pools.upsert_replica(info))

    async def _watch_deployments(self) -> None:
        """Follow the ModelDeployments for ever."""
        async for event in watch_forever(self._client, MODEL_DEPLOYMENTS, self._namespace):
            if event.type == "SYNCED" or event.object is None:
                self.has_deployments = True
                self._configure()
            elif event.type == "DELETE":
                self._deployments.pop(event.key, None)
                self._configure()
            else:
                self._deployments[event.key] = event.object
                if self.has_deployments:
                    self._configure()

    def _configure(self) -> None:
        settings: dict[str, PoolSettings] = {}
        shares: dict[str, dict[str, float | None]] = {}
        # In reverse order of age, so that the oldest ModelDeployment of a name decides.
        newest_first = sorted(
            self._deployments.values(),
            key=lambda obj: obj["metadata"]["creationTimestamp"],
            reverse=True,
        )
        for obj in newest_first:
            model, pool_settings = read_pool_settings(obj)
            settings[model] = pool_settings
            metadata = obj["metadata"]
            version = f"{metadata['namespace']}/{metadata['name']}"
            weight = obj["spec"].get("routing", {}).get("weight")
            shares.setdefault(model, {})[version] = None if weight is None else float(weight)
        self._pools.configure(
            {
                model: replace(own, shares=complete_shares(shares[model]))
                for model, own in settings.items()
            }
        )


def _overload_objective(routing: Mapping[str, object]) -> OverloadObjective:
    """Its default, too, where a ModelDeployment is newer than this router and says another."""
    given = routing.get("overloadObjective")
    return next(
        (objective for objective in OverloadObjective if objective.value == given),
        OverloadObjective.REQUESTS,
    )


def _unready_reason(obj: KubeObject) -> str | None:
    for condition in obj.get("status", {}).get("conditions") or ():
        if condition["type"] == "Ready" and condition["status"] != "True":
            return str(condition["reason"])
    return None


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
