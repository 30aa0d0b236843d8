"""What routers in virtual time tell each other: real datagrams over a network that loses some.

Owns which routers there are. One that leaves is heard no more and hears nothing; one that comes
back knows nothing, as after a restart.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from memroute.traffic.peers import PeerGroup, encode_datagrams
from memroute_simulator.virtual.loop import VirtualLoop

OPEN_SECONDS = 0.25
# How often a router lists what it has under way: the real one's tick.


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """How routers hear each other."""

    flush_seconds: float = 0.005
    """How long reports are collected into one datagram."""
    delay_seconds: float = 0.0005
    loss_ratio: float = 0.0
    """Of datagrams, each at each receiver; 1: routers know of each other, and hear nothing."""


class Member(Protocol):
    """A router, as its network sees it."""

    name: str

    @property
    def peers(self) -> PeerGroup:
        """What it says, and what the others say to it."""
        ...


class PeerNetwork:
    """Carries datagrams between the routers of one simulation."""

    def __init__(self, loop: VirtualLoop, settings: PeerSettings, rng: random.Random) -> None:
        self._loop = loop
        self._settings = settings
        self._rng = rng
        self._members: dict[str, Member] = {}
        self._sequences: dict[str, int] = {}
        self._incarnations: dict[str, int] = {}
        self._num_joined = 0
        self.num_bytes = 0
        """Sent to one receiver each, headers of the network below not counted."""
        self.num_datagrams = 0
        self.num_welcome_bytes = 0
        """Sent to routers that have come."""

    def join(self, member: Member) -> None:
        """A router is there; the others know of it at once."""
        self._members[member.name] = member
        self._num_joined += 1
        self._incarnations[member.name] = member.peers.incarnation = self._num_joined
        self._sequences[member.name] = 0
        self._introduce()

    def leave(self, name: str) -> None:
        """A router is gone; the others know of it at once."""
        self._members.pop(name, None)
        self._introduce()

    def start(self, member: Member, *, is_running: Callable[[], bool]) -> None:
        """Send what a router has to tell, while there is something to route."""
        incarnation = self._incarnations[member.name]
        peers = member.peers
        will_flush = [False]

        def is_there() -> bool:
            return self._members.get(member.name) is member and is_running()

        def flush_later() -> None:
            if not will_flush[0]:
                will_flush[0] = True
                self._loop.after(self._settings.flush_seconds, flush)

        def flush() -> None:
            will_flush[0] = False
            if is_there():
                records = peers.outbox.take(now_seconds=self._loop.now_seconds)
                self._send(member, incarnation, records)
                is_welcomed = self._welcome(member, incarnation)
                if peers.outbox.has_records or is_welcomed:
                    flush_later()

        def tick() -> None:
            if is_there():
                peers.tick(now_seconds=self._loop.now_seconds)
                peers.outbox.list_open()
                self._loop.after(OPEN_SECONDS, tick)

        peers.outbox.on_records = flush_later
        self._loop.after(self._rng.random() * OPEN_SECONDS, tick)

    def _introduce(self) -> None:
        now = self._loop.now_seconds
        for member in self._members.values():
            others = {name for name in self._members if name != member.name}
            member.peers.set_peers(others, now_seconds=now)

    def _send(self, member: Member, incarnation: int, records: list[bytes]) -> None:
        if not records:
            return
        first = self._sequences[member.name]
        datagrams = encode_datagrams(
            records, incarnation=incarnation, first_sequence=first, secret=None
        )
        self._sequences[member.name] = first + len(datagrams)
        for data in datagrams:
            self.num_datagrams += 1
            self.num_bytes += len(data)
            for other in list(self._members.values()):
                if other is not member:
                    self._deliver(member.name, other, data)

    def _welcome(self, member: Member, incarnation: int) -> bool:
        """Tell a router that has come some more of the past; False when nobody has."""
        room = self._settings.flush_seconds * member.peers.outbox.max_bytes_per_second
        taken = member.peers.take_welcome(room)
        if taken is None:
            return False
        name, records = taken
        for data in encode_datagrams(
            records, incarnation=incarnation, first_sequence=None, secret=None
        ):
            self.num_welcome_bytes += len(data)
            if name in self._members:
                self._deliver(member.name, self._members[name], data)
        return True

    def _deliver(self, sender: str, receiver: Member, data: bytes) -> None:
        if self._rng.random() < self._settings.loss_ratio:
            return

        def arrive() -> None:
            receiver.peers.receive(sender, data, secret=None, now_seconds=self._loop.now_seconds)

        self._loop.after(self._settings.delay_seconds, arrive)
