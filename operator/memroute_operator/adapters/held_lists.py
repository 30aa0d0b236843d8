"""Which list of adapters counts for a ModelDeployment: the last one before it was paused.

``spec.paused`` says that nothing of the replicas changes. An edit of the list is carried out once
it is false again. An engine that starts again meanwhile gets back what it had: that is no change.
An operator that has never seen it unpaused does not know what that was, and tells engines nothing.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from memroute_operator.adapters.reading import Adapter
from memroute_operator.adapters.telling import pinned_commits
from memroute_operator.spec.deployment import Deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class ListInEffect:
    """What replicas should have."""

    wanted: tuple[Adapter, ...]
    commits: Mapping[str, str]
    """By the client's name, of those that were read from a branch once."""


class HeldLists:
    """Owns the lists that were in effect last, by the uid of the ModelDeployment."""

    def __init__(self) -> None:
        self._lists: dict[str, ListInEffect] = {}

    def in_effect(self, deployment: Deployment) -> ListInEffect | None:
        """What its replicas should have; None where nobody knows, and nothing is to be told."""
        if not deployment.paused:
            self._lists[deployment.uid] = ListInEffect(
                wanted=deployment.adapters.managed, commits=pinned_commits(deployment)
            )
        return self._lists.get(deployment.uid)

    def forget_all_but(self, uids: Collection[str]) -> None:
        """Drop those that are gone."""
        self._lists = {uid: one for uid, one in self._lists.items() if uid in uids}
