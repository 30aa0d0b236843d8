"""Devices of which more was promised than they have, whoever caused it, and who leaves them.

Two operators that did not see each other's writes, a pod that was copied by hand, a driver that
keeps more for itself since its update: the promises of a device can exceed it. The youngest of
them leaves, drained like any other, until the rest fits.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from memroute.placement import OVERBOOKED_TOLERANCE_BYTES, Device, Ledger
from memroute_operator.plan.actions import Overbooked
from memroute_operator.replicas.replica import Replica

# How much of what serves may drain at once for that: chosen by hand, as for nodes that are lost.
MAX_LEAVING_RATIO = 0.1


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


def who_leaves_now(replicas: Sequence[Replica], leaving: Collection[str]) -> list[Replica]:
    """Of those that leave (by pod), who does so now.

    What serves nobody leaves at once. What serves has its memory and can wait: a driver or an
    exporter that is updated may make every full device of a fleet overbooked by some MiB at the
    same time. So one replica of a ModelDeployment leaves at a time, and a tenth of the fleet.
    """
    now: list[Replica] = []
    serving: list[Replica] = []
    away = {one.deployment for one in replicas if one.is_terminating}
    for replica in replicas:
        if replica.key in leaving and not replica.is_terminating:
            (serving if replica.is_ready else now).append(replica)
    most = max(1, int(MAX_LEAVING_RATIO * sum(one.is_ready for one in replicas)))
    # Those that drain already go on: they are the first of the next step, too.
    for replica in sorted(serving, key=lambda one: not one.is_draining):
        if most > 0 and (replica.is_draining or replica.deployment not in away):
            most -= 1
            away.add(replica.deployment)
            now.append(replica)
    return now


def with_turns(found: Iterable[Overbooked], going: Collection[str]) -> list[Overbooked]:
    """The same, with those whose turn has not come. ``going``: pods that leave, or left."""
    return [
        replace(one, waiting=tuple(pod for pod in one.drained if pod not in going)) for one in found
    ]


def _who_leaves(device: Device, pods: list[Replica], leaving: set[str]) -> Overbooked | None:
    """``pods``: the youngest first. Those that leave already are counted before others are named.

    Claims do not count: one that does not fit any more is dropped by its own rollout.
    """
    uuid = device.uuid or ""
    over = sum(pod.present_bytes(uuid) for pod in pods) - device.usable_bytes
    if over <= OVERBOOKED_TOLERANCE_BYTES:
        return None
    drained = [pod for pod in pods if pod.is_terminating or pod.key in leaving]
    excess = over - sum(pod.present_bytes(uuid) for pod in drained)
    for pod in pods:
        if excess <= 0:
            break
        if pod not in drained:
            excess -= pod.present_bytes(uuid)
            drained.append(pod)
    return Overbooked(
        node=device.node,
        device=uuid,
        over_bytes=over,
        pods=tuple(pod.key for pod in pods),
        drained=tuple(pod.key for pod in drained),
    )
