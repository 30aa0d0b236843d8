"""Which pool a request is for: by the Service that its gateway has called.

| the pool | what its requests may go to |
| --- | --- |
| of a ModelDeployment | replicas of that one, under the names that it serves |
| that somebody else wrote | its pods, under whatever name the client says |

A Service that several pools name says nothing: give each pool its own, as the operator does.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from memroute_kube.gateway import service_in_authority

# At the end of the names by which foreign pools are kept: it cannot be printed, so that no model
# has such a name (``name_of``), and no ModelDeployment's replicas get into one.
NO_MODEL = "\u200b"

# Of a name by which a gateway calls the picker. Unit: bytes. Source: chosen by hand; a name of DNS
# has 253, what gateways write around it some ten.
MAX_AUTHORITY_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolTarget:
    """What the requests of one pool may go to."""

    namespace: str
    deployment: str | None = None
    """The ModelDeployment; None: somebody else wrote the pool."""
    model: str = ""
    """By which a pool that somebody else wrote is kept among the pools."""


def kept_as(key: str) -> str:
    """By which name the pool ``namespace/name`` is kept, where there are others."""
    return key + NO_MODEL


def labelled_as(name: str) -> str:
    """What a pool that somebody else wrote is called where ModelDeployments have their name.

    No ModelDeployment's name has a slash: series, logs and the map tell them apart.
    """
    return f"inferencepool/{name}"


class PoolBook:
    """Owns which Service is whose."""

    def __init__(self) -> None:
        self._targets: dict[tuple[str, str], PoolTarget | None] = {}
        self._of_authority: dict[bytes, PoolTarget | None] = {}

    def replace(self, targets: Iterable[tuple[tuple[str, str], PoolTarget]]) -> None:
        """What there is now: (namespace, name) of the Service and whose it is."""
        found: dict[tuple[str, str], PoolTarget | None] = {}
        for service, target in targets:
            found[service] = None if service in found else target
        self._targets = found
        self._of_authority = {}

    def target(self, authority: bytes) -> PoolTarget | None:
        """Of whoever was called by this name; None where it does not say which pool is meant."""
        if not self._targets or len(authority) > MAX_AUTHORITY_BYTES:
            return None
        if authority not in self._of_authority:
            if len(self._of_authority) > 2 * len(self._targets):
                self._of_authority = {}  # whoever calls chooses the name
            service = service_in_authority(authority)
            self._of_authority[authority] = None if service is None else self._targets.get(service)
        return self._of_authority[authority]
