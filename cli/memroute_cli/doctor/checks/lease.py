"""Does an operator hold the Lease, and did it renew it lately? Without it nobody writes."""

from collections.abc import Iterator
from datetime import datetime

from memroute_cli.doctor.facts import OPERATOR, Facts, Unread, name_of, spec_of
from memroute_cli.doctor.finding import Finding, failed, ok, unknown

NAME = "lease"
LEASE = "memroute-operator"
# Where the Lease does not say: the operator's default, seconds.
USUAL_DURATION_SECONDS = 15.0
# Clocks of nodes and of this machine differ: a Lease counts as old from twice its duration on.
AGE_FACTOR = 2.0


def check(facts: Facts) -> Iterator[Finding]:
    """One finding; none where there is no operator that could hold it."""
    operators = facts.programs(OPERATOR)
    if isinstance(facts.leases, Unread):
        yield unknown(NAME, facts.leases.why, facts.leases.next_step)
        return
    if not isinstance(operators, Unread) and not operators:
        return
    leases = [one for one in facts.leases if name_of(one) == LEASE]
    logs = f"kubectl -n {facts.namespace} logs deploy/memroute-operator"
    if not leases:
        yield failed(
            NAME, f"no operator has written Lease {facts.namespace}/{LEASE}: none has led", logs
        )
        return
    spec = spec_of(leases[0])
    holder, renewed = spec.get("holderIdentity"), read_time(spec.get("renewTime"))
    if not holder:
        yield failed(NAME, f"nobody holds Lease {facts.namespace}/{LEASE}: nobody writes", logs)
        return
    if renewed is None:
        yield unknown(NAME, f"{holder} holds the Lease; since when is not readable", logs)
        return
    age = (facts.now - renewed).total_seconds()
    duration = float(spec.get("leaseDurationSeconds") or USUAL_DURATION_SECONDS)
    if age > AGE_FACTOR * duration:
        yield failed(
            NAME,
            f"{holder} holds the Lease and renewed it {age:,.0f} s ago: nobody writes",
            logs,
        )
        return
    yield ok(NAME, f"{holder} leads; it renewed its Lease {max(0.0, age):.0f} s ago")


def read_time(text: object) -> datetime | None:
    """RFC 3339; None where it is not."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if found.tzinfo is None else found
