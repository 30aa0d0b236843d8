"""Prompts that replicas keep on their hosts, behind what their devices have: guessed, and priced.

An engine with KV cache on the host writes through: what was computed there lies on the host until
as many tokens again have come. A prompt that is found there is not computed but fetched, so a token
on the host is worth what fetching saves of computing:

```text
worth = 1 - seconds to fetch a token / seconds to compute it         0 where that is negative
```

The second is learned by the router (``PrefillSpeed``), the first is told by the operator.
"""

from collections.abc import Sequence
from typing import Final

from memroute.traffic.prefixes.guessed_prefixes import PrefixIndex
from memroute.traffic.replica import Backend, ReplicaLedger
from memroute.traffic.request import RequestProfile

# What a token on the host is worth while nobody has said how fast it comes back: on PCIe 4 and 5
# it is 0.6 to 0.9 for models of 8B and more.
# Unit: ratio. Source: chosen by hand.
UNKNOWN_WORTH_RATIO: Final = 0.5


class HostPrefixes:
    """Owns what a pool guesses of its replicas' hosts."""

    def __init__(self) -> None:
        self._prefixes = PrefixIndex()
        self._replicas: set[str] = set()

    def sent(self, ledger: ReplicaLedger, profile: RequestProfile) -> None:
        """A prompt was sent to a replica; its host keeps it too, where it has room for any."""
        host = ledger.host
        if host is None:
            return
        self._replicas.add(ledger.replica)
        self._prefixes.insert(
            ledger.replica,
            profile.prefix,
            max_tokens=host.capacity_tokens,
            ends=profile.block_ends,
            tokens_per_block=profile.tokens_per_block,
        )

    def forget(self, replica: str) -> None:
        """It is gone, or has a new process: its host's memory went with it."""
        if replica in self._replicas:
            self._replicas.remove(replica)
            self._prefixes.forget(replica)

    def credit(
        self, profile: RequestProfile, hits: dict[str, int], among: Sequence[Backend]
    ) -> None:
        """Raise ``hits`` by what hosts have behind them, at its worth in computed tokens."""
        if not self._replicas:
            return
        found = self._prefixes.match(profile.prefix)
        if not found:
            return
        for backend in among:
            ledger = backend.ledger
            count = found.get(ledger.replica, 0)
            if not count:
                continue
            on_device = hits.get(ledger.replica, 0)
            behind = profile.tokens_of_blocks(count) - on_device
            if behind > 0:
                hits[ledger.replica] = on_device + int(behind * worth_ratio(ledger))


def worth_ratio(ledger: ReplicaLedger) -> float:
    """What a token on the replica's host is worth of one on its device, 0 to 1."""
    host = ledger.host
    fetch = None if host is None else host.token_seconds
    compute = ledger.speed.token_seconds
    if fetch is None or compute <= 0.0:
        return UNKNOWN_WORTH_RATIO
    return max(0.0, 1.0 - fetch / compute)
