"""What do we know of a replica, and how fresh is it?"""

from memroute.pressure.health import ReplicaHealth
from memroute.pressure.ledger import ReplicaLedger, ReplicaSnapshot, Reservation
from memroute.pressure.rate import RateMeter
from memroute.pressure.reading import MAX_AGE_SECONDS, ReplicaReading

__all__ = [
    "MAX_AGE_SECONDS",
    "RateMeter",
    "ReplicaHealth",
    "ReplicaLedger",
    "ReplicaReading",
    "ReplicaSnapshot",
    "Reservation",
]
