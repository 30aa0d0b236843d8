"""Tokens of a prompt that each replica has cached.

There are three sources, and the greatest counts for a replica:

* blocks that were sent to it (``PrefixIndex``: a guess);
* blocks that it reports by KV events (``BlockIndex``); there they replace the guess;
* the named session that it served last (``SessionIndex``).

What only a replica's host has, or storage, counts at its worth (``HostPrefixes``).

Where other routers are not heard, what they may have sent is estimated as well (``Rendezvous``).
"""

from collections.abc import Sequence
from typing import Final

from memroute.traffic.prefixes.guessed_prefixes import PrefixIndex
from memroute.traffic.prefixes.host_prefixes import HostPrefixes
from memroute.traffic.prefixes.rendezvous import OtherRouters, Rendezvous
from memroute.traffic.prefixes.reported_blocks import BlockIndex
from memroute.traffic.prefixes.sessions import SessionIndex, session_key
from memroute.traffic.replica import Backend, ReplicaLedger
from memroute.traffic.request import Hits, RequestProfile

# Tokens that a replica is taken to keep cached while neither its engine nor the operator has said
# how many it holds.
# Unit: tokens. Source: chosen by hand; about an 8B model on 40 GB.
UNKNOWN_CAPACITY_TOKENS: Final = 200_000
# Blocks of token ids up to the one whose key routers agree by: some 1,000 tokens, so that chats
# behind one short system prompt go to different replicas, and those behind one long prompt to the
# same.
# Unit: blocks. Source: chosen by hand.
COMMON_ID_BLOCKS: Final = 4
# The same in blocks of text, which are half as long.
# Unit: blocks. Source: chosen by hand.
COMMON_TEXT_BLOCKS: Final = 8


class CachedPrompts:
    """Owns what a pool knows of its replicas' prefix caches."""

    def __init__(self, others: OtherRouters | None = None) -> None:
        """``others``: the other routers, kept up to date by their owner; None: there are none."""
        self.blocks = BlockIndex()
        """Blocks that replicas have reported by KV events."""
        self._prefixes = PrefixIndex()
        self._hosts = HostPrefixes()
        self._sessions = SessionIndex()
        self._rendezvous = Rendezvous()
        self._others = others or OtherRouters()

    def added(self, replica: str) -> None:
        """A replica has come, its cache cold."""
        self._prefixes.forget(replica)
        self._hosts.forget(replica)
        self._rendezvous.add(replica, UNKNOWN_CAPACITY_TOKENS)

    def sized(self, ledger: ReplicaLedger) -> None:
        """The capacity of a replica is known or has changed: adjust its share of the rendezvous."""
        capacity = ledger.capacity_tokens or UNKNOWN_CAPACITY_TOKENS
        self._rendezvous.resize(ledger.replica, capacity)

    def emptied(self, replica: str) -> None:
        """The replica's caches are gone, and it stays: its engine has slept."""
        self._prefixes.forget(replica)
        self._hosts.forget(replica)
        self._sessions.forget(replica)
        self.blocks.cleared(replica)

    def removed(self, replica: str) -> None:
        """A replica has gone."""
        self._rendezvous.remove(replica)
        self._prefixes.forget(replica)
        self._hosts.forget(replica)
        self.blocks.forget(replica)

    def hits(self, profile: RequestProfile, among: Sequence[Backend] = ()) -> Hits:
        """Tokens of the prompt that each replica has cached; replicas without any are left out.

        ``among``: the replicas that can take the request.
        """
        hits: dict[str, int] = {}
        most = profile.num_prompt_tokens
        if profile.prefix:
            for replica, count in self._prefixes.match(profile.prefix).items():
                hits[replica] = profile.tokens_of_blocks(count)
        if profile.blocks:
            self._told_hits(profile, hits)
        if profile.session:
            last = self._sessions.last(session_key(profile))
            if last is not None:
                replica, num_tokens = last
                hits[replica] = max(hits.get(replica, 0), min(most, num_tokens))
        self._hosts.credit(profile, hits, among, self.blocks)
        unheard = self._others.unheard_ratio
        if unheard > 0.0:
            self._agree(profile, hits, among, unheard)
        return hits

    def sent(self, ledger: ReplicaLedger, profile: RequestProfile) -> int:
        """A prompt was sent to a replica: it counts as cached there at once.

        Returns how many blocks at its end did not count as cached there before.
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
            self._hosts.sent(ledger, profile.prefix, profile.tokens_per_block, profile.block_ends)
        if profile.blocks:
            self.blocks.sent(ledger.replica, profile.prefix)
        if profile.session:
            self._sessions.sent(session_key(profile), ledger.replica, profile.num_prompt_tokens)
        return num_new

    def never_computed(self, replica: str, profile: RequestProfile, num_new: int) -> None:
        """A request left before its first token; ``num_new``: what ``sent`` returned for it."""
        if num_new:
            self._prefixes.take_back(replica, profile.prefix[-num_new:])

    # What other routers tell.

    def peer_sent(self, ledger: ReplicaLedger, prefix: Sequence[int], tokens_per_block: int) -> int:
        """Another router has sent a prompt to a replica; returns what ``sent`` does."""
        if not prefix or not tokens_per_block:
            return 0
        self._hosts.sent(ledger, tuple(prefix), tokens_per_block)
        return self._prefixes.insert(
            ledger.replica,
            tuple(prefix),
            max_tokens=ledger.capacity_tokens or UNKNOWN_CAPACITY_TOKENS,
            tokens_per_block=tokens_per_block,
        )

    def peer_never_computed(self, replica: str, new_blocks: Sequence[int]) -> None:
        """Another router's request left before its first token; ``new_blocks`` were new there."""
        self._prefixes.take_back(replica, tuple(new_blocks))

    def peer_served(self, session: int, replica: str, num_tokens: int) -> None:
        """Another router has served the session there."""
        self._sessions.served(session, replica, num_tokens)

    def guessed_stretches(self, replica: str) -> list[tuple[tuple[int, ...], int]]:
        """Consecutive keys and their tokens that count as cached on the replica, oldest first."""
        return self._prefixes.stretches(replica)

    def recent_sessions(self, most: int) -> list[tuple[int, str, int]]:
        """The ``most`` latest sessions, the oldest first, with their replicas and tokens."""
        return self._sessions.recent(most)

    # What has ended.

    def ended(
        self, replica: str, profile: RequestProfile, *, num_tokens: int, is_complete: bool
    ) -> None:
        """A request has left a replica, where it held ``num_tokens``."""
        if profile.blocks:
            self.blocks.ended(replica, profile.prefix)
        if is_complete and profile.session:
            self._sessions.served(session_key(profile), replica, num_tokens)

    def _agree(
        self,
        profile: RequestProfile,
        hits: dict[str, int],
        among: Sequence[Backend],
        unheard_ratio: float,
    ) -> None:
        """Credit the rendezvous replica with a share of what is unknown of the prompt."""
        known = max(hits.values(), default=0)
        key = _common_key(profile, known)
        if key is None:
            return
        names = [backend.ledger.replica for backend in among]
        favourite = self._rendezvous.favourite(key, names)
        if favourite is not None:
            credit = known + int(unheard_ratio * (profile.num_prompt_tokens - known))
            hits[favourite] = max(hits.get(favourite, 0), credit)

    def _told_hits(self, profile: RequestProfile, hits: dict[str, int]) -> None:
        """On replicas that report their blocks, count those and prompts on their way."""
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


def _common_key(profile: RequestProfile, known_tokens: int) -> int | None:
    """What all routers call a prompt by; None where it is known here, or is too short."""
    keys = profile.prefix
    depth = COMMON_TEXT_BLOCKS if profile.block_ends else COMMON_ID_BLOCKS
    if known_tokens >= profile.tokens_of_blocks(min(depth, len(keys))) > 0:
        return None
    if profile.session:
        return None if known_tokens else session_key(profile)
    return keys[depth - 1] if len(keys) >= depth else None
