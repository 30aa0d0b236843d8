"""Devices of which more was promised than they have, whoever caused it, and who leaves them.

Two operators that did not see each other's writes, a pod that was copied by hand, a driver that
keeps more for itself since its update: the promises of a device can exceed it. The youngest of
them leaves, drained like any other, until the rest fits.
"""

from collections.abc import Iterable

from memroute.placement import OVERBOOKED_TOLERANCE_BYTES, Device, Ledger
from memroute_operator.plan.actions import Overbooked
from memroute_operator.replica import Replica


def find_overbooked(
    replicas: Iterable[Replica], ledger: Ledger, going: set[str]
) -> list[Overbooked]:
    """Each overbooked device, and who leaves it. ``going``: pods that leave anyway."""
    devices = ledger.overbooked()
    if not devices:
        return []
    holders: dict[str, list[Replica]] = {}
    for replica in sorted(replicas, key=lambda one: (one.created_at, one.key), reverse=True):
        for uuid in replica.device_bytes:
            holders.setdefault(uuid, []).append(replica)
    leaving = set(going)
    found: list[Overbooked] = []
    for device in devices:
        one = _who_leaves(device, holders.get(device.uuid or "", []), leaving)
        if one is not None:
            leaving.update(one.drained)
            found.append(one)
    return found


def _who_leaves(device: Device, pods: list[Replica], leaving: set[str]) -> Overbooked | None:
    """``pods``: the youngest first. Those that leave already are counted before others are named.

    Claims do not count: one that does not fit any more is dropped by its own rollout.
    """
    uuid = device.uuid or ""
    over = sum(pod.device_bytes[uuid] for pod in pods) - device.usable_bytes
    if over <= OVERBOOKED_TOLERANCE_BYTES:
        return None
    drained = [pod for pod in pods if pod.is_terminating or pod.key in leaving]
    excess = over - sum(pod.device_bytes[uuid] for pod in drained)
    for pod in pods:
        if excess <= 0:
            break
        if pod not in drained:
            excess -= pod.device_bytes[uuid]
            drained.append(pod)
    return Overbooked(
        node=device.node,
        device=uuid,
        over_bytes=over,
        pods=tuple(pod.key for pod in pods),
        drained=tuple(pod.key for pod in drained),
    )
