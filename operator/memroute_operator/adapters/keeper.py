"""Brings every replica to the adapters that are wanted, while its engine runs.

One replica after its own clock: soon where something is under way, seldom where all is as wanted,
at once where the list, the engine's readiness or its container's restarts have changed. An engine
that was restarted has lost what it had loaded: that shows in its own list.

Owns what each replica was last seen to have, and when it is looked at next. It writes nothing to
the API server: statuses tell what it has seen.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

from memroute_kube.shapes import mapping
from memroute_operator.adapters.caller import Caller
from memroute_operator.adapters.calls import CALLS
from memroute_operator.adapters.container import mount_paths_of
from memroute_operator.adapters.deciding import FetchTold, commit_of, steps
from memroute_operator.adapters.held_lists import HeldLists, ListInEffect
from memroute_operator.adapters.loading import Loader
from memroute_operator.adapters.pod_calls import Target, ask_container, ask_engine
from memroute_operator.adapters.reading import Adapter
from memroute_operator.adapters.telling import View
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment
from memroute_operator.turns import Turns, look_forever

# How often replicas are looked at, in seconds: where something is under way, where something is in
# the way, and where all is as wanted (an engine that has lost an adapter is found by then).
# Chosen by hand: a question costs an engine about 1 ms.
BUSY_SECONDS = 1.0
TROUBLED_SECONDS = 5.0
SETTLED_SECONDS = 30.0
# How often it is looked for what is due, in seconds.
TICK_SECONDS = 0.5
# How long the container that fetches may not answer before that is told, in seconds: chosen by
# hand. It is back within seconds when it was started again.
SILENT_SECONDS = 30.0


@dataclass(slots=True)
class _Due:
    """When a replica is looked at next."""

    signature: object
    at_seconds: float = 0.0
    silent_since: float | None = None
    """Since when its container does not answer; None while it does."""


class AdapterKeeper:
    """See above. ``want`` says for whom; ``run`` goes on for ever."""

    def __init__(
        self,
        caller: Caller,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        on_change: Callable[[], None],
        on_bug: Callable[[str, Exception], None],
    ) -> None:
        """``on_change``: a status has something new to tell."""
        self._caller = caller
        self._loader = Loader(caller, clock=clock, rng=rng)
        self._clock = clock
        self._on_change = on_change
        self._on_bug = on_bug
        self._lists = HeldLists()
        self._targets: dict[str, Target] = {}
        self._due: dict[str, _Due] = {}
        self._turns: Turns[Target] = Turns()
        self.views: dict[str, View] = {}
        """What replicas were last seen to have, by the uid of their pod."""

    def want(self, deployments: Iterable[Deployment], replicas: Iterable[Replica]) -> None:
        """The replicas of those that have slots for adapters."""
        with_slots = {one.key: one for one in deployments if one.slots is not None}
        if not with_slots and not self._targets:
            return
        targets = {}
        for replica in replicas:
            deployment = with_slots.get(replica.deployment)
            if deployment is None:
                continue
            target = _target(deployment, replica, self._lists.in_effect(deployment))
            if target is not None:
                targets[target.uid] = target
        for uid, target in targets.items():
            signature = (target.wanted, target.is_held, target.is_ready, target.num_restarts)
            due = self._due.get(uid)
            if due is None or due.signature != signature:
                since = None if due is None else due.silent_since
                self._due[uid] = _Due(signature, silent_since=since)
                view = self.views.get(uid)
                if view is not None and not target.is_ready:
                    # An engine that starts again has nothing loaded.
                    self.views[uid] = View(fetched=view.fetched)
        self._lists.forget_all_but({one.uid for one in with_slots.values()})
        self._targets = targets
        self._due = {uid: due for uid, due in self._due.items() if uid in targets}
        self.views = {uid: view for uid, view in self.views.items() if uid in targets}

    def forget(self) -> None:
        """Begin anew: what was seen in an earlier term may be so no more."""
        self._lists = HeldLists()
        self._due.clear()
        self.views.clear()

    async def run(self, is_leading: Callable[[], bool]) -> NoReturn:
        """Go on for ever. Only the operator that leads tells engines anything."""
        await look_forever(self._begun, self._look, is_leading, tick_seconds=TICK_SECONDS)

    async def round(self) -> None:
        """Look once at all that are due."""
        await asyncio.gather(*(self._look(target) for target in self._begun()))

    def _begun(self) -> list[Target]:
        """Those that are to be looked at now."""
        now = self._clock()
        self._loader.forget_old(now)
        due = {uid: one.at_seconds for uid, one in self._due.items()}
        return self._turns.take(due, self._targets, now)

    async def _look(self, target: Target) -> None:
        """See one through. A named boundary: a bug in one is that replica's alone."""
        try:
            view, pause = await self._keep(target)
        except Exception as error:  # noqa: BLE001 - as said above
            self._on_bug("adapters", error)
            view, pause = None, TROUBLED_SECONDS
        finally:
            self._turns.end(target)
        current, now_wanted = self._due.get(target.uid), self._targets.get(target.uid)
        if current is None or now_wanted is None:
            return
        if now_wanted == target:
            current.at_seconds = self._clock() + pause
        elif not now_wanted.is_same_engine(target):
            return  # it was started anew meanwhile: what was seen is of the one before
        if view is not None and view != self.views.get(target.uid):
            self.views[target.uid] = view
            self._on_change()

    async def _keep(self, target: Target) -> tuple[View | None, float]:
        """What one replica has by now, and when it is to be looked at again."""
        fetched: dict[str, FetchTold] = {}
        silence = None
        if not target.is_held:
            fetched, silence = await ask_container(self._caller, target)
        commits = {
            one.address: commit
            for one in target.wanted
            if one.address is not None and (commit := _commit(fetched.get(one.name))) is not None
        }
        if not target.is_ready:
            view = View(fetched=commits, troubles=_fetch_troubles(fetched))
            return view, TROUBLED_SECONDS if view.troubles else BUSY_SECONDS
        loaded = await ask_engine(self._caller, target)
        if loaded is None:
            return None, TROUBLED_SECONDS
        if isinstance(loaded, str):
            before = self.views.get(target.uid) or View()
            troubles = {one.name: loaded for one in target.wanted}
            return replace(before, troubles=troubles), TROUBLED_SECONDS
        if target.is_held:
            return View(loaded=_client_names(target, loaded)), SETTLED_SECONDS
        found = steps(
            target.wanted if silence is None else _in_volumes(target.wanted),
            fetched=fetched,
            loaded=loaded,
            mount_paths=target.mount_paths,
            calls=target.calls,
            served_name=target.served_name,
            max_rank=target.max_rank,
        )
        if silence is not None:
            # What was fetched before goes on serving: nothing of it is unloaded now.
            found.unloads.clear()
            unknown = {one.name for one in target.wanted if one.address}
            if self._is_silent(target.uid):
                found.troubles |= dict.fromkeys(unknown, silence)
            else:
                found.fetching |= unknown
        elif (due := self._due.get(target.uid)) is not None:
            due.silent_since = None
        is_told = await self._loader.carry_out(target, found, loaded)
        view = View(
            loaded=_client_names(target, loaded),
            fetched=commits,
            fetching=frozenset(found.fetching),
            troubles=dict(found.troubles),
            waiting=dict(found.waiting),
        )
        if found.fetching or not is_told:
            return view, BUSY_SECONDS
        return view, TROUBLED_SECONDS if found.troubles or found.waiting else SETTLED_SECONDS

    def _is_silent(self, uid: str) -> bool:
        """Whether its container has not answered for so long that it is told."""
        now, due = self._clock(), self._due.get(uid)
        if due is None:
            return False
        due.silent_since = now if due.silent_since is None else due.silent_since
        return now - due.silent_since >= SILENT_SECONDS


def _client_names(target: Target, loaded: Iterable[str]) -> frozenset[str]:
    return frozenset(target.calls.client_name(name, target.served_name) for name in loaded)


def _commit(told: FetchTold | None) -> str | None:
    return None if told is None else commit_of(told.source)


def _in_volumes(wanted: tuple[Adapter, ...]) -> tuple[Adapter, ...]:
    """Those that nothing has to be fetched for."""
    return tuple(one for one in wanted if one.address is None)


def _fetch_troubles(fetched: Mapping[str, FetchTold]) -> dict[str, str]:
    return {name: why for name, told in fetched.items() if (why := told.trouble) is not None}


def _target(deployment: Deployment, replica: Replica, held: ListInEffect | None) -> Target | None:
    """A replica as it is to be told; None for one that cannot be: it ends, or has no slots.

    ``held``: what it should have; None where nobody knows, so that it is only looked at.
    """
    address = mapping(replica.obj.get("status")).get("podIP")
    calls, mount_paths = CALLS.get(deployment.engine), mount_paths_of(replica.obj)
    if (
        calls is None
        or deployment.slots is None
        or not isinstance(address, str)
        or replica.is_terminating
        or replica.is_terminal
        or mount_paths is None
        or replica.sleep_state is not None  # its calls hang while it sleeps; it loads when it wakes
    ):
        return None
    return Target(
        uid=replica.uid,
        pod=replica.key,
        address=address,
        is_ready=replica.is_ready,
        num_restarts=replica.num_restarts,
        wanted=() if held is None else held.wanted,
        is_held=held is None,
        commits={} if held is None else held.commits,
        mount_paths=mount_paths,
        calls=calls,
        served_name=deployment.served_name,
        max_rank=deployment.slots.max_rank,
    )
