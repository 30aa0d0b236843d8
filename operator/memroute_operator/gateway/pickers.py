"""Where the endpoint picker's pods are: a gateway is led to those that are ready."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from memroute_kube import KubeObject
from memroute_kube.gateway import PICKER_PORT
from memroute_kube.resources import is_condition_true
from memroute_operator.readings.sources import PodSelector


@dataclass(frozen=True, slots=True, kw_only=True)
class Pickers:
    """The picker that this operator leads gateways to."""

    namespace: str | None
    """Of its pods; None: they may be in any."""
    labels: Mapping[str, str] | None
    """That select its pods; None: its selector says more than labels can."""
    port: int
    is_tls: bool = False
    addresses: tuple[str, ...] = ()
    """Of the pods that are ready, in order."""


def find_pickers(
    pods: Iterable[KubeObject], selector: PodSelector, *, is_tls: bool = False
) -> Pickers:
    """The picker, by the pods of the whole cluster."""
    found = {
        str(address)
        for pod in pods
        if selector.matches(pod) and (address := pod.get("status", {}).get("podIP"))
        if is_condition_true(pod, "Ready") and "deletionTimestamp" not in pod["metadata"]
    }
    return Pickers(
        namespace=selector.namespace,
        labels=_labels(selector),
        port=selector.port or PICKER_PORT,
        is_tls=is_tls,
        addresses=tuple(sorted(found)),
    )


def _labels(selector: PodSelector) -> dict[str, str] | None:
    labels = {}
    for one in selector.requirements:
        if one.is_negated or one.values is None or len(one.values) != 1:
            return None
        labels[one.key] = next(iter(one.values))
    return labels
