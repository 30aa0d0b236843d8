"""Which ModelDeployment may serve which name, kept true one ModelDeployment at a time.

The rule is one name's (``serving``): the answer for all is the rule for each. So a change costs as
much as the names that it touches are asked for, whatever else there is: somebody's thousand
ModelDeployments with 256 adapters each are nobody else's delay.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from memroute_router.discovery.kube_objects import DeploymentFacts
from memroute_router.replicas.pool_settings import PoolSettings

DEFAULT_WEIGHT = 100.0


def serving(name: str, deployments: Iterable[DeploymentFacts]) -> set[str]:
    """The keys of those that may serve the name. ``deployments``: all that touch it.

    | a ModelDeployment may serve a name when | |
    | --- | --- |
    | ``status.routing.names`` has it | the operator has decided |
    | nothing is decided for it, and one of its namespace has the name by its status | |
    | nothing is decided for it, nobody has it by a status, and none asks for longer | 0.1 |
    """
    holders: list[DeploymentFacts] = []
    askers: list[DeploymentFacts] = []
    for one in deployments:
        if one.held_names is None:
            askers.append(one)
        elif name in one.held_names:
            holders.append(one)
    owners = {one.namespace for one in holders}
    if not owners and askers:
        owners = {min(askers, key=lambda one: (one.created_at, one.key)).namespace}
    return {one.key for one in (*holders, *askers) if one.namespace in owners}


class NameBook:
    """Owns what ModelDeployments ask for, and what each may serve."""

    def __init__(self) -> None:
        self._deployments: dict[str, DeploymentFacts] = {}
        self._touching: dict[str, set[str]] = {}
        """Name → the keys of those that hold it, or ask for it with nothing decided."""
        self._of_model: dict[str, set[str]] = {}
        """Model → the keys of those that ask for it as their own."""
        self._served: dict[str, set[str]] = {}

    def get(self, key: str) -> DeploymentFacts | None:
        """What was read of a ModelDeployment."""
        return self._deployments.get(key)

    def keys(self) -> set[str]:
        """Those that are known."""
        return set(self._deployments)

    def models(self) -> set[str]:
        """All that are asked for, served or not."""
        return set(self._of_model)

    def may_serve(self, key: str, name: str) -> bool:
        """Whether a ModelDeployment may serve a name."""
        return name in self._served.get(key, ())

    def put(self, key: str, facts: DeploymentFacts | None) -> tuple[set[str], set[str]]:
        """Take what was read of one; None: it is gone.

        The keys of those that may serve other names than before, and the models whose settings
        may be others.
        """
        before = self._deployments.pop(key, None)
        touched_before, touched = _touched(before), _touched(facts)
        _move(self._of_model, key, _model(before), _model(facts))
        _move(self._touching, key, touched_before, touched)
        if facts is not None:
            self._deployments[key] = facts
        names = touched_before | touched if _claim(before) != _claim(facts) else frozenset()
        changed: set[str] = set()
        for name in names:
            touching = self._touching.get(name, set())
            may = serving(name, (self._deployments[one] for one in touching))
            for one in touching | {key}:
                served = self._served.setdefault(one, set())
                if (name in served) != (one in may):
                    served ^= {name}
                    changed.add(one)
        if facts is None:
            self._served.pop(key, None)
        left = changed & self._deployments.keys()
        models = {self._deployments[one].names.served for one in left}
        return changed, models | _model(before) | _model(facts)

    def settings(self, model: str) -> PoolSettings | None:
        """What those say that may serve the model: the oldest decides, each has its weight."""
        found = [
            self._deployments[key]
            for key in self._of_model.get(model, ())
            if self.may_serve(key, model)
        ]
        if not found:
            return None
        oldest = min(found, key=lambda one: (one.created_at, one.key))
        adapters = tuple(n for n in oldest.names.adapters if self.may_serve(oldest.key, n))
        shares = complete_shares({one.key: one.weight for one in found})
        served_by = frozenset([one.key for one in found])
        return replace(oldest.settings, adapters=adapters, shares=shares, served_by=served_by)


def complete_shares(weights: Mapping[str, float | None]) -> dict[str, float]:
    """Shares of the traffic by ModelDeployment; empty when none says a weight: memory decides.

    Beside one that does, those that say none count as ``DEFAULT_WEIGHT``.
    """
    if all(weight is None for weight in weights.values()):
        return {}
    return {
        version: DEFAULT_WEIGHT if weight is None else weight
        for version, weight in sorted(weights.items())
    }


def _claim(facts: DeploymentFacts | None) -> object:
    """All that decides on the names of one, and on those that it touches."""
    if facts is None:
        return None
    return facts.namespace, facts.created_at, facts.held_names, facts.touched_names


def _model(facts: DeploymentFacts | None) -> frozenset[str]:
    return frozenset() if facts is None else frozenset({facts.names.served})


def _touched(facts: DeploymentFacts | None) -> frozenset[str]:
    return frozenset() if facts is None else facts.touched_names


def _move(
    index: dict[str, set[str]], key: str, before: frozenset[str], after: frozenset[str]
) -> None:
    """Take a key from where it was in an index to where it is."""
    for name in before - after:
        index[name].discard(key)
        if not index[name]:
            del index[name]
    for name in after - before:
        index.setdefault(name, set()).add(key)
