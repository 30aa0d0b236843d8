"""Does an operator hold the Lease, and did it renew it lately? Without it nobody writes."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from memroute_cli.doctor.facts import OPERATOR, Facts, Unread, arguments_of, name_of, spec_of
from memroute_cli.doctor.finding import Finding, failed, ok, unknown
from memroute_kube import KubeObject

NAME = "lease"
LEASE = "memroute-operator"
NO_ELECTION = "--no-leader-election"
# Where the Lease does not say: the operator's default, seconds.
USUAL_DURATION_SECONDS = 15.0
# Clocks of nodes and of this machine differ: a Lease counts as old from twice its duration on.
AGE_FACTOR = 2.0


def check(facts: Facts) -> Iterator[Finding]:
    """One finding; none where there is no operator that could hold it."""
    operators = facts.programs(OPERATOR)
    if isinstance(facts.leases, Unread):
        yield unknown(NAME, facts.leases.why, facts.leases.next_step)
    elif isinstance(operators, Unread) or operators:
        some = () if isinstance(operators, Unread) else operators
        if some and all(arguments_of(one, NO_ELECTION) for one in some):
            yield ok(NAME, f"the operator was told to take none ({NO_ELECTION})")
        else:
            yield _lease(facts, [one for one in facts.leases if name_of(one) == LEASE])


def _lease(facts: Facts, leases: Sequence[KubeObject]) -> Finding:
    named = f"Lease {facts.namespace}/{LEASE}"
    logs = f"kubectl -n {facts.namespace} logs deploy/memroute-operator"
    if not leases:
        return failed(NAME, f"no operator has written {named}: none has led", logs)
    spec = spec_of(leases[0])
    holder, renewed = spec.get("holderIdentity"), read_time(spec.get("renewTime"))
    if not holder:
        return failed(NAME, f"nobody holds {named}: nobody writes", logs)
    if renewed is None:
        return unknown(NAME, f"{holder} holds the Lease; since when is not readable", logs)
    age = (facts.now - renewed).total_seconds()
    duration = float(spec.get("leaseDurationSeconds") or USUAL_DURATION_SECONDS)
    if age > AGE_FACTOR * duration:
        return failed(
            NAME, f"{holder} holds the Lease and renewed it {age:,.0f} s ago: nobody writes", logs
        )
    return ok(NAME, f"{holder} leads; it renewed its Lease {max(0.0, age):.0f} s ago")


def read_time(text: object) -> datetime | None:
    """RFC 3339; None where it is not."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if found.tzinfo is None else found
