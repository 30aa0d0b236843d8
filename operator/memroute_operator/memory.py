"""What the planner remembers between steps: since when it has seen what it sees.

Pods carry the times of other clocks: the API server's, kube-scheduler's, a kubelet's. A duration
that matters (has it drained long enough, does it hang) is measured here instead, from the moment
this operator first saw it, by one monotonic clock. A restarted operator starts to count again,
which makes it wait longer and never less, with one exception: readiness that is older than any
plausible difference of clocks counts, or every restart would blind the ledger for a minute.

The claim of a successor is on the pod that it replaces. Between that pod's end and the creation
of the successor the claim is remembered here. So is what a pod held that has ended, for as long as
a reading may still show it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from memroute.placement import Departed
from memroute_kube.sleeping import SleepState
from memroute_operator.ahead.facts import Ahead
from memroute_operator.replicas.promises import Claim
from memroute_operator.replicas.replica import Replica, ReplicaState, Seen
from memroute_operator.replicas.way_memory import WayMemory
from memroute_operator.spec.deployment import Deployment

# Wall clocks of a cluster differ by less than this, or nothing else works either: TLS, tokens
# and Leases have the same bound of some minutes.
CLOCK_DIFFERENCE_SECONDS = 300.0
# How long the claim of a pod that has gone waits for its successor. It is created in the next
# step, unless the API server refuses; after that its room is judged anew.
CLAIM_SECONDS = 120.0
# How long what a pod held is remembered after its end, in seconds: chosen by hand, above the age
# of any reading that counts (``device_metrics``: collected 35 s before it was read, and 60 s old).
DEPARTED_SECONDS = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DepartedClaim:
    """The claim of a pod that has gone, until its successor is there."""

    deployment: str
    deployment_uid: str
    index: int
    claim: Claim
    left_at_seconds: float


class PlanMemory:
    """Owns the first sightings, by pod and fact, and the claims of pods that have gone."""

    def __init__(self) -> None:
        self._since: dict[str, dict[str, tuple[object, float]]] = {}
        self._aheads: dict[tuple[str, bool], float] = {}
        """When pods that go ahead were first seen, by uid and whether they end."""
        self._claimants: dict[str, Replica] = {}
        self._departed: dict[tuple[str, int], DepartedClaim] = {}
        self.ways = WayMemory()
        """Who gave way to whom."""
        self._holding: dict[str, Mapping[str, int]] = {}
        """Bytes by device of the pods that may have processes, by uid."""
        self._ended: dict[str, tuple[Mapping[str, int], float]] = {}
        """What pods held that have ended, and when we saw it, by uid."""

    def stamp(
        self, replicas: Iterable[Replica], *, now_seconds: float, now: datetime
    ) -> list[Replica]:
        """The replicas with what has been seen of them. ``now``: the wall clock."""
        stamped: list[Replica] = []
        since: dict[str, dict[str, tuple[object, float]]] = {}
        for replica in replicas:
            known = self._since.get(replica.uid, {})
            seen, since[replica.uid] = _look(replica, known, now_seconds=now_seconds, now=now)
            stamped.append(replace(replica, seen=seen))
        self._since = since
        self._remember_claims(stamped, now_seconds)
        self.ways.look(stamped, now_seconds=now_seconds, seconds=CLAIM_SECONDS)
        self._remember_ended(stamped, now_seconds)
        return stamped

    def stamp_aheads(self, aheads: Iterable[Ahead], *, now_seconds: float) -> list[Ahead]:
        """Pods that go ahead, with for how long each has been seen as it is."""
        seen = {(one.uid, one.is_terminating): one for one in aheads}
        self._aheads = {key: self._aheads.get(key, now_seconds) for key in seen}
        return [
            replace(one, seen_seconds=now_seconds - self._aheads[key]) for key, one in seen.items()
        ]

    def departed(self, *, now_seconds: float) -> tuple[Departed, ...]:
        """What has ended a while ago at most, as it was at the last ``stamp``."""
        return tuple(
            Departed(device_bytes=held, ended_seconds=now_seconds - at)
            for held, at in self._ended.values()
        )

    def departed_claims(self, deployments: Iterable[Deployment]) -> tuple[DepartedClaim, ...]:
        """Claims whose pod has gone and whose successor is still wanted as it was claimed."""
        wanted = {one.key: (one.uid, one.revision) for one in deployments}
        self._departed = {
            key: one
            for key, one in self._departed.items()
            if wanted.get(one.deployment) == (one.deployment_uid, one.claim.revision)
        }
        ways = (
            DepartedClaim(
                deployment=way.deployment,
                deployment_uid=way.uid,
                index=way.index,
                claim=way.claim,
                left_at_seconds=at,
            )
            for way, at in self.ways.departed()
            if wanted.get(way.deployment) == (way.uid, way.claim.revision)
        )
        return (*(one for _, one in sorted(self._departed.items())), *ways)

    def _remember_ended(self, replicas: list[Replica], now_seconds: float) -> None:
        holding: dict[str, Mapping[str, int]] = {
            r.uid: {uuid: r.present_bytes(uuid) for uuid in r.device_bytes}
            for r in replicas
            if r.device_bytes and not r.is_terminal
        }
        for uid, held in self._holding.items():
            if uid not in holding:
                self._ended[uid] = (held, now_seconds)
        self._holding = holding
        self._ended = {
            uid: (held, at)
            for uid, (held, at) in self._ended.items()
            if uid not in holding and now_seconds - at <= DEPARTED_SECONDS
        }

    def _remember_claims(self, replicas: list[Replica], now_seconds: float) -> None:
        present = {replica.uid for replica in replicas}
        taken = {(r.deployment, r.index) for r in replicas if not r.is_stuck}
        for uid, replica in self._claimants.items():
            if uid not in present and replica.successor is not None:
                self._departed[replica.deployment, replica.index] = DepartedClaim(
                    deployment=replica.deployment,
                    deployment_uid=replica.owner_uid or "",
                    index=replica.index,
                    claim=replica.successor,
                    left_at_seconds=now_seconds,
                )
        self._claimants = {r.uid: r for r in replicas if r.successor is not None}
        self._departed = {
            key: one
            for key, one in self._departed.items()
            if key not in taken and now_seconds - one.left_at_seconds <= CLAIM_SECONDS
        }


def _look(
    replica: Replica,
    known: dict[str, tuple[object, float]],
    *,
    now_seconds: float,
    now: datetime,
) -> tuple[Seen, dict[str, tuple[object, float]]]:
    """For how long it has been so, and the first sightings to remember.

    Each fact has a token; another token is another beginning (a container that restarted).
    """
    serving = replica.num_restarts if replica.is_ready or "serving" in known else None
    if replica.failure is not None and replica.is_down:
        serving = None  # its process has ended: what it held is free until it loads again
    tokens: dict[str, object] = {
        "serving": serving,
        # A download is no start of an engine: that begins once the weights are there.
        "unready": None if replica.is_ready else replica.state is not ReplicaState.DOWNLOADING,
        "draining": replica.draining_since,
        "unschedulable": None if replica.unschedulable_since is None else True,
        "terminating": True if replica.is_terminating else None,
        "sleep": _sleep_token(replica),
        "resting": _resting_token(replica),
        "starting": True if _is_started(replica) and not replica.is_ready else None,
    }
    first: dict[str, tuple[object, float]] = {}
    for fact, token in tokens.items():
        if token is None:
            continue
        before = known.get(fact)
        if before is not None and before[0] == token:
            first[fact] = before
        elif fact == "serving":
            if replica.is_ready:
                first[fact] = (token, now_seconds - _certain_seconds(replica, now))
        else:
            first[fact] = (token, now_seconds)
    ages = {f"{fact}_seconds": now_seconds - at for fact, (_, at) in first.items()}
    return Seen(**ages), first


def _sleep_token(replica: Replica) -> object:
    """The state that its sleep is in: whatever was written anew is another beginning."""
    mark = replica.sleep_mark
    return None if mark is None else (mark.state, mark.since, mark.restarts == replica.num_restarts)


def _resting_token(replica: Replica) -> object:
    """From the moment at which it begins to fall asleep until it is to wake."""
    if replica.sleep_state in (SleepState.FALLING_ASLEEP, SleepState.ASLEEP):
        return replica.num_restarts
    return None


def _is_started(replica: Replica) -> bool:
    """Whether nothing but its node and its engine keeps it from serving."""
    return replica.is_scheduled and not replica.is_gated and not replica.is_terminating


def _certain_seconds(replica: Replica, now: datetime) -> float:
    """How long it has been ready at least, whatever the clocks' difference."""
    if replica.ready_since is None:
        return 0.0
    return max(0.0, (now - replica.ready_since).total_seconds() - CLOCK_DIFFERENCE_SECONDS)
