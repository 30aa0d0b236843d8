"""What a router that has just come is told of the past: which prompts and sessions are where.

Reports say what is sent from now on; what was sent before would be unknown to it for as long as
conversations pause. So the oldest router that hears it tells what it knows of every replica, least
recent first, as keys alone: datagrams for the newcomer only, without a number, at the pace that its
budget allows. What is lost of it is not said again.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from memroute.traffic.peers.reports import MoreKeys, ServedReport
from memroute.traffic.peers.wire import MAX_KEYS, encode_report
from memroute.traffic.prefixes.cached_prompts import CachedPrompts
from memroute.traffic.prefixes.rendezvous import text_key

MAX_SESSIONS_TOLD: Final = 10_000
# Of each model's, the most recent: 200 KB.


def welcome(replicas: Iterable[tuple[str, CachedPrompts]]) -> Iterator[bytes]:
    """Records, worked out as they are asked for."""
    pools: list[CachedPrompts] = []
    for replica, cached in replicas:
        if cached not in pools:
            pools.append(cached)
        key = text_key(replica)
        blocks = cached.guessed_blocks(replica)
        for start in range(0, len(blocks), MAX_KEYS):
            some = blocks[start : start + MAX_KEYS]
            size = sum([tokens for _, tokens in some]) // len(some)
            # An index takes a prompt from its end: the most recent goes first.
            prefix = tuple([block for block, _ in reversed(some)])
            yield encode_report(MoreKeys(key, tokens_per_block=max(1, size), prefix=prefix))
    for cached in pools:
        for session, replica, num_tokens in cached.recent_sessions(MAX_SESSIONS_TOLD):
            yield encode_report(ServedReport(session, text_key(replica), num_tokens=num_tokens))
