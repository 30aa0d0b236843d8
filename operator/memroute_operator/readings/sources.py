"""Which pods are believed, and what is said once when one of them stops making sense.

A label alone proves nothing: whoever may create a pod anywhere may give it any label. So a
selector names a namespace too, in which only the cluster's administrators create pods.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from memroute_kube import KubeObject

LOGGER = logging.getLogger(__name__)
ANY_NAMESPACE = "*"
_SELECTOR = re.compile(
    r"^(?:(?P<namespace>\*|[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)/)?"
    r"(?P<labels>[^:]+?)(?::(?P<port>\d{1,5}))?$"
)
_REQUIREMENT = re.compile(
    r"^(?P<key>[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?)"
    r"(?:\s*(?P<operator>==|=|!=)\s*(?P<value>[-A-Za-z0-9_.]*)"
    r"|\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?$"
)
_ABSENT = re.compile(r"^!\s*(?P<key>[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?)$")
# A comma outside of parentheses separates requirements.
_COMMA = re.compile(r",(?![^()]*\))")
_MAX_PORT = 65_535


class SelectorError(ValueError):
    """A selector that selects nothing, or everything; the message says what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One condition on a pod's labels."""

    key: str
    values: frozenset[str] | None
    """The values that count; None for any value."""
    is_negated: bool = False

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet it. As in Kubernetes, ``!=`` holds where the key is absent."""
        value = labels.get(self.key)
        holds = value is not None and (self.values is None or value in self.values)
        return holds is not self.is_negated


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSelector:
    """Pods of one namespace by their labels."""

    namespace: str | None
    """None for every namespace."""
    requirements: tuple[Requirement, ...]
    port: int | None = None
    """Where the pods serve; None for the default."""
    needs_daemon_set: bool = False
    """Whether only pods of a DaemonSet count: an exporter speaks for its node."""

    def matches(self, pod: KubeObject) -> bool:
        """Whether the pod is one of them."""
        metadata = pod["metadata"]
        if self.namespace is not None and metadata.get("namespace") != self.namespace:
            return False
        if self.needs_daemon_set and not any(
            owner.get("kind") == "DaemonSet" and owner.get("controller")
            for owner in metadata.get("ownerReferences") or ()
        ):
            return False
        labels = metadata.get("labels") or {}
        return all(requirement.matches(labels) for requirement in self.requirements)


def parse_pod_selector(
    text: str, *, own_namespace: str | None = None, needs_daemon_set: bool = False
) -> PodSelector:
    """``[NAMESPACE/]LABELS[:PORT]`` as a selector. Raises ``SelectorError``.

    ``LABELS`` are Kubernetes' own: ``a=b``, ``a!=b``, ``a in (b, c)``, ``a notin (b)``, ``a``,
    ``!a``, separated by commas. Without a namespace the operator's own is meant; ``*`` means
    every namespace, and is believed at your own risk.
    """
    match = _SELECTOR.match(text.strip())
    if match is None:
        msg = f"{text!r} is no pod selector: write NAMESPACE/LABEL=VALUE, perhaps with :PORT"
        raise SelectorError(msg)
    requirements = tuple(_requirement(part.strip(), text) for part in _COMMA.split(match["labels"]))
    namespace = match["namespace"] or own_namespace
    port = None if match["port"] is None else int(match["port"])
    if port is not None and not 0 < port <= _MAX_PORT:
        msg = f"{text!r}: {port} is no port"
        raise SelectorError(msg)
    return PodSelector(
        namespace=None if namespace == ANY_NAMESPACE else namespace,
        requirements=requirements,
        port=port,
        needs_daemon_set=needs_daemon_set,
    )


def _requirement(part: str, whole: str) -> Requirement:
    if absent := _ABSENT.match(part):
        return Requirement(key=absent["key"], values=None, is_negated=True)
    match = _REQUIREMENT.match(part)
    if match is None:
        msg = f"{whole!r}: {part!r} is no condition on a label (LABEL=VALUE, LABEL in (A, B), …)"
        raise SelectorError(msg)
    if match["set"]:
        values = frozenset(value.strip() for value in match["values"].split(","))
        return Requirement(key=match["key"], values=values, is_negated=match["set"] == "notin")
    if match["operator"]:
        values = frozenset({match["value"]})
        return Requirement(key=match["key"], values=values, is_negated=match["operator"] == "!=")
    return Requirement(key=match["key"], values=None)


def first_match(selectors: Iterable[PodSelector], pod: KubeObject) -> PodSelector | None:
    """The first selector that the pod matches; None when it matches none."""
    return next((selector for selector in selectors if selector.matches(pod)), None)


@dataclass(slots=True)
class SourceLog:
    """What each source's last trouble was, so that it is logged when it changes, and only then."""

    kind: str
    """``exporter``, ``router`` or ``engine``: in every line."""
    troubles: dict[str, str] = field(default_factory=dict)
    """The kind of trouble of each source that has one."""

    def report(self, source: str, trouble: str | None, message: str = "") -> None:
        """A source has this trouble now (a kind that does not vary), or none."""
        before = self.troubles.get(source)
        if trouble == before:
            return
        if trouble is None:
            del self.troubles[source]
            LOGGER.info("%s is well again source=%s", self.kind, source)
        else:
            self.troubles[source] = trouble
            LOGGER.warning(
                "%s has trouble source=%s trouble=%s detail=%s", self.kind, source, trouble, message
            )

    def keep(self, sources: Iterable[str]) -> None:
        """Forget sources that are gone."""
        alive = set(sources)
        self.troubles = {name: what for name, what in self.troubles.items() if name in alive}
