"""Labels of the operator's metrics, and every value that they can have.

No label has a name that a scrape gives to what it scrapes (``namespace``, ``pod``, ``node``, …):
Prometheus would rename ours, or ours would hide its own (docs/adr/0043). A label with a fixed set
of values has a series for each from the start: ``rate()`` of one that begins with its first event
shows no rise of it.
"""

from memroute.placement import RefusedReason
from memroute_hub import HubReason
from memroute_operator.readings.pages import PageFailureReason
from memroute_operator.replicas.replica import ReplicaState
from memroute_operator.status.condition_names import ABNORMAL, LASTING

DEVICE = ("node_name", "device", "product")
DEPLOYMENT = ("model_namespace", "model_deployment")
REPLICA = (*DEPLOYMENT, "replica")

STATES = tuple(state.value for state in ReplicaState)
REFUSED_REASONS = tuple(reason.value for reason in RefusedReason)
CONDITIONS = (*LASTING, *ABNORMAL)
ACTIONS = ("Create", "Delete", "MarkDraining", "ClaimRoom", "GiveWay", "OpenGate", "MarkSleep")
WRITES = (*ACTIONS, "WriteStatus", "CreateBudget", "DeleteBudget")
# Of calls that are refused; others have a series from their first on.
STATUSES = ("0", "400", "403", "404", "409", "422", "429", "500", "503", "504")
HUB_RESULTS = ("Read", *(reason.value for reason in HubReason))
# Where exceptions that are bugs are held.
PLACES = (
    "adapters", "calibrations", "events", "fleet view", "gateway", "grants", "hub", "lane",
    "leases", "names", "pickers", "plan", "reconcile", "resync", "rules", "sleep", "status",
    "version",
)  # fmt: skip
READINGS = ("exporter", "router", "engine", "fetcher", "resource-slices")
# ConfigMaps of an administrator.
RULES = ("memroute-hbm-quotas", "memroute-served-names")
PURPOSES = ("weights", "kv-cache", "overhead", "unknown")
"""What reserved bytes are for; unknown: of a replica whose ModelDeployment cannot be read."""
_PAGE = tuple(reason.value for reason in PageFailureReason)
TROUBLES = {
    "exporter": (*_PAGE, "no-devices", "unreadable-lines"),
    "router": _PAGE,
    "engine": _PAGE,
    "fetcher": (*_PAGE, "no-progress"),
    "node": ("contradicts-node",),
}
"""What pages can be like that cannot be read or used, by their kind."""
