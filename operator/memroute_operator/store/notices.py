"""Telemetry in ConfigMaps of the operator's own: written now and then, for people."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from memroute_kube import ApiError, KubernetesClient
from memroute_operator.store.own_objects import patch_config_map

LOGGER = logging.getLogger(__name__)
# How often a notice is written where something has changed, and where nothing has, in seconds:
# chosen by hand. A person who looks at a fleet sees it as it was a quarter of a minute ago.
CHANGED_SECONDS = 15.0
UNCHANGED_SECONDS = 60.0
RETRY_SECONDS = 60.0


@dataclass(slots=True, kw_only=True)
class Notice:
    """One ConfigMap. Owns what was last written there, and when."""

    client: KubernetesClient
    namespace: str
    name: str
    clock: Callable[[], float]
    _told: object = None
    _due_seconds: float = 0.0
    _unchanged_due_seconds: float = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it may be written again, if anything has changed."""
        return self.clock() >= self._due_seconds

    async def put(
        self, content: object, written: Callable[[], Mapping[str, Mapping[str, Any]]]
    ) -> None:
        """Write it, where ``content`` has changed or a minute has passed.

        ``written``: makes ``data`` and ``binaryData``. An error is logged, and tried again.
        """
        seconds = self.clock()
        if content == self._told and seconds < self._unchanged_due_seconds:
            return
        try:
            await patch_config_map(self.client, self.namespace, self.name, written())
        except ApiError as error:
            self._due_seconds = seconds + RETRY_SECONDS
            LOGGER.warning(
                "notice not written configmap=%s/%s error=%s retry_seconds=%.0f",
                self.namespace, self.name, error, RETRY_SECONDS,
            )  # fmt: skip
            return
        self._told = content
        self._due_seconds = seconds + CHANGED_SECONDS
        self._unchanged_due_seconds = seconds + UNCHANGED_SECONDS
