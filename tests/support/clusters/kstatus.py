"""What kstatus makes of a custom resource: Helm's ``--wait``, Flux and kpt go by it.

After ``pkg/kstatus/status/{status,generic}.go`` of sigs.k8s.io/cli-utils, for kinds that are not
built in. Flux's fork (fluxcd/cli-utils 1.2) has the same rules for them.
"""


def kstatus(obj):
    """``Current``, ``InProgress``, ``Failed`` or ``Terminating``."""
    metadata, status = obj["metadata"], obj.get("status") or {}
    if "deletionTimestamp" in metadata:
        return "Terminating"
    observed = status.get("observedGeneration")
    if observed is not None and observed != metadata.get("generation"):
        return "InProgress"
    conditions = status.get("conditions") or []
    for condition in conditions:
        if condition["status"] == "True" and condition["type"] == "Reconciling":
            return "InProgress"
        if condition["status"] == "True" and condition["type"] == "Stalled":
            return "Failed"
    ready = next((one for one in conditions if one["type"] == "Ready"), None)
    if ready is None or ready["status"] == "True":
        return "Current"
    return "InProgress"
