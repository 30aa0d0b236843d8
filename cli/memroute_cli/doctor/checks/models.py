"""Do the models that are asked for serve?"""

from collections.abc import Iterator

from memroute_cli.doctor.facts import Facts, Unread, status_of
from memroute_cli.doctor.finding import Finding, ok, unknown, warning
from memroute_kube.resources import is_condition_true, object_key
from memroute_kube.shapes import listed, mapping

NAME = "models"
# Models that are named one by one.
MAX_NAMED = 5


def check(facts: Facts) -> Iterator[Finding]:
    """One finding for each model that does not serve, else one for all."""
    found = facts.model_deployments
    if isinstance(found, Unread):
        yield unknown(NAME, found.why, found.next_step)
        return
    waiting = [one for one in found if not is_condition_true(one, "Ready")]
    for one in waiting[:MAX_NAMED]:
        conditions = map(mapping, listed(status_of(one).get("conditions")))
        ready = next((c for c in conditions if c.get("type") == "Ready"), {})
        why = ready.get("reason") or "the operator has told nothing of it"
        does = (
            "serves, but is not Ready" if is_condition_true(one, "Available") else "does not serve"
        )
        yield warning(NAME, f"{object_key(one)} {does}: {why}",
                      f"memroute explain {object_key(one)}")  # fmt: skip
    if len(waiting) > MAX_NAMED:
        more = len(waiting) - MAX_NAMED
        yield warning(NAME, f"{more} more ModelDeployments are not Ready", "kubectl get mdep -A")
    if not found:
        yield ok(NAME, "there is no ModelDeployment yet")
    elif not waiting:
        yield ok(NAME, f"{len(found)} of {len(found)} ModelDeployments serve")
