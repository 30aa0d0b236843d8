"""The past, for a router that has just come: which prompts and sessions are cached where.

Reports say what is sent from now on. A new router would not know what was sent before for as long
as conversations pause. So the oldest router that hears it sends what it knows of every replica,
least recent first, as keys alone: in datagrams for the new router only, without a number, at the
pace that the budget allows. Lost datagrams are not sent again.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from memroute.traffic.peers.reports import MoreKeys, ServedReport
from memroute.traffic.peers.wire import MAX_KEYS, encode_report
from memroute.traffic.prefixes.cached_prompts import CachedPrompts
from memroute.traffic.prefixes.rendezvous import text_key

# Sessions of each model that a router which comes is told of, the ones served last: 200 KB.
# Unit: sessions. Source: a bound of the work, chosen by hand.
MAX_SESSIONS_TOLD: Final = 10_000


def welcome(replicas: Iterable[tuple[str, CachedPrompts]]) -> Iterator[bytes]:
    """The records of a welcome, encoded as they are taken."""
    pools: list[CachedPrompts] = []
    for replica, cached in replicas:
        if cached not in pools:
            pools.append(cached)
        key = text_key(replica)
        for keys, num_tokens in cached.guessed_stretches(replica):
            size = max(1, num_tokens // len(keys))
            for start in range(0, len(keys), MAX_KEYS):
                some = keys[start : start + MAX_KEYS]
                yield encode_report(MoreKeys(key, tokens_per_block=size, prefix=some))
    for cached in pools:
        for session, replica, num_tokens in cached.recent_sessions(MAX_SESSIONS_TOLD):
            yield encode_report(ServedReport(session, text_key(replica), num_tokens=num_tokens))
