"""What is missing of each deployment: of which revision, and where it was before."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from memroute.placement import Home, ReplicaKey, WantedReplica
from memroute.sizing.occupancy import Occupancies
from memroute_operator.engines.host_memory import host_bytes, host_fields
from memroute_operator.engines.sleep_mode import rest_bytes, sleep_mode_of
from memroute_operator.plan.actions import PlanContext
from memroute_operator.plan.keeping import Keeping, num_old
from memroute_operator.pod.pod_names import replica_key
from memroute_operator.replicas.homes import read_homes
from memroute_operator.spec.deployment import Deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A replica to create. ``home`` says where it was, or was promised to be."""

    deployment: Deployment
    """Of the revision that it is to have."""
    wanted: WantedReplica

    @property
    def slot(self) -> str:
        """``namespace/name#index``."""
        return self.wanted.key.slot


@dataclass(slots=True, kw_only=True)
class Wishes:
    """What is to be placed in this step, in the order in which room is given."""

    claimed: list[Missing] = field(default_factory=list)
    returning: list[Missing] = field(default_factory=list)
    """Replicas that ran before: what has served comes before what is new."""
    new: list[Missing] = field(default_factory=list)

    def add(self, one: Missing) -> None:
        """Sort it in."""
        home = one.wanted.home
        if home is None:
            self.new.append(one)
        elif home.claimed_bytes is None:
            self.returning.append(one)
        else:
            self.claimed.append(one)


def missing_of(
    deployment: Deployment,
    keeping: Keeping,
    context: PlanContext,
    *,
    claims: Mapping[int, Home],
    taken: Collection[int],
) -> Iterator[Missing]:
    """The replicas that a deployment lacks.

    ``claims``: slots whose room was claimed before their pods left. ``taken``: slots of pods that
    cannot be read: each of them counts as a replica, and nothing is created in its place.
    """
    number, older = keeping.num_missing(deployment), deployment.previous
    is_known = deployment.footprint is not None
    if not number or deployment.paused or not (is_known or older):
        return
    ran = read_homes(deployment.obj.get("status"))
    homes = {slot: one.home() for slot, one in ran.items()} | dict(claims)
    num_older = 0
    if older is not None:
        # What a spec means that cannot be known is nobody's reason to serve less than before.
        num_older = _num_older(deployment, keeping, number) if is_known else number
    templates: dict[str, WantedReplica] = {}
    for place, slot in enumerate(_slots(keeping.slots, number, homes, taken)):
        if slot in taken:
            continue
        of = older if older is not None and place >= number - num_older else deployment
        if of.revision not in templates:
            templates[of.revision] = wanted_replica(of, slot, context)
        key = replica_key(of, slot)
        wanted = replace(templates[of.revision], key=key, home=homes.get(slot))
        if is_held_back(deployment, key, context) and not _is_claimed(wanted):
            continue
        yield Missing(deployment=of, wanted=wanted)


def is_held_back(deployment: Deployment, key: ReplicaKey, context: PlanContext) -> bool:
    """Whether its pod was refused a moment ago, and is not asked for again yet."""
    return not context.held_back.isdisjoint((key.pod, key.slot, f"{deployment.key}/"))


def free_slot(taken: Collection[int]) -> int:
    """The lowest slot that nobody has."""
    slot = 0
    while slot in taken:
        slot += 1
    return slot


def wanted_replica(deployment: Deployment, slot: int, context: PlanContext) -> WantedReplica:
    """A replica of a deployment whose footprint is known."""
    assert deployment.shape is not None  # noqa: S101 - callers have seen the footprint
    assert deployment.footprint is not None  # noqa: S101
    mode = sleep_mode_of(deployment)
    return WantedReplica(
        key=replica_key(deployment, slot),
        shape=deployment.shape,
        footprint=deployment.footprint,
        footprints_by_product={
            product: deployment.footprint_on(product) for product in deployment.calibrations
        },
        mode=deployment.mode,
        strategy=deployment.strategy,
        node_selector=deployment.node_selector,
        scheduling=deployment.template.scheduling,
        avoided_nodes=context.avoided_nodes.get(deployment.key, frozenset()),
        neighbours=deployment.neighbours,
        occupancies_by_product=Occupancies(deployment.shape),
        rest_bytes=None if mode is None else rest_bytes(deployment.footprint),
        host_bytes=host_bytes(deployment, deployment.footprint),
        host_fields=host_fields(deployment),
        nodes_with_weights=context.weights.get(deployment.weights_key or "", frozenset()),
    )


def _is_claimed(wanted: WantedReplica) -> bool:
    return wanted.home is not None and wanted.home.claimed_bytes is not None


def _num_older(deployment: Deployment, keeping: Keeping, number: int) -> int:
    """How many of the missing ones are to have the revision before."""
    there = [*keeping.kept, *(one for one in keeping.ending if one.successor is None)]
    have = sum(one.revision != deployment.revision for one in there)
    return max(0, min(number, num_old(deployment, keeping.kept) - have))


def _slots(
    held: set[int], number: int, homes: Mapping[int, Home], taken: Collection[int]
) -> Iterator[int]:
    """Slots for the missing replicas: those that have a home first, then the lowest free ones.

    A slot of ``taken`` is named like a missing one: who asks sees that it is held.
    """
    used = set(held)
    first = sorted(set(taken) - used)
    first += sorted(homes.keys() - used - set(taken), key=lambda i: (_is_free(homes[i]), i))
    slot = 0
    for _ in range(number):
        if first:
            chosen = first.pop(0)
        else:
            while slot in used:
                slot += 1
            chosen = slot
        used.add(chosen)
        yield chosen


def _is_free(home: Home) -> bool:
    """Whether nothing was claimed there."""
    return home.claimed_bytes is None
