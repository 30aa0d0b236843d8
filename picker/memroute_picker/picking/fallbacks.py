"""Which replicas a request may go to, as the gateway names them, and which are next in line."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from ipaddress import IPv6Address, ip_address
from typing import Final

from memroute.traffic.dispatch.membership import could_hold, has_loaded
from memroute.traffic.request import RequestProfile
from memroute.traffic.routing.cost import wait_seconds
from memroute_router.http.client import Endpoint
from memroute_router.replicas.pool import Pool
from memroute_router.replicas.replica import Replica

_MAX_PORT_DIGITS: Final = 5


def named(replicas: Iterable[Replica], endpoints: list[bytes]) -> list[Replica]:
    """Those among ``endpoints``, each an ``ip:port``, or an ``ip`` for all of its ports."""
    wanted = set(endpoints)
    return [
        replica
        for replica in replicas
        if replica.upstream.endpoint.authority in wanted
        or replica.upstream.endpoint.host.encode() in wanted
    ]


def is_served_by(pool: Pool, namespace: str, deployment: str) -> bool:
    """Whether a ModelDeployment serves the pool's model, be it that it has no replica now."""
    settings = pool.settings
    if settings is not None and f"{namespace}/{deployment}" in settings.served_by:
        return True
    labels = namespace, deployment
    return any(replica.labels == labels for replica in pool.replicas.values())


def of_deployment(pool: Pool, namespace: str, deployment: str) -> AbstractSet[str] | None:
    """The replicas of a ModelDeployment that serves the pool's model, now and later.

    None: all are its, and the pool counts its requests for that one. Where there are none at all,
    and the model is its own, those that will come: None, too.
    """
    labels = namespace, deployment
    keys = pool.replicas_of(labels)
    is_alone = len(keys) == len(pool.replicas) and pool.labels == labels
    return None if is_alone else keys


def endpoints_of(value: object) -> list[bytes]:
    """What a hint names: a text or a list of them, each of which may be several with commas."""
    given = value if isinstance(value, list) else [value]
    return [
        word
        for text in given
        if isinstance(text, bytes)
        for word in [part.strip() for part in text.split(b",")]
        if word
    ]


def endpoint_in(text: bytes) -> bytes | None:
    """``ip:port`` as replicas' are written; None: it is something else, a name or a path."""
    host, _, port = text.rpartition(b":")
    if not port.isdigit() or len(port) > _MAX_PORT_DIGITS:
        return None
    try:
        address = ip_address(host.strip(b"[]").decode())
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return Endpoint(str(address), int(port)).authority


def next_in_line(
    pool: Pool, chosen: Replica, profile: RequestProfile, *, count: int, now_seconds: float
) -> list[Replica]:
    """At most ``count`` other replicas of the chosen one's version, the shortest wait first.

    For the gateway, where the chosen one does not answer it. Nothing is reserved there: whichever
    it uses, the lease moves.
    """
    found: list[tuple[float, int, str]] = []
    for key, replica in pool.replicas.items():
        backend = replica.backend
        if (
            replica is not chosen
            and backend.is_routable
            and backend.health.may_try(now_seconds=now_seconds)
            and backend.version == chosen.backend.version
            and could_hold(backend, profile.least_tokens)
            and has_loaded(backend, profile.adapter)
            and (profile.only is None or key in profile.only)
        ):
            wait = wait_seconds(backend.ledger, now_seconds=now_seconds)
            found.append((wait, backend.ledger.num_in_flight, key))
    found.sort()
    return [pool.replicas[key] for _, _, key in found[:count]]
