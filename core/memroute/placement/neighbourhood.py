"""The pods that are there while a plan places more: which nodes are left for whom, and why."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from memroute.placement.inventory import Node
from memroute.placement.neighbours import (
    DEVICE_TOPOLOGY,
    Neighbour,
    NeighbourNeeds,
    PodTerm,
    SpreadConstraint,
)

# kube-scheduler's words for its three refusals.
ANTI_AFFINITY = "didn't match pod anti-affinity rules"
EXISTING_ANTI_AFFINITY = "didn't satisfy existing pods anti-affinity rules"
AFFINITY = "didn't match pod affinity rules"
SPREAD = "didn't match pod topology spread constraints"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Where a replica may go, as far as its neighbours are concerned."""

    tiers: tuple[frozenset[str], ...]
    """Keys of nodes, the ones that it prefers first."""
    blocked_devices: frozenset[str] = frozenset()
    """Shared devices of those that it must not share."""
    left_out: Mapping[str, int]
    """Why nodes are left out, and how many."""


class Neighbourhood:
    """The pods of one planning step. Owns which of them are there so far.

    A look at a kind of pods costs a look at those with one label of it, and the first one with
    another label a look at all.
    """

    def __init__(self, pods: Iterable[Neighbour], nodes: Sequence[Node]) -> None:
        """Nothing is sorted before something is asked: most replicas ask nothing."""
        self._pods = list(pods)
        self._nodes = nodes
        self._labels = {node.name: node.labels for node in nodes}
        self._by_label: dict[str, dict[str, list[Neighbour]]] = {}
        self._domains: dict[str, dict[str, set[str]]] = {}
        self._gone: Collection[str] = ()
        self._picky: dict[tuple[str, str] | None, list[tuple[PodTerm, Neighbour]]] | None = None

    def add(self, pod: Neighbour) -> None:
        """One more is about to be there."""
        self._pods.append(pod)
        for key, by_value in self._by_label.items():
            if key in pod.labels:
                by_value.setdefault(pod.labels[key], []).append(pod)
        if self._picky is not None:
            self._add_picky(self._picky, pod)

    def allowed(
        self,
        namespace: str,
        needs: NeighbourNeeds,
        eligible: frozenset[str],
        gone: Collection[str] = (),
    ) -> Allowed | None:
        """Of the eligible nodes (by key) those that are left; None when all of them are alike.

        ``gone``: pods (``namespace/name``) that will have gone by then.
        """
        self._gone = gone
        if needs.is_empty and not self._has_picky():
            return None
        labels = dict(needs.labels)
        left, reasons = set(eligible), Counter[str]()
        devices: set[str] = set()

        def leave_out(keys: Iterable[str], reason: str) -> None:
            gone = left.intersection(keys)
            left.difference_update(gone)
            if gone:
                reasons[reason] += len(gone)

        for term in needs.apart:
            for pod in self._matching(term):
                devices.update(pod.device_uuids if term.topology_key == DEVICE_TOPOLOGY else ())
                leave_out(self._around(pod, term), ANTI_AFFINITY)
        for term, pod in self._picky_about(namespace, labels):
            devices.update(pod.device_uuids if term.topology_key == DEVICE_TOPOLOGY else ())
            leave_out(self._around(pod, term), EXISTING_ANTI_AFFINITY)
        if needs.together:
            leave_out(left - self._together(namespace, labels, needs.together), AFFINITY)
        hard = [one for one in needs.spreads if one.is_required]
        for constraint in hard:
            kept = self._evenly(namespace, labels, constraint, [one.term for one in hard])
            leave_out(left - kept, SPREAD)
        if needs.is_empty and len(left) == len(eligible) and not devices:
            return None
        return Allowed(
            tiers=self._tiers(needs, left),
            blocked_devices=frozenset(devices),
            left_out=reasons,
        )

    def _tiers(self, needs: NeighbourNeeds, left: set[str]) -> tuple[frozenset[str], ...]:
        """Nodes by how much of what is preferred they miss, the least first."""
        penalty = dict.fromkeys(left, 0)
        for weight, term in needs.rather_apart:
            near = set().union(*(self._around(pod, term) for pod in self._matching(term)))
            for key in near & left:
                penalty[key] += weight
        for weight, term in needs.rather_together:
            near = set().union(*(self._around(pod, term) for pod in self._matching(term)))
            for key in left - near:
                penalty[key] += weight
        for constraint in needs.spreads:
            if constraint.is_required:
                continue
            counts = self._counts(constraint.term)
            for value, keys in self._keys_by_domain(constraint.term.topology_key).items():
                for key in keys & left:
                    penalty[key] += counts[value]
        by_penalty: dict[int, set[str]] = defaultdict(set)
        for key, cost in penalty.items():
            by_penalty[cost].add(key)
        return tuple(frozenset(keys) for _, keys in sorted(by_penalty.items()))

    def _together(
        self, namespace: str, labels: Mapping[str, str], terms: Sequence[PodTerm]
    ) -> set[str]:
        """Keys of nodes with a pod in their domain that matches all of the terms, for each."""
        pods = [
            pod
            for pod in self._matching(terms[0])
            if all(one.matches(pod.namespace, pod.labels) for one in terms[1:])
        ]
        found: set[str] | None = None
        is_first = not pods and all(one.matches(namespace, labels) for one in terms)
        for term in terms:
            keys = self._keys_by_domain(term.topology_key)
            # The first of those that want to be together may go anywhere.
            near = (
                set().union(*keys.values())
                if is_first
                else set().union(*(self._around(pod, term) for pod in pods))
            )
            found = near if found is None else found & near
        return found or set()

    def _evenly(
        self,
        namespace: str,
        labels: Mapping[str, str],
        constraint: SpreadConstraint,
        all_terms: Sequence[PodTerm],
    ) -> set[str]:
        """Keys of nodes on which one more keeps the skew."""
        term = constraint.term
        topologies = {one.topology_key for one in all_terms}
        domains = self._keys_by_domain(term.topology_key)
        full = [
            {k for keys in self._keys_by_domain(one).values() for k in keys} for one in topologies
        ]
        counted = set.intersection(*full) if full else set()
        domains = {value: keys & counted for value, keys in domains.items() if keys & counted}
        counts = self._counts(term)
        fewest = min((counts[value] for value in domains), default=0)
        if len(domains) < constraint.min_domains:
            fewest = 0
        itself = int(term.matches(namespace, labels))
        kept: set[str] = set()
        for value, keys in domains.items():
            if counts[value] + itself - fewest <= constraint.max_skew:
                kept |= keys
        return kept

    def _counts(self, term: PodTerm) -> Counter[str]:
        """Pods of the kind by domain, without those that end."""
        counts = Counter[str]()
        for pod in self._matching(term):
            value = self._labels.get(pod.node, {}).get(term.topology_key)
            if value is not None and not pod.is_ending:
                counts[value] += 1
        return counts

    def _around(self, pod: Neighbour, term: PodTerm) -> set[str]:
        """Keys of the nodes in the pod's domain; none where its node has no such label."""
        value = self._labels.get(pod.node, {}).get(term.topology_key)
        return set() if value is None else self._keys_by_domain(term.topology_key)[value]

    def _keys_by_domain(self, topology_key: str) -> dict[str, set[str]]:
        found = self._domains.get(topology_key)
        if found is None:
            found = self._domains[topology_key] = {}
            for node in self._nodes:
                value = node.labels.get(topology_key)
                if value is not None:
                    found.setdefault(value, set()).add(node.key)
        return found

    def _matching(self, term: PodTerm) -> list[Neighbour]:
        pairs = term.pairs()
        if pairs is None:
            suspects: Iterable[Neighbour] = self._pods
        else:
            suspects = [pod for key, value in pairs for pod in self._with_label(key, value)]
        return [
            pod
            for pod in suspects
            if term.matches(pod.namespace, pod.labels) and pod.owner not in self._gone
        ]

    def _with_label(self, key: str, value: str) -> list[Neighbour]:
        by_value = self._by_label.get(key)
        if by_value is None:
            by_value = self._by_label[key] = {}
            for pod in self._pods:
                if key in pod.labels:
                    by_value.setdefault(pod.labels[key], []).append(pod)
        return by_value.get(value, [])

    def _has_picky(self) -> bool:
        return bool(self._picky_pods())

    def _picky_pods(self) -> dict[tuple[str, str] | None, list[tuple[PodTerm, Neighbour]]]:
        """Pods that must be apart from others, by a label of those others."""
        if self._picky is None:
            self._picky = {}
            for pod in self._pods:
                self._add_picky(self._picky, pod)
        return self._picky

    @staticmethod
    def _add_picky(
        picky: dict[tuple[str, str] | None, list[tuple[PodTerm, Neighbour]]], pod: Neighbour
    ) -> None:
        for term in pod.apart:
            for pair in term.pairs() or (None,):
                picky.setdefault(pair, []).append((term, pod))

    def _picky_about(
        self, namespace: str, labels: Mapping[str, str]
    ) -> list[tuple[PodTerm, Neighbour]]:
        picky = self._picky_pods()
        suspects = [one for pair in (*labels.items(), None) for one in picky.get(pair, ())]
        return [
            (term, pod)
            for term, pod in suspects
            if term.matches(namespace, labels) and pod.owner not in self._gone
        ]
