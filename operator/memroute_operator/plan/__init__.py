"""What to do next, from the facts alone: pure, and the same for the same facts.

```text
facts ──► who must go, who stays, who is too many      (keeping)
      ──► room: claims, successors, what is missing    (one Solver, one ledger: rollout, step)
      ──► actions, and what status tells               (actions)
```

One step at a time, level-triggered: each reconcile looks at all pods anew and names the actions
that bring them closer to what is wanted. Whoever is given room in a step is counted for everybody
after it, in the order: what exists, claims whose pod has gone, successors of what serves, what
has run before, what is new: by priority first, then by age.
"""

from memroute_operator.plan.actions import (
    Action,
    ClaimRoom,
    Create,
    Delete,
    EndFetch,
    FetchAhead,
    GiveWay,
    MarkDraining,
    MarkSleep,
    OnPods,
    OpenGate,
    Outcome,
    Overbooked,
    PlanContext,
    Step,
)
from memroute_operator.plan.step import plan_step
from memroute_operator.plan.wishes import wanted_replica

__all__ = [
    "Action",
    "ClaimRoom",
    "Create",
    "Delete",
    "EndFetch",
    "FetchAhead",
    "GiveWay",
    "MarkDraining",
    "MarkSleep",
    "OnPods",
    "OpenGate",
    "Outcome",
    "Overbooked",
    "PlanContext",
    "Step",
    "plan_step",
    "wanted_replica",
]
