"""Tenants that are told apart by words that nobody has checked (``--tenants key`` without keys).

Whoever sends a new word with each request would be a new tenant each time, and a new tenant goes
first. So a word is a tenant of its own only once it is *established*: it has come several times,
and not too many words were established of late. All other words are one tenant together.

* What is kept is bounded, whatever is sent.
* Who is established stays so while it asks: a flood of new words cannot push it out.
* A flood of new words takes from the one tenant that it is part of, and from nobody else.

What this cannot do: tell a hundred words of one client from a hundred clients. Only keys that
somebody has given out can (``--keys``).
"""

from collections import OrderedDict
from typing import Final

# The tenant of all words that are not established.
NEWCOMERS: Final = "newcomers"
# Requests with a word before it is established: honest clients come back, and a flood of fresh
# words does not. Chosen by hand.
MIN_REQUESTS: Final = 3
# Words that may be established at once, and how long one more takes then. Chosen by hand: as many
# tenants as a fleet has when its router starts; and a flood that uses each word often enough gains
# six tenants a minute.
BURST: Final = 32.0
SECONDS_PER_WORD: Final = 10.0
# Established words; below what fairness remembers (1,000 tenants), so that it forgets none of them.
MAX_ESTABLISHED: Final = 500
# Before an established word that is not heard makes room for another.
IDLE_SECONDS: Final = 3600.0
# Words that are not established and are counted; the one heard longest ago is forgotten first.
MAX_CANDIDATES: Final = 4096


class KnownWords:
    """Which words are tenants. Owns what is kept of them; the caller brings the clock."""

    __slots__ = ("_allowance", "_candidates", "_established", "_updated_at")

    def __init__(self) -> None:
        self._established: OrderedDict[str, float] = OrderedDict()
        """When each was heard last, the one that is silent for longest first."""
        self._candidates: OrderedDict[str, int] = OrderedDict()
        self._allowance = BURST
        self._updated_at = 0.0

    def __len__(self) -> int:
        return len(self._established) + len(self._candidates)

    def tenant(self, word: str, *, now_seconds: float) -> str:
        """The tenant of a request that came with the word; no word is no tenant."""
        if not word:
            return word
        if word in self._established:
            self._established[word] = now_seconds
            self._established.move_to_end(word)
            return word
        count = self._candidates.get(word, 0) + 1
        if count >= MIN_REQUESTS and self._may_establish(now_seconds):
            self._candidates.pop(word, None)
            self._established[word] = now_seconds
            return word
        self._candidates[word] = count
        self._candidates.move_to_end(word)
        if len(self._candidates) > MAX_CANDIDATES:
            self._candidates.popitem(last=False)
        return NEWCOMERS

    def _may_establish(self, now_seconds: float) -> bool:
        """Whether one more may be; if so, it is paid for, and there is room."""
        passed = max(0.0, now_seconds - self._updated_at)
        self._updated_at = now_seconds
        self._allowance = min(BURST, self._allowance + passed / SECONDS_PER_WORD)
        if self._allowance < 1.0:
            return False
        if len(self._established) >= MAX_ESTABLISHED:
            word = next(iter(self._established))
            if now_seconds - self._established[word] < IDLE_SECONDS:
                return False
            del self._established[word]
        self._allowance -= 1.0
        return True
