"""Where a request passes that is none of the API: to any replica that is ready, unadmitted."""

from memroute_picker.picking.asking import Asking, Declined
from memroute_picker.picking.fallbacks import named
from memroute_picker.picking.side import PickerSide
from memroute_picker.pools.book import PoolTarget
from memroute_router.replicas.replica import Replica


def passes_to(side: PickerSide, asking: Asking) -> list[Replica] | Declined:
    """Replicas in order, one after the other's turn; or why there is none."""
    ready = _ready(side, asking.target_pool)
    if asking.allowed is not None:
        wanted = named(ready, asking.allowed)
        ready = wanted or (ready if asking.is_allowed_a_wish else [])
    if not ready:
        return Declined(503, "no endpoint is ready", lines=b"retry-after: 1\r\n")
    side.num_requests += 1
    if asking.is_allowed_a_wish:
        return ready
    return [ready[side.num_requests % len(ready)]]


def _ready(side: PickerSide, target: PoolTarget | None) -> list[Replica]:
    """All replicas that are ready, whatever they serve; of one pool where it is known."""
    return [
        replica
        for pool in side.pools.by_model.values()
        for replica in pool.replicas.values()
        if replica.backend.is_routable
        and not replica.health.is_out
        and (target is None or _is_in(replica, target))
    ]


def _is_in(replica: Replica, target: PoolTarget) -> bool:
    if target.deployment is None:
        return replica.info.served_model == target.model
    return replica.labels == (target.namespace, target.deployment)
