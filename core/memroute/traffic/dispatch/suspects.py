"""Requests with which a replica has died, and when one of them is to blame.

A replica that dies takes all its requests with it. One of them may have killed it, and would kill
the next; or it died for its own reasons, and all deserve another try. What tells them apart:

```text
delivered, and not one byte of the answer ── the replica dies ──► suspect
suspect ── sent again where no other suspect waits for its first byte ─┬─ answered ──► forgotten
                                                                       └─ dies ─┐
   it was the only suspect there ──► to blame: refused for REMEMBERED_SECONDS ◄─┤
   several were there, or it had outlived its first death by far ──► suspect ◄──┘
```

*Apart* is what makes the second death say something: of fifty requests that one replica took with
it, each is tried again, and the one that kills is alone among suspects when it does so. Where they
cannot be kept apart in time (``MAX_APART_SECONDS``), nobody is blamed: a replica that dies with
many is more likely to have died by itself.

| not counted | why |
| --- | --- |
| requests that were never delivered | the replica cannot have died of them |
| answers that had begun | what an engine has prefilled, it has digested |
| replicas that hang | slow is not dead; the clock of the attempt looks after them |
| answers of 500 | unless the replica is found dead within ``FOUND_DEAD_SECONDS`` |

A request is known by a hash of its path and body: another body is another request. Pure: the caller
brings the clock. Owns what is remembered.
"""

from collections import deque
from hashlib import blake2b
from typing import Final

# How long a request is remembered with which replicas have died; as long is it refused when it is
# to blame. Engines take minutes to start again, clients' libraries retry for about one.
# Unit: seconds. Source: chosen by hand.
REMEMBERED_SECONDS: Final = 600.0
# Requests that are remembered; a replica runs 256.
# Unit: requests. Source: a bound of memory, chosen by hand.
MAX_REMEMBERED: Final = 4096
# Losses at one replica within this time are one death; a replica that has died is out for as long.
# Unit: seconds. Source: chosen by hand.
SAME_DEATH_SECONDS: Final = 5.0
# A suspect that has been at a replica for so long no longer keeps other suspects away from it:
# prefill of all but the longest prompts is shorter.
# Unit: seconds. Source: chosen by hand.
SLOT_SECONDS: Final = 2.0
# A suspect waits this long for a replica without another one; then it goes anywhere. Half of the
# default of --max-queue-seconds.
# Unit: seconds. Source: chosen by hand.
MAX_APART_SECONDS: Final = 5.0
# A suspect that has lived this many times longer than at its first death has not caused the second.
# Unit: ratio. Source: chosen by hand.
OUTLIVED: Final = 3.0
# An answer of 500 counts as the replica's death when it cannot be reached within this time: vLLM
# ends its server within seconds of its engine core.
# Unit: seconds. Source: chosen by hand.
FOUND_DEAD_SECONDS: Final = 10.0
# Answers of 500 that are looked at again when their replica cannot be reached.
# Unit: answers. Source: a bound of memory, chosen by hand; a replica runs 256 requests.
MAX_ERRORS: Final = 256


def request_name(path: bytes, body: bytes) -> bytes:
    """What a request is known by: a hash of path and body."""
    digest = blake2b(path, digest_size=16)
    digest.update(b"\n")
    digest.update(body)
    return digest.digest()


class _Suspicion:
    __slots__ = (
        "blamed_until_seconds",
        "last_at_seconds",
        "lived_seconds",
        "num_bytes",
        "replicas",
    )

    def __init__(self, num_bytes: int, lived_seconds: float) -> None:
        self.num_bytes = num_bytes
        self.lived_seconds = lived_seconds
        """How long it was at the replica that died first, before that died."""
        self.replicas: list[str] = []
        """Those that died with it, one for each death."""
        self.last_at_seconds = 0.0
        self.blamed_until_seconds = 0.0


class _Death:
    __slots__ = ("at_seconds", "suspects")

    def __init__(self, at_seconds: float, suspects: set[bytes]) -> None:
        self.at_seconds = at_seconds
        self.suspects = suspects
        """Those that were there, were suspects before, and had not outlived their first death."""


class _Error:
    __slots__ = ("at_seconds", "name", "num_bytes", "replica", "was_suspect")

    def __init__(
        self, at_seconds: float, replica: str, name: bytes, num_bytes: int, *, was_suspect: bool
    ) -> None:
        self.at_seconds = at_seconds
        self.replica = replica
        self.name = name
        self.num_bytes = num_bytes
        self.was_suspect = was_suspect


class _Presence:
    __slots__ = ("name", "replica", "since_seconds")

    def __init__(self, name: bytes, replica: str, since_seconds: float) -> None:
        self.name = name
        self.replica = replica
        self.since_seconds = since_seconds


class Suspects:
    """What is remembered of requests with which replicas have died."""

    def __init__(self) -> None:
        self._by_name: dict[bytes, _Suspicion] = {}
        self.lengths: dict[int, int] = {}
        """Suspects by the bytes of their bodies: a request of another length need not be hashed."""
        self._deaths: dict[str, _Death] = {}
        self._there: dict[object, _Presence] = {}
        """Suspects that wait for their first byte, by whoever asked."""
        self._errors: deque[_Error] = deque(maxlen=MAX_ERRORS)
        self.num_blamed = 0

    def __len__(self) -> int:
        return len(self._by_name)

    def is_suspect(self, name: bytes) -> bool:
        """Whether a replica has died with it of late."""
        return name in self._by_name

    def blamed_for_seconds(self, name: bytes, *, now_seconds: float) -> float:
        """How long it is refused from now on; 0: it is not."""
        suspicion = self._by_name.get(name)
        return 0.0 if suspicion is None else max(0.0, suspicion.blamed_until_seconds - now_seconds)

    def replicas(self, name: bytes) -> list[str]:
        """Those that have died with it, in order."""
        suspicion = self._by_name.get(name)
        return [] if suspicion is None else list(suspicion.replicas)

    # Apart.

    def busy(self, *, now_seconds: float) -> set[str]:
        """Replicas where a suspect waits for its first byte: another should not go there now."""
        return {
            each.replica
            for each in self._there.values()
            if now_seconds - each.since_seconds < SLOT_SECONDS
        }

    def is_out(self, name: bytes, *, now_seconds: float) -> bool:
        """Whether the same request, sent by somebody else, waits for its first byte somewhere."""
        return any(
            each.name == name and now_seconds - each.since_seconds < SLOT_SECONDS
            for each in self._there.values()
        )

    def entered(self, ticket: object, name: bytes, replica: str, *, now_seconds: float) -> None:
        """A suspect is sent to a replica."""
        self._there[ticket] = _Presence(name, replica, now_seconds)

    def left(self, ticket: object) -> None:
        """Its answer has begun, or it is no longer there."""
        self._there.pop(ticket, None)

    # What happens.

    def died(
        self,
        name: bytes,
        replica: str,
        *,
        num_bytes: int,
        lived_seconds: float,
        now_seconds: float,
    ) -> bool:
        """A replica has died with the request, before its first byte; True: it is to blame.

        ``num_bytes``: of its body. ``lived_seconds``: since it was sent there. To be called before
        ``left``.
        """
        death = self._deaths.get(replica)
        if death is None or now_seconds - death.at_seconds > SAME_DEATH_SECONDS:
            death = self._deaths[replica] = self._new_death(replica, now_seconds)
        suspicion = self._by_name.pop(name, None)
        if suspicion is None:
            self._prune(now_seconds)
            suspicion = _Suspicion(num_bytes, lived_seconds)
            self.lengths[num_bytes] = self.lengths.get(num_bytes, 0) + 1
        self._by_name[name] = suspicion
        is_same_death = (
            suspicion.replicas[-1:] == [replica] and suspicion.last_at_seconds >= death.at_seconds
        )
        suspicion.last_at_seconds = now_seconds
        if not is_same_death:
            suspicion.replicas.append(replica)
        if name not in death.suspects or len(death.suspects) > 1:
            return suspicion.blamed_until_seconds > now_seconds
        if suspicion.blamed_until_seconds <= now_seconds:
            self.num_blamed += 1
        suspicion.blamed_until_seconds = now_seconds + REMEMBERED_SECONDS
        return True

    def errored(self, name: bytes, replica: str, *, num_bytes: int, now_seconds: float) -> None:
        """A replica has answered by an error of its own, which may be its last word."""
        was_suspect = name in self._by_name
        self._errors.append(_Error(now_seconds, replica, name, num_bytes, was_suspect=was_suspect))

    def unreachable(self, replica: str, *, now_seconds: float) -> None:
        """No connection to the replica could be opened: errors of just now were its last words."""
        if not self._errors:
            return
        self._forget_errors(now_seconds)
        errors = [each for each in self._errors if each.replica == replica]
        if not errors:
            return
        self._errors = deque(
            (each for each in self._errors if each.replica != replica), maxlen=MAX_ERRORS
        )
        death = self._deaths.get(replica)
        if death is None or now_seconds - death.at_seconds > SAME_DEATH_SECONDS:
            death = self._deaths[replica] = self._new_death(replica, now_seconds)
            death.suspects.update(each.name for each in errors if each.was_suspect)
        for each in errors:
            self.died(
                each.name,
                replica,
                num_bytes=each.num_bytes,
                lived_seconds=0.0,
                now_seconds=now_seconds,
            )

    def answered(self, name: bytes) -> None:
        """The request was answered: it kills no replica."""
        suspicion = self._by_name.pop(name, None)
        if suspicion is not None:
            self._forget_length(suspicion.num_bytes)

    def tick(self, *, now_seconds: float) -> None:
        """Time passes: forget what is too old."""
        if not self._by_name and not self._deaths and not self._errors:
            return
        for name in list(self._by_name):
            suspicion = self._by_name[name]
            if now_seconds - suspicion.last_at_seconds <= REMEMBERED_SECONDS:
                break  # the order is that of the latest deaths
            self.answered(name)
        for replica in list(self._deaths):
            if now_seconds - self._deaths[replica].at_seconds > SAME_DEATH_SECONDS:
                del self._deaths[replica]
        self._forget_errors(now_seconds)

    # Inside.

    def _new_death(self, replica: str, now_seconds: float) -> _Death:
        suspects = set()
        for each in self._there.values():
            suspicion = self._by_name.get(each.name)
            if each.replica != replica or suspicion is None:
                continue
            lived_seconds = now_seconds - each.since_seconds
            if lived_seconds <= SLOT_SECONDS + OUTLIVED * suspicion.lived_seconds:
                suspects.add(each.name)
        return _Death(now_seconds, suspects)

    def _prune(self, now_seconds: float) -> None:
        self.tick(now_seconds=now_seconds)
        if len(self._by_name) >= MAX_REMEMBERED:
            # The oldest that is not blamed; where all are, the oldest.
            oldest = next(iter(self._by_name))
            self.answered(
                next(
                    (
                        name
                        for name, suspicion in self._by_name.items()
                        if suspicion.blamed_until_seconds <= now_seconds
                    ),
                    oldest,
                )
            )

    def _forget_errors(self, now_seconds: float) -> None:
        while self._errors and now_seconds - self._errors[0].at_seconds > FOUND_DEAD_SECONDS:
            self._errors.popleft()

    def _forget_length(self, num_bytes: int) -> None:
        left = self.lengths.get(num_bytes, 0) - 1
        if left > 0:
            self.lengths[num_bytes] = left
        else:
            self.lengths.pop(num_bytes, None)
