"""This router's reports to the others, as records, within a budget of bytes.

Over the budget the keys of prompts are left out first, which are most of the bytes; then whole
reports. What is left out is counted: the others find less cached, and see the requests at their
next scrape.
"""

from collections.abc import Callable
from typing import Final

from memroute.traffic.peers.reports import (
    NO_SESSION,
    AnsweredReport,
    EndedReport,
    MoreKeys,
    OpenReport,
    Report,
    SentReport,
)
from memroute.traffic.peers.wire import MAX_KEYS, MAX_OPEN, encode_report
from memroute.traffic.prefixes.rendezvous import text_key
from memroute.traffic.prefixes.sessions import session_key
from memroute.traffic.replica import LeaseObserver, Reservation

# Bytes that go to each of the other routers. A request takes 80, and 8 for every 256 tokens of its
# prompt: 4,000 requests of 5,000 tokens in a second.
# Unit: bytes per second. Source: a bound of the work, chosen by hand.
MAX_BYTES_PER_SECOND: Final = 1_000_000
# Time whose bytes may go at once: what arrives in a burst is reported in the burst.
# Unit: seconds. Source: chosen by hand.
BURST_SECONDS: Final = 0.25


class Outbox(LeaseObserver):
    """Owns the records that are not sent yet, and the numbers of the open requests."""

    __slots__ = (
        "_again", "_budget_bytes", "_is_wanted", "_next", "_open", "_records",
        "_refilled_at_seconds", "max_bytes_per_second", "num_withheld",
        "num_without_keys", "on_records",
    )  # fmt: skip

    def __init__(
        self,
        *,
        is_wanted: Callable[[], bool],
        max_bytes_per_second: int = MAX_BYTES_PER_SECOND,
    ) -> None:
        """``is_wanted``: whether there are other routers."""
        self.max_bytes_per_second = max_bytes_per_second
        self.num_without_keys = 0
        """Reports whose prompts' keys were over the budget, since the start."""
        self.num_withheld = 0
        """Reports that were over the budget as a whole."""
        self.on_records: Callable[[], object] | None = None
        """Called when there is something to send, and there was nothing before."""
        self._is_wanted = is_wanted
        self._budget_bytes = BURST_SECONDS * max_bytes_per_second
        self._refilled_at_seconds = 0.0
        self._records: list[bytes] = []
        self._again: list[bytes] = []
        self._open: dict[Reservation, int] = {}
        self._next = 1

    def sent(self, replica: str, lease: Reservation) -> None:
        """Report that a request was sent, and which prompt it leaves in the replica's cache."""
        if not self._is_wanted():
            return
        number = self._next
        self._next = number + 1
        self._open[lease] = number
        profile = lease.profile
        key = text_key(replica)
        size = profile.tokens_per_block
        prefix = profile.prefix if size else ()
        report = SentReport(
            number,
            key,
            prompt_tokens=lease.prompt_tokens,
            work_tokens=lease.work_tokens,
            expected_output_tokens=lease.expected_output_tokens,
            num_sequences=lease.num_sequences,
            is_stream=profile.is_stream,
            session=session_key(profile) if profile.session else NO_SESSION,
            tokens_per_block=size,
            prefix=prefix[:MAX_KEYS],
        )
        if not self._add(report):
            self.num_without_keys += 1
            report.prefix = ()
            self._add(report)
            return
        for start in range(MAX_KEYS, len(prefix), MAX_KEYS):
            keys = prefix[start : start + MAX_KEYS]
            if not self._add(MoreKeys(key, tokens_per_block=size, prefix=keys)):
                self.num_without_keys += 1
                return

    def answered(self, lease: Reservation, *, is_seen: bool) -> None:
        """Report that its first token has come."""
        number = self._open.get(lease)
        if number is not None:
            self._add(AnsweredReport(number, is_seen=is_seen))

    def ended(self, lease: Reservation, *, held_tokens: int, is_complete: bool) -> None:
        """Report that it has left its replica."""
        number = self._open.pop(lease, None)
        if number is not None:
            self._add(EndedReport(number, held_tokens=held_tokens, is_complete=is_complete))

    def list_open(self) -> None:
        """Report which requests are open: a router that has missed an end learns of it here."""
        if not self._is_wanted():
            return
        leases = list(self._open.items())
        first = 1
        for start in range(0, len(leases), MAX_OPEN):
            some = leases[start : start + MAX_OPEN]
            # Numbers grow, and leases are in their order.
            is_last = start + MAX_OPEN >= len(leases)
            last = self._next - 1 if is_last else some[-1][1]
            self._list(first, last, some)
            first = last + 1
        if not leases:
            self._list(first, self._next - 1, [])

    def _list(self, first: int, last: int, some: list[tuple[Reservation, int]]) -> None:
        self._add(
            OpenReport(
                first,
                last,
                pending=tuple([number for lease, number in some if lease.is_pending]),
                answered=tuple([number for lease, number in some if not lease.is_pending]),
            )
        )

    def take(self, *, now_seconds: float) -> list[bytes]:
        """The records since the last call, after those of the call before: all is sent twice.

        Sent once, one lost datagram in twenty would make prefixes known to some routers only. The
        others would compute them elsewhere again: shared-prefix loses a third of its hits by that.
        """
        passed = max(0.0, now_seconds - self._refilled_at_seconds)
        self._refilled_at_seconds = now_seconds
        most = BURST_SECONDS * self.max_bytes_per_second
        self._budget_bytes = min(most, self._budget_bytes + passed * self.max_bytes_per_second)
        records = self._again + self._records
        self._again, self._records = self._records, []
        return records

    @property
    def has_records(self) -> bool:
        """Whether there is something to send."""
        return bool(self._records) or bool(self._again)

    def _add(self, report: Report) -> bool:
        record = encode_report(report)
        if 2 * len(record) > self._budget_bytes:
            if not isinstance(report, SentReport) or not report.prefix:
                self.num_withheld += 1
            return False
        self._budget_bytes -= 2 * len(record)
        self._records.append(record)
        if len(self._records) == 1 and self.on_records is not None:
            self.on_records()
        return True
