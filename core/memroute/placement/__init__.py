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
)
from memroute.placement.ledger import OVERBOOKED_TOLERANCE_BYTES, Ledger
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
    "NAME_FIELD",
    "OVERBOOKED_TOLERANCE_BYTES",
    "Decision",
    "Departed",
    "Device",
    "DeviceUse",
    "FleetUse",
    "Home",
    "Inventory",
    "LabelOperator",
    "LabelRequirement",
    "Ledger",
    "Node",
    "NodeTerm",
    "NodeUse",
    "Placed",
    "PlacementMode",
    "PlacementStrategy",
    "Refused",
    "RefusedReason",
    "ReplicaKey",
    "Reservation",
    "SchedulingNeeds",
    "Solver",
    "Taint",
    "TaintEffect",
    "Toleration",
    "Verdict",
    "WantedReplica",
    "claim_of",
    "fleet_use",
    "plan",
    "uses",
    "verdicts",
]
