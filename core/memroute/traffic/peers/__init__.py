"""Several routers of the same replicas: what they tell each other, and what that is worth."""

from memroute.traffic.peers.group import Dropped, PeerGroup
from memroute.traffic.peers.outbox import MAX_BYTES_PER_SECOND, Outbox
from memroute.traffic.peers.wire import (
    MAX_DATAGRAM_BYTES,
    Datagram,
    Malformed,
    decode_datagram,
    encode_datagrams,
    encode_report,
)

__all__ = [
    "MAX_BYTES_PER_SECOND",
    "MAX_DATAGRAM_BYTES",
    "Datagram",
    "Dropped",
    "Malformed",
    "Outbox",
    "PeerGroup",
    "decode_datagram",
    "encode_datagrams",
    "encode_report",
]
