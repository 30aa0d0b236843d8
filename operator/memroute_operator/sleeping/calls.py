"""vLLM's calls by which an engine sleeps and wakes, and what its answers mean.

| what | call |
| --- | --- |
| asked | ``GET /is_sleeping`` → ``{"is_sleeping": true}`` |
| asleep | ``POST /sleep?level=1&mode=wait``: what is in flight is finished first |
| awake, level 1 | ``POST /wake_up`` |
| awake, level 2 | ``/wake_up?tags=weights``, ``/collective_rpc`` ``reload_weights``, ``/wake_up?tags=kv_cache`` |

What counts is what ``/is_sleeping`` says once such a call has been answered: before, an engine says
that it sleeps as soon as it takes nothing new, with all of its memory. An engine without ``--enable-sleep-mode`` says
that it sleeps and keeps its bytes (vLLM 0.32): the flag is memroute's own, and what a reading shows
beyond its rest counts as of others. One whose memory was loaded anew at level 2 says that it
sleeps until its KV cache is back, so a wake that broke off half-way is begun again from the start.
"""  # noqa: E501 - a table

import json
from dataclasses import dataclass

from memroute.hierarchy.sleep import SleepLevel
from memroute_kube.resources import ENGINE_PORT
from memroute_kube.shapes import mapping
from memroute_operator.adapters.caller import Answer, Caller
from memroute_operator.adapters.calls import engine_words
from memroute_operator.engines.sleep_mode import VARIABLE

# From the call to its answer, in seconds. Chosen by hand: the first sleep pins the weights (10 s
# for 16 GB), and a wake from a network disk loads them anew (a minute for 70 GB).
SLEEP_SECONDS = 240.0
WAKE_SECONDS = 240.0
_NO_ROUTE = (404, 405)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Where an engine is asked, and how deep it sleeps."""

    pod: str
    """``namespace/name``."""
    address: str
    level: SleepLevel


async def is_sleeping(caller: Caller, engine: Engine) -> bool | str:
    """Whether it sleeps; or why nobody knows."""
    answer = await caller.call("GET", engine.address, ENGINE_PORT, "/is_sleeping")
    if not answer.is_good:
        return why_not(answer, "does not say whether it sleeps")
    try:
        said = mapping(json.loads(answer.text)).get("is_sleeping")
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, bool):
        return said
    return f"the engine's answer at /is_sleeping is none: {engine_words(answer.text)}"


async def fall_asleep(caller: Caller, engine: Engine) -> str | None:
    """Have it finish what it has begun, and sleep; why it did not, None where it did.

    Raises nothing.
    """
    path = f"/sleep?level={int(engine.level)}&mode=wait"
    answer = await _post(caller, engine, path, seconds=SLEEP_SECONDS)
    if not answer.is_good:
        return why_not(answer, "does not fall asleep")
    said = await is_sleeping(caller, engine)
    if said is False:
        return "the engine says that it is awake after /sleep"
    return said if isinstance(said, str) else None


async def wake(caller: Caller, engine: Engine) -> str | None:
    """Have it wake; why it did not, None where it serves. Raises nothing."""
    steps: list[tuple[str, dict[str, object] | None]] = [("/wake_up", None)]
    if engine.level is SleepLevel.NOTHING_KEPT:
        steps = [
            ("/wake_up?tags=weights", None),
            ("/collective_rpc", {"method": "reload_weights"}),
            ("/wake_up?tags=kv_cache", None),
        ]
    for path, body in steps:
        answer = await _post(caller, engine, path, body, seconds=WAKE_SECONDS)
        if not answer.is_good:
            return why_not(answer, f"does not wake ({path.partition('?')[0]})")
    said = await is_sleeping(caller, engine)
    if said is True:
        return "the engine says that it sleeps after /wake_up"
    return said if isinstance(said, str) else None


async def _post(
    caller: Caller,
    engine: Engine,
    path: str,
    body: dict[str, object] | None = None,
    *,
    seconds: float,
) -> Answer:
    return await caller.call("POST", engine.address, ENGINE_PORT, path, body, seconds=seconds)


def why_not(answer: Answer, what: str) -> str:
    """What came instead of an answer that helps, as a sentence."""
    if answer.status in _NO_ROUTE:
        return (
            f"the engine {what} (HTTP {answer.status}): its image has no such call, or something "
            f"takes {VARIABLE} away from it"
        )
    if not answer.status:
        return f"the engine {what}: {engine_words(answer.text)}"
    return f"the engine {what} (HTTP {answer.status}): {engine_words(answer.text)}"
