"""Which idle models fall asleep so that a new replica that may sleep finds a place. Pure.

It is tried on the step's own ledger, as if they slept, and taken back: nothing is counted before
an engine has confirmed its sleep.
"""

from collections.abc import Sequence

from memroute.placement import Placed, Solver, WantedReplica
from memroute_operator.sleeping.models import Model
from memroute_operator.sleeping.room import Candidate


def room_for_newcomer(
    wanted: WantedReplica, solver: Solver, candidates: Sequence[Candidate]
) -> tuple[Model, ...]:
    """The models that are to sleep, idle for longest first; empty where that would not help."""
    if wanted.rest_bytes is None or not _helps(wanted, solver, candidates):
        return ()
    asleep: list[str] = []
    chosen: list[Model] = []
    fits = False
    for one in sorted(candidates, key=lambda one: (-one.idle_seconds, one.model.key)):
        chosen.append(one.model)
        for replica in one.model.awake:
            solver.change_sleep(replica.key, is_asleep=True)
            asleep.append(replica.key)
        if isinstance(solver.look(wanted), Placed):
            fits = True
            break
    where = _devices_of(solver, wanted) if fits else frozenset()
    for key in asleep:
        solver.change_sleep(key, is_asleep=False)
    # Those that were tried before, and are not where it goes, need not sleep.
    return tuple(
        model for model in chosen if any(where & one.device_bytes.keys() for one in model.awake)
    )


def _helps(wanted: WantedReplica, solver: Solver, candidates: Sequence[Candidate]) -> bool:
    """Whether it would find a place if all of them slept: one look, where one by one takes many."""
    keys = [replica.key for one in candidates for replica in one.model.awake]
    if not keys:
        return False
    for key in keys:
        solver.change_sleep(key, is_asleep=True)
    fits = isinstance(solver.look(wanted), Placed)
    for key in keys:
        solver.change_sleep(key, is_asleep=False)
    return fits


def _devices_of(solver: Solver, wanted: WantedReplica) -> frozenset[str]:
    found = solver.look(wanted)
    return frozenset(found.device_uuids) if isinstance(found, Placed) else frozenset()
