"""Which ModelDeployment may serve which name: a pure decision over all of them.

Clients name a model, and send prompts and keys to whoever serves that name. So a name belongs
to one namespace at a time:

1. An administrator's grant decides, where there is one for the name (``name_grants``).
2. Else the namespace that holds the name keeps it: the status of its ModelDeployment says so, and
   nobody but the operator writes a status.
3. Else it goes to the namespace of the oldest ModelDeployment that asks for it.

Why a holder goes before an older ModelDeployment: ``servedName`` and ``adapters`` can be edited.
By age alone, one that has existed for a year could be edited to anybody's name.

All ModelDeployments of the namespace that has the name may serve it (canaries), and each is told
of the others: a name that was copied by mistake looks the same. A holder keeps a
name that it no longer asks for as long as one of its replicas serves it: a rename that rolls out,
or cannot, takes nothing away. What a replica serves is never a reason to get a name that another
one holds or asks for.
"""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from memroute_kube.routing import ClaimedNames, HeldName, RoutingStatus

NAME_HELD = "NameHeld"
NAME_SHARED = "NameShared"
SERVED_NAME_TAKEN = "NameTaken"
NAME_INVALID = "NameInvalid"
GRANTS_UNKNOWN = "GrantsUnknown"

# With fewer that ask for a name nobody takes anything from anybody.
MIN_RIVALS = 2

Grants = Mapping[str, frozenset[str]]
"""Name → the namespaces that may serve it, as an administrator says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameClaim:
    """What one ModelDeployment asks for, and what it has."""

    key: str
    """``namespace/name``."""
    namespace: str
    created_at: str
    names: ClaimedNames | None
    """By its spec; None when that cannot be read: then it keeps what it has."""
    before: RoutingStatus | None
    """What its status says now; None when the operator has never decided."""
    running: frozenset[str] = frozenset()
    """What its replicas serve."""

    @property
    def held(self) -> tuple[HeldName, ...]:
        """What it may serve so far."""
        return (self.before.names or ()) if self.before is not None else ()

    @property
    def is_undecided(self) -> bool:
        """Whether nothing has been decided for it yet."""
        return self.before is None or self.before.names is None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedName:
    """A name that a ModelDeployment asks for and may not serve."""

    name: str
    holder: str | None = None
    """``namespace/name`` of the ModelDeployment that has it; None when an administrator decided."""
    since: str = ""
    """When that one got it."""
    granted_to: frozenset[str] = frozenset()
    """The namespaces that an administrator has given it to."""

    @property
    def told(self) -> str:
        """Whose it is, as a sentence."""
        if self.holder is None:
            return f"{self.name!r} is granted to: {', '.join(sorted(self.granted_to)) or 'nobody'}"
        return f"{self.name!r} belongs to {self.holder} since {self.since}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamesDecision:
    """What one ModelDeployment may serve."""

    held: tuple[HeldName, ...] | None
    """None: undecided, and routers go by age."""
    refused: tuple[RefusedName, ...] = ()
    elsewhere: tuple[tuple[str, str], ...] = ()
    """Adapters' names that it may serve and gets no requests for, with who gets them."""
    shared_with: str | None = None
    """Another ModelDeployment that serves its model's name, the oldest one; None: its alone."""
    is_shared_by_more: bool = False
    """Whether there are more than those two. Not how many: each one would be news for all."""
    is_readable: bool = True
    """Whether its spec asks for names that can be read."""
    are_grants_known: bool = True


@dataclass(frozen=True, slots=True)
class _Wish:
    """One ModelDeployment's claim on one name."""

    claim: NameClaim
    name: str
    since: str | None
    """Since when it holds the name; None when it does not."""
    is_asked: bool
    """Whether its spec asks for the name; else one of its replicas serves it."""

    @property
    def order(self) -> tuple[bool, str, bool, str, str]:
        """The first one's namespace has the name: holders, then those who ask, each by age."""
        claim = self.claim
        return (
            self.since is None, self.since or "", not self.is_asked, claim.created_at, claim.key,
        )  # fmt: skip


def decide_names(
    claims: Iterable[NameClaim], grants: Grants | None, *, now: str
) -> dict[str, NamesDecision]:
    """What each may serve, by its key. ``now``: RFC 3339.

    ``grants``: None while they cannot be read. Nothing changes then: who holds a name keeps it.
    """
    claims = list(claims)
    if grants is None:
        return {
            claim.key: NamesDecision(
                held=None if claim.is_undecided else claim.held, are_grants_known=False
            )
            for claim in claims
        }
    wishes: dict[str, list[_Wish]] = {}
    for claim in claims:
        for wish in _wishes(claim):
            wishes.setdefault(wish.name, []).append(wish)
    held: dict[str, list[HeldName]] = {claim.key: [] for claim in claims}
    refused: dict[str, list[RefusedName]] = {claim.key: [] for claim in claims}
    elsewhere: dict[str, list[tuple[str, str]]] = {claim.key: [] for claim in claims}
    sharing: dict[str, tuple[str, bool]] = {}
    for name, rivals in wishes.items():
        first = min(rivals, key=lambda wish: wish.order)
        owners = grants.get(name)
        allowed = owners if owners is not None else frozenset({first.claim.namespace})
        may = [wish for wish in rivals if wish.claim.namespace in allowed]
        for key, other in _elsewhere(name, may):
            elsewhere[key].append((name, other))
        sharing |= _sharing(name, may)
        for wish in rivals:
            claim = wish.claim
            if claim.namespace in allowed:
                # The first decision is on what it was created with; an edit counts from now.
                since = wish.since or (claim.created_at if claim.is_undecided else now)
                held[claim.key].append(HeldName(name=name, since=since))
            elif wish.is_asked and owners is not None:
                refused[claim.key].append(RefusedName(name=name, granted_to=owners))
            elif wish.is_asked:
                since = first.since or first.claim.created_at
                refused[claim.key].append(
                    RefusedName(name=name, holder=first.claim.key, since=since)
                )
    alone = (None, False)
    return {
        claim.key: NamesDecision(
            held=tuple(sorted(held[claim.key], key=lambda one: one.name)),
            refused=tuple(refused[claim.key]),
            elsewhere=tuple(elsewhere[claim.key]),
            shared_with=sharing.get(claim.key, alone)[0],
            is_shared_by_more=sharing.get(claim.key, alone)[1],
            is_readable=claim.names is not None,
        )
        for claim in claims
    }


def _elsewhere(name: str, wishes: list[_Wish]) -> Iterable[tuple[str, str]]:
    """Who gets no requests for an adapter of that name, and who gets them, as routers send them.

    A model's own name goes before an adapter's; else the oldest ModelDeployment has it.
    """
    asking = [one.claim for one in wishes if one.is_asked and one.claim.names is not None]
    if len(asking) < MIN_RIVALS:
        return
    served = {one.key: one.names.served for one in asking if one.names is not None}
    first = min(asking, key=lambda one: (served[one.key] != name, one.created_at, one.key))
    for one in asking:
        if served[one.key] not in (name, served[first.key]):
            yield one.key, first.key


def _sharing(name: str, wishes: list[_Wish]) -> dict[str, tuple[str, bool]]:
    """Key → the oldest other one whose model has that name too, and whether there are more."""
    sharing = [
        wish.claim
        for wish in wishes
        if wish.claim.names is not None and wish.claim.names.served == name
    ]
    if len(sharing) < MIN_RIVALS:
        return {}
    first, second = heapq.nsmallest(MIN_RIVALS, sharing, key=lambda one: (one.created_at, one.key))
    is_more = len(sharing) > MIN_RIVALS
    return {
        one.key: (second.key if one.key == first.key else first.key, is_more) for one in sharing
    }


def _wishes(claim: NameClaim) -> Iterable[_Wish]:
    """What it asks for, and what it goes on serving."""
    since = {one.name: one.since for one in claim.held}
    asked = claim.names.all if claim.names is not None else tuple(since)
    served = claim.running if claim.is_undecided else claim.running & since.keys()
    for name in (*asked, *sorted(served.difference(asked))):
        yield _Wish(claim, name, since.get(name), name in asked)
