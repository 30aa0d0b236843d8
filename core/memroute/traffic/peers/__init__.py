"""Several routers of the same replicas: their reports to each other, and what those change."""

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
