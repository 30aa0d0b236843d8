"""The replica that served each named session last, and how many of its tokens are cached there.

A session's next request repeats what was said so far. Where the text shows that, the prefix index
finds it. A named session is found whatever its text: images, tools, a template that rewrites the
past. It attracts the next request as a cached prefix does, no more: the session leaves a replica
that is full.
"""

from collections import OrderedDict
from itertools import islice
from typing import Final

from memroute.traffic.prefixes.rendezvous import text_key
from memroute.traffic.request import RequestProfile

# Named sessions that a pool remembers, some 15 MB; the one that was served longest ago is
# forgotten first.
# Unit: sessions. Source: a bound of memory, chosen by hand.
MAX_SESSIONS: Final = 100_000


class SessionIndex:
    """Owns the last replica of each session; bounded."""

    def __init__(self) -> None:
        self._served: OrderedDict[int, tuple[str, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._served)

    def served(self, session: int, replica: str, num_tokens: int) -> None:
        """The session was served on ``replica`` and holds ``num_tokens``: prompt and answer."""
        self._served[session] = (replica, num_tokens)
        self._served.move_to_end(session)
        if len(self._served) > MAX_SESSIONS:
            self._served.popitem(last=False)

    def recent(self, most: int) -> list[tuple[int, str, int]]:
        """The ``most`` sessions served last, the oldest first: session, replica, tokens."""
        found = [(session, *last) for session, last in islice(reversed(self._served.items()), most)]
        return found[::-1]

    def last(self, session: int) -> tuple[str, int] | None:
        """The session's last replica and its tokens; None when it is new or forgotten."""
        return self._served.get(session)


def session_key(profile: RequestProfile) -> int:
    """The session's key, the same in every router. It includes the tenant: names may repeat."""
    return text_key(f"{profile.tenant}/{profile.session}")
