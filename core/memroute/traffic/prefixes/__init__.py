"""What each replica has cached of a prompt: guessed, reported, or known by its session."""

from memroute.traffic.prefixes.cached_prompts import CachedPrompts
from memroute.traffic.prefixes.guessed_prefixes import PrefixIndex
from memroute.traffic.prefixes.rendezvous import OtherRouters, Rendezvous, text_key
from memroute.traffic.prefixes.reported_blocks import BlockIndex, block_keys, chain_root
from memroute.traffic.prefixes.sessions import SessionIndex, session_key
from memroute.traffic.prefixes.tiers import Tier, tier_of

__all__ = [
    "BlockIndex",
    "CachedPrompts",
    "OtherRouters",
    "PrefixIndex",
    "Rendezvous",
    "SessionIndex",
    "Tier",
    "block_keys",
    "chain_root",
    "session_key",
    "text_key",
    "tier_of",
]
