"""Who is looked at now: the longest due first, one look each, so many of a namespace at once.

Nobody waits for another one's engine: one that does not answer is looked at alone, and many of
them keep the rest of their own namespace at the most.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, NoReturn, Protocol, TypeVar

# Of a namespace, at once: as many as nobody's network minds. Chosen by hand.
MAX_AT_ONCE = 32


class _Target(Protocol):
    @property
    def uid(self) -> str: ...
    @property
    def namespace(self) -> str: ...


T = TypeVar("T", bound=_Target)


class Turns(Generic[T]):
    """Owns who is being looked at. Every target that ``take`` returns is given to ``end`` once."""

    def __init__(self) -> None:
        self._looking: set[str] = set()
        self._num_looking: Counter[str] = Counter()
        """By namespace."""

    def take(self, due: Mapping[str, float], targets: Mapping[str, T], now: float) -> list[T]:
        """Those whose turn it is. ``due``: from when on, in seconds of the clock, by uid."""
        taken = []
        for uid, _ in sorted(due.items(), key=lambda item: (item[1], item[0])):
            target = targets.get(uid)
            if due[uid] > now or target is None or uid in self._looking:
                continue
            if self._num_looking[target.namespace] < MAX_AT_ONCE:
                self._looking.add(uid)
                self._num_looking[target.namespace] += 1
                taken.append(target)
        return taken

    def end(self, target: T) -> None:
        """It has been looked at."""
        self._looking.discard(target.uid)
        self._num_looking[target.namespace] -= 1


async def look_forever(
    take: Callable[[], Sequence[T]],
    look: Callable[[T], Awaitable[None]],
    is_leading: Callable[[], bool],
    *,
    tick_seconds: float,
) -> NoReturn:
    """Begin every look when it is due, while this operator leads: only that one tells engines."""
    async with asyncio.TaskGroup() as looks:
        while True:
            await asyncio.sleep(tick_seconds)
            if is_leading():
                for target in take():
                    looks.create_task(_seen_through(look, target))


async def _seen_through(look: Callable[[T], Awaitable[None]], target: T) -> None:
    await look(target)
