"""Memory behind the device: what the host keeps, how fast it comes back, and when that pays.

``links`` are rates between device and host; ``kv_tier`` a KV cache on the host; ``break_even``
says from how many tokens on fetching beats computing; ``gain`` what a tier buys for given traffic;
``sleep`` and ``weights_offload`` are the host's other two uses.
"""

from memroute.hierarchy.break_even import FetchOrCompute
from memroute.hierarchy.gain import Reuse, TierGain, tier_gain
from memroute.hierarchy.kv_tier import KVTier, kv_tier
from memroute.hierarchy.links import (
    HOST_LINKS,
    HostLink,
    host_link_by_name,
    host_link_of,
    host_link_of_text,
)
from memroute.hierarchy.lmcache import lmcache_settings, lmcache_tier
from memroute.hierarchy.measured import measured_host_link
from memroute.hierarchy.sleep import Sleep, SleepLevel, sleep_of
from memroute.hierarchy.weights_offload import WeightsOffload

__all__ = [
    "HOST_LINKS",
    "FetchOrCompute",
    "HostLink",
    "KVTier",
    "Reuse",
    "Sleep",
    "SleepLevel",
    "TierGain",
    "WeightsOffload",
    "host_link_by_name",
    "host_link_of",
    "host_link_of_text",
    "kv_tier",
    "lmcache_settings",
    "lmcache_tier",
    "measured_host_link",
    "sleep_of",
    "tier_gain",
]
