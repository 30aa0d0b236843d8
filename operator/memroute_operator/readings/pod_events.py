"""Events of the pods that are not ready, read now and then: a few calls, never a watch.

A watch on Events would bring every Event of the cluster (thousands a minute) for the few that
matter. Instead the Events of one pod are listed, by its uid, when it has been unready for
``UNREADY_SECONDS``: at most ``MAX_PER_ROUND`` pods in ``ROUND_SECONDS``, each again after a wait
that doubles, and at once when its status says something else. Where the operator may not list
Events, that is logged once and asked again after ``FORBIDDEN_SECONDS``: statuses then say what
pods alone say.

Owns what was read. A pod that is ready, or gone, is forgotten.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from memroute_kube import ApiError, KubeObject
from memroute_kube.errors import FORBIDDEN
from memroute_operator.failures.happenings import Happening, read_events
from memroute_operator.replicas.replica import Replica, ReplicaState

LOGGER = logging.getLogger(__name__)
# How long a pod has to be unready before its Events are read, in seconds: chosen by hand. An
# image that is there and a small model need less, and kubelet's first try to mount takes some.
UNREADY_SECONDS = 10.0
# Pods whose Events are read in one round, and how often there is one, in seconds: chosen by hand,
# a call a second at the most. 500 pods that hang at once are all read within nine minutes.
MAX_PER_ROUND = 5
ROUND_SECONDS = 5.0
# How long the Events of one pod are left alone: first, and at most. kubelet tells a mount that
# fails every two minutes.
FIRST_WAIT_SECONDS = 15.0
MAX_WAIT_SECONDS = 300.0
# After the API server has refused to list Events, and after any other error, in seconds.
FORBIDDEN_SECONDS = 600.0
ERROR_SECONDS = 30.0
# What was wanted so long ago is wanted no more: whoever asks does so every minute, if it leads.
WANTED_SECONDS = 180.0

ListEvents = Callable[[str, str], Awaitable[Sequence[KubeObject]]]
"""Events of a namespace about the object of that uid."""


@dataclass(slots=True, kw_only=True)
class _Asked:
    """One pod: what it looked like when it was asked for last, and when it is due again."""

    look: tuple[object, ...]
    due_seconds: float
    wait_seconds: float = FIRST_WAIT_SECONDS


@dataclass(slots=True, kw_only=True)
class PodEvents:
    """What Events have said of pods that are not ready. Owns it."""

    list_events: ListEvents
    clock: Callable[[], float]
    on_change: Callable[[], None]
    on_error: Callable[[], None] = lambda: None
    told: dict[str, tuple[Happening, ...]] = field(default_factory=dict)
    """By the pod's uid."""
    _wanted: dict[str, Replica] = field(default_factory=dict)
    _wanted_at_seconds: float = 0.0
    _asked: dict[str, _Asked] = field(default_factory=dict)
    _paused_until_seconds: float = 0.0
    _is_refusal_told: bool = False

    def want(self, replicas: Iterable[Replica]) -> None:
        """These are all replicas: Events of those that are not ready for long are worth a look."""
        now = self.clock()
        self._wanted_at_seconds = now
        self._wanted = {one.uid: one for one in replicas if _is_silent(one)}
        for uid, replica in self._wanted.items():
            look = (replica.num_restarts, replica.has_run, replica.has_started)
            asked = self._asked.get(uid)
            if asked is None or asked.look != look:
                unready = replica.seen.unready_seconds or 0.0
                due = now + max(0.0, UNREADY_SECONDS - unready)
                self._asked[uid] = _Asked(look=look, due_seconds=due)
        self._asked = {uid: one for uid, one in self._asked.items() if uid in self._wanted}
        self.told = {uid: one for uid, one in self.told.items() if uid in self._wanted}

    async def read_due(self) -> float:
        """One round; when it began. Raises nothing that an API server may answer."""
        now = self.clock()
        if now < self._paused_until_seconds or now - self._wanted_at_seconds > WANTED_SECONDS:
            return now
        due = sorted(
            (uid for uid, one in self._asked.items() if one.due_seconds <= now),
            key=lambda uid: self._asked[uid].due_seconds,
        )
        is_news = False
        for uid in due[:MAX_PER_ROUND]:
            replica = self._wanted[uid]
            try:
                objects = await self.list_events(replica.namespace, uid)
            except ApiError as error:
                self._pause(error)
                break
            self._is_refusal_told = False
            if uid not in self._asked:
                continue  # it became ready meanwhile
            asked = self._asked[uid]
            asked.due_seconds = self.clock() + asked.wait_seconds
            asked.wait_seconds = min(MAX_WAIT_SECONDS, 2 * asked.wait_seconds)
            found = read_events(objects, uid)
            if [(o.reason, o.message) for o in found] != [
                (o.reason, o.message) for o in self.told.get(uid, ())
            ]:
                is_news = True
            self.told[uid] = found
        if is_news:
            self.on_change()
        return now

    def _pause(self, error: ApiError) -> None:
        self.on_error()
        seconds = FORBIDDEN_SECONDS if error.status == FORBIDDEN else ERROR_SECONDS
        self._paused_until_seconds = self.clock() + seconds
        if not self._is_refusal_told:
            self._is_refusal_told = True
            LOGGER.warning(
                "events of pods not read: statuses say what pods alone say error=%s "
                "retry_seconds=%.0f",
                error, seconds,
            )  # fmt: skip


def _is_silent(replica: Replica) -> bool:
    """Whether its Events may say more than its status."""
    if replica.is_ready or replica.is_terminating or replica.is_terminal:
        return False
    return replica.state in (ReplicaState.STARTING, ReplicaState.FAILED)
