"""What administrators say of the whole cluster: HBM quotas of namespaces, and PriorityClasses.

Read every ten seconds, beside the grants of names: two requests for small objects. What was read
last stays in force while it cannot be read. Before quotas have been read once nothing is placed,
except where the operator has no right to read them: then there are none, and the log says so.
"""

import logging
from dataclasses import dataclass, field

from memroute.placement import NO_QUOTAS, HBMQuotas
from memroute_kube import CONFIG_MAPS, PRIORITY_CLASSES, ApiError, KubeObject, KubernetesClient
from memroute_kube.client import NOT_FOUND
from memroute_kube.errors import FORBIDDEN
from memroute_operator.rules.hbm_quotas import QUOTAS_NAME, read_quotas
from memroute_operator.rules.priorities import NO_CLASSES, PriorityClasses, read_priority_classes

LOGGER = logging.getLogger(__name__)
# Classes that are read: more than anybody has, and a bound on what is kept.
MAX_CLASSES = 1000
UNREAD = HBMQuotas(unknown=f"ConfigMap {QUOTAS_NAME} has not been read yet")


@dataclass(slots=True, kw_only=True)
class ClusterRules:
    """Owns what was read last."""

    client: KubernetesClient
    namespace: str
    quotas: HBMQuotas = UNREAD
    classes: PriorityClasses = NO_CLASSES
    _errors: dict[str, str] = field(default_factory=dict)
    """What cannot be read → why."""

    @property
    def unread(self) -> tuple[str, ...]:
        """What could not be read the last time."""
        return tuple(self._errors)

    async def read(self) -> bool:
        """Read them again; whether anything is other than before. A failure is told once."""
        quotas, classes = await self._quotas(), await self._classes()
        is_changed = (quotas, classes) != (self.quotas, self.classes)
        self.quotas, self.classes = quotas, classes
        return is_changed

    async def _quotas(self) -> HBMQuotas:
        try:
            obj = await self.client.get(CONFIG_MAPS, self.namespace, QUOTAS_NAME)
        except ApiError as error:
            if error.status == NOT_FOUND:
                self._errors.pop(QUOTAS_NAME, None)
                return NO_QUOTAS
            self._tell(QUOTAS_NAME, error)
            if self.quotas.unknown is None:
                return self.quotas
            if error.status == FORBIDDEN:
                # An operator of this release with the role of an older one: nobody has set any.
                return NO_QUOTAS
            return HBMQuotas(unknown=f"ConfigMap {QUOTAS_NAME} cannot be read: {error.message}")
        self._errors.pop(QUOTAS_NAME, None)
        return read_quotas(obj)

    async def _classes(self) -> PriorityClasses:
        found: list[KubeObject] = []
        try:
            async for items, _ in self.client.list_pages(PRIORITY_CLASSES):
                found += items
                if len(found) >= MAX_CLASSES:
                    break
        except ApiError as error:
            self._tell(PRIORITY_CLASSES.plural, error)
            return self.classes
        self._errors.pop(PRIORITY_CLASSES.plural, None)
        return read_priority_classes(found[:MAX_CLASSES])

    def _tell(self, what: str, error: ApiError) -> None:
        if self._errors.get(what) != str(error):
            LOGGER.warning("not read, what was read before stays what=%s error=%s", what, error)
        self._errors[what] = str(error)
