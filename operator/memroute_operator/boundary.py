"""The named boundary of the operator's loops: whatever one of their rounds raises ends none."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from memroute_kube import ApiError
from memroute_operator.metrics import OperatorMetrics

LOGGER = logging.getLogger(__name__)


class Boundary:
    """Logs and counts what is raised."""

    def __init__(self, metrics: OperatorMetrics) -> None:
        self._metrics = metrics

    async def guarded(self, name: str, once: Callable[[], Awaitable[float]]) -> float | None:
        """What ``once`` returns, or None when it failed."""
        try:
            return await once()
        except ApiError as error:
            self._metrics.on_error()
            LOGGER.warning("%s failed error=%s", name, error)
            if error.retry_after_seconds:
                await asyncio.sleep(error.retry_after_seconds)
        except Exception as error:  # noqa: BLE001 - as said above
            self.on_bug(name, error)
        return None

    async def forever(
        self, name: str, once: Callable[[], Awaitable[float]], *, every_seconds: float
    ) -> NoReturn:
        """Again and again, with a pause between, in seconds."""
        while True:
            await self.guarded(name, once)
            await asyncio.sleep(every_seconds)

    def on_bug(self, where: str, error: Exception) -> None:
        """An error of memroute's own."""
        LOGGER.error("internal error where=%s error=%r", where, error, exc_info=error)
        self._metrics.on_internal_error(where)
