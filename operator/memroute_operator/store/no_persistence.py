"""kopf without what it keeps of objects: nothing is compared, and nothing is written on them.

Our handlers are told of events, and no more. kopf would copy each object three times all the same
to find out what has changed in it: two thirds of what an event costs, on the event loop.
"""

from typing import Any

import kopf

NOTHING = kopf.BodyEssence()


class NoDiffs(kopf.DiffBaseStorage):
    """Finds no difference, ever."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Nothing of the object."""
        return NOTHING

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Nothing was kept."""
        return None

    def store(self, **_: Any) -> None:
        """Keep nothing."""


class NoProgress(kopf.ProgressStorage):
    """Knows of no handler that is under way."""

    def fetch(self, **_: Any) -> kopf.ProgressRecord | None:
        """Nothing is under way."""
        return None

    def store(self, **_: Any) -> None:
        """Keep nothing."""

    def purge(self, **_: Any) -> None:
        """There is nothing."""

    def touch(self, **_: Any) -> None:
        """Write nothing."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Nothing of ours is in it."""
        return essence
