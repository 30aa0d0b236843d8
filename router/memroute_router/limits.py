"""What clients may hold of a router and its pools, as its settings, memory and files allow."""

import resource
from typing import Final

from memroute.traffic.admission import QueueLimits
from memroute.traffic.replica import max_age_seconds
from memroute_router.http.listening import ServerLimits
from memroute_router.memory import bodies_bytes, num_connections
from memroute_router.replicas.pool_settings import CommonSettings
from memroute_router.settings import RouterSettings

# Files that are no connections. Unit: files. Source: chosen by hand; libraries, logs, listeners.
SPARE_FILES: Final = 64
# Of the connections, what one client's requests may hold. Unit: ratio. Source: chosen by hand: a
# gateway before the router is one client, and the rest is for probes and other gateways.
ONE_CLIENT_RATIO: Final = 0.9


def server_limits(settings: RouterSettings, memory_bytes: int) -> ServerLimits:
    """Of the listener that clients use. ``memory_bytes``: what the process may take in all."""
    max_connections = settings.max_connections or _max_connections(memory_bytes)
    return ServerLimits(
        max_connections=max_connections,
        max_client_connections=settings.max_client_connections,
        max_client_requests=settings.max_client_requests or _for_one(max_connections),
        max_body_bytes=settings.max_body_bytes,
        max_bodies_bytes=bodies_bytes(memory_bytes),
        idle_seconds=settings.idle_timeout_seconds,
        header_seconds=settings.header_timeout_seconds,
        body_seconds=settings.body_timeout_seconds,
        stalled_client_seconds=settings.stalled_client_seconds,
    )


def common_settings(settings: RouterSettings) -> CommonSettings:
    """Of every pool: what may wait, for how long, and how often it may be sent."""
    return CommonSettings(
        queue_limits=QueueLimits(
            max_requests=settings.max_queued_requests if settings.max_queue_seconds else 0,
            max_tokens=settings.max_queued_tokens,
            max_seconds=settings.max_queue_seconds,
            max_replica_seconds=settings.replica_wait_seconds,
            max_wake_seconds=(
                settings.replica_wait_seconds if settings.hold_without_replicas else None
            ),
        ),
        waits_for_replicas=settings.hold_without_replicas,
        max_age_seconds=max_age_seconds(settings.scrape_seconds),
        max_attempts=settings.max_attempts,
    )


def _max_connections(memory_bytes: int) -> int:
    """Half of the files that the process may open, less some; or what there is memory for."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min((allowed - SPARE_FILES) // 2, num_connections(memory_bytes)))


def _for_one(max_connections: int) -> int:
    """Requests that one client may have under way: what is left is for the others."""
    return max(1, int(ONE_CLIENT_RATIO * max_connections))
