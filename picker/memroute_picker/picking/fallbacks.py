"""Which replicas a request may go to, as the gateway names them, and which are next in line."""

from collections.abc import Iterable

from memroute.traffic.dispatch.membership import could_hold, has_loaded
from memroute.traffic.request import RequestProfile
from memroute.traffic.routing.cost import wait_seconds
from memroute_router.replicas.pool import Pool
from memroute_router.replicas.replica import Replica


def named(replicas: Iterable[Replica], endpoints: list[bytes]) -> list[Replica]:
    """Those among ``endpoints``, each an ``ip:port``, or an ``ip`` for all of its ports."""
    wanted = set(endpoints)
    return [
        replica
        for replica in replicas
        if replica.upstream.endpoint.authority in wanted
        or replica.upstream.endpoint.host.encode() in wanted
    ]


def of_deployment(pool: Pool, namespace: str, deployment: str) -> frozenset[str] | None:
    """The replicas of a ModelDeployment among those that serve a model.

    None: all of them are, and the pool counts its requests for that one. Where it has none and the
    model is its own, those that will come: None, too.
    """
    replicas = pool.replicas
    keys = frozenset(
        [
            key
            for key, replica in replicas.items()
            if replica.info.deployment == deployment and replica.info.namespace == namespace
        ]
    )
    if replicas:
        is_alone = len(keys) == len(replicas) and pool.labels == (namespace, deployment)
        return None if is_alone else keys
    settings = pool.settings
    is_own = settings is not None and (settings.namespace, settings.deployment) == (
        namespace,
        deployment,
    )
    return None if is_own else keys


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
