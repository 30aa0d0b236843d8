"""Which models leave a cache so that another one fits. Pure.

A model stays while it is in use, being fetched, or asked for more lately than enough others.
"In use" is decided by the pods that were noted at it: the operator's list says which pods there
were at one time. A pod's UID never comes back, so a pod that was noted before that time and is not
on the list is gone. One that was noted later may be newer than the list, and counts as alive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memroute.units import format_gib
from memroute_fetch.failures import ExitCode, FetchError
from memroute_fetch.settings import LivePods

# Seconds that the clocks of the operator and of a node may differ, chosen by hand: Kubernetes
# itself wants less. The price is that a pod which ended within them keeps its model for longer.
CLOCK_SECONDS = 300.0
# As many models are named in a refusal.
MAX_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedModel:
    """One model of the cache, whole or not."""

    directory: str
    num_bytes: int
    last_used_seconds: float
    """Since 1970; 0 where it never was."""
    is_whole: bool
    is_in_use: bool
    """A pod uses it, or a program fetches it just now."""
    is_foreign: bool = False
    """Of others, who share the volume: its name is told to nobody here."""
    reserved_bytes: int = 0
    """Bytes that whoever fetches it has yet to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """The file system that the cache is on."""

    free_bytes: int
    keep_free_bytes: int


def is_alive(pod: str, noted_at_seconds: float, live: LivePods | None) -> bool:
    """Whether a pod that was noted at a model may still run."""
    if live is None or pod in live.pods:
        return True
    return noted_at_seconds > live.at_seconds - CLOCK_SECONDS


def users_alive(noted: Mapping[str, float], live: LivePods | None) -> list[str]:
    """The pods that may still run, of those noted; by UID, with the time of the note."""
    return [pod for pod, at_seconds in noted.items() if is_alive(pod, at_seconds, live)]


def models_to_evict(
    wanted: str,
    missing_bytes: int,
    total_bytes: int,
    cached: Sequence[CachedModel],
    volume: Volume,
    max_cache_bytes: int | None,
) -> list[CachedModel]:
    """The models that have to go, least lately used first. Raises ``FetchError`` (``NO_SPACE``).

    ``wanted``: the directory of the model that comes. ``missing_bytes``: what is to be written of
    it; ``total_bytes``: what it has when it is whole. Models that are not whole, and that nobody
    fetches, go first: they serve nobody.
    """
    others = [one for one in cached if one.directory != wanted]
    reserved_bytes = sum(one.reserved_bytes for one in others)
    short_of_free = missing_bytes + reserved_bytes + volume.keep_free_bytes - volume.free_bytes
    short_of_limit = 0
    if max_cache_bytes is not None:
        if total_bytes > max_cache_bytes:
            message = (
                f"the model has {format_gib(total_bytes)} and the cache may have "
                f"{format_gib(max_cache_bytes)} altogether: raise --max-cache-bytes"
            )
            raise FetchError(ExitCode.NO_SPACE, message)
        held_bytes = sum(one.num_bytes for one in others) + reserved_bytes
        short_of_limit = held_bytes + total_bytes - max_cache_bytes
    short_bytes = max(short_of_free, short_of_limit)
    if short_bytes <= 0:
        return []
    evicted: list[CachedModel] = []
    for one in sorted(others, key=lambda one: (one.is_whole, one.last_used_seconds, one.directory)):
        if short_bytes <= 0:
            break
        if not one.is_in_use and one.num_bytes:
            evicted.append(one)
            short_bytes -= one.num_bytes
    if short_bytes > 0:
        raise _no_space(missing_bytes, short_bytes, others, volume, short_of_limit > short_of_free)
    return evicted


def _no_space(
    missing_bytes: int,
    short_bytes: int,
    others: Sequence[CachedModel],
    volume: Volume,
    is_by_limit: bool,
) -> FetchError:
    used = [one for one in others if one.is_in_use]
    own = [one.directory for one in used if not one.is_foreign]
    told = own[:MAX_NAMED]
    if len(own) > MAX_NAMED:
        told.append(f"{len(own) - MAX_NAMED} more")
    if len(used) > len(own):
        told.append(f"{len(used) - len(own)} of others")
    holders = f"; models in use stay ({', '.join(told)})" if used else ""
    where = (
        "--max-cache-bytes"
        if is_by_limit
        else f"the volume, which has {format_gib(volume.free_bytes)} free and keeps "
        f"{format_gib(volume.keep_free_bytes)} of that"
    )
    message = (
        f"{format_gib(missing_bytes)} are missing of the model, and {format_gib(short_bytes)} of "
        f"that do not fit into {where}{holders}: make room, or give the cache more"
    )
    return FetchError(ExitCode.NO_SPACE, message)
