"""What each replica has of a prompt already: in blocks, as it told, or by the conversation's name.

Three sources, and a request counts what any of them knows: the blocks that were sent somewhere
(``PrefixIndex``: a guess), the blocks that a replica says it has (``BlockIndex``: from KV events,
which take the guess's place there), and where a named session was served last.
"""

from typing import Final

from memroute.traffic.prefixes.guessed_prefixes import PrefixIndex
from memroute.traffic.prefixes.reported_blocks import BlockIndex
from memroute.traffic.prefixes.sessions import SessionIndex
from memroute.traffic.replica import ReplicaLedger
from memroute.traffic.request import Hits, RequestProfile

UNKNOWN_CAPACITY_TOKENS: Final = 200_000
# What the index takes a replica to keep that has not said how much it holds.


class CachedPrompts:
    """Owns what a pool knows of its replicas' prefix caches."""

    def __init__(self) -> None:
        self.blocks = BlockIndex()
        """What replicas that publish KV events have told."""
        self._prefixes = PrefixIndex()
        self._sessions = SessionIndex()

    def added(self, replica: str) -> None:
        """It is there, its cache cold."""
        self._prefixes.forget(replica)

    def removed(self, replica: str) -> None:
        """It is gone."""
        self._prefixes.forget(replica)
        self.blocks.forget(replica)

    def hits(self, profile: RequestProfile) -> Hits:
        """Tokens of the prompt that each replica has; those without any are left out."""
        hits: dict[str, int] = {}
        most = profile.num_prompt_tokens
        if profile.prefix:
            for replica, count in self._prefixes.match(profile.prefix).items():
                hits[replica] = profile.tokens_of_blocks(count)
        if profile.blocks:
            self._told_hits(profile, hits)
        if profile.session:
            last = self._sessions.last(_session(profile))
            if last is not None:
                replica, num_tokens = last
                hits[replica] = max(hits.get(replica, 0), min(most, num_tokens))
        return hits

    def sent(self, ledger: ReplicaLedger, profile: RequestProfile) -> int:
        """A prompt is on its way: it is taken to be cached at once.

        Returns how many blocks at its end were not taken to be cached there before.
        """
        num_new = 0
        if profile.prefix and profile.tokens_per_block:
            capacity = ledger.capacity_tokens or UNKNOWN_CAPACITY_TOKENS
            num_new = self._prefixes.insert(
                ledger.replica,
                profile.prefix,
                max_tokens=capacity,
                ends=profile.block_ends,
                tokens_per_block=profile.tokens_per_block,
            )
        if profile.blocks:
            self.blocks.sent(ledger.replica, profile.prefix)
        if profile.session:
            self._sessions.served(_session(profile), ledger.replica, profile.num_prompt_tokens)
        return num_new

    def never_computed(self, replica: str, profile: RequestProfile, num_new: int) -> None:
        """A request left before its first token; ``num_new`` is what ``sent`` has returned."""
        if num_new:
            self._prefixes.take_back(replica, profile.prefix[-num_new:])

    def ended(
        self, replica: str, profile: RequestProfile, *, num_tokens: int, is_complete: bool
    ) -> None:
        """A request has left a replica, where it held so many tokens."""
        if profile.blocks:
            self.blocks.ended(replica, profile.prefix)
        if is_complete and profile.session:
            self._sessions.served(_session(profile), replica, num_tokens)

    def _told_hits(self, profile: RequestProfile, hits: dict[str, int]) -> None:
        """Where replicas say what they have, that counts, and what is on its way to them."""
        blocks = self.blocks
        for replica in list(hits):
            if blocks.follows(replica):
                del hits[replica]
        most = profile.num_prompt_tokens
        for replica, count in blocks.match(profile.blocks).items():
            hits[replica] = min(most, blocks.block_tokens * count)
        for replica, count in blocks.match_sent(profile.prefix).items():
            if blocks.follows(replica):
                hits[replica] = max(hits.get(replica, 0), profile.tokens_of_blocks(count))


def _session(profile: RequestProfile) -> str:
    """Two tenants may call their sessions the same."""
    return f"{profile.tenant}/{profile.session}"
