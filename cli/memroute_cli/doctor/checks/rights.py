"""May this person do what the commands do, and the operator what it needs?"""

from collections.abc import Iterable, Iterator

from memroute_cli.doctor.facts import Facts, Right, Rights, Unread
from memroute_cli.doctor.finding import Finding, failed, ok, unknown, warning

GROUP = "memroute.dev"
# Rights that are named one by one.
MAX_NAMED = 4
# What the operator reads of the whole cluster, whatever it looks after: a device is taken, whoever
# has it.
READ = (
    ("list", GROUP, "modeldeployments"), ("watch", GROUP, "modeldeployments"),
    ("list", "", "pods"), ("watch", "", "pods"), ("list", "", "nodes"), ("watch", "", "nodes"),
    ("list", "resource.k8s.io", "resourceslices"), ("list", "resource.k8s.io", "resourceclaims"),
    ("list", "policy", "poddisruptionbudgets"),
    ("list", "scheduling.k8s.io", "priorityclasses"),
    ("list", "apiextensions.k8s.io", "customresourcedefinitions"),
    ("watch", "apiextensions.k8s.io", "customresourcedefinitions"),
)  # fmt: skip
# What it writes, and the Events that it reads, where it looks after models.
WRITTEN = (
    ("patch", GROUP, "modeldeployments/status"),
    ("create", "", "pods"), ("patch", "", "pods"), ("delete", "", "pods"),
    ("create", "policy", "poddisruptionbudgets"), ("delete", "policy", "poddisruptionbudgets"),
    ("create", "", "events"), ("list", "", "events"),
)  # fmt: skip
# Beside it, where it leads gateways to a picker (--picker-selector).
GATEWAYS = tuple(
    (verb, group, resource)
    for group, resource, verbs in (
        ("inference.networking.k8s.io", "inferencepools", "list watch create patch delete"),
        ("", "services", "get list watch create patch delete"),
        ("discovery.k8s.io", "endpointslices", "get list watch create patch delete"),
    )
    for verb in verbs.split()
)


def own_rights(namespace: str) -> tuple[Right, ...]:
    """What ``memroute top``, ``explain`` and ``plan --cluster`` do."""
    return (
        Right("list", "", "nodes"),
        Right("list", "", "pods"),
        Right("list", GROUP, "modeldeployments"),
        Right("get", "", "configmaps", namespace, "memroute-fleet"),
    )


def operator_rights(
    namespace: str, scopes: Iterable[str] = (), *, leads_gateways: bool = False
) -> tuple[Right, ...]:
    """What the operator does: a test compares them with its roles.

    ``scopes``: the namespaces that it looks after and writes in; none: all. ``leads_gateways``:
    whether it writes InferencePools.
    """
    own = (
        ("create", "coordination.k8s.io", "leases", None),
        ("get", "coordination.k8s.io", "leases", "memroute-operator"),
        ("update", "coordination.k8s.io", "leases", "memroute-operator"),
        ("get", "", "configmaps", "memroute-served-names"),
        ("get", "", "configmaps", "memroute-hbm-quotas"),
        ("create", "", "configmaps", None),
        ("get", "", "configmaps", "memroute-calibrations"),
        ("patch", "", "configmaps", "memroute-calibrations"),
        ("patch", "", "configmaps", "memroute-fleet"),
        ("patch", "", "configmaps", "memroute-map"),
        ("get", "", "configmaps", "memroute-weights"),
        ("patch", "", "configmaps", "memroute-weights"),
    )
    return (
        *(Right(verb, group, resource) for verb, group, resource in READ),
        *(
            Right(verb, group, resource, scope)
            for scope in tuple(scopes) or (None,)
            for verb, group, resource in WRITTEN + (GATEWAYS if leads_gateways else ())
        ),
        *(Right(verb, group, resource, namespace, name) for verb, group, resource, name in own),
        Right("list", "coordination.k8s.io", "leases", "kube-node-lease"),
    )


def check(facts: Facts) -> Iterator[Finding]:
    """Yours, then the operator's."""
    missing = _missing(facts.own_rights)
    if isinstance(facts.own_rights, Unread):
        yield unknown("your-rights", facts.own_rights.why, facts.own_rights.next_step)
    elif missing:
        yield warning(
            "your-rights",
            f"you may not {_named(missing)}: top, explain and plan --cluster need it",
            "have the ClusterRole memroute-look bound to you",
        )
    else:
        yield ok("your-rights", "you may read what top, explain and plan --cluster show")
    for operator in facts.operators:
        yield from _of_operator(operator.rights, facts.named(operator))


def _of_operator(rights: Rights, who: str) -> Iterator[Finding]:
    if isinstance(rights, Unread):
        yield unknown("operator-rights", rights.why, rights.next_step)
        return
    missing = _missing(rights)
    if missing:
        yield failed(
            "operator-rights", f"the service account of {who} may not {_named(missing)}",
            "apply the chart's ClusterRole, Roles and bindings again (helm upgrade)",
        )  # fmt: skip
    elif rights:
        yield ok("operator-rights", f"the service account of {who} may do all {len(rights)} things")


def _missing(rights: Rights) -> list[Right]:
    if isinstance(rights, Unread):
        return []
    return [right for right, is_granted in rights.items() if not is_granted]


def _named(rights: list[Right]) -> str:
    more = len(rights) - MAX_NAMED
    words = ", ".join(right.words for right in rights[:MAX_NAMED])
    return words + (f" and {more} more" if more > 0 else "")
