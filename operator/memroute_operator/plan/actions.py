"""What a step is made of: the actions, what was found on the way, and what it depends on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from memroute.placement import NO_QUOTAS, HBMQuotas, Placed, Refused
from memroute.units import GIB
from memroute_operator.ahead.facts import Ahead
from memroute_operator.ahead.goal import Goal, ahead_name
from memroute_operator.memory import DepartedClaim
from memroute_operator.readings.demand import Demand
from memroute_operator.replicas.giving_way import GivesWay
from memroute_operator.replicas.replica import Replica
from memroute_operator.rules.priorities import NO_CLASSES, PriorityClasses
from memroute_operator.sleeping.mark import MarkedState
from memroute_operator.sleeping.sight import EngineSight
from memroute_operator.spec.deployment import Deployment
from memroute_operator.spec.revisions import FailedRevision


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Create a replica's pod: from then on its bytes are reserved."""

    deployment: Deployment
    placed: Placed
    is_gated: bool
    """Whether it must wait for another engine to finish starting on its device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Delete a replica's pod."""

    replica: Replica
    why: str
    force: bool = False
    """Without waiting for its node, which is gone."""
    only_as_seen: bool = False
    """Not if it has changed since: its owner may have been taken off it, to leave it behind."""
    avoid_node: bool = False
    """Whether the node has refused it: the next one is placed elsewhere for a while."""
    has_failed: bool = False
    """Whether its engine has, though the pod has not: the next one waits, each time longer."""
    room_for: str | None = None
    """``namespace/name`` of the ModelDeployment whose sleeper gets its room back by that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkDraining:
    """Tell the routers to send nothing more to a replica (or, with False, to go on)."""

    replica: Replica
    draining: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRoom:
    """Write on a replica which room its successor has; with None, that it has none any more.

    Written, and seen in the store, before the replica drains: nobody else gets that room.
    """

    replica: Replica
    placed: Placed | None
    revision: str
    deployment: Deployment | None = None
    """Whose successor it is; None where the claim is taken back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveWay:
    """Write on a replica to whom it gives way; with None, that it stays.

    Written, and seen in the store, before it drains: nobody else gets that room.
    """

    replica: Replica
    placed: Placed | None
    deployment: Deployment | None = None
    """Whose replica waits for it; None where it stays."""
    priority: int = 0
    """Of the replica that waits."""
    why: str = ""
    """The sentence for both sides; empty where it stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenGate:
    """Let a queued replica start."""

    replica: Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchAhead:
    """Bring onto a node what a successor needs there, while the replica before it serves."""

    deployment: Deployment
    goal: Goal
    node: str
    replica: Replica
    """The one that leaves when it is done."""

    @property
    def pod_key(self) -> str:
        """``namespace/name`` of the pod that does it."""
        name = ahead_name(self.deployment, self.goal, self.node)
        return f"{self.deployment.namespace}/{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndFetch:
    """Delete a pod that went ahead: nobody waits for it any more."""

    ahead: Ahead
    why: str
    avoid_node: bool = False
    """Whether its node could not take the weights: for a while the successor goes elsewhere."""
    only_as_seen: bool = False
    """Not if it has changed since."""
    force: bool = False
    """Without waiting for its node, which is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkSleep:
    """Write on a replica how it sleeps: before its engine is told to wake, and after it sleeps."""

    replica: Replica
    state: MarkedState
    why: str
    makes_room_for: str | None = None
    """``namespace/name`` of the ModelDeployment that it falls asleep for."""


OnPods = Create | Delete | MarkDraining | ClaimRoom | GiveWay | OpenGate | MarkSleep
Action = OnPods | FetchAhead | EndFetch


@dataclass(frozen=True, slots=True, kw_only=True)
class Overbooked:
    """A shared device of which more was promised than it has."""

    node: str
    device: str
    over_bytes: int
    pods: tuple[str, ...]
    """Who was promised bytes of it, the youngest first."""
    drained: tuple[str, ...]
    """Those that are to leave it."""
    waiting: tuple[str, ...] = ()
    """Those of them whose turn has not come."""

    @property
    def message(self) -> str:
        """The sentence for a status or a log."""
        over = (
            f"{self.node}/{self.device} is overbooked by {self.over_bytes / GIB:.2f} GiB "
            f"({', '.join(self.pods)})"
        )
        leaves = [pod for pod in self.drained if pod not in self.waiting]
        told = [f"{pod} leaves it" for pod in leaves]
        told += [f"{pod} leaves it when its turn comes" for pod in self.waiting]
        if self.waiting:
            told.append(
                "one replica of a ModelDeployment, and a tenth of all that serve, at a time"
            )
        return "; ".join([over, *(told or ["nobody leaves it"])])


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What the plan found for one deployment, for its status."""

    refused: dict[int, Refused] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    """Pods that count as its replicas: not those that are too many, nor those that hang."""
    rollout: str | None = None
    """What a rollout is doing, as a sentence; None when nothing is rolled out."""
    rollout_blocked: Refused | None = None
    """Why the new spec would not fit even in place of an old replica."""
    failed: FailedRevision | None = None
    """The revision of the spec that has failed; None while it has not."""
    num_old: int = 0
    """Replicas that are kept on the revision before, by the partition."""
    fetching_ahead: str | None = None
    """What is fetched before a replica leaves, as a sentence; None while nothing is."""
    is_draining_first: bool = False
    """Whether replicas leave before their successors start."""
    moves: list[str] = field(default_factory=list)
    """What is done about replicas on cordoned nodes, as sentences."""
    stuck: list[Replica] = field(default_factory=list)
    """Pods that hang in Terminating and hold their devices."""
    over_quota: str | None = None
    """That its namespace holds more than its quota; None when it does not."""
    contention: float = 0.0
    """What engines on the most contended device of its replicas want of its time, summed; 0 where
    it shares none."""
    sleep_waits: str | None = None
    """What a replica that is to wake waits for, as a sentence without its subject."""
    stands_aside_for: str | None = None
    """``namespace/name`` of the ModelDeployment that has to wake before a replica is made again: it
    had lent its room to one that did not start."""
    sleep_trouble: str | None = None
    """What is in the way of an engine's sleep or wake, as a sentence."""
    overbooked: list[Overbooked] = field(default_factory=list)
    """Devices of its replicas of which more was promised than they have."""


@dataclass(slots=True, kw_only=True)
class Step:
    """The next actions, and what was found on the way."""

    actions: list[Action] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    overbooked: list[Overbooked] = field(default_factory=list)
    stuck: list[Replica] = field(default_factory=list)
    """Pods that hang in Terminating, of any deployment."""
    may_fall_asleep: set[str] = field(default_factory=set)
    """Pods by uid whose engine may be told to fall asleep: no router has a request at it."""
    due_seconds: float | None = None
    """In how many seconds something is due of models that sleep; None where nothing is."""
    has_timers: bool = False
    """Whether something is due by time alone: look again soon."""
    num_explained: int = 0
    """Refusals that were worked out; all others of a kind are copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanContext:
    """What a step depends on beside the facts."""

    drain_timeout_seconds: float
    in_flight: Mapping[str, int] | None
    """Requests at each replica, by pod; None when no router says."""
    in_flight_age_seconds: float | None = None
    """How old that is; None when nobody knows. A count from before a mark does not count."""
    avoided_nodes: Mapping[str, frozenset[str]]
    """Deployment → nodes on which kube-scheduler or kubelet has just refused it."""
    lost_nodes: frozenset[str]
    """Nodes that have been unreachable for long enough to be given up."""
    departed_claims: tuple[DepartedClaim, ...] = ()
    """Room that was claimed for the successors of pods that have gone."""
    quotas: HBMQuotas = NO_QUOTAS
    priorities: PriorityClasses = NO_CLASSES
    gave_way: Mapping[str, tuple[GivesWay, int]] = field(default_factory=dict)
    """Slot (``namespace/name#index``) → to whom its replica gave way, and its priority then."""
    held_back: frozenset[str] = frozenset()
    """Pods (``namespace/pod``), slots (``namespace/name#index``) and ModelDeployments
    (``namespace/name/``, with a slash at the end) whose pods are not created now: what they would
    take is free for others."""
    no_surge: Mapping[str, str] = field(default_factory=dict)
    """ModelDeployments of which the API server takes no pod more than there are (a quota) → why."""
    engine_image: str | None = None
    """The image of engines whose ModelDeployment names none; None where nobody says."""
    refused_aheads: Mapping[str, str] = field(default_factory=dict)
    """Pods (``namespace/name``) that should go ahead, and that the API server refuses → why."""
    demand: Demand | None = None
    """Since when nobody has asked for a model; None where no router says."""
    sights: Mapping[str, EngineSight] = field(default_factory=dict)
    """What engines that are not awake have answered, by the uid of their pod."""
    sleep_refusals: Mapping[str, str] = field(default_factory=dict)
    """Engines that have not fallen asleep of late, by the uid of their pod → why."""
    told_seconds: Mapping[str, float] = field(default_factory=dict)
    """Pods that fall asleep, by uid → for how long their status has told routers so."""
    picker_away_seconds: float | None = None
    """For how long no endpoint picker has been ready; None while one is, or none is asked for."""
    stood_aside: Mapping[str, str] = field(default_factory=dict)
    """Slots (``namespace/name#index``) whose replica did not start, and was ended for a sleeper
    that had lent it its room → the ModelDeployment of that one."""
    weights: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Nodes that have weights, by ``Deployment.weights_key``."""
