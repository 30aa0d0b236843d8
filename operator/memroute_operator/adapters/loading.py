"""What one engine is told, and how long one that refuses is left alone.

``Loader`` owns the refusals, each with its own growing wait.
"""

import logging
import random
from collections.abc import Callable

from memroute_operator.actions.backoff import Backoff, Failure
from memroute_operator.adapters.caller import Caller
from memroute_operator.adapters.deciding import Steps
from memroute_operator.adapters.pod_calls import Target, load, unload
from memroute_operator.adapters.telling import FAILED, PENDING

LOGGER = logging.getLogger(__name__)
# How long an engine that refused to load an adapter is left alone with it, in seconds, doubling to
# the longest: chosen by hand. A person mends a file; nothing else waits for it.
FIRST_WAIT_SECONDS = 5.0
MAX_WAIT_SECONDS = 300.0
# How long one look goes on to tell an engine of adapters, in seconds, before what it has by then is
# told and the rest is left to the next look: chosen by hand.
LOOK_SECONDS = 10.0


class Loader:
    """See above."""

    def __init__(self, caller: Caller, *, clock: Callable[[], float], rng: random.Random) -> None:
        self._caller = caller
        self._clock = clock
        self._rng = rng
        self._failures: Backoff[tuple[str, str, str]] = Backoff(
            first_seconds=FIRST_WAIT_SECONDS, max_seconds=MAX_WAIT_SECONDS
        )

    def forget_old(self, now_seconds: float) -> None:
        """Refusals that nobody asks after any more."""
        self._failures.forget_old(now_seconds)

    async def carry_out(self, target: Target, found: Steps, loaded: dict[str, str]) -> bool:
        """Unload first: another folder may be loaded under the same name then.

        Whether all was told: an engine that takes minutes for each is left the rest later.
        """
        now = self._clock()
        for unwanted in found.unloads:
            if self._clock() - now > LOOK_SECONDS:
                return False
            await unload(self._caller, target, unwanted, loaded)
        for one in found.loads:
            if self._clock() - now > LOOK_SECONDS:
                return False
            if one.engine_name in loaded and loaded[one.engine_name] != one.path:
                # It could not be unloaded, or is its owner's.
                found.troubles[one.name] = (
                    f"the engine has another adapter of that name, from "
                    f"{loaded[one.engine_name]:.200}: unload that, or take another name"
                )
                continue
            key = (target.uid, one.name, one.path)
            waits = self._failures.waiting(key, now)
            if waits is not None:
                _note(found, one.name, waits)
                continue
            refused = await load(self._caller, target, one, loaded)
            if refused is None:
                self._failures.succeeded(key)
                continue
            failure = self._failures.failed(
                key,
                reason=PENDING if refused.is_pending else FAILED,
                message=refused.why,
                now_seconds=self._clock(),
                chance=self._rng.random(),
            )
            _note(found, one.name, failure)
            LOGGER.warning(
                "adapter not loaded pod=%s adapter=%s error=%s", target.pod, one.name, refused.why
            )
        return True


def _note(found: Steps, name: str, failure: Failure) -> None:
    """What is in the way of one; of what a rollout brings, without when it is tried again."""
    if failure.reason == PENDING:
        found.waiting[name] = failure.message
    else:
        found.troubles[name] = failure.told
