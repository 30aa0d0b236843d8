"""Room for the last good revision, until the one that took its place has proven itself.

On a full cluster a replica leaves before its successor starts. Where the successor is smaller, what
it leaves would be given to others, and the way back would be gone when the successor fails. So
that room is promised to nobody until every replica serves. Not where replicas are missing: a
smaller revision may be what makes room for them.
"""

from collections.abc import Iterator, Sequence

from memroute.placement import PlacementMode, Reservation, Solver
from memroute_operator.plan.keeping import Keeping
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment
from memroute_operator.spec.rollout_spec import OnFailure


def keep_ways_back(deployment: Deployment, keeping: Keeping, solver: Solver) -> list[Reservation]:
    """What was booked for the deployment; ``let_go`` gives it back."""
    booked = [
        one
        for one in _ways_back(deployment, keeping, solver)
        if one.device_bytes or one.num_exclusive_devices
    ]
    for one in booked:
        solver.book(one)
    return booked


def let_go(booked: Sequence[Reservation], solver: Solver) -> None:
    """Give back what was kept: its owner is about to use it."""
    for one in booked:
        solver.take_back(one.owner, one.node)


def _ways_back(deployment: Deployment, keeping: Keeping, solver: Solver) -> Iterator[Reservation]:
    good = deployment if deployment.returned_from is not None else deployment.previous
    if good is None or good.footprint is None or keeping.num_missing(deployment):
        return
    if deployment.rollout.on_failure is OnFailure.HALT:
        return
    unproven = [one for one in keeping.kept if one.revision != good.revision]
    num_good = len(keeping.kept) - len(unproven)
    for replica in unproven[: max(0, deployment.replicas - num_good)]:
        yield _rest(good, replica, solver)


def _rest(good: Deployment, replica: Replica, solver: Solver) -> Reservation:
    """What the good revision would need beside what its successor has, as far as it is free."""
    shared = replica.mode is PlacementMode.SHARED
    ledger = solver.ledger
    rest: dict[str, int] = {}
    more_devices = 0
    if shared and good.mode is PlacementMode.SHARED:
        for node in ledger.by_name.get(replica.node, ()):
            for device in node.devices:
                own = replica.device_bytes.get(device.uuid or "")
                if device.uuid is None or own is None:
                    continue
                need = good.footprint_on(device.product).total_bytes
                size = min(need - own, ledger.free_bytes(device))
                if size > 0:
                    rest[device.uuid] = size
    elif not shared and good.footprint is not None:
        nodes = ledger.by_name.get(replica.node, ())
        free = max(map(ledger.num_free_devices, nodes), default=0)
        more_devices = max(0, min(free, good.footprint.num_devices - replica.num_devices))
    return Reservation(
        owner=f"{replica.key} (the way back)",
        deployment=replica.deployment,
        node=replica.node,
        device_bytes=rest,
        num_exclusive_devices=more_devices,
        exclusive_bytes=replica.bytes_per_device if more_devices else 0,
        resource=replica.resource,
        occupancy_ratio=0.0,  # the replica itself is counted
    )
