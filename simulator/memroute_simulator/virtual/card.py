"""A card that several engines share in virtual time: whoever has work slows the others."""

from memroute.bandwidth import SharingMechanism, shared_step_seconds


class SharedCard:
    """Owns which of its engines has a step under way."""

    def __init__(self, mechanism: SharingMechanism) -> None:
        self.mechanism = mechanism
        self._busy: set[str] = set()

    def begin(self, engine: str, step_seconds: float, idle_seconds: float) -> float:
        """Seconds that a step of the engine takes beside those that have work now.

        Who begins or ends later counts from the next step on.
        """
        self._busy.add(engine)
        return shared_step_seconds(step_seconds, idle_seconds, len(self._busy), self.mechanism)

    def rest(self, engine: str) -> None:
        """The engine has no work any more."""
        self._busy.discard(engine)
