"""What routers tell each other: what is lost or false costs hits, and nothing else."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute.traffic.admission import (
    AdmissionSettings,
    ClosedReason,
    QueueLimits,
    reason_closed,
)
from memroute.traffic.dispatch import Assignment, Backend, Dispatcher, DispatchSettings
from memroute.traffic.peers import (
    MAX_DATAGRAM_BYTES,
    Datagram,
    Dropped,
    Malformed,
    decode_datagram,
    encode_datagrams,
    encode_report,
)
from memroute.traffic.peers.group import SILENT_SECONDS
from memroute.traffic.peers.open_requests import OpenRequests
from memroute.traffic.peers.reports import (
    AnsweredReport,
    EndedReport,
    MoreKeys,
    OpenReport,
    SentReport,
    ServedReport,
)
from memroute.traffic.prefixes import text_key
from memroute.traffic.replica import ReplicaReading
from memroute.traffic.request import RequestProfile
from sizes import tries

SECRET = b"0123456789abcdef"
U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
KEYS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=127), st.lists(U64, max_size=127)
).map(tuple)
REPORTS = st.one_of(
    st.builds(
        SentReport, U64, U64, prompt_tokens=U32, work_tokens=U32, expected_output_tokens=U32,
        num_sequences=st.integers(1, 65_535), is_stream=st.booleans(), session=U64,
        tokens_per_block=st.integers(0, 65_535), prefix=KEYS,
    ),
    st.builds(MoreKeys, U64, tokens_per_block=st.integers(0, 65_535), prefix=KEYS),
    st.builds(ServedReport, U64, U64, num_tokens=U32),
    st.builds(AnsweredReport, U64, is_seen=st.booleans()),
    st.builds(EndedReport, U64, held_tokens=U32, is_complete=st.booleans()),
    st.builds(
        lambda first, pending, answered: OpenReport(
            first,
            first + 2**31,
            pending=tuple(first + n for n in pending),
            answered=tuple(first + n for n in answered),
        ),
        st.integers(0, 2**62),
        st.lists(U32, max_size=100),
        st.lists(U32, max_size=100),
    ),
)  # fmt: skip


def fields(report):
    return {name: getattr(report, name) for name in type(report).__slots__}


def datagrams(*reports, incarnation=1, first=0, secret=None):
    records = [encode_report(report) for report in reports]
    return encode_datagrams(records, incarnation=incarnation, first_sequence=first, secret=secret)


@pytest.mark.slow
@given(st.lists(REPORTS, max_size=12), st.sampled_from([None, SECRET]))
def test_what_is_said_is_heard_in_datagrams_that_no_link_cuts(reports, secret):
    sent = datagrams(*reports, first=7, secret=secret)
    read = [decode_datagram(data, secret=secret) for data in sent]
    assert all(len(data) <= MAX_DATAGRAM_BYTES for data in sent)
    assert [datagram.sequence for datagram in read] == list(range(7, 7 + len(sent)))
    heard = [report for datagram in read for report in datagram.reports]
    assert [(type(r), fields(r)) for r in heard] == [(type(r), fields(r)) for r in reports]


def corpus():
    """Cut, lengthened, flipped and invented datagrams."""
    sent = SentReport(
        1, 2, prompt_tokens=3, work_tokens=4, expected_output_tokens=5, session=6,
        tokens_per_block=256, prefix=tuple(range(100)),
    )  # fmt: skip
    still = OpenReport(1, 9, pending=(1, 2), answered=(3,))
    for secret in (None, SECRET):
        (whole,) = datagrams(sent, AnsweredReport(1, is_seen=True), still, secret=secret)
        yield from (whole[:length] for length in range(len(whole)))
        yield from (whole + junk for junk in (b"\0", b"\x01", b"\xff" * 50))
        yield from (whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in range(60))
    header = struct.pack(">2sBBQQ", b"mr", 1, 0, 2**64 - 1, 2**64 - 1)
    yield from (header + bytes([kind]) + b"\xff" * 1300 for kind in range(256))
    yield header[:4] + b"\x01" * 4
    yield b"GET / HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("secret", [None, SECRET])
def test_no_datagram_can_make_a_router_fail(secret):
    """Anybody in the cluster may send to the port."""
    group = fleet()[0].peers
    for data in corpus():
        assert isinstance(decode_datagram(data, secret=secret), Datagram | Malformed)
        group.receive("b", data, secret=secret, now_seconds=1.0)
    assert group.num_received > 500
    group.tick(now_seconds=100.0)
    assert all(ledger.num_pending == 0 for ledger in ledgers(group_of=group))


@pytest.mark.slow
@settings(max_examples=tries(40, 120))
@given(st.binary(max_size=300), st.sampled_from([None, SECRET]))
def test_no_bytes_behind_a_good_header_can_either(body, secret):
    header = struct.pack(">2sBBQQ", b"mr", 1, 0, 5, 5)
    assert isinstance(decode_datagram(header + body, secret=secret), Datagram | Malformed)


NUMBERS = st.integers(0, 600)
REPLICAS = st.sampled_from([text_key("r0"), text_key("r1"), 7])
OF_KNOWN_REPLICAS = st.one_of(
    st.builds(
        SentReport, NUMBERS, REPLICAS, prompt_tokens=U32, work_tokens=U32,
        expected_output_tokens=U32, num_sequences=st.integers(0, 65_535),
        is_stream=st.booleans(), session=st.integers(0, 2),
        tokens_per_block=st.sampled_from([0, 1, 256]),
        prefix=st.lists(st.integers(0, 9), max_size=5).map(tuple),
    ),
    st.builds(
        MoreKeys, REPLICAS, tokens_per_block=st.sampled_from([0, 1, 256]),
        prefix=st.lists(st.integers(0, 9), max_size=5).map(tuple),
    ),
    st.builds(ServedReport, st.integers(0, 2), REPLICAS, num_tokens=U32),
    st.builds(AnsweredReport, NUMBERS, is_seen=st.booleans()),
    st.builds(EndedReport, NUMBERS, held_tokens=U32, is_complete=st.booleans()),
    st.builds(
        OpenReport, NUMBERS, NUMBERS,
        pending=st.lists(NUMBERS, max_size=4).map(tuple),
        answered=st.lists(NUMBERS, max_size=4).map(tuple),
    ),
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=tries(60, 300))
@given(
    said=st.lists(
        st.tuples(
            OF_KNOWN_REPLICAS, st.integers(1, 2), st.sampled_from([0.0, 0.01, 0.3, 5.0]),
            st.sampled_from(["", "", "", "read", "leave", "come", "tick"]),
        ),
        max_size=40,
    )
)  # fmt: skip
def test_no_reports_of_replicas_that_there_are_can_either(said):
    """In whatever order, of whatever size, from a peer that starts again while replicas go."""
    here = fleet()[0]
    group, now = here.peers, 1.0
    known = ledgers(group)
    for number, (report, incarnation, seconds, beside) in enumerate(said):
        now += seconds
        for data in datagrams(report, incarnation=incarnation, first=number):
            group.receive("b", data, secret=None, now_seconds=now)
        if beside == "read":
            for ledger in ledgers(group):
                here.apply_reading(ledger, empty(now))
        elif beside == "leave" and "r1" in here.backends:
            here.remove("r1")
        elif beside == "come" and "r1" not in here.backends:
            here.add(Backend(here.ledger("r1", promised_capacity_tokens=5_000)))
            known.append(here.backends["r1"].ledger)
        elif beside == "tick":
            group.tick(now_seconds=now)
        num_open = len(group.peers["b"].open)
        assert num_open == sum(len(ledger.peer_leases) for ledger in known)
    group.set_peers(set(), now_seconds=now)
    assert not any(ledger.peer_leases or ledger.num_pending for ledger in known)


@pytest.mark.parametrize("secret", [None, SECRET])
@pytest.mark.parametrize("first", [None, 3])
@pytest.mark.parametrize("is_of_picker", [False, True])
def test_a_datagram_says_of_what_kind_its_sender_is(secret, first, is_of_picker):
    (data,) = encode_datagrams(
        [encode_report(AnsweredReport(1, is_seen=True))],
        incarnation=1, first_sequence=first, secret=secret, is_of_picker=is_of_picker,
    )  # fmt: skip
    read = decode_datagram(data, secret=secret)
    assert (read.is_of_picker, read.sequence) == (is_of_picker, first)


def test_only_who_has_the_key_is_believed():
    said = AnsweredReport(1, is_seen=True)
    (with_key,), (without,) = datagrams(said, secret=SECRET), datagrams(said)
    assert decode_datagram(without, secret=SECRET) is Malformed.UNAUTHENTICATED
    assert decode_datagram(with_key, secret=b"another key, 16+") is Malformed.UNAUTHENTICATED
    assert isinstance(decode_datagram(with_key, secret=SECRET), Datagram)
    forged = with_key[:20] + bytes([with_key[20] ^ 1]) + with_key[21:]
    assert decode_datagram(forged, secret=SECRET) is Malformed.UNAUTHENTICATED


# Two routers of the same two replicas.


class Asking:
    def __init__(self, prefix=(), tokens=2560, session=""):
        self.tried = []
        self.profile = RequestProfile(
            num_prompt_tokens=tokens,
            min_prompt_tokens=tokens,
            max_output_tokens=100,
            assumed_output_tokens=100,
            prefix=prefix,
            tokens_per_block=256,
            session=session,
        )


def router(peer):
    dispatcher = Dispatcher(DispatchSettings(), QueueLimits(), rng=random.Random(1))
    for name in ("r0", "r1"):
        dispatcher.add(Backend(dispatcher.ledger(name, promised_capacity_tokens=100_000)))
    dispatcher.peers.set_peers({peer}, now_seconds=0.0)
    return dispatcher


def fleet():
    return router("b"), router("a")


def ledgers(group_of):
    return [known.ledger for known in group_of._replicas.values()]


class Wire:
    """Carries what one router says to another."""

    def __init__(self, source, target, name="a"):
        self.source, self.target, self.name = source, target, name
        self.sequence = 0

    def flush(self, now, *, is_lost=False, incarnation=1):
        records = self.source.peers.outbox.take(now_seconds=now)
        said = encode_datagrams(
            records, incarnation=incarnation, first_sequence=self.sequence, secret=None
        )
        self.sequence += len(said)
        for data in [] if is_lost else said:
            self.target.peers.receive(self.name, data, secret=None, now_seconds=now)
        return said


def place(dispatcher, asking, now):
    verdict = dispatcher.submit(asking, now_seconds=now)
    assert isinstance(verdict, Assignment)
    return verdict


def answer(verdict, now):
    verdict.backend.ledger.streamed(verdict.reservation, num_events=1, now_seconds=now)


def end(dispatcher, verdict, now):
    dispatcher.ended(verdict, is_complete=True, now_seconds=now)


def test_a_prompt_sent_by_one_is_found_by_the_other():
    """Without a word the second router would send it to either with the same chance."""
    here, there = fleet()
    wire = Wire(here, there)
    for number in range(10):
        prefix = tuple(range(100 * number + 1, 100 * number + 11))
        first = place(here, Asking(prefix), 1.0)
        answer(first, 1.1)
        end(here, first, 2.0)
        wire.flush(2.0)
        again = place(there, Asking(prefix), 3.0)
        assert again.choice.replica == first.choice.replica
        end(there, again, 3.1)


def test_a_prompt_that_left_before_its_first_token_is_not_taken_to_be_cached():
    """Its replica died or hung: its twin would follow it there."""
    here, there = fleet()
    wire = Wire(here, there)
    sent = place(here, Asking(tuple(range(1, 11))), 1.0)
    wire.flush(1.0)
    assert there.cached.hits(Asking(tuple(range(1, 11))).profile) == {sent.choice.replica: 2560}
    here.ended(sent, is_complete=False, now_seconds=1.5)
    wire.flush(1.5)
    assert there.cached.hits(Asking(tuple(range(1, 11))).profile) == {}


def test_a_session_served_by_one_is_found_by_the_other():
    here, there = fleet()
    wire = Wire(here, there)
    for number in range(10):
        first = place(here, Asking(session=f"s{number}"), 1.0)
        answer(first, 1.1)
        end(here, first, 2.0)
        wire.flush(2.0)
        again = place(there, Asking(session=f"s{number}"), 3.0)
        end(there, again, 3.1)
        assert again.choice.replica == first.choice.replica
        assert again.choice.hit_tokens >= 2559


def test_a_prompt_that_waits_there_is_counted_until_its_first_token_and_its_end_frees_room():
    """A scrape shows it a second late, and only that there is one: two routers fill one replica."""
    here, there = fleet()
    wire = Wire(here, there)
    sent = place(here, Asking(), 1.0)
    wire.flush(1.0)
    ledger = there.backends[sent.choice.replica].ledger
    assert (ledger.num_pending, ledger.pending_tokens) == (1, 2560)
    assert ledger.num_in_flight == 0
    assert place(there, Asking(), 1.01).choice.replica != sent.choice.replica
    answer(sent, 1.2)
    wire.flush(1.2)
    assert (ledger.num_pending, ledger.num_streams, ledger.held_tokens) == (0, 1, 2560)
    reading = ReplicaReading(
        taken_at_seconds=1.5, kv_cache_utilization_ratio=0.027, kv_capacity_tokens=100_000,
        num_requests_running=1, num_requests_waiting=0, num_preemptions_total=0,
    )  # fmt: skip
    there.apply_reading(ledger, reading)
    assert (ledger.held_tokens, ledger.num_foreign_running) == (2700, 0), "seen once, not twice"
    sent.reservation.generated_tokens = 140
    end(here, sent, 2.0)
    wire.flush(2.0)
    assert (ledger.num_streams, ledger.num_foreign_running) == (0, 0)


def test_a_reading_that_was_taken_before_does_not_hide_what_was_said_since():
    here, there = fleet()
    wire = Wire(here, there)
    sent = place(here, Asking(), 1.0)
    answer(sent, 1.2)
    wire.flush(1.2)
    ledger = there.backends[sent.choice.replica].ledger
    there.apply_reading(
        ledger,
        ReplicaReading(
            taken_at_seconds=1.1, kv_cache_utilization_ratio=0.0, kv_capacity_tokens=100_000,
            num_requests_running=0, num_requests_waiting=0, num_preemptions_total=0,
        ),
    )  # fmt: skip
    assert (ledger.held_tokens, ledger.num_streams) == (2560, 1)


def test_one_datagram_that_is_lost_loses_nothing():
    """Everything is said twice, in two datagrams."""
    here, there = fleet()
    wire = Wire(here, there)
    sent = place(here, Asking(tuple(range(1, 11))), 1.0)
    wire.flush(1.0, is_lost=True)
    wire.flush(1.01)
    ledger = there.backends[sent.choice.replica].ledger
    assert ledger.num_pending == 1
    assert there.peers.num_missed == 0, "nothing came before: nothing is known to be missing"
    answer(sent, 1.2)
    wire.flush(1.2, is_lost=True)
    wire.flush(1.21)
    assert ledger.num_pending == 0
    assert there.peers.num_missed == 1


def test_what_is_lost_for_good_is_mended_by_the_next_list_of_open_requests():
    here, there = fleet()
    wire = Wire(here, there)
    sent = [place(here, Asking(), 1.0) for _ in range(3)]
    wire.flush(1.0)
    assert there.backends["r0"].ledger.num_pending + there.backends["r1"].ledger.num_pending == 3
    answer(sent[0], 1.1)
    end(here, sent[1], 1.1)
    wire.flush(1.1, is_lost=True)
    wire.flush(1.2, is_lost=True)
    here.peers.outbox.list_open()
    wire.flush(1.3)
    pending = [there.backends[name].ledger.num_pending for name in ("r0", "r1")]
    assert sum(pending) == 1
    assert sum(len(there.backends[name].ledger.peer_leases) for name in ("r0", "r1")) == 2


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 700)), min_size=20, max_size=60),
    first=st.integers(0, 700),
    last=st.one_of(st.integers(0, 700), st.just(2**64 - 1)),
)
def test_requests_of_a_range_are_those_that_a_look_at_all_would_find(steps, first, last):
    plain, kept = {}, OpenRequests()
    for is_begun, number in steps:
        if not is_begun:
            assert kept.pop(number) == plain.pop(number, None)
        elif number not in kept:
            kept.add(number, f"request {number}")
            plain[number] = f"request {number}"
        assert len(kept) == len(plain)
        assert kept.get(number) == plain.get(number)
    wanted = {number: each for number, each in plain.items() if first <= number <= last}
    assert dict(kept.between(first, last)) == wanted
    assert set(kept.values()) == set(plain.values())
    kept.clear()
    assert not kept


def test_a_peer_that_is_silent_or_gone_counts_for_nothing():
    here, there = fleet()
    wire = Wire(here, there)
    place(here, Asking(), 1.0)
    wire.flush(1.0)
    wire.flush(1.01)
    assert there.peers.others.num_heard == 1
    there.peers.tick(now_seconds=1.01 + SILENT_SECONDS)
    assert there.peers.others.num_heard == 0
    assert sum(backend.ledger.num_pending for backend in there.backends.values()) == 0
    place(here, Asking(), 10.0)
    wire.flush(10.0)
    assert there.peers.others.num_heard == 1
    assert sum(backend.ledger.num_pending for backend in there.backends.values()) == 1
    there.peers.set_peers(set(), now_seconds=10.1)
    assert sum(backend.ledger.num_pending for backend in there.backends.values()) == 0
    assert there.peers.others.num == 0


def test_a_peer_that_is_started_again_has_nothing_under_way():
    here, there = fleet()
    wire = Wire(here, there)
    place(here, Asking(), 1.0)
    old = wire.flush(1.0)
    anew = router("b")
    again = Wire(anew, there)
    place(anew, Asking(tokens=512), 1.5)
    again.flush(1.5, incarnation=2)
    ledgers = [backend.ledger for backend in there.backends.values()]
    assert sum(ledger.pending_tokens for ledger in ledgers) == 512
    late = there.peers.receive("a", old[0], secret=None, now_seconds=1.6)
    assert late is Dropped.LATE, "what its last incarnation said is over"


def welcomed(here, there, *, max_bytes=300.0):
    """All that ``here`` tells a router that has come; how many datagrams it took."""
    count = 0
    while (taken := here.peers.take_welcome(max_bytes)) is not None:
        name, records = taken
        assert name == "b"
        for data in encode_datagrams(records, incarnation=1, first_sequence=None, secret=None):
            assert there.peers.receive("a", data, secret=None, now_seconds=9.0) is None
            count += 1
    return count


def test_a_router_that_comes_is_told_of_the_past_by_the_oldest():
    """Else the turns of every conversation that pauses would be computed again after a restart."""
    here, _ = fleet()
    here.peers.incarnation = 1
    prompts = [tuple(range(1000 * n + 1, 1000 * n + 41)) for n in range(12)]
    where = {}
    for prompt in prompts:
        sent = place(here, Asking(prompt, tokens=10_240, session=f"s{prompt[0]}"), 1.0)
        where[prompt] = sent.choice.replica
        answer(sent, 1.1)
        end(here, sent, 2.0)
    anew = router("a")
    anew.peers.incarnation = 2
    assert here.peers.take_welcome(300.0) is None, "nobody has come"
    anew.peers.outbox.list_open()
    Wire(anew, here, "b").flush(8.0, incarnation=2)
    assert welcomed(here, anew) > 3
    for prompt, replica in where.items():
        asking = Asking(prompt, tokens=10_240)
        assert anew.cached.hits(asking.profile)[replica] == 10_240
        named = Asking(session=f"s{prompt[0]}")
        assert anew.cached.hits(named.profile)[replica] == 2560
    assert here.peers.take_welcome(300.0) is None, "once is enough"


def test_only_the_oldest_tells_and_nobody_believes_a_welcome_about_load():
    here, there = fleet()
    here.peers.incarnation, there.peers.incarnation = 5, 7
    here.peers.set_peers({"b", "c"}, now_seconds=0.0)
    place(here, Asking(tuple(range(1, 11))), 1.0)
    for name, incarnation in (("c", 3), ("b", 7)):
        (data,) = datagrams(OpenReport(1, 0, pending=(), answered=()), incarnation=incarnation)
        here.peers.receive(name, data, secret=None, now_seconds=1.0)
    assert here.peers.take_welcome(300.0) is None, "the one of 3 is older: it tells"
    (sent,) = datagrams(
        SentReport(1, text_key("r0"), prompt_tokens=9, work_tokens=9, expected_output_tokens=9),
        incarnation=5,
        first=None,
    )
    assert there.peers.receive("a", sent, secret=None, now_seconds=1.0) is None
    assert there.backends["r0"].ledger.num_pending == 0


def test_who_is_no_peer_and_what_comes_again_is_dropped_and_counted():
    here, there = fleet()
    place(here, Asking(), 1.0)
    (data,) = Wire(here, there).flush(1.0)
    group = there.peers
    assert group.receive("c", data, secret=None, now_seconds=1.0) is Dropped.UNKNOWN_PEER
    assert group.receive("a", data, secret=None, now_seconds=1.0) is Dropped.LATE
    group.incarnation = 1
    assert group.receive("a", data, secret=None, now_seconds=1.0) is Dropped.OWN
    assert group.dropped == {Dropped.UNKNOWN_PEER: 1, Dropped.LATE: 1, Dropped.OWN: 1}


def test_replicas_that_only_the_peer_has_are_passed_over():
    here, there = fleet()
    wire = Wire(here, there)
    there.remove("r0")
    there.remove("r1")
    sent = place(here, Asking(tuple(range(1, 11))), 1.0)
    answer(sent, 1.1)
    end(here, sent, 1.2)
    assert wire.flush(1.2)
    assert there.peers.dropped == {}


def test_over_the_budget_prompts_keys_are_left_out_first():
    here, there = fleet()
    here.peers.outbox.max_bytes_per_second = 2000
    here.peers.outbox.take(now_seconds=100.0)  # a quarter of a second's budget: 500 bytes
    wire = Wire(here, there)
    sent = place(here, Asking(tuple(range(1, 101)), tokens=25_600), 100.0)
    wire.flush(100.0)
    assert here.peers.outbox.num_without_keys == 1
    assert there.backends[sent.choice.replica].ledger.num_pending == 1
    for _ in range(10):
        lease = here.backends["r0"].ledger.reserve(Asking(tokens=10).profile, now_seconds=100.0)
        here.peers.outbox.sent("r0", lease)
    assert here.peers.outbox.num_withheld > 0


def test_a_prompt_that_is_too_long_for_one_datagram_is_found_whole():
    here, there = fleet()
    prefix = tuple(range(1, 301))
    sent = place(here, Asking(prefix, tokens=76_800), 1.0)
    assert len(Wire(here, there).flush(1.0)) > 1
    hits = there.cached.hits(Asking(prefix, tokens=76_800).profile)
    assert hits == {sent.choice.replica: 76_800}


def test_alone_nothing_is_written_down():
    """The usual router has no peers: it must not pay for them."""
    here, _ = fleet()
    here.peers.set_peers(set(), now_seconds=0.0)
    sent = place(here, Asking(tuple(range(1, 11))), 1.0)
    answer(sent, 1.1)
    end(here, sent, 1.2)
    here.peers.outbox.list_open()
    assert not here.peers.outbox.has_records


def test_answers_of_other_routers_keep_their_pace_and_their_room_too():
    """Four routers that each protect their own quarter let a burst of prompts stall all answers.

    An answer of 10 tokens there, and prompts of 20,000 tokens at 50 microseconds each that wait:
    1 s over 10 tokens is 0.1 s per token, twice the target of 50 ms. Growth counts as well: prompt
    and answer, 2,560 and 10 tokens, are what the replica will hold of it.
    """
    here, there = fleet()
    wire = Wire(here, there)
    sent = place(here, Asking(), 1.0)
    answer(sent, 1.1)
    wire.flush(1.1)
    ledger = there.backends[sent.choice.replica].ledger
    ledger.speed.assume(prompt_seconds=0.0, token_seconds=50e-6)
    expected = sent.reservation.expected_output_tokens
    assert not ledger.leases
    assert ledger.projected_tokens() == 2560 + expected
    ledger.sum_inverse_expected_lengths, ledger.steps.alone_seconds = 1 / 10, 0.01
    reason = reason_closed(
        ledger, prompt_tokens=20_000, work_tokens=20_000, output_tokens=10,
        settings=AdmissionSettings(), now_seconds=1.2,
    )  # fmt: skip
    assert reason is ClosedReason.PACE


def test_a_peers_answer_whose_end_nobody_told_counts_until_the_next_reading():
    """Its router was silent, and may have lost the network only: the engine may decode still.

    Where no reading ever comes it would count for ever, so there it does not count at all.
    """
    for is_read, foreign in ((True, 2560), (False, 0)):
        here, there = fleet()
        wire = Wire(here, there)
        sent = place(here, Asking(), 1.0)
        ledger = there.backends[sent.choice.replica].ledger
        if is_read:
            there.apply_reading(ledger, empty(1.0))
        answer(sent, 1.1)
        wire.flush(1.1)
        there.peers.set_peers(set(), now_seconds=1.11)
        assert (ledger.num_streams, ledger.foreign_tokens) == (0, foreign)
        there.apply_reading(ledger, empty(2.0))
        assert ledger.foreign_tokens == 0


def empty(at_seconds):
    return ReplicaReading(
        taken_at_seconds=at_seconds, kv_cache_utilization_ratio=0.0, kv_capacity_tokens=100_000,
        num_requests_running=0, num_requests_waiting=0, num_preemptions_total=0,
    )  # fmt: skip


def test_how_long_a_peers_answer_took_is_told_only_where_its_first_token_was_seen():
    """First token and end in one datagram: 300 tokens in no time would make the clock race."""
    for is_stream, told in ((True, pytest.approx(0.01)), (False, 0.0)):
        _, there = fleet()
        ledger = there.backends["r0"].ledger
        profile = RequestProfile(
            num_prompt_tokens=100, min_prompt_tokens=100, max_output_tokens=None,
            assumed_output_tokens=100, is_stream=is_stream,
        )  # fmt: skip
        lease = ledger.peer_sent(profile, work_tokens=100, now_seconds=1.0)
        ledger.peer_answered(lease, is_seen=is_stream, now_seconds=2.0)
        ledger.peer_ended(lease, held_tokens=200, now_seconds=3.0)
        assert ledger.steps.reported_seconds == told
