"""The queue in front of an engine's running set: first come, first served, or by priority."""

import heapq
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from typing import Protocol

from memroute_simulator.engine.model.request import EngineRequest, RequestState


class SchedulingPolicy(StrEnum):
    """The order of waiting requests (``--scheduling-policy``)."""

    FCFS = "fcfs"
    PRIORITY = "priority"


class WaitingQueue(Protocol):
    """What a scheduler asks of its queue. Iterates in the order of service."""

    def push(self, request: EngineRequest) -> None:
        """Queue a new request."""
        ...

    def push_front(self, request: EngineRequest) -> None:
        """Queue one that has been running, or was skipped."""
        ...

    def peek(self) -> EngineRequest:
        """The next to be served. Raises ``IndexError`` when empty."""
        ...

    def pop(self) -> EngineRequest:
        """Take the next to be served. Raises ``IndexError`` when empty."""
        ...

    def discard(self, request: EngineRequest) -> None:
        """Drop a request, if it is there."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[EngineRequest]: ...


class FcfsQueue:
    """First come, first served; what was preempted goes to the front."""

    def __init__(self) -> None:
        self._requests: deque[EngineRequest] = deque()

    def push(self, request: EngineRequest) -> None:
        """Queue a new request."""
        self._requests.append(request)

    def push_front(self, request: EngineRequest) -> None:
        """Queue one that has been running, or was skipped."""
        self._requests.appendleft(request)

    def peek(self) -> EngineRequest:
        """The next to be served."""
        return self._requests[0]

    def pop(self) -> EngineRequest:
        """Take the next to be served."""
        return self._requests.popleft()

    def discard(self, request: EngineRequest) -> None:
        """Drop a request, if it is there."""
        if request in self._requests:
            self._requests.remove(request)

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[EngineRequest]:
        return iter(self._requests)


class PriorityQueue:
    """Smaller priority first, then earlier arrival; what was preempted finds its own place."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, float, int, EngineRequest]] = []
        self._num_pushed = 0
        self._num_live = 0

    def push(self, request: EngineRequest) -> None:
        """Queue a request."""
        entry = (request.priority, request.arrival_seconds, self._num_pushed, request)
        heapq.heappush(self._heap, entry)
        self._num_pushed += 1
        self._num_live += 1

    def push_front(self, request: EngineRequest) -> None:
        """Queue it where its priority puts it: there is no other front."""
        self.push(request)

    def peek(self) -> EngineRequest:
        """The next to be served."""
        while self._heap[0][3].state is not RequestState.WAITING:
            heapq.heappop(self._heap)
        return self._heap[0][3]

    def pop(self) -> EngineRequest:
        """Take the next to be served."""
        request = self.peek()
        heapq.heappop(self._heap)
        self._num_live -= 1
        return request

    def discard(self, request: EngineRequest) -> None:
        """Drop a request: its entry is passed over once its state is no longer waiting."""
        self._num_live -= 1

    def __len__(self) -> int:
        return self._num_live

    def __iter__(self) -> Iterator[EngineRequest]:
        live = (entry for entry in self._heap if entry[3].state is RequestState.WAITING)
        return (entry[3] for entry in sorted(live, key=lambda entry: entry[:3]))


def waiting_queue(policy: SchedulingPolicy) -> WaitingQueue:
    """An empty queue of a policy."""
    return PriorityQueue() if policy is SchedulingPolicy.PRIORITY else FcfsQueue()
