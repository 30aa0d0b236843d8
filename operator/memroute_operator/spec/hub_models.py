"""Models that only a hub knows: asked in the background, each failing alone.

A step never waits for a hub. A deployment whose model is not known names it (``hub_name``); what
the hub says of it becomes a pin, which the status is given; the next step reads it from there.

```text
a step: want(deployments)      run(): a few at a time, each with a time limit
told(deployment)  <----------  pins and failures, by name of the model
   status.model = the pin      a failure waits: 5 s to 5 min, at least Retry-After; what a
   Resolved = why not yet      person must change first, a minute to five
```

A hub that limits requests (429) is left alone for all models as long as it asks.
Owns the pins that are not in a status yet, the failures, and the requests that are under way.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from memroute_hub import TRANSIENT, HubError, HubModel, HubReason, ModelName
from memroute_operator.actions.backoff import Backoff, Failure
from memroute_operator.spec.catalogue_names import did_you_mean
from memroute_operator.spec.deployment import (
    INTERNAL_ERROR,
    MODEL_UNKNOWN,
    Deployment,
    ResolveFailure,
    internal_error,
)
from memroute_operator.spec.model_pins import MAX_CONFIG_CHARACTERS, ModelPin, pin_from

LOGGER = logging.getLogger(__name__)
# Models that are read at the same time, chosen by hand: each takes about a second, and a hub
# that limits requests should not see a fleet's restart as a flood.
MAX_CONCURRENT = 4
# Waits after a failure, in seconds: the first, and the longest.
FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS = 5.0, 300.0
# The least wait, in seconds, after what a person must change first: nobody grants access in
# seconds, and everybody wants it noticed within minutes.
LASTING_WAIT_SECONDS = 60.0
# How long a pin may take into a status, in seconds: chosen by hand, many steps. Past it, it was
# written and is not there: the schema of an older release drops the field.
PIN_SECONDS = 30.0
# How often what waits is looked at, in seconds.
TICK_SECONDS = 1.0
# Reasons of conditions.
MODEL_RESOLVING, CONFIG_TOO_LARGE = "ModelResolving", "ConfigTooLarge"
CRD_OUTDATED = "CRDOutdated"
# What came of a read that went well, as a metric label beside those.
READ = "Read"
_TRANSIENT_REASONS = frozenset(reason.value for reason in TRANSIENT)
# After these nobody knows whether there is a model of that name.
_MAYBE_MISSPELT = _TRANSIENT_REASONS | {HubReason.REPOSITORY_NOT_FOUND, HubReason.NOT_A_HUB}


class HubModels:
    """Asks a hub for models, and tells each deployment what came of it."""

    def __init__(
        self,
        resolve: Callable[[ModelName], Awaitable[HubModel]],
        *,
        endpoint: str,
        usual_endpoint: str,
        is_offline: bool,
        on_change: Callable[[], None],
        on_bug: Callable[[str, Exception], None],
        on_read: Callable[[str], None],
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """``resolve``: asks the hub at ``endpoint``, with a time limit; raises ``HubError``.

        ``usual_endpoint``: what engines ask that were told of no other; ``is_offline``: ask
        nothing. ``on_change``: there is something new to tell; ``on_read``: what came of a read.
        """
        self._resolve = resolve
        self._endpoint = endpoint
        self._usual_endpoint = usual_endpoint
        self._is_offline = is_offline
        self._on_change = on_change
        self._on_bug = on_bug
        self._on_read = on_read
        self._clock = clock
        self._rng = rng
        self._wanted: dict[ModelName, None] = {}
        self._pins: dict[ModelName, tuple[ModelPin, float]] = {}
        # With the time at which it was known.
        self._failures: Backoff[ModelName] = Backoff(
            first_seconds=FIRST_WAIT_SECONDS, max_seconds=MAX_WAIT_SECONDS
        )
        self._running: dict[ModelName, asyncio.Task[None]] = {}
        self._limit: Failure | None = None
        """The last 429 of the hub: until it is due, nobody asks."""
        self._news = asyncio.Event()

    def want(self, deployments: Iterable[Deployment]) -> None:
        """What has to be known. Of everything else nothing is kept, and nothing is asked."""
        names = {one.hub_name: None for one in deployments if one.hub_name is not None}
        if names.keys() == self._wanted.keys():
            return
        self._wanted = names
        self._pins = {name: pin for name, pin in self._pins.items() if name in names}
        for name in self._running.keys() - names.keys():
            self._running.pop(name).cancel()
        self._news.set()

    def told(self, deployment: Deployment) -> Deployment:
        """The deployment as its status tells it: with its pin, or why there is none yet."""
        name = deployment.hub_name
        if name is None:
            return deployment
        if name in self._pins:
            pin, known_at = self._pins[name]
            failure = _resolving(f"{name} is {pin.commit[:12]}: its facts are being pinned")
            if self._clock() - known_at > PIN_SECONDS:
                message = (
                    f"what the hub said of {name} was written to status.model and is not there: "
                    f"the CRD is older than this operator; apply the crds/ of its release"
                )
                failure = ResolveFailure(reason=CRD_OUTDATED, message=message)
            return replace(deployment, pin=pin, failure=failure)
        if self._is_offline and deployment.failure is not None:
            message = f"{deployment.failure.message} (this operator asks no hub: --offline)"
            return replace(deployment, failure=replace(deployment.failure, message=message))
        failure = self._failure(name)
        near = did_you_mean(name.repository) if failure.reason in _MAYBE_MISSPELT else ""
        if near and deployment.failure is not None and deployment.failure.reason == MODEL_UNKNOWN:
            failure = replace(failure, message=f"{failure.message}; {near}")
        if failure.is_lasting and not deployment.is_of_hub:
            message = (
                f"{failure.message}. Its weights come from elsewhere: give its config.json as "
                f"spec.model.config"
            )
            failure = replace(failure, message=message)
        return replace(deployment, failure=failure)

    def start_due(self) -> None:
        """Ask for what is wanted and may be asked, as many at a time as are allowed."""
        now = self._clock()
        if self._is_offline or (self._limit is not None and self._limit.due_seconds > now):
            return
        self._limit = None
        for name in self._wanted:
            if len(self._running) >= MAX_CONCURRENT:
                return
            is_known = name in self._pins or name in self._running
            if not is_known and self._failures.waiting(name, now) is None:
                self._running[name] = asyncio.create_task(self._ask(name), name=f"hub {name}")

    async def run(self) -> None:
        """Ask for ever. Returns only by cancellation."""
        try:
            while True:
                self._news.clear()
                self.start_due()
                try:
                    async with asyncio.timeout(TICK_SECONDS):
                        await self._news.wait()
                except TimeoutError:
                    self._failures.forget_old(self._clock())
        finally:
            for task in self._running.values():
                task.cancel()

    async def settle(self) -> None:
        """Wait for what is under way."""
        if self._running:
            await asyncio.wait(self._running.values())

    async def _ask(self, name: ModelName) -> None:
        """One model. A named boundary: whatever goes wrong is this model's trouble."""
        try:
            model = await self._resolve(name)
            pin = pin_from(model, name, self._usual_endpoint)
        except HubError as error:
            failure = self._failed(
                name,
                error.reason.value,
                error.message,
                error.retry_after_seconds
                if error.is_transient
                else max(LASTING_WAIT_SECONDS, error.retry_after_seconds or 0.0),
            )
            if error.reason is HubReason.RATE_LIMITED:
                self._limit = failure
        except Exception as error:  # noqa: BLE001 - as said above
            self._on_bug("hub", error)
            self._failed(name, INTERNAL_ERROR, internal_error(error), LASTING_WAIT_SECONDS)
        else:
            if pin is None:
                message = (
                    f"the config.json of {name} has more than {MAX_CONFIG_CHARACTERS // 1024} KiB, "
                    f"which is too much for a status: give what matters of it as spec.model.config"
                )
                self._failed(name, CONFIG_TOO_LARGE, message, MAX_WAIT_SECONDS)
            else:
                self._failures.succeeded(name)
                self._pins[name] = (pin, self._clock())
                self._on_read(READ)
                LOGGER.info("model read name=%s commit=%s", name, pin.commit)
        finally:
            if self._running.get(name) is asyncio.current_task():
                del self._running[name]
            self._news.set()
            self._on_change()

    def _failed(
        self, name: ModelName, reason: str, message: str, retry_after_seconds: float | None
    ) -> Failure:
        failure = self._failures.failed(
            name,
            reason=reason,
            message=message,
            now_seconds=self._clock(),
            chance=self._rng.random(),
            retry_after_seconds=retry_after_seconds,
        )
        self._on_read(reason)
        LOGGER.warning(
            "model not read name=%s reason=%s error=%s retry_seconds=%.0f",
            name, reason, message, failure.retry_seconds,
        )  # fmt: skip
        return failure

    def _failure(self, name: ModelName) -> ResolveFailure:
        failure = self._failures.last(name) or self._limit
        if failure is None:
            return _resolving(f"{name} is being read from {self._endpoint}")
        return ResolveFailure(
            reason=failure.reason,
            message=failure.told,
            is_lasting=failure.reason not in _TRANSIENT_REASONS,
        )


def _resolving(message: str) -> ResolveFailure:
    return ResolveFailure(reason=MODEL_RESOLVING, message=message, is_lasting=False)
