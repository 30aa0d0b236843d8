"""Which namespaces an administrator lets serve which names: one ConfigMap, read every ten seconds.

```yaml
apiVersion: v1
kind: ConfigMap
metadata: {name: memroute-served-names, namespace: memroute-system}
data:
  team-a: |
    chat
    org/model
  team-b: chat
```

A key is a namespace, a line is a name. A name that is in it belongs to the namespaces that list
it, and to nobody else. It is in the operator's own namespace: whoever may write there can
replace the operator itself, and nobody else can grant anything.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from memroute_kube import CONFIG_MAPS, ApiError, KubeObject, KubernetesClient
from memroute_kube.client import NOT_FOUND
from memroute_kube.shapes import mapping, name_of
from memroute_operator.status.served_names import Grants

LOGGER = logging.getLogger(__name__)
GRANTS_NAME = "memroute-served-names"
# How often the ConfigMap is read, in seconds: chosen by hand. One GET of a small object; a grant
# takes effect that much later at the most.
GRANTS_SECONDS = 10.0


def read_grants(obj: KubeObject) -> Grants:
    """Name → namespaces. A line that is no name is nobody's; raises nothing."""
    namespaces: dict[str, set[str]] = {}
    for namespace, lines in mapping(obj.get("data")).items():
        for line in lines.splitlines() if isinstance(lines, str) else ():
            name = name_of(line.strip())
            if name is not None and not name.startswith("#"):
                namespaces.setdefault(name, set()).add(str(namespace))
    return MappingProxyType({name: frozenset(found) for name, found in namespaces.items()})


@dataclass(slots=True, kw_only=True)
class NameGrants:
    """Owns what was read last."""

    client: KubernetesClient
    namespace: str
    known: Mapping[str, frozenset[str]] | None = None
    """None before the first reading that succeeded."""
    error: str | None = None
    """Why the last reading failed; what was read before stays in force."""

    async def read(self) -> bool:
        """Read them again; whether anything is other than before. A failure is told once."""
        error, found = None, self.known
        try:
            obj = await self.client.get(CONFIG_MAPS, self.namespace, GRANTS_NAME)
        except ApiError as failed:
            if failed.status == NOT_FOUND:
                found = MappingProxyType({})
            else:
                error = str(failed)
                if error != self.error:
                    LOGGER.warning(
                        "name grants not read, what was read before stays "
                        "configmap=%s/%s error=%s retry_seconds=%.0f",
                        self.namespace, GRANTS_NAME, failed, GRANTS_SECONDS,
                    )  # fmt: skip
        else:
            found = read_grants(obj)
        is_changed = found != self.known or error != self.error
        self.known, self.error = found, error
        return is_changed
