"""Where each session was served last, and how much of it is cached there.

A session's next request repeats what was said so far. Where its text shows that, the prefix index
finds it; a session that is named is found whatever its text: images, tools, a template that writes
the past anew. It attracts the session as a cached prefix does, no more: to a replica that is full
it does not hold on.
"""

from collections import OrderedDict
from itertools import islice
from typing import Final

from memroute.traffic.prefixes.rendezvous import text_key
from memroute.traffic.request import RequestProfile

MAX_SESSIONS: Final = 100_000
# Some 15 MB; the one that was served longest ago goes first.


class SessionIndex:
    """Owns what is known of sessions; bounded."""

    def __init__(self) -> None:
        self._served: OrderedDict[int, tuple[str, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._served)

    def served(self, session: int, replica: str, num_tokens: int) -> None:
        """It was served there, and holds so many tokens: its prompt and its answer so far."""
        self._served[session] = (replica, num_tokens)
        self._served.move_to_end(session)
        if len(self._served) > MAX_SESSIONS:
            self._served.popitem(last=False)

    def recent(self, most: int) -> list[tuple[int, str, int]]:
        """So many of the sessions served last, the oldest of them first: replica and tokens."""
        found = [(session, *last) for session, last in islice(reversed(self._served.items()), most)]
        return found[::-1]

    def last(self, session: int) -> tuple[str, int] | None:
        """The replica and the tokens; None when it is new, or was forgotten."""
        return self._served.get(session)


def session_key(profile: RequestProfile) -> int:
    """The session's number, the same in every router; two tenants may call theirs the same."""
    return text_key(f"{profile.tenant}/{profile.session}")
