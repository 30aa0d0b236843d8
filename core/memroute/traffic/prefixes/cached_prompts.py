"""What each replica has of a prompt already: in blocks, as it told, or by the conversation's name.

Three sources, and a request counts what any of them knows: the blocks that were sent somewhere
(``PrefixIndex``: a guess), the blocks that a replica says it has (``BlockIndex``: from KV events,
which take the guess's place there), and where a named session was served last.
"""

from collections.abc import Sequence
from typing import Final

from memroute.traffic.prefixes.guessed_prefixes import PrefixIndex
from memroute.traffic.prefixes.rendezvous import OtherRouters, Rendezvous
from memroute.traffic.prefixes.reported_blocks import BlockIndex
from memroute.traffic.prefixes.sessions import SessionIndex, session_key
from memroute.traffic.replica import Backend, ReplicaLedger
from memroute.traffic.request import Hits, RequestProfile

UNKNOWN_CAPACITY_TOKENS: Final = 200_000
# What the index takes a replica to keep that has not said how much it holds.
# The block whose key routers agree by, of token ids and of text: some 1,000 tokens deep, so that
# chats behind one short system prompt go to different replicas, and those behind one long prompt to
# the same.
COMMON_ID_BLOCKS: Final = 4
COMMON_TEXT_BLOCKS: Final = 8


class CachedPrompts:
    """Owns what a pool knows of its replicas' prefix caches."""

    def __init__(self, others: OtherRouters | None = None) -> None:
        """``others``: the other routers, set by who knows them; None: there are none."""
        self.blocks = BlockIndex()
        """What replicas that publish KV events have told."""
        self._prefixes = PrefixIndex()
        self._sessions = SessionIndex()
        self._rendezvous = Rendezvous()
        self._others = others or OtherRouters()

    def added(self, replica: str) -> None:
        """It is there, its cache cold."""
        self._prefixes.forget(replica)
        self._rendezvous.add(replica, UNKNOWN_CAPACITY_TOKENS)

    def sized(self, ledger: ReplicaLedger) -> None:
        """How much it keeps is known, or has changed: its share of what routers agree on."""
        capacity = ledger.capacity_tokens or UNKNOWN_CAPACITY_TOKENS
        self._rendezvous.resize(ledger.replica, capacity)

    def removed(self, replica: str) -> None:
        """It is gone."""
        self._rendezvous.remove(replica)
        self._prefixes.forget(replica)
        self.blocks.forget(replica)

    def hits(self, profile: RequestProfile, among: Sequence[Backend] = ()) -> Hits:
        """Tokens of the prompt that each replica has; those without any are left out.

        ``among``: those that can take it.
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
        unheard = self._others.unheard_ratio
        if unheard > 0.0:
            self._agree(profile, hits, among, unheard)
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
                max_blocks=capacity,
                weights=block_weights(profile),
            )
        if profile.blocks:
            self.blocks.sent(ledger.replica, profile.prefix)
        if profile.session:
            self._sessions.served(session_key(profile), ledger.replica, profile.num_prompt_tokens)
        return num_new

    def never_computed(self, replica: str, profile: RequestProfile, num_new: int) -> None:
        """A request left before its first token; ``num_new`` is what ``sent`` has returned."""
        if num_new:
            self._prefixes.take_back(replica, profile.prefix[-num_new:])

    # What other routers tell.

    def peer_sent(self, ledger: ReplicaLedger, prefix: Sequence[int], tokens_per_block: int) -> int:
        """Another router has sent such a prompt there; the new blocks, as of ``sent``."""
        if not prefix or not tokens_per_block:
            return 0
        return self._prefixes.insert(
            ledger.replica,
            prefix,
            max_blocks=ledger.capacity_tokens or UNKNOWN_CAPACITY_TOKENS,
            weights=[tokens_per_block] * len(prefix),
        )

    def peer_never_computed(self, replica: str, new_blocks: Sequence[int]) -> None:
        """Its request left before its first token; these blocks were new there."""
        self._prefixes.take_back(replica, new_blocks)

    def peer_served(self, session: int, replica: str, num_tokens: int) -> None:
        """Another router has served the session there."""
        self._sessions.served(session, replica, num_tokens)

    def guessed_blocks(self, replica: str) -> list[tuple[int, int]]:
        """Keys and tokens of the blocks that the replica is taken to have, least recent first."""
        return self._prefixes.blocks(replica)

    def recent_sessions(self, most: int) -> list[tuple[int, str, int]]:
        """Sessions served of late, the oldest first, with their replicas and tokens."""
        return self._sessions.recent(most)

    # What has ended.

    def ended(
        self, replica: str, profile: RequestProfile, *, num_tokens: int, is_complete: bool
    ) -> None:
        """A request has left a replica, where it held so many tokens."""
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
        """Count what routers that are not heard may have put where all of them would."""
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


def block_weights(profile: RequestProfile) -> list[int]:
    """Tokens of each block of the prompt: what it takes of a replica's cache."""
    ends = profile.block_ends
    if not ends:
        return [profile.tokens_per_block] * len(profile.prefix)
    return [end - before for end, before in zip(ends, (0, *ends), strict=False)]


def _common_key(profile: RequestProfile, known_tokens: int) -> int | None:
    """What all routers call a prompt by; None where it is known here, or is too short."""
    keys = profile.prefix
    depth = COMMON_TEXT_BLOCKS if profile.block_ends else COMMON_ID_BLOCKS
    if known_tokens >= profile.tokens_of_blocks(min(depth, len(keys))) > 0:
        return None
    if profile.session:
        return None if known_tokens else session_key(profile)
    return keys[depth - 1] if len(keys) >= depth else None
