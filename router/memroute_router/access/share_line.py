"""Requests that wait until their tenant has KV tokens free of its share of a model.

A share is what one tenant may have under way at once (``maxKVShareRatio``). What does not fit waits
for the tenant's own requests to end, as it would wait for room: for ``--max-queue-seconds``, among
``--max-queued-requests``. One line for each tenant and model, in the order of priority, deadline
and arrival; whoever is first goes first, also where a smaller one would fit. Who has its share then
asks for room like everybody: fairness between tenants is the dispatcher's.
"""

from bisect import insort
from collections.abc import Callable
from typing import Final, Protocol

from memroute_router.access.quotas import Permit
from memroute_router.http.faults import OnFault
from memroute_router.replicas.pool import Pool

PLACE: Final = "kv-share"
"""Where a fault has come from, as a metric says it; and what such a request waits for."""


class ShareWaiter(Protocol):
    """A request that waits."""

    def try_again(self) -> None:
        """It has its share."""
        ...

    def waited_in_vain(self) -> None:
        """Its time is over."""
        ...

    def crashed(self) -> None:
        """One of the above has raised: end the request."""
        ...


class Waiting:
    """One place in a line. Ordered by whose turn it is."""

    __slots__ = ("expires_at_seconds", "order", "permit", "pool", "request")

    def __init__(
        self,
        request: ShareWaiter,
        permit: Permit,
        pool: Pool,
        order: tuple[int, float, int],
        expires_at_seconds: float,
    ) -> None:
        self.request = request
        self.permit = permit
        self.pool = pool
        self.order = order
        self.expires_at_seconds = expires_at_seconds

    def __lt__(self, other: "Waiting") -> bool:
        return self.order < other.order


class ShareLines:
    """Owns who waits for a share; the caller brings the clock."""

    def __init__(
        self,
        call_soon: Callable[..., object],
        on_fault: OnFault,
        *,
        may_have: Callable[[Permit, Pool], bool],
        max_seconds: float,
        max_waiting: int,
    ) -> None:
        """``may_have``: whether the permit's tenant has so much of its share free now.

        ``max_waiting``: of one model, together with those that wait for room.
        """
        self._call_soon = call_soon
        self._on_fault = on_fault
        self._may_have = may_have
        self._max_seconds = max_seconds
        self._max_waiting = max_waiting
        self._lines: dict[tuple[str, str], list[Waiting]] = {}
        self._by_permit: dict[Permit, Waiting] = {}
        self._num_waited = 0
        self._will_advance = False

    def __len__(self) -> int:
        return len(self._by_permit)

    def waiting(self) -> list[Waiting]:
        """Those that wait, in the order in which they came."""
        return list(self._by_permit.values())

    def others_wait(self, tenant: str, model: str) -> bool:
        """Whether one more of the tenant's requests comes behind others."""
        return (tenant, model) in self._lines

    def may_wait(self, pool: Pool) -> bool:
        """Whether one more request of the model may wait, here or for room."""
        num_waiting = pool.num_held + pool.dispatcher.num_apart
        return self._max_seconds > 0 and num_waiting < self._max_waiting

    def wait(
        self,
        request: ShareWaiter,
        permit: Permit,
        pool: Pool,
        *,
        priority: int,
        deadline_seconds: float,
        now_seconds: float,
    ) -> None:
        """Hold the request. The caller has asked ``may_wait``."""
        self._num_waited += 1
        place = Waiting(
            request,
            permit,
            pool,
            (-priority, deadline_seconds, self._num_waited),
            now_seconds + self._max_seconds,
        )
        self._by_permit[permit] = place
        insort(self._lines.setdefault((permit.tenant_name, permit.model), []), place)
        pool.dispatcher.num_apart += 1

    def withdraw(self, permit: Permit) -> None:
        """The request waits no more; nothing happens where it did not."""
        place = self._by_permit.get(permit)
        if place is not None:
            self._leave(place)
            self.changed()  # whoever was behind it may be smaller

    def changed(self) -> None:
        """Some share may be free now."""
        if self._by_permit and not self._will_advance:
            self._will_advance = True
            self._call_soon(self._advance)

    def tick(self, *, now_seconds: float) -> None:
        """Time passes: who has waited for long enough is refused; capacities have changed."""
        for place in self.waiting():
            # One that is ended here may end others.
            if place.expires_at_seconds <= now_seconds and place.permit in self._by_permit:
                self._leave(place)
                self._guarded(place.request, place.request.waited_in_vain)
        self.changed()

    def _advance(self) -> None:
        self._will_advance = False
        for key in list(self._lines):
            while True:
                line = self._lines.get(key)
                if line is None or not self._may_have(line[0].permit, line[0].pool):
                    break
                place = line[0]
                self._leave(place)
                place.permit.take_share()
                self._guarded(place.request, place.request.try_again)

    def _leave(self, place: Waiting) -> None:
        del self._by_permit[place.permit]
        key = place.permit.tenant_name, place.permit.model
        line = self._lines[key]
        line.remove(place)
        if not line:
            del self._lines[key]
        place.pool.dispatcher.num_apart -= 1

    def _guarded(self, request: ShareWaiter, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the others have their turn
            self._on_fault(PLACE, error)
            try:
                request.crashed()
            except Exception as another:  # noqa: BLE001 - as above
                self._on_fault(PLACE, another)
