"""What is known of one replica, and how fresh that is. The page to read first is ``ledger``."""

from memroute.traffic.replica.backend import Backend, compare_speed, usable
from memroute.traffic.replica.decoding import Reservation
from memroute.traffic.replica.health import ReplicaHealth
from memroute.traffic.replica.host_cache import HostCache
from memroute.traffic.replica.ledger import ReplicaLedger
from memroute.traffic.replica.observer import LeaseObserver
from memroute.traffic.replica.predictions import Prediction, Predictions
from memroute.traffic.replica.prefill_law import PrefillLaw
from memroute.traffic.replica.rate import RateMeter
from memroute.traffic.replica.reading import ReplicaReading, max_age_seconds
from memroute.traffic.replica.sleep import ReplicaSleep, SleepPhase
from memroute.traffic.replica.step_clock import StepClock

__all__ = [
    "Backend",
    "HostCache",
    "LeaseObserver",
    "Prediction",
    "Predictions",
    "PrefillLaw",
    "RateMeter",
    "ReplicaHealth",
    "ReplicaLedger",
    "ReplicaReading",
    "ReplicaSleep",
    "Reservation",
    "SleepPhase",
    "StepClock",
    "compare_speed",
    "max_age_seconds",
    "usable",
]
