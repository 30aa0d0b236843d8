"""The phases of a request, and what can happen in each: a table, so that nobody has to infer it.

```text
INTAKE ──► TOKENIZING ──► SEEKING ◄────────── another replica ────────┐
   │            │           │ │                                       │
   │            │           │ └──► QUEUED ──► ATTEMPTING ─────────────┤
   │            │           └───────────────►     │                   │
   │            │                │    │           └──► ANSWERING      │
   └────────────┴────────────────┴────┴───────────────────┴──────► OVER
```

INTAKE and SEEKING last for one call: nothing from outside can happen in them.
"""

from typing import Final

# Numbers, not enumerations: a request goes through five of them, and a member of an enumeration
# costs as much to look up as the whole step.
PHASES: Final = ("INTAKE", "TOKENIZING", "SEEKING", "QUEUED", "ATTEMPTING", "ANSWERING", "OVER")
HAPPENINGS: Final = (
    "TOKENIZE", "SIZED", "HOLD", "ADMIT", "REFUSE", "RETRY", "FIRST_BYTE", "LAST_BYTE", "BREAK",
    "STUCK", "CLIENT_GONE", "CLIENT_SLOW", "CLIENT_READY", "SHUT_DOWN", "CRASH", "SEEK",
)  # fmt: skip


class Phase:
    """Where a request is; ``PHASES`` has the names."""

    INTAKE: Final = 0
    """Its body is parsed, its model looked up."""
    TOKENIZING: Final = 1
    """Its prompt is being counted, in a thread."""
    SEEKING: Final = 2
    """Admission is asked for room."""
    QUEUED: Final = 3
    """It waits in the pool's queue for its turn."""
    ATTEMPTING: Final = 4
    """Room is reserved on a replica, which has not sent a byte of its answer."""
    ANSWERING: Final = 5
    """Some of the answer has gone to the client: no other replica can take over."""
    OVER: Final = 6
    """It is accounted for."""


class Happening:
    """What can happen to a request; ``HAPPENINGS`` has the names."""

    TOKENIZE: Final = 0
    """Its prompt will be counted."""
    SIZED: Final = 1
    """Its size is known, or estimated."""
    HOLD: Final = 2
    """Admission: not now."""
    ADMIT: Final = 3
    """Admission: here, now."""
    REFUSE: Final = 4
    """It cannot be read, or is not admitted; or all that may be tried was tried."""
    RETRY: Final = 5
    """Its replica failed before the first byte; another may be asked."""
    FIRST_BYTE: Final = 6
    LAST_BYTE: Final = 7
    BREAK: Final = 8
    """The answer cannot be completed."""
    STUCK: Final = 9
    """Its replica hangs, and others do not."""
    CLIENT_GONE: Final = 10
    CLIENT_SLOW: Final = 11
    CLIENT_READY: Final = 12
    SHUT_DOWN: Final = 13
    """The router's time is up."""
    CRASH: Final = 14
    """A bug of ours, in whatever was done for the request."""
    SEEK: Final = 15
    """A suspect that was kept apart, or one that lacked its tenant's share, may ask for room."""


_WAITS: Final = (Phase.TOKENIZING, Phase.QUEUED, Phase.ATTEMPTING, Phase.ANSWERING)
"""The phases in which something from outside can happen."""

TRANSITIONS: Final[dict[tuple[int, int], int]] = {
    (Phase.INTAKE, Happening.TOKENIZE): Phase.TOKENIZING,
    (Phase.INTAKE, Happening.SIZED): Phase.SEEKING,
    (Phase.INTAKE, Happening.REFUSE): Phase.OVER,
    (Phase.TOKENIZING, Happening.SIZED): Phase.SEEKING,
    (Phase.SEEKING, Happening.HOLD): Phase.QUEUED,
    (Phase.SEEKING, Happening.ADMIT): Phase.ATTEMPTING,
    (Phase.SEEKING, Happening.REFUSE): Phase.OVER,
    (Phase.QUEUED, Happening.ADMIT): Phase.ATTEMPTING,
    (Phase.QUEUED, Happening.REFUSE): Phase.OVER,
    (Phase.QUEUED, Happening.SEEK): Phase.SEEKING,
    (Phase.ATTEMPTING, Happening.RETRY): Phase.SEEKING,
    (Phase.ATTEMPTING, Happening.REFUSE): Phase.OVER,
    (Phase.ATTEMPTING, Happening.FIRST_BYTE): Phase.ANSWERING,
    (Phase.ATTEMPTING, Happening.STUCK): Phase.ATTEMPTING,
    (Phase.ANSWERING, Happening.LAST_BYTE): Phase.OVER,
    (Phase.ANSWERING, Happening.BREAK): Phase.OVER,
    # Too late: the client has some of the answer. Clocks of their own look after it.
    (Phase.ANSWERING, Happening.STUCK): Phase.ANSWERING,
    # The client left while a thread counted its prompt.
    (Phase.OVER, Happening.SIZED): Phase.OVER,
    # Only after an exception in admission, a bug: the request is accounted for all the same.
    (Phase.SEEKING, Happening.CLIENT_GONE): Phase.OVER,
    (Phase.SEEKING, Happening.SHUT_DOWN): Phase.OVER,
    (Phase.INTAKE, Happening.CRASH): Phase.OVER,
    (Phase.TOKENIZING, Happening.CRASH): Phase.OVER,
    (Phase.SEEKING, Happening.CRASH): Phase.OVER,
    (Phase.QUEUED, Happening.CRASH): Phase.OVER,
    (Phase.ATTEMPTING, Happening.CRASH): Phase.OVER,
    (Phase.ANSWERING, Happening.CRASH): Phase.OVER,
    # The call had ended the request before it failed.
    (Phase.OVER, Happening.CRASH): Phase.OVER,
    **{(phase, Happening.CLIENT_GONE): Phase.OVER for phase in _WAITS},
    **{(phase, Happening.CLIENT_SLOW): phase for phase in _WAITS},
    **{(phase, Happening.CLIENT_READY): phase for phase in _WAITS},
    **{(phase, Happening.SHUT_DOWN): Phase.OVER for phase in _WAITS},
}

_ONE_CALL: Final = "lasts for one call, in which nothing from outside is heard"
_NO_LEASE: Final = "has no lease, so no replica, no connection, and no ledger that knows of it"
_READ: Final = "was read, sized and admitted before"
_NOT_SIZED: Final = "has not been sized, so nobody was asked for room"

IMPOSSIBLE: Final[dict[int, tuple[tuple[str, tuple[int, ...]], ...]]] = {
    Phase.INTAKE: (
        (_NOT_SIZED, (Happening.HOLD, Happening.ADMIT, Happening.SEEK)),
        (_NO_LEASE, (Happening.RETRY, Happening.FIRST_BYTE, Happening.LAST_BYTE,
                     Happening.BREAK, Happening.STUCK)),
        (_ONE_CALL, (Happening.CLIENT_GONE, Happening.CLIENT_SLOW, Happening.CLIENT_READY,
                     Happening.SHUT_DOWN)),
    ),
    Phase.TOKENIZING: (
        (_NOT_SIZED, (Happening.HOLD, Happening.ADMIT, Happening.REFUSE, Happening.SEEK)),
        (_NO_LEASE, (Happening.RETRY, Happening.FIRST_BYTE, Happening.LAST_BYTE,
                     Happening.BREAK, Happening.STUCK)),
        ("is asked once", (Happening.TOKENIZE,)),
    ),
    Phase.SEEKING: (
        (_READ, (Happening.TOKENIZE, Happening.SIZED)),
        (_NO_LEASE, (Happening.RETRY, Happening.FIRST_BYTE, Happening.LAST_BYTE,
                     Happening.BREAK, Happening.STUCK)),
        (_ONE_CALL, (Happening.CLIENT_SLOW, Happening.CLIENT_READY)),
        ("seeks already", (Happening.SEEK,)),
    ),
    Phase.QUEUED: (
        (_READ, (Happening.TOKENIZE, Happening.SIZED)),
        ("is held already", (Happening.HOLD,)),
        (_NO_LEASE, (Happening.RETRY, Happening.FIRST_BYTE, Happening.LAST_BYTE,
                     Happening.BREAK, Happening.STUCK)),
    ),
    Phase.ATTEMPTING: (
        (_READ, (Happening.TOKENIZE, Happening.SIZED, Happening.HOLD, Happening.ADMIT)),
        ("has no answer yet: it fails, and is refused or tried elsewhere",
         (Happening.LAST_BYTE, Happening.BREAK)),
        ("has room", (Happening.SEEK,)),
    ),
    Phase.ANSWERING: (
        (_READ, (Happening.TOKENIZE, Happening.SIZED, Happening.HOLD, Happening.ADMIT)),
        ("has its answer's head on the way to the client",
         (Happening.REFUSE, Happening.RETRY, Happening.FIRST_BYTE, Happening.SEEK)),
    ),
    Phase.OVER: (
        ("has left the queue, its lease, its connection and its client",
         tuple(
             each for each in range(len(HAPPENINGS))
             if each not in (Happening.SIZED, Happening.CRASH)
         )),
    ),
}  # fmt: skip
"""What cannot happen, and why; it would be a bug. The test of this table holds that every pair of
phase and happening is either here or in ``TRANSITIONS``."""

_NEVER: Final = -1
_NEXT: Final = [
    [TRANSITIONS.get((phase, each), _NEVER) for each in range(len(HAPPENINGS))]
    for phase in range(len(PHASES))
]


def after(phase: int, happening: int) -> int:
    """The phase that follows. Raises ``RuntimeError`` where that cannot happen: it is a bug."""
    following = _NEXT[phase][happening]
    if following == _NEVER:
        msg = f"{HAPPENINGS[happening]} in phase {PHASES[phase]}"
        raise RuntimeError(msg)
    return following
