"""What is wrong with a replica's pod, from its status alone.

Kubernetes tells in many places, and the loudest is seldom the cause: ``CrashLoopBackOff`` is how
long it waits, not why. They are looked at in the order of ``Where``. The engine's last lines are
in the status too, because our containers have ``terminationMessagePolicy: FallbackToLogsOnError``
(kubelet puts the last 2 KiB there): no right to read logs is needed.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from memroute.footprint import EngineType
from memroute_kube import KubeObject
from memroute_operator.engines.registry import engine_of, phase_reached
from memroute_operator.failures.around import REFUSED
from memroute_operator.failures.ends import ENDED, EXIT, INIT
from memroute_operator.failures.fetching import FETCH, FETCH_IMAGE
from memroute_operator.failures.images import WAITING
from memroute_operator.failures.log_lines import LOG
from memroute_operator.failures.pod_events import EVENTS
from memroute_operator.failures.pods import DISRUPTIONS, POD, SCHEDULER
from memroute_operator.failures.quoting import last_words, line_of, without_secrets
from memroute_operator.failures.signature import Diagnosis, Signature, Where, diagnosis, shown
from memroute_operator.weights.container import FETCH_CONTAINER

# What a container waits for on its way to start: no failure.
ON_THE_WAY = frozenset({"ContainerCreating", "PodInitializing"})
CRASH_LOOP = "CrashLoopBackOff"
# Characters of a container's message that are looked at: as many as kubelet keeps at the most.
MAX_LOG = 4096
# An end after so much of the time that a start may take is kubelet's, after its startup probe.
START_RATIO = 0.9
START_TOO_LONG: Final = Signature(
    name="StartTooLong", where=Where.ENDED,
    seen_as="it ended after all the time that its startup probe gives it, never ready",
    sentence="the engine was not ready within the {minutes} min that it has to start, and "
             "kubelet ended it: it is stuck, or its weights load too slowly",
    next_step="kubectl logs --previous shows how far it had come; keep the weights on a volume "
              "near the node if it was still loading",
)  # fmt: skip


def failure_of(pod: KubeObject, engine: EngineType | None = None) -> Diagnosis | None:
    """Why the pod does not serve; None where nothing says that it has failed.

    Raises ``KeyError``, ``TypeError`` or ``AttributeError`` on a status of another shape.
    """
    status = pod.get("status") or {}
    if status.get("phase") == "Failed":
        return _of_failed_pod(pod, status, engine)
    for container in status.get("initContainerStatuses") or ():
        found = _of_init_container(container)
        if found is not None:
            return found
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") and waiting["reason"] not in ON_THE_WAY:
            return _of_waiting(pod, container, waiting, engine)
    return None


def last_end_of(pod: KubeObject, engine: EngineType | None = None) -> Diagnosis | None:
    """Why a container that runs again has ended before; None where none has."""
    for container in (pod.get("status") or {}).get("initContainerStatuses") or ():
        ended = (container.get("lastState") or {}).get("terminated")
        if ended and ended.get("exitCode") and (container.get("state") or {}).get("running"):
            return _of_init_end(container, ended)
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        ended = (container.get("lastState") or {}).get("terminated")
        if ended and (container.get("state") or {}).get("running") is not None:
            return _of_end(pod, container, ended, engine)
    return None


def scheduling_of(reason: str, message: str) -> Diagnosis | None:
    """What kube-scheduler's refusal means; None where its own words are all there is."""
    return _first(SCHEDULER, reason=reason, text=message)


def refusal_of(message: str) -> Diagnosis | None:
    """What the API server's refusal of a pod means; None where its own words are all there is."""
    return _first(REFUSED, text=without_secrets(message))


def event_meaning(reason: str, message: str) -> Diagnosis | None:
    """What an Event on a pod means; None where its own words are all there is."""
    return _first(EVENTS, reason=reason, text=message)


def _of_failed_pod(
    pod: KubeObject, status: Mapping[str, Any], engine: EngineType | None
) -> Diagnosis:
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    evidence = shown(without_secrets(f"{reason}: {message}".strip(": ")))
    if reason:
        text = f"{reason}: {message}"
        found = _first(POD, reason=reason, text=text, evidence=evidence)
        if found is not None:
            return found
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            said = str(condition.get("message") or "")
            found = _first(
                DISRUPTIONS, reason=str(condition.get("reason") or ""), text=said,
                evidence=shown(said),
            )  # fmt: skip
            if found is not None:
                return found
    for container in status.get("containerStatuses") or ():
        ended = (container.get("state") or {}).get("terminated")
        if ended:
            return _of_end(pod, container, ended, engine)
    return Diagnosis(
        name="PodFailed",
        sentence=f"the pod has failed: {evidence or 'it does not say why'}",
        next_step="memroute makes it again, elsewhere if there is room",
    )


def _of_init_container(container: Mapping[str, Any]) -> Diagnosis | None:
    for name in ("state", "lastState"):
        ended = (container.get(name) or {}).get("terminated") or {}
        if ended.get("exitCode"):
            if (container.get("state") or {}).get("running"):
                return None  # it tries again
            return _of_init_end(container, ended)
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    if not reason or reason in ON_THE_WAY:
        return None
    if container.get("name") == FETCH_CONTAINER and reason in FETCH_IMAGE.reasons:
        said = f"{reason}: {waiting.get('message') or ''}".strip(": ")
        return diagnosis(FETCH_IMAGE, {}, evidence=shown(without_secrets(said)))
    return _of_words(waiting)


def _of_init_end(container: Mapping[str, Any], ended: Mapping[str, Any]) -> Diagnosis | None:
    """How an init container has ended; the one that fetches weights has words of its own."""
    name, code = str(container.get("name")), ended.get("exitCode")
    return _first(
        FETCH if name == FETCH_CONTAINER else INIT,
        reason=str(ended.get("reason") or ""),
        exit_code=code if isinstance(code, int) else None,
        evidence=last_words(str(ended.get("message") or "")[-MAX_LOG:]),
        words={"container": name, "code": str(code)},
    )


def _of_waiting(
    pod: KubeObject,
    container: Mapping[str, Any],
    waiting: Mapping[str, Any],
    engine: EngineType | None,
) -> Diagnosis:
    ended = (container.get("lastState") or {}).get("terminated")
    if waiting["reason"] == CRASH_LOOP and ended:
        return _of_end(pod, container, ended, engine)
    return _of_words(waiting)


def _of_words(waiting: Mapping[str, Any]) -> Diagnosis:
    """What a container that waits says of itself."""
    reason, message = str(waiting["reason"]), str(waiting.get("message") or "")
    evidence = shown(without_secrets(f"{reason}: {message}".strip(": ")))
    found = _first(WAITING, reason=reason, text=message, evidence=evidence)
    if found is not None:
        return found
    if reason == CRASH_LOOP:
        return Diagnosis(
            name="EngineFailing",
            sentence="the engine ends again and again, and its status does not say how",
            next_step="read kubectl logs --previous",
            evidence=evidence,
        )
    return Diagnosis(
        name="ContainerWaiting",
        sentence=f"the container does not start: {evidence}",
        next_step="kubectl describe pod tells more",
    )


def _of_end(
    pod: KubeObject,
    container: Mapping[str, Any],
    ended: Mapping[str, Any],
    engine: EngineType | None,
) -> Diagnosis:
    """How a container has ended: by its runtime, by its own lines, by its exit code."""
    reason, log = str(ended.get("reason") or ""), str(ended.get("message") or "")[-MAX_LOG:]
    code = ended.get("exitCode")
    told = last_words(log)
    how = f"exit code {code}{_while(engine, log)}"
    evidence = how + (f": {told}" if told else "")
    found = _first(ENDED, reason=reason, text=log, evidence=evidence)
    if found is not None:
        return found
    minutes = _start_minutes(pod, container, ended)
    if minutes is not None:
        return diagnosis(START_TOO_LONG, {"minutes": str(minutes)}, evidence=evidence)
    if reason in ("StartError", "ContainerCannotRun"):
        found = _first(WAITING, reason=reason, text=log, evidence=evidence)
    if found is None:
        found = _by_log(log, engine, how)
    if found is None:
        found = _first(
            EXIT, exit_code=code if isinstance(code, int) else None,
            evidence=evidence, words={"code": str(code)},
        )  # fmt: skip
    # The last of the table matches any code.
    assert found is not None  # noqa: S101
    return found


def _while(engine: EngineType | None, log: str) -> str:
    """How far its start had come, where its lines tell; empty where they do not."""
    reached = None if engine is None else phase_reached(engine_of(engine).phases, log)
    return "" if reached is None else f" while {reached}"


def _by_log(log: str, engine: EngineType | None, code: str) -> Diagnosis | None:
    """The first signature that the lines have, its own engine's before others'."""
    for signature in LOG:
        if signature.engines and engine is not None and engine not in signature.engines:
            continue
        words = signature.match(text=log)
        if words is None:
            continue
        assert signature.pattern is not None  # noqa: S101
        found = signature.pattern.search(log)
        line = line_of(log, _anchor(found, log))
        return diagnosis(signature, words, evidence=f"{code}: {line}" if line else code)
    return None


def _anchor(found: "re.Match[str] | None", log: str) -> int:
    """Where the words stand that were found; for a look-ahead, the last line."""
    if found is None or found.end() == found.start():
        return max(0, len(log.rstrip()) - 1)
    return found.start()


def _start_minutes(
    pod: KubeObject, container: Mapping[str, Any], ended: Mapping[str, Any]
) -> int | None:
    """For how long it had tried to start when kubelet ended it; None where that was not it."""
    if ended.get("exitCode") not in (137, 143) or container.get("started"):
        return None
    seconds = _seconds_between(ended.get("startedAt"), ended.get("finishedAt"))
    budget = _start_seconds(pod, str(container.get("name")))
    if seconds is None or budget is None or seconds < START_RATIO * budget:
        return None
    # One that has served for that long was ready once; those are told by a later start only.
    most = budget + 2 * float((pod.get("spec") or {}).get("terminationGracePeriodSeconds") or 30)
    return round(budget / 60) if seconds <= most else None


def _start_seconds(pod: KubeObject, name: str) -> float | None:
    for container in (pod.get("spec") or {}).get("containers") or ():
        probe = container.get("startupProbe")
        if container.get("name") == name and probe:
            return float(probe.get("failureThreshold") or 3) * float(
                probe.get("periodSeconds") or 10
            )
    return None


def _seconds_between(start: object, end: object) -> float | None:
    """By one kubelet's clock; None where it does not say."""
    try:
        begun, ended = datetime.fromisoformat(str(start)), datetime.fromisoformat(str(end))
        return (ended - begun).total_seconds()
    except (ValueError, TypeError):
        return None


def _first(
    signatures: Iterable[Signature],
    *,
    reason: str = "",
    text: str = "",
    exit_code: int | None = None,
    evidence: str = "",
    words: Mapping[str, str] | None = None,
) -> Diagnosis | None:
    for signature in signatures:
        found = signature.match(reason=reason, text=text, exit_code=exit_code)
        if found is not None:
            return diagnosis(signature, {**found, **(words or {})}, evidence=evidence)
    return None


ALL: Final[Sequence[Signature]] = (
    *POD, *DISRUPTIONS, *SCHEDULER, *FETCH, *INIT, *WAITING, *ENDED,
    START_TOO_LONG, *LOG, *EXIT, *EVENTS, *REFUSED,
)  # fmt: skip
"""All of them, in the order in which they are looked for."""
