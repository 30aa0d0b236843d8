"""The other routers and pickers of the same replicas: their reports, applied to our ledgers.

```text
datagram ── known sender? ── understood? ── newer than the last? ──► its reports, one by one
report   ── of a known replica ──► its ledger (load), the pool's index (prefixes, sessions)
         ── of any other       ──► ignored
silence  ── for SILENT_SECONDS ──► the peer's load counts no more
```

A router that restarts has a new incarnation. The requests of its last incarnation are over.

Routers and pickers send to the same replicas, and tell each other alike. What clients may take is
shared by those of one kind alone: a client comes through one of them.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final

from memroute.traffic.peers.open_requests import OpenRequests
from memroute.traffic.peers.outbox import MAX_BYTES_PER_SECOND, Outbox
from memroute.traffic.peers.reports import (
    AnsweredReport,
    EndedReport,
    MoreKeys,
    OpenReport,
    Report,
    SentReport,
    ServedReport,
)
from memroute.traffic.peers.welcome import welcome
from memroute.traffic.peers.wire import Datagram, Malformed, decode_datagram
from memroute.traffic.prefixes.cached_prompts import CachedPrompts
from memroute.traffic.prefixes.rendezvous import OtherRouters, text_key
from memroute.traffic.replica import ReplicaLedger, Reservation
from memroute.traffic.request import RequestProfile

# Silence after which a peer is gone or cannot be heard: three lists of open requests that did not
# come.
# Unit: seconds. Source: chosen by hand; three of the peers' periods.
SILENT_SECONDS: Final = 3.0
# Open requests that are held of one peer, more than a router has connections.
# Unit: requests. Source: a bound of memory, chosen by hand.
MAX_PEER_REQUESTS: Final = 20_000
# Tokens that one request of a peer may have where nobody knows what the replica holds: the longest
# contexts of today.
# Unit: tokens. Source: a bound, chosen by hand.
MAX_REQUEST_TOKENS: Final = 1_000_000


class Dropped(StrEnum):
    """Why a datagram counted for nothing; the value is a metric label."""

    UNKNOWN_PEER = "unknown-peer"
    SHORT = "short"
    VERSION = "version"
    UNAUTHENTICATED = "unauthenticated"
    RECORD = "record"
    OWN = "own"
    """The datagram is of this router itself: one of the peers' addresses is its own."""
    LATE = "late"
    """The datagram came after a later one, or a second time."""


class _Known:
    """A replica that this router has too."""

    __slots__ = ("cached", "ledger")

    def __init__(self, ledger: ReplicaLedger, cached: CachedPrompts) -> None:
        self.ledger = ledger
        self.cached = cached


class _Open:
    """A request of a peer, and where it is."""

    __slots__ = ("cached", "lease", "ledger", "new_blocks", "session")

    def __init__(
        self, known: _Known, lease: Reservation, session: int, new_blocks: tuple[int, ...]
    ) -> None:
        self.ledger = known.ledger
        self.cached = known.cached
        self.lease = lease
        self.session = session
        self.new_blocks = new_blocks
        """Of its prompt, those that its replica was not taken to have before."""


class Peer:
    """One other router."""

    __slots__ = (
        "heard_at_seconds", "incarnation", "is_picker", "num_missed", "open", "sequence",
    )  # fmt: skip

    def __init__(self) -> None:
        self.is_picker: bool | None = None
        """None: it was never heard."""
        self.incarnation = -1
        self.sequence = -1
        self.heard_at_seconds = -1.0
        """When its last datagram came; -1: it was never heard."""
        self.num_missed = 0
        """Its datagrams that did not come, by their numbers."""
        self.open: OpenRequests[_Open] = OpenRequests()


class PeerGroup:
    """Owns what peers have said, and the outbox of what they are told."""

    def __init__(self, *, max_bytes_per_second: int = MAX_BYTES_PER_SECOND) -> None:
        self.others = OtherRouters()
        self.outbox = Outbox(
            is_wanted=lambda: bool(self.peers), max_bytes_per_second=max_bytes_per_second
        )
        self.peers: dict[str, Peer] = {}
        """By the names that the edge has for them: their addresses."""
        self.dropped: dict[Dropped, int] = {}
        self.num_received = 0
        self.incarnation = 0
        """This router's own, told to the others: when it started, greater for later; 0: unknown."""
        self.is_picker = False
        """Whether this is one."""
        self._welcomes: dict[str, Iterator[bytes]] = {}
        self._replicas: dict[int, _Known] = {}

    # What there is.

    def add_replica(self, ledger: ReplicaLedger, cached: CachedPrompts) -> None:
        """A replica is there: what is sent to it is told, what peers tell of it counts."""
        ledger.observer = self.outbox
        self._replicas[text_key(ledger.replica)] = _Known(ledger, cached)

    def remove_replica(self, ledger: ReplicaLedger) -> None:
        """It is gone."""
        key = text_key(ledger.replica)
        known = self._replicas.get(key)
        if known is not None and known.ledger is ledger:
            del self._replicas[key]

    @property
    def num_alike(self) -> int:
        """Peers of this one's kind, with those that were never heard."""
        return sum(peer.is_picker in {None, self.is_picker} for peer in self.peers.values())

    @property
    def num_missed(self) -> int:
        """Datagrams of the peers that did not come, by their numbers."""
        return sum(peer.num_missed for peer in self.peers.values())

    def set_peers(self, names: Mapping[str, object] | set[str], *, now_seconds: float) -> None:
        """These are the other routers from now on."""
        for name in [name for name in self.peers if name not in names]:
            self._forget_load(self.peers.pop(name), now_seconds)
        for name in names:
            if name not in self.peers:
                self.peers[name] = Peer()
        self.tick(now_seconds=now_seconds)

    # What they say.

    def receive(
        self,
        name: str,
        data: bytes,
        *,
        secret: bytes | None,
        now_seconds: float,
    ) -> Dropped | None:
        """Take a datagram from the router of that name; why it counted for nothing, or None."""
        self.num_received += 1
        dropped = self._receive(name, data, secret, now_seconds)
        if dropped is not None:
            self.dropped[dropped] = self.dropped.get(dropped, 0) + 1
        return dropped

    def take_welcome(self, max_bytes: float) -> tuple[str, list[bytes]] | None:
        """The next records for a router that has come, and its name; None when all is told."""
        for name, records in list(self._welcomes.items()):
            taken: list[bytes] = []
            size = 0
            for record in records:
                taken.append(record)
                size += len(record)
                if size >= max_bytes:
                    break
            else:
                del self._welcomes[name]
            if taken and name in self.peers:
                return name, taken
            self._welcomes.pop(name, None)
        return None

    def tick(self, *, now_seconds: float) -> None:
        """Time passes: what silent peers had under way does not count for ever."""
        num_heard = 0
        for peer in self.peers.values():
            if peer.heard_at_seconds >= 0 and now_seconds - peer.heard_at_seconds < SILENT_SECONDS:
                num_heard += 1
            elif peer.open:
                self._forget_load(peer, now_seconds)
        self.others.num, self.others.num_heard = len(self.peers), num_heard

    # Inside.

    def _receive(
        self, name: str, data: bytes, secret: bytes | None, now_seconds: float
    ) -> Dropped | None:
        peer = self.peers.get(name)
        if peer is None:
            return Dropped.UNKNOWN_PEER
        read = decode_datagram(data, secret=secret)
        if isinstance(read, Malformed):
            return Dropped(read.value)
        if read.incarnation == self.incarnation:
            return Dropped.OWN
        if read.sequence is None:
            self._welcomed(read)
            return None
        is_new = read.incarnation != peer.incarnation
        if not self._is_next(peer, read.incarnation, read.sequence, now_seconds):
            return Dropped.LATE
        was_silent = now_seconds - peer.heard_at_seconds >= SILENT_SECONDS
        peer.heard_at_seconds = now_seconds
        peer.is_picker = read.is_of_picker
        if was_silent or self.others.num_heard < self.others.num:
            self.tick(now_seconds=now_seconds)
        for report in read.reports:
            self._apply(peer, report, now_seconds)
        if is_new and self._is_oldest_beside(peer):
            known = [(known.ledger.replica, known.cached) for known in self._replicas.values()]
            self._welcomes[name] = welcome(known)
            if self.outbox.on_records is not None:
                self.outbox.on_records()
        return None

    def _is_oldest_beside(self, newcomer: Peer) -> bool:
        """Whether this router has been there for longest, as far as it has heard."""
        return (
            all(
                peer is newcomer or peer.incarnation < 0 or self.incarnation < peer.incarnation
                for peer in self.peers.values()
            )
            and self.incarnation < newcomer.incarnation
        )

    def _welcomed(self, read: Datagram) -> None:
        """Take what a router tells of the past; of anything else nothing."""
        for report in read.reports:
            if not isinstance(report, MoreKeys | ServedReport):
                continue
            known = self._replicas.get(report.replica)
            if known is None:
                continue
            if isinstance(report, MoreKeys):
                known.cached.peer_sent(known.ledger, report.prefix, report.tokens_per_block)
            else:
                replica = known.ledger.replica
                known.cached.peer_served(report.session, replica, report.num_tokens)

    def _is_next(self, peer: Peer, incarnation: int, sequence: int, now_seconds: float) -> bool:
        is_silent = now_seconds - peer.heard_at_seconds >= SILENT_SECONDS
        if incarnation < peer.incarnation and not is_silent:
            return False
        if incarnation != peer.incarnation:
            self._forget_load(peer, now_seconds)
            peer.incarnation = incarnation
        elif sequence <= peer.sequence:
            return False
        else:
            peer.num_missed += sequence - peer.sequence - 1
        peer.sequence = sequence
        return True

    def _apply(self, peer: Peer, report: Report, now_seconds: float) -> None:
        if isinstance(report, SentReport):
            self._sent(peer, report, now_seconds)
        elif isinstance(report, AnsweredReport):
            found = peer.open.get(report.request)
            if found is not None and found.lease.is_pending:
                found.ledger.peer_answered(
                    found.lease, is_seen=report.is_seen, now_seconds=now_seconds
                )
        elif isinstance(report, EndedReport):
            self._ended(peer, report, now_seconds)
        elif isinstance(report, MoreKeys):
            known = self._replicas.get(report.replica)
            if known is not None:
                known.cached.peer_sent(known.ledger, report.prefix, report.tokens_per_block)
        elif isinstance(report, OpenReport):
            self._still_open(peer, report, now_seconds)

    def _sent(self, peer: Peer, report: SentReport, now_seconds: float) -> None:
        known = self._replicas.get(report.replica)
        if known is None or report.request in peer.open:
            return
        num_new = known.cached.peer_sent(known.ledger, report.prefix, report.tokens_per_block)
        new_blocks = report.prefix[len(report.prefix) - num_new :]
        if report.session:
            known.cached.peer_served(report.session, known.ledger.replica, report.prompt_tokens)
        if len(peer.open) >= MAX_PEER_REQUESTS:
            return
        # A request that the replica could not hold is an error of the peer: bound it.
        most = known.ledger.limit_tokens or MAX_REQUEST_TOKENS
        prompt = min(most, report.prompt_tokens)
        profile = RequestProfile(
            num_prompt_tokens=prompt,
            min_prompt_tokens=prompt,
            max_output_tokens=None,
            assumed_output_tokens=min(most - prompt, report.expected_output_tokens),
            num_choices=report.num_sequences,
            is_stream=report.is_stream,
        )
        lease = known.ledger.peer_sent(
            profile, work_tokens=min(prompt, report.work_tokens), now_seconds=now_seconds
        )
        peer.open.add(report.request, _Open(known, lease, report.session, new_blocks))

    def _ended(self, peer: Peer, report: EndedReport, now_seconds: float) -> None:
        found = peer.open.pop(report.request)
        if found is None:
            return
        if found.lease.is_pending and not report.is_complete:
            found.cached.peer_never_computed(found.ledger.replica, found.new_blocks)
        found.ledger.peer_ended(
            found.lease, held_tokens=report.held_tokens, now_seconds=now_seconds
        )
        if found.session and report.is_complete:
            found.cached.peer_served(found.session, found.ledger.replica, report.held_tokens)

    def _still_open(self, peer: Peer, report: OpenReport, now_seconds: float) -> None:
        pending, answered = set(report.pending), set(report.answered)
        for number, found in peer.open.between(report.first, report.last):
            if number in pending:
                continue
            if number not in answered:
                peer.open.pop(number)
                found.ledger.peer_ended(found.lease, held_tokens=None, now_seconds=now_seconds)
            elif found.lease.is_pending:
                found.ledger.peer_answered(found.lease, is_seen=False, now_seconds=now_seconds)

    def _forget_load(self, peer: Peer, now_seconds: float) -> None:
        for found in peer.open.values():
            found.ledger.peer_ended(found.lease, held_tokens=None, now_seconds=now_seconds)
        peer.open.clear()
