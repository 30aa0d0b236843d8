"""Do operator and router run, from images that can be pulled, of this release?"""

from collections.abc import Iterator

from memroute_cli.doctor.facts import (
    OPERATOR,
    PICKER,
    ROUTER,
    Facts,
    Unread,
    containers_of,
    name_of,
    spec_of,
    status_of,
)
from memroute_cli.doctor.finding import Finding, failed, ok, unknown, warning
from memroute_kube import KubeObject
from memroute_kube.resources import object_key
from memroute_kube.shapes import listed, mapping

CANNOT_PULL = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
)
# Restarts of one container from which on they are told.
MANY_RESTARTS = 5


def check(facts: Facts) -> Iterator[Finding]:
    """Of each program: there, ready, and of which release.

    A picker need not be there; and where one is, a router need not: clients come by gateways.
    """
    pickers = facts.programs(PICKER)
    has_picker = not isinstance(pickers, Unread) and bool(pickers)
    for component in (OPERATOR, ROUTER, PICKER):
        found = facts.programs(component)
        if isinstance(found, Unread):
            if component != PICKER:
                yield unknown(component, found.why, found.next_step)
        elif not found and component == ROUTER and has_picker:
            yield ok(ROUTER, "there is none: requests come by gateways, which ask the picker")
        elif not found and component != PICKER:
            yield failed(
                component, f"no Deployment of the {component} is in the cluster",
                "helm install memroute helm/memroute -n memroute-system --create-namespace",
            )  # fmt: skip
        for deployment in () if isinstance(found, Unread) else found:
            yield _deployment(facts, component, deployment)
            yield from _release(facts, component, deployment)


def _deployment(facts: Facts, component: str, deployment: KubeObject) -> Finding:
    key, namespace = object_key(deployment), deployment["metadata"].get("namespace")
    wanted = int(spec_of(deployment).get("replicas", 1))
    ready = int(status_of(deployment).get("readyReplicas") or 0)
    pods = facts.pods_of(deployment)
    if wanted == 0:
        return failed(
            component, f"Deployment {key} is scaled to 0",
            f"kubectl -n {namespace} scale deploy/{name_of(deployment)} --replicas=1",
        )  # fmt: skip
    troubles = [trouble for pod in pods if (trouble := _trouble(pod)) is not None]
    for said, step in troubles:
        if ready < wanted or "pull" in said:
            return failed(
                component, f"{ready} of {wanted} replicas of {key} are ready: {said}", step
            )
    if ready == 0:
        return failed(
            component, f"no replica of {key} is ready",
            f"kubectl -n {namespace} describe deploy/{name_of(deployment)}",
        )  # fmt: skip
    if ready < wanted:
        return warning(
            component, f"{ready} of {wanted} replicas of {key} are ready",
            f"kubectl -n {namespace} describe deploy/{name_of(deployment)}",
        )  # fmt: skip
    return _of_ready(component, deployment, f"{ready} of {wanted}", troubles, pods)


def _of_ready(
    component: str,
    deployment: KubeObject,
    ready: str,
    troubles: list[tuple[str, str]],
    pods: tuple[KubeObject, ...],
) -> Finding:
    """All replicas are ready: is a rollout at a stand, or does one end again and again?"""
    key, namespace = object_key(deployment), deployment["metadata"].get("namespace")
    if troubles:
        said, step = troubles[0]
        return warning(
            component,
            f"{ready} replicas of {key} are ready, and what is to replace them does not start: "
            f"{said}",
            step,
        )
    restarts = max((_restarts(pod) for pod in pods), default=0)
    if restarts >= MANY_RESTARTS:
        return warning(
            component, f"{key} is ready, and a container of it was restarted {restarts} times",
            f"kubectl -n {namespace} logs deploy/{name_of(deployment)} --previous",
        )  # fmt: skip
    return ok(component, f"{ready} replicas of {key} are ready")


def _trouble(pod: KubeObject) -> tuple[str, str] | None:
    """What keeps a pod from running, and where more of it is told."""
    key, namespace = object_key(pod), pod["metadata"].get("namespace")
    describe = f"kubectl -n {namespace} describe pod {name_of(pod)}"
    for status in listed(status_of(pod).get("containerStatuses")):
        waiting = mapping(mapping(mapping(status).get("state")).get("waiting"))
        reason = waiting.get("reason")
        if reason in CANNOT_PULL:
            image = mapping(status).get("image")
            return (
                f"pod {key} cannot pull {image} ({reason})",
                "check image.registry, the tag and imagePullSecrets of the chart's values",
            )
        if reason == "CrashLoopBackOff":
            last = mapping(mapping(mapping(status).get("lastState")).get("terminated"))
            logs = f"kubectl -n {namespace} logs {name_of(pod)} --previous"
            return f"pod {key} ends again and again (exit code {last.get('exitCode', '?')})", logs
        if reason:
            return f"pod {key} waits: {reason} {waiting.get('message') or ''}".strip(), describe
    for condition in listed(status_of(pod).get("conditions")):
        told = mapping(condition)
        if told.get("type") == "PodScheduled" and told.get("status") == "False":
            return f"pod {key} is not scheduled: {told.get('message')}", describe
    return None


def _restarts(pod: KubeObject) -> int:
    statuses = [mapping(one) for one in listed(status_of(pod).get("containerStatuses"))]
    return max((int(one.get("restartCount") or 0) for one in statuses), default=0)


def _release(facts: Facts, component: str, deployment: KubeObject) -> Iterator[Finding]:
    """Where the image's tag names another release than this program is."""
    images = [str(one.get("image") or "") for one in containers_of(deployment)]
    name, _, tag = images[0].partition("@")[0].rpartition(":") if images else ("", "", "")
    is_release = bool(tag) and "/" not in tag and tag[0].isdigit() and bool(name)
    if is_release and tag != facts.program_version:
        yield warning(
            component,
            f"{object_key(deployment)} is release {tag}, this command line is "
            f"{facts.program_version}",
            "use the command line of the release that is installed, or upgrade it",
        )
