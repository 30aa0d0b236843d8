"""What can be had through one gateway's pool."""

from collections.abc import Sequence

from memroute_picker.picking.exchange import GatewayExchange
from memroute_picker.picking.fallbacks import is_served_by
from memroute_picker.pools.book import PoolTarget
from memroute_router.pages.own_answers import MODEL_PATH, MODELS_PATH
from memroute_router.replicas.pool import Pool
from memroute_router.replicas.pools import Pools


def serves(pool: Pool, target: PoolTarget) -> bool:
    """Whether what a gateway's pool leads to serves the model of one of ours."""
    if target.deployment is None:
        return pool.model == target.model
    return is_served_by(pool, target.namespace, target.deployment)


def names_in(pools: Pools, target: PoolTarget | None, names: Sequence[str]) -> Sequence[str]:
    """Those of the names that clients can ask for through a gateway's pool; None: through any."""
    if target is None:
        return names
    served = {pool.model for pool in pools.by_model.values() if serves(pool, target)}
    found = []
    for name in names:
        pool = pools.get(name)
        if pool is not None and pool.model in served:
            found.append(name)
    return found


def are_named_by_pods(exchange: GatewayExchange) -> bool:
    """Whether a request asks for the models of a pool that somebody else wrote: its pods know."""
    target = exchange.process.asking.target_pool
    if target is None or target.deployment is not None or exchange.method not in {b"GET", b"HEAD"}:
        return False
    return exchange.path == MODELS_PATH or exchange.path.startswith(MODEL_PATH)
