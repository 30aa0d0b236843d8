"""Pods that are being created, or may have been: what they were promised counts from the decision.

```text
begun (its lane waits) → tried (the API server was asked) → done: in the store
                                    │ refused: gone
                                    └ no answer: it may come, until a time or a full list decides
```
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from memroute.placement import Reservation


@dataclass(slots=True, kw_only=True)
class _OnItsWay:
    """A pod that is being created, or may have been."""

    reservation: Reservation
    is_tried: bool = False
    """Whether the API server was asked; False while it waits for its turn in a lane."""
    decided_seconds: float | None = None
    """From when on what is not there will not come any more; None while the call runs."""
    needs_list: bool = True
    """Whether only a full list tells that it is not there: events may have been lost as well."""


class OnTheirWay:
    """Owns them, by ``namespace/pod``."""

    def __init__(self) -> None:
        self._pods: dict[str, _OnItsWay] = {}

    def __contains__(self, pod: str) -> bool:
        return pod in self._pods

    def keys(self) -> Iterable[str]:
        """Their pods."""
        return self._pods.keys()

    def begin(self, pod: str, reservation: Reservation) -> None:
        """It is to be created. The next step must not give its room away."""
        self._pods[pod] = _OnItsWay(reservation=reservation)

    def on_tried(self, pod: str) -> None:
        """The API server is asked now."""
        self._pods[pod].is_tried = True

    def end(self, pod: str) -> None:
        """What became of it is known."""
        self._pods.pop(pod, None)

    def drop_untried(self, pods: Iterable[str]) -> None:
        """Those of a lane that has ended before their turn came."""
        for pod in pods:
            if pod in self._pods and not self._pods[pod].is_tried:
                del self._pods[pod]

    def leave(self, pod: str, *, decided_seconds: float, needs_list: bool) -> None:
        """It may have been created, and nobody knows until then; ``needs_list``: nor after it."""
        if pod in self._pods:
            self._pods[pod].decided_seconds = decided_seconds
            self._pods[pod].needs_list = needs_list

    def reservations(self, seen: Callable[[str], bool], now_seconds: float) -> list[Reservation]:
        """What those will hold that nobody has seen yet. ``seen``: whether the store has a pod."""
        for key, pod in list(self._pods.items()):
            if pod.decided_seconds is None:
                continue
            if seen(key) or (not pod.needs_list and pod.decided_seconds <= now_seconds):
                del self._pods[key]
        return [pod.reservation for key, pod in self._pods.items() if not seen(key)]

    def wants_list(self, now_seconds: float) -> bool:
        """Whether a full list of pods would tell what became of one."""
        return any(
            pod.needs_list
            and pod.decided_seconds is not None
            and pod.decided_seconds <= now_seconds
            for pod in self._pods.values()
        )

    def on_listed(self, began_seconds: float) -> bool:
        """A full list that began then is in the store: what it lacks does not exist.

        Whether that decides of any pod what became of it.
        """
        decided = [
            key
            for key, pod in self._pods.items()
            if pod.decided_seconds is not None and pod.decided_seconds <= began_seconds
        ]
        for key in decided:
            del self._pods[key]
        return bool(decided)

    def dues(self, now_seconds: float) -> list[float]:
        """When time alone decides. What waits for a list is woken by that."""
        return [
            pod.decided_seconds
            for pod in self._pods.values()
            if pod.decided_seconds is not None and pod.decided_seconds > now_seconds
        ]
