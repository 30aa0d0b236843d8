"""What a program may do, and what it has done by the API server's audit log."""

import json


def granted(cluster, program):
    """(group, resource, verb) of every rule, of the whole cluster or of its own namespace."""
    name = f"memroute-{program}"
    everywhere = f"{name}-memroute-system"
    role = json.loads(cluster.kubectl("get", "clusterrole", everywhere, "-o", "json"))
    own = [
        r
        for namespace in ("memroute-system", "kube-node-lease")
        for r in cluster.get("roles", "-n", namespace)
        if r["metadata"]["name"] in (name, everywhere)
    ]
    return {
        (group, resource, verb)
        for rule in [*role["rules"], *(rule for r in own for rule in r["rules"])]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


# The operator asks for the Secret that a ModelDeployment names: its namespace lets it have that
# one, or does not. No right of the installation is about it.
GRANTED_BY_NAMESPACES = ("", "secrets", "get")


def used(cluster, program):
    """(group, resource, verb) of every call that a rule was needed for, and the refused ones."""
    user = f"system:serviceaccount:memroute-system:memroute-{program}"
    calls, refused = set(), []
    for line in cluster.audit_log.read_text().splitlines():
        event = json.loads(line)
        if event["user"]["username"] != user or "objectRef" not in event:
            continue
        reference = event["objectRef"]
        if "resource" not in reference:
            continue
        resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
        call = (reference.get("apiGroup", ""), resource, event["verb"])
        if call == GRANTED_BY_NAMESPACES:
            continue
        # Not by status alone: a quota refuses with 403 too.
        if event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid":
            refused.append(call)
        calls.add(call)
    return calls, refused
