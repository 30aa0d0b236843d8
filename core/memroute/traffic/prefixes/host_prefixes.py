"""Prompts that replicas keep on their hosts, behind what their devices have: known or guessed.

An engine with KV cache on the host writes through: what was computed there lies on the host until
as many tokens again have come. A prompt that is found there is not computed but fetched, so a token
on the host is worth what fetching saves of computing:

```text
worth = 1 - seconds to fetch a token / seconds to compute it         0 where that is negative
```

The second is learned by the router (``PrefillSpeed``), the first is told by the operator. What
engines tell by their events of other media (``BlockIndex.behind``) replaces the guess; where events
were lost, or were never heard, the greater of the two counts.
"""

from collections.abc import Sequence
from typing import Final

from memroute.traffic.prefixes.guessed_prefixes import PrefixIndex
from memroute.traffic.prefixes.reported_blocks import BlockIndex
from memroute.traffic.replica import Backend, ReplicaLedger
from memroute.traffic.request import RequestProfile

# What a token on the host is worth while nobody has said how fast it comes back: on PCIe 4 and 5
# it is 0.6 to 0.9 for models of 8B and more.
# Unit: ratio. Source: chosen by hand.
UNKNOWN_WORTH_RATIO: Final = 0.5
# How many times as long a token takes from storage as from the host: it is read into the host's
# memory first (one PCIe 4 drive, 6.5 GB/s) and over the link then (26 GB/s): 1 + 26 / 6.5.
# Unit: ratio. Source: LMCache#4673 (four drives, 26 GB/s), sglang#39605; one drive is inferred.
STORAGE_FETCH_RATIO: Final = 5.0
# What a token in storage is worth while nobody has said how fast the link is: half of a host's.
# Unit: ratio. Source: chosen by hand.
UNKNOWN_STORAGE_WORTH_RATIO: Final = 0.25


class HostPrefixes:
    """Owns what a pool guesses of its replicas' hosts."""

    def __init__(self) -> None:
        self._prefixes = PrefixIndex()
        self._replicas: set[str] = set()

    def sent(
        self,
        ledger: ReplicaLedger,
        prefix: tuple[int, ...],
        tokens_per_block: int,
        ends: tuple[int, ...] = (),
    ) -> None:
        """A prompt was sent to a replica; its host keeps it too, where it has room for any."""
        host = ledger.host
        if host is None:
            return
        self._replicas.add(ledger.replica)
        self._prefixes.insert(
            ledger.replica,
            prefix,
            max_tokens=host.capacity_tokens,
            ends=ends,
            tokens_per_block=tokens_per_block,
        )

    def forget(self, replica: str) -> None:
        """It is gone, or has a new process: its host's memory went with it."""
        if replica in self._replicas:
            self._replicas.remove(replica)
            self._prefixes.forget(replica)

    def credit(
        self,
        profile: RequestProfile,
        hits: dict[str, int],
        among: Sequence[Backend],
        blocks: BlockIndex,
    ) -> None:
        """Raise ``hits`` by what hosts have behind them, at its worth in computed tokens."""
        behind = _known_behind(profile, hits, blocks) if profile.blocks else {}
        found = self._prefixes.match(profile.prefix) if self._replicas else {}
        if not found and not behind:
            return
        size, most = blocks.block_tokens, profile.num_prompt_tokens
        for backend in among:
            ledger = backend.ledger
            replica = ledger.replica
            on_device = hits.get(replica, 0)
            credit = 0.0
            if replica in behind:
                on_host, stored = behind[replica]
                credit = size * on_host * worth_ratio(ledger)
                if stored:
                    credit += size * stored * storage_worth_ratio(ledger)
            if replica in found and not (profile.blocks and _is_told(blocks, replica)):
                guessed = profile.tokens_of_blocks(found[replica]) - on_device
                credit = max(credit, guessed * worth_ratio(ledger))
            if credit > 0.0:
                hits[replica] = min(most, on_device + int(credit))


def worth_ratio(ledger: ReplicaLedger) -> float:
    """What a token on the replica's host is worth of one on its device, 0 to 1."""
    host = ledger.host
    fetch = None if host is None else host.token_seconds
    compute = ledger.speed.token_seconds
    if fetch is None or compute <= 0.0:
        return UNKNOWN_WORTH_RATIO
    return max(0.0, 1.0 - fetch / compute)


def storage_worth_ratio(ledger: ReplicaLedger) -> float:
    """The same of a token that has to come from storage first."""
    host = ledger.host
    fetch = None if host is None else host.token_seconds
    compute = ledger.speed.token_seconds
    if fetch is None or compute <= 0.0:
        return UNKNOWN_STORAGE_WORTH_RATIO
    return max(0.0, 1.0 - STORAGE_FETCH_RATIO * fetch / compute)


def _is_told(blocks: BlockIndex, replica: str) -> bool:
    """Whether its events say all that its host has."""
    return blocks.offloaded.tells(replica) and blocks.is_whole(replica)


def _known_behind(
    profile: RequestProfile, hits: dict[str, int], blocks: BlockIndex
) -> dict[str, tuple[int, int]]:
    """Blocks on each replica's host, and in storage, behind what ``hits`` says of its device."""
    size = blocks.block_tokens
    if not size:
        return {}
    on_device = {replica: tokens // size for replica, tokens in hits.items()}
    return blocks.behind(profile.blocks, on_device)
