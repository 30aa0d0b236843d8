"""Does the API server answer?"""

from collections.abc import Iterator

from memroute_cli.doctor.facts import Facts, Unread
from memroute_cli.doctor.finding import Finding, failed, ok

NAME = "api-server"


def check(facts: Facts) -> Iterator[Finding]:
    """One finding."""
    if isinstance(facts.server_version, Unread):
        yield failed(NAME, facts.server_version.why, facts.server_version.next_step)
    else:
        yield ok(NAME, f"Kubernetes {facts.server_version} answers")
