"""All ModelDeployments as planning reads them, with what engines of each kind have measured."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from memroute.footprint import Calibration, CalibrationKey
from memroute.placement import Node
from memroute_kube import KubeObject
from memroute_kube.resources import object_key
from memroute_operator.engines import host_cache, host_weights, owned_variables, sleep_mode
from memroute_operator.engines.registry import engine_of
from memroute_operator.readings.calibrations import (
    EngineReport,
    agreed,
    calibrations_of,
    measure,
)
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import (
    FOOTPRINT_UNKNOWN,
    INTERNAL_ERROR,
    MAX_FOOTPRINT_BYTES,
    Deployment,
    ResolveFailure,
    read_deployment,
)
from memroute_operator.spec.target_revision import as_targeted, with_history
from memroute_operator.store.reading_cache import Cache
from memroute_operator.weights.caches import NO_SETTINGS, WeightsSettings

# What Kubernetes puts on an object that is deleted with ``--cascade=orphan``, until its garbage
# collector has taken the owner off all of its pods.
ORPHAN_FINALIZER = "orphan"
# The reason of a spec that its engine cannot serve.
ENGINE_REFUSES = "EngineRefuses"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentsRead:
    """All ModelDeployments, and what was found on the way."""

    wanted: list[Deployment]
    """Those that want something, the oldest first."""
    left_alone: frozenset[str]
    """Whose pods are left alone: those without name or uid, and those that leave theirs behind."""
    measured: Mapping[CalibrationKey, Calibration]
    """What engines that run have measured."""


def read_deployments(
    objects: Iterable[KubeObject],
    known_replicas: Iterable[Replica],
    nodes: list[Node],
    reports: Mapping[str, EngineReport | None],
    problems: dict[str, str],
    cache: Cache[Deployment],
    default_image: str | None,
    known: Mapping[CalibrationKey, Calibration],
    settings: WeightsSettings = NO_SETTINGS,
) -> DeploymentsRead:
    """All ModelDeployments, each with what was measured of engines like its own.

    ``settings``: what the operator was told of caches.
    ``known``: what engines have measured before.
    ``problems``: is given what could not be read, by ``Kind namespace/name``.
    ``default_image``: what engines run whose spec names no image.
    """
    deployments: dict[str, Deployment] = {}
    left_alone: set[str] = set()
    read = cache.round()
    read_one = partial(_read_with_history, settings=settings)
    for obj in objects:
        try:
            deployment = read(obj, read_one)
            deployments[deployment.key] = deployment
            metadata = obj["metadata"]
            finalizers = metadata.get("finalizers") or ()
            if "deletionTimestamp" in metadata and ORPHAN_FINALIZER in finalizers:
                left_alone.add(deployment.key)
            if deployment.failure is not None and deployment.failure.reason == INTERNAL_ERROR:
                problems[f"ModelDeployment {deployment.key}"] = deployment.failure.message
        except Exception as error:  # noqa: BLE001 - a named boundary: an object without name or uid
            problems[f"ModelDeployment {object_key(obj)}"] = repr(error)
            left_alone.add(object_key(obj))
    replicas = [with_known_revision(one, deployments) for one in known_replicas]
    measured = _measured(deployments, replicas, nodes, reports, problems)
    calibrations = {**known, **measured}
    wanted = [
        _targeted(one, calibrations, default_image, problems)
        for one in deployments.values()
        # One that is being deleted wants nothing any more: its pods are orphans by now.
        if "deletionTimestamp" not in one.obj["metadata"]
    ]
    wanted.sort(key=lambda deployment: (deployment.created_at, deployment.key))
    return DeploymentsRead(wanted=wanted, left_alone=frozenset(left_alone), measured=measured)


def _targeted(
    deployment: Deployment,
    calibrations: Mapping[CalibrationKey, Calibration],
    default_image: str | None,
    problems: dict[str, str],
) -> Deployment:
    """What is planned for, with what engines of each of its revisions have measured."""
    found = _calibrated(deployment, calibrations, default_image, problems)
    if found.previous is not None:
        previous = _calibrated(found.previous, calibrations, default_image, problems)
        found = replace(found, previous=previous)
    return as_targeted(found)


def _read_with_history(obj: KubeObject, settings: WeightsSettings) -> Deployment:
    read_one = partial(_read_checked, settings=settings)
    return with_history(read_one(obj), read_one)


def _read_checked(obj: KubeObject, settings: WeightsSettings) -> Deployment:
    """A ModelDeployment, unresolved where its engine cannot do what it asks for."""
    deployment = read_deployment(obj, settings)
    if deployment.failure is not None and deployment.failure.reason != FOOTPRINT_UNKNOWN:
        return deployment
    # Where the size is not known, what the engine needs to be told may be why.
    refusal = host_cache.refusal(obj["spec"], deployment.engine, deployment.shape)
    refusal = refusal or sleep_mode.refusal(obj["spec"], deployment.engine)
    refusal = refusal or host_weights.refusal(obj["spec"], deployment.engine)
    refusal = refusal or engine_of(deployment.engine).refusal(obj["spec"])
    refusal = refusal or owned_variables.refusal(deployment.engine, obj["spec"])
    if refusal is None:
        return deployment
    failure = ResolveFailure(reason=ENGINE_REFUSES, message=refusal)
    return replace(deployment, shape=None, footprint=None, failure=failure)


def _calibrated(
    deployment: Deployment,
    calibrations: Mapping[CalibrationKey, Calibration],
    default_image: str | None,
    problems: dict[str, str],
) -> Deployment:
    if deployment.footprint is None:
        return deployment
    try:
        found = calibrations_of(deployment.obj["spec"], calibrations, default_image)
        calibrated = replace(deployment, calibrations=found)
        for product in found:
            # Sums are made when they are asked for: nonsense has to show here.
            if not 0 < calibrated.footprint_on(product).total_bytes < MAX_FOOTPRINT_BYTES:
                message = f"measured on {product}: past all bounds"
                raise ValueError(message)  # noqa: TRY301 - told with all the others
    except Exception as error:  # noqa: BLE001 - a named boundary: estimates serve where measurements cannot
        problems[f"ModelDeployment {deployment.key} calibrations"] = repr(error)
        return deployment
    return calibrated


def with_known_revision(replica: Replica, deployments: Mapping[str, Deployment]) -> Replica:
    """A replica that 0.1 started has the revision of the spec that it was started with."""
    deployment = deployments.get(replica.deployment)
    for known in () if deployment is None else (deployment, deployment.previous):
        if known is not None and replica.revision == known.legacy_revision:
            return replace(replica, revision=known.revision)
    return replica


def _measured(
    deployments: Mapping[str, Deployment],
    replicas: list[Replica],
    nodes: list[Node],
    reports: Mapping[str, EngineReport | None],
    problems: dict[str, str],
) -> dict[CalibrationKey, Calibration]:
    """What engines of the current specs have measured, as far as they agree."""
    found: dict[CalibrationKey, list[Calibration]] = {}
    by_name: dict[str, Node] = {}
    for node in nodes:
        by_name.setdefault(node.name, node)
    by_resource = {(node.name, node.resource): node for node in nodes}
    for replica in replicas:
        report = reports.get(replica.uid)
        home = by_resource.get((replica.node, replica.resource or ""))
        home = home or by_name.get(replica.node)
        deployment = deployments.get(replica.deployment)
        if report is None or home is None or deployment is None:
            continue
        products = {device.product for device in home.devices}
        if deployment.footprint is None or replica.revision != deployment.revision:
            continue
        if len(products) != 1 or (product := products.pop()) is None:
            continue  # which kind the device plugin has given is not known
        # A replica of this revision runs the image that the spec names. One that the spec does
        # not name is the default of whoever made the pod, which may have been another.
        image = deployment.engine_image or replica.engine_image
        if image is None:
            continue
        try:
            calibration = measure(
                deployment.obj["spec"],
                report,
                deployment.footprint,
                product=product,
                image=image,
                usable_bytes=min(device.usable_bytes for device in home.devices),
            )
        except Exception as error:  # noqa: BLE001 - a named boundary: a report is whatever an engine wrote
            problems[f"Pod {replica.key} report"] = repr(error)
            continue
        if calibration is not None:
            found.setdefault(calibration.key, []).append(calibration)
    return {key: agreed(measured) for key, measured in found.items()}
