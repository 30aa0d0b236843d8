"""Which accelerators? A pure function from an inventory and wanted replicas to decisions.

```text
Inventory (nodes, devices, what is promised, what is in use)
   + WantedReplica, ...                                     ──plan()──►  Placed | Refused, ...
```

Replicas that already run are part of the inventory, as reservations: what runs is never
moved. Each decision carries its reason, ready for a status condition.
"""

from memroute.placement.inventory import (
    Departed,
    Device,
    Inventory,
    Node,
    PlacementMode,
    Reservation,
    SleepHold,
)
from memroute.placement.ledger import OVERBOOKED_TOLERANCE_BYTES, Ledger
from memroute.placement.neighbours import (
    ANY_NEIGHBOURS,
    DEVICE_TOPOLOGY,
    Neighbour,
    NeighbourNeeds,
    PodTerm,
    SpreadConstraint,
)
from memroute.placement.preemption import Preemption, Preemptor, Victim
from memroute.placement.problem import (
    Decision,
    Home,
    Placed,
    PlacementStrategy,
    Refused,
    RefusedReason,
    ReplicaKey,
    WantedReplica,
)
from memroute.placement.quota import DEFAULT_KEY, NO_QUOTAS, HBMQuotas, excess
from memroute.placement.scheduling import (
    ANYWHERE,
    NAME_FIELD,
    LabelOperator,
    LabelRequirement,
    NodeTerm,
    SchedulingNeeds,
    Taint,
    TaintEffect,
    Toleration,
)
from memroute.placement.solver import Solver, claim_of, plan
from memroute.placement.usage import DeviceUse, FleetUse, NodeUse, fleet_use, uses
from memroute.placement.verdicts import Verdict, verdicts

__all__ = [
    "ANYWHERE",
    "ANY_NEIGHBOURS",
    "DEFAULT_KEY",
    "DEVICE_TOPOLOGY",
    "NAME_FIELD",
    "NO_QUOTAS",
    "OVERBOOKED_TOLERANCE_BYTES",
    "Decision",
    "Departed",
    "Device",
    "DeviceUse",
    "FleetUse",
    "HBMQuotas",
    "Home",
    "Inventory",
    "LabelOperator",
    "LabelRequirement",
    "Ledger",
    "Neighbour",
    "NeighbourNeeds",
    "Node",
    "NodeTerm",
    "NodeUse",
    "Placed",
    "PlacementMode",
    "PlacementStrategy",
    "PodTerm",
    "Preemption",
    "Preemptor",
    "Refused",
    "RefusedReason",
    "ReplicaKey",
    "Reservation",
    "SchedulingNeeds",
    "SleepHold",
    "Solver",
    "SpreadConstraint",
    "Taint",
    "TaintEffect",
    "Toleration",
    "Verdict",
    "Victim",
    "WantedReplica",
    "claim_of",
    "excess",
    "fleet_use",
    "plan",
    "uses",
    "verdicts",
]
