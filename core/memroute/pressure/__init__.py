"""What do we know of a replica, and how fresh is it?"""

from memroute.pressure.block_index import BlockIndex, block_keys, chain_root
from memroute.pressure.growth import Reservation
from memroute.pressure.health import ReplicaHealth
from memroute.pressure.ledger import ReplicaLedger
from memroute.pressure.output_length import OutputLengths
from memroute.pressure.prefix_index import PrefixIndex
from memroute.pressure.prompt_length import PromptLengths
from memroute.pressure.rate import RateMeter
from memroute.pressure.reading import ReplicaReading, max_age_seconds
from memroute.pressure.session_index import SessionIndex
from memroute.pressure.speed import SpeedMeter

__all__ = [
    "BlockIndex",
    "OutputLengths",
    "PrefixIndex",
    "PromptLengths",
    "RateMeter",
    "ReplicaHealth",
    "ReplicaLedger",
    "ReplicaReading",
    "Reservation",
    "SessionIndex",
    "SpeedMeter",
    "block_keys",
    "chain_root",
    "max_age_seconds",
]
