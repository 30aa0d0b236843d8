"""Room that several replicas give up for one of higher priority: one claim, beside all of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from memroute.placement.inventory import Reservation


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The claim of a replica of higher priority, and the pods that give way to it.

    The claim and those pods are never there at once, so where they share devices the larger
    counts: the claim, or all of the pods together.
    """

    claim: Reservation
    victims: frozenset[str]
    added_bytes: dict[str, int]
    """By device, what the claim counts beside those pods."""
    added_devices: int
    """The same in whole devices."""
    added_host_bytes: int
    """The same of its node's memory."""
    added_to_namespace: int
    """In bytes, what its namespace holds more beside those of them that are of it."""
    called_back_bytes: dict[str, int]
    """By device, what those of the pods that sleep lend no more: the claim needs it."""


def still_lent(held_bytes: int, lent_bytes: int, claimed_bytes: int) -> int:
    """Of what pods lend of a device, the bytes that a claim on their room leaves lent.

    Those pods and the claim's replica are never there at once, so the larger counts: of what is
    promised, and of what is in use.
    """
    promised = max(held_bytes, claimed_bytes)
    return promised - max(held_bytes - lent_bytes, claimed_bytes)


def weigh_way(
    claim: Reservation, victims: Sequence[str], known: Sequence[Reservation], *, num_held: int
) -> Way:
    """What the claim counts beside the victims that are there (``known``).

    ``num_held``: whole devices of the claim's kind that those hold.
    """
    held, lent = Counter[str](), Counter[str]()
    for victim in known:
        held.update(victim.device_bytes)
        lent.update({uuid: victim.lent_on(uuid) for uuid in victim.device_bytes})
    own = sum(one.total_bytes for one in known if one.namespace == claim.namespace)
    return Way(
        claim=claim,
        victims=frozenset(victims),
        added_bytes={uuid: max(0, size - held[uuid]) for uuid, size in claim.device_bytes.items()},
        added_devices=max(0, claim.num_exclusive_devices - num_held),
        added_host_bytes=max(
            0, claim.host_bytes - sum(one.host_bytes for one in known if one.node == claim.node)
        ),
        added_to_namespace=max(0, claim.total_bytes - own),
        called_back_bytes={
            uuid: lent[uuid] - still_lent(held[uuid], lent[uuid], size)
            for uuid, size in claim.device_bytes.items()
            if lent[uuid]
        },
    )
