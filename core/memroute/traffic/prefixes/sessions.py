"""The replica that served each named session last, and how many of its tokens are cached there.

A session's next request repeats what was said so far. Where the text shows that, the prefix index
finds it. A named session is found whatever its text: images, tools, a template that rewrites the
past. It attracts the next request as a cached prefix does, no more: the session leaves a replica
that is full.

Clients choose the names, and a client may name a new one with each request. So sessions that have
come back are kept apart from those that have not: however many are named once, they push out one
another, and no conversation that goes on.
"""

from collections import OrderedDict
from itertools import chain, islice
from typing import Final

from memroute.traffic.prefixes.rendezvous import text_key
from memroute.traffic.request import RequestProfile

# Named sessions that a pool remembers, some 15 MB; the one that was served longest ago is
# forgotten first.
# Unit: sessions. Source: a bound of memory, chosen by hand.
MAX_SESSIONS: Final = 100_000
# Part of those that may be sessions which have not come back.
# Unit: ratio. Source: chosen by hand.
NEW_SESSIONS_RATIO: Final = 0.5


class SessionIndex:
    """Owns the last replica of each session; bounded."""

    def __init__(self) -> None:
        self._new: OrderedDict[int, tuple[str, int]] = OrderedDict()
        self._going_on: OrderedDict[int, tuple[str, int]] = OrderedDict()
        """Those that have come back."""

    def __len__(self) -> int:
        return len(self._new) + len(self._going_on)

    def sent(self, session: int, replica: str, num_tokens: int) -> None:
        """A request of the session was sent to ``replica``: one that was known has come back."""
        known = self._new.pop(session, None)
        if known is None:
            self.served(session, replica, num_tokens)
            return
        self._going_on[session] = (replica, num_tokens)
        if len(self._going_on) > MAX_SESSIONS * (1.0 - NEW_SESSIONS_RATIO):
            self._going_on.popitem(last=False)

    def served(self, session: int, replica: str, num_tokens: int) -> None:
        """The session was served on ``replica`` and holds ``num_tokens``: prompt and answer."""
        if session in self._going_on:
            self._going_on[session] = (replica, num_tokens)
            self._going_on.move_to_end(session)
            return
        self._new[session] = (replica, num_tokens)
        self._new.move_to_end(session)
        if len(self._new) > MAX_SESSIONS * NEW_SESSIONS_RATIO:
            self._new.popitem(last=False)

    def forget(self, replica: str) -> None:
        """Nothing is cached on the replica any more: its sessions may go anywhere.

        Looks at every session, some 10 ms for as many as there may be.
        """
        for known in (self._new, self._going_on):
            for session in [key for key, last in known.items() if last[0] == replica]:
                del known[session]

    def recent(self, most: int) -> list[tuple[int, str, int]]:
        """At most ``most`` sessions with their replicas and tokens; those that go on come last."""
        latest = chain(reversed(self._going_on.items()), reversed(self._new.items()))
        found = [(session, *last) for session, last in islice(latest, most)]
        return found[::-1]

    def last(self, session: int) -> tuple[str, int] | None:
        """The session's last replica and its tokens; None when it is new or forgotten."""
        return self._going_on.get(session) or self._new.get(session)


def session_key(profile: RequestProfile) -> int:
    """The session's key, the same in every router. It includes the tenant: names may repeat."""
    return text_key(f"{profile.tenant}/{profile.session}")
