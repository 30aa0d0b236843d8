"""Is a webhook in the way that refuses every pod while it does not answer?"""

from collections.abc import Iterator
from typing import Any

from memroute_cli.doctor.checks.network import ready_endpoints
from memroute_cli.doctor.facts import Facts, Unread, name_of
from memroute_cli.doctor.finding import Finding, failed, ok, unknown
from memroute_kube.shapes import listed, mapping

NAME = "webhooks"


def check(facts: Facts) -> Iterator[Finding]:
    """One finding for each that fails closed with nobody behind it; else one for all."""
    if isinstance(facts.webhooks, Unread):
        yield unknown(NAME, facts.webhooks.why, facts.webhooks.next_step)
        return
    closed = [
        (name_of(configuration), dict(mapping(hook)))
        for configuration in facts.webhooks
        for hook in listed(configuration.get("webhooks"))
        if mapping(hook).get("failurePolicy", "Fail") == "Fail" and _asks_for_ours(mapping(hook))
    ]
    dead = [(name, hook) for name, hook in closed if _is_dead(facts, hook)]
    for name, hook in dead:
        yield failed(
            NAME,
            f"webhook {hook.get('name')} of {name} refuses what it cannot see, and no pod is "
            "behind its Service: no engine can be made",
            f"mend its Service, or kubectl get {name} and set failurePolicy: Ignore",
        )
    if not dead:
        told = (
            f"{len(closed)} webhook(s) may refuse pods, all with pods behind them"
            if closed
            else "no webhook that fails closed is asked about pods"
        )
        yield ok(NAME, told)


def _asks_for_ours(hook: Any) -> bool:
    """Whether it is asked when a pod or a ModelDeployment is made."""
    for rule in map(mapping, listed(hook.get("rules"))):
        resources, groups = listed(rule.get("resources")), listed(rule.get("apiGroups"))
        for resource, group in (("pods", ""), ("modeldeployments", "memroute.dev")):
            if {resource, "*", "*/*"} & set(resources) and {group, "*"} & set(groups):
                return True
    return False


def _is_dead(facts: Facts, hook: dict[str, Any]) -> bool:
    service = mapping(mapping(hook.get("clientConfig")).get("service"))
    if not service:
        return False
    named = {"metadata": {"namespace": service.get("namespace"), "name": service.get("name")}}
    return ready_endpoints(facts, named) == 0
