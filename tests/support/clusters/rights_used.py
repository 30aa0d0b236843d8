"""What a program may do, and what it has done by the API server's audit log."""

import json


def granted(cluster, program):
    """(group, resource, verb) of every rule, of the whole cluster or of its own namespace."""
    name = f"memroute-{program}"
    everywhere = f"{name}-memroute-system"
    own = [
        r
        for namespace in ("memroute-system", "kube-node-lease")
        for r in cluster.get("roles", "-n", namespace)
        if r["metadata"]["name"] in (name, everywhere)
    ]
    role = cluster.read("clusterroles", "", everywhere)
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


class Used:
    """What a program has called so far. Reads each line of the log once."""

    def __init__(self, cluster, program):
        self._log = cluster.audit_log
        self._user = f"system:serviceaccount:memroute-system:memroute-{program}"
        self._read_bytes = 0
        self.calls = set()
        """(group, resource, verb) of every call that a rule was needed for."""
        self.refused = []
        """Those of them that no rule allowed."""

    def look(self):
        """Read on; all calls so far."""
        with self._log.open("rb") as log:
            log.seek(self._read_bytes)
            for line in log:
                if not line.endswith(b"\n"):
                    break  # it is being written
                self._read_bytes += len(line)
                if self._user.encode() in line:
                    self._take(json.loads(line))
        return self.calls

    def _take(self, event):
        reference = event.get("objectRef", {})
        if event["user"]["username"] != self._user or "resource" not in reference:
            return
        resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
        call = (reference.get("apiGroup", ""), resource, event["verb"])
        if call == GRANTED_BY_NAMESPACES:
            return
        # Not by status alone: a quota refuses with 403 too.
        if event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid":
            self.refused.append(call)
        self.calls.add(call)


def check_rights(cluster, program, is_about=lambda _resource: True):
    """Every right is used by now or soon, every call was allowed, and none needs another right.

    ``is_about``: whether the rights to a resource are looked at.
    """
    rights = {one for one in granted(cluster, program) if is_about(one[1])}
    used = Used(cluster, program)
    try:
        # The log is written after the answer, and some calls are made by loops.
        cluster.wait_for("every right to be used", lambda: used.look() >= rights)
    except TimeoutError as error:
        msg = f"{program} has not used {sorted(rights - used.calls)}"
        raise AssertionError(msg) from error
    assert used.refused == []
    assert {one for one in used.calls if is_about(one[1])} == rights
