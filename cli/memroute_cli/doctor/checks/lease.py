"""Does an operator hold the Lease, and did it renew it lately? Without it nobody writes."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from memroute_cli.doctor.facts import OPERATOR, Facts, Operator, Unread, arguments_of, spec_of
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
    """One finding for each operator; none where there is none that could hold a Lease."""
    programs = facts.programs(OPERATOR)
    if isinstance(facts.leases, Unread):
        yield unknown(NAME, facts.leases.why, facts.leases.next_step)
        return
    if not isinstance(programs, Unread) and not programs:
        return
    for operator in facts.operators:
        own = [] if isinstance(programs, Unread) else [
            one for one in programs if one["metadata"].get("namespace") == operator.namespace
        ]  # fmt: skip
        if own and all(arguments_of(one, NO_ELECTION) for one in own):
            yield ok(NAME, f"{facts.named(operator)} was told to take none ({NO_ELECTION})")
        else:
            leases = [one for one in facts.leases if _is_of(one, operator)]
            yield _lease(facts, operator, leases)


def _is_of(lease: KubeObject, operator: Operator) -> bool:
    metadata = lease["metadata"]
    return (metadata.get("name"), metadata.get("namespace")) == (LEASE, operator.namespace)


def _lease(facts: Facts, operator: Operator, leases: Sequence[KubeObject]) -> Finding:
    named = f"Lease {operator.namespace}/{LEASE}"
    logs = operator.logs
    if not leases:
        return failed(NAME, f"no operator has written {named}: none has led", logs)
    spec = spec_of(leases[0])
    holder, renewed = spec.get("holderIdentity"), read_time(spec.get("renewTime"))
    if not holder:
        return failed(NAME, f"nobody holds {named}: nobody writes", logs)
    if renewed is None:
        return unknown(NAME, f"{holder} holds {named}; since when is not readable", logs)
    age = (facts.now - renewed).total_seconds()
    duration = float(spec.get("leaseDurationSeconds") or USUAL_DURATION_SECONDS)
    if age > AGE_FACTOR * duration:
        return failed(
            NAME, f"{holder} holds {named} and renewed it {age:,.0f} s ago: nobody writes", logs
        )
    return ok(NAME, f"{holder} leads; it renewed {named} {max(0.0, age):.0f} s ago")


def read_time(text: object) -> datetime | None:
    """RFC 3339; None where it is not."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if found.tzinfo is None else found
