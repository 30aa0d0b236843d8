"""Which accelerators? A pure function from an inventory and wanted replicas to decisions.

```text
Inventory (nodes, devices, what is promised, what is in use)
   + WantedReplica, ...                                     ──plan()──►  Placed | Refused, ...
```

Replicas that already run are part of the inventory, as reservations: what runs is never
moved. Each decision carries its reason, ready for a status condition.
"""

from memroute.placement.inventory import (
    Device,
    Inventory,
    Node,
    PlacementMode,
    Reservation,
)
from memroute.placement.problem import (
    Decision,
    Placed,
    PlacementStrategy,
    Refused,
    RefusedReason,
    ReplicaKey,
    WantedReplica,
)
from memroute.placement.solver import plan

__all__ = [
    "Decision",
    "Device",
    "Inventory",
    "Node",
    "Placed",
    "PlacementMode",
    "PlacementStrategy",
    "Refused",
    "RefusedReason",
    "ReplicaKey",
    "Reservation",
    "WantedReplica",
    "plan",
]
