"""How many tokens the KV caches of replicas really hold, where their engines have said so.

An engine that has a whole device sizes its pool by itself: what it was expected to hold when it was
placed is an estimate, which is on its pod for good. What it reports is read once, and again after
a restart of the operator; until then what the status says of that pod counts.
"""

from collections.abc import Iterable, Mapping

from memroute_kube.shapes import listed, mapping, tokens
from memroute_operator.engines.reports import EngineReport, PartsReport, PoolReport
from memroute_operator.replicas.replica import Replica
from memroute_operator.spec.deployment import Deployment


def measured_kv_tokens(
    replicas: Iterable[Replica],
    reports: Mapping[str, EngineReport | None],
    deployments: Mapping[str, Deployment],
) -> dict[str, int]:
    """Tokens by the pod's uid, of those that are known; ``deployments``: by key."""
    found: dict[str, int] = {}
    told: dict[str, dict[str, int]] = {}
    for replica in replicas:
        if replica.uid in reports:
            report = reports[replica.uid]
            size = report.kv_tokens if isinstance(report, PoolReport | PartsReport) else None
        elif replica.is_ready and (deployment := deployments.get(replica.deployment)) is not None:
            key = deployment.key
            if key not in told:
                told[key] = _told(deployment)
            size = told[key].get(replica.pod_name)
        else:
            continue
        if size is not None:
            found[replica.uid] = size
    return found


def _told(deployment: Deployment) -> dict[str, int]:
    """What the status says, by the pod's name."""
    status = mapping(deployment.obj.get("status"))
    found = {}
    for one in map(mapping, listed(status.get("placements"))):
        name, size = one.get("pod"), tokens(one.get("kvCapacityTokens"))
        if isinstance(name, str) and size is not None:
            found[name] = size
    return found
