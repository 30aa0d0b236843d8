"""Is something of a namespace in the way of engines: Pod Security, quotas?"""

from collections.abc import Iterator

from memroute_cli.doctor.facts import Facts, Unread, labels_of, name_of, spec_of, status_of
from memroute_cli.doctor.finding import Finding, ok, unknown, warning
from memroute_kube.quantities import parse_quantity
from memroute_kube.resources import object_key
from memroute_kube.shapes import mapping

ENFORCE = "pod-security.kubernetes.io/enforce"
POD_KEYS = ("pods", "count/pods")


def check(facts: Facts) -> Iterator[Finding]:
    """Of the namespaces in which models are."""
    if isinstance(facts.model_deployments, Unread):
        return
    own = {str(one["metadata"].get("namespace")) for one in facts.model_deployments}
    yield from _pod_security(facts, own)
    yield from _quotas(facts, own)


def _pod_security(facts: Facts, own: set[str]) -> Iterator[Finding]:
    if isinstance(facts.namespaces, Unread):
        yield unknown("pod-security", facts.namespaces.why, facts.namespaces.next_step)
        return
    levels = {name_of(one): labels_of(one).get(ENFORCE) for one in facts.namespaces}
    strict = sorted(name for name in own if levels.get(name) == "restricted")
    paths = sorted(
        {
            str(one["metadata"].get("namespace"))
            for one in facts.model_deployments
            if "hostPath" in str(mapping(spec_of(one).get("model")).get("source"))
        }
        & {name for name, level in levels.items() if level in ("restricted", "baseline")}
    ) if not isinstance(facts.model_deployments, Unread) else []  # fmt: skip
    if paths:
        yield warning(
            "pod-security",
            f"models in {', '.join(paths)} read weights from a hostPath, and Pod Security refuses "
            "such pods there",
            "use a PersistentVolumeClaim, or label the namespace "
            "pod-security.kubernetes.io/enforce=privileged",
        )
    elif own:
        told = f" ({', '.join(strict)}: restricted)" if strict else ""
        yield ok("pod-security", f"no label refuses engines in {len(own)} namespace(s){told}")


def _quotas(facts: Facts, own: set[str]) -> Iterator[Finding]:
    if isinstance(facts.quotas, Unread):
        yield unknown("quota", facts.quotas.why, facts.quotas.next_step)
        return
    number = 0
    for quota in facts.quotas:
        namespace = str(quota["metadata"].get("namespace"))
        if namespace not in own | {facts.namespace}:
            continue
        number += 1
        for resource, words in _full(quota):
            yield warning(
                "quota",
                f"ResourceQuota {object_key(quota)} has no room for another pod: "
                f"{resource} {words}",
                f"kubectl -n {namespace} describe quota {name_of(quota)}",
            )
            break
        else:
            yield ok("quota", f"ResourceQuota {object_key(quota)} has room")
    if not number and own:
        yield ok("quota", "no ResourceQuota is in the namespaces of models")


def _full(quota: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Resources of a quota that are used up."""
    status = status_of(quota)
    used = mapping(status.get("used"))
    for resource, hard in mapping(status.get("hard")).items():
        matters = resource in POD_KEYS or resource.startswith(("requests.", "limits."))
        limit, taken = parse_quantity(hard), parse_quantity(used.get(resource))
        if matters and limit is not None and taken is not None and taken >= limit:
            yield resource, f"{used.get(resource)} of {hard}"
