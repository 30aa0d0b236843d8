"""Whether a replica hangs: after how long, and what is a sign that it does not."""

from memroute.traffic.admission import AdmissionSettings, hangs
from memroute.traffic.replica import ReplicaLedger, ReplicaReading
from memroute.traffic.request import RequestProfile


def profile(prompt=100, **facts):
    return RequestProfile(
        num_prompt_tokens=prompt,
        min_prompt_tokens=prompt // 4,
        max_output_tokens=None,
        assumed_output_tokens=50,
        **facts,
    )


def computed(tokens, *, at):
    """A reading that says how many tokens were computed so far."""
    return ReplicaReading(
        taken_at_seconds=at,
        kv_cache_utilization_ratio=0.9,
        kv_capacity_tokens=1000,
        num_computed_tokens_total=tokens,
    )


def is_hanging(ledger, now, *, is_on_trial=False):
    """With the usual targets: 5 s, and 0.6 s on trial."""
    return hangs(ledger, settings=AdmissionSettings(), is_on_trial=is_on_trial, now_seconds=now)


def known(**about):
    """A ledger whose speed others of its pool have shown."""
    ledger = ReplicaLedger("a", **about)
    ledger.speed.assume(
        prompt_seconds=ledger.speed.prompt_seconds, token_seconds=ledger.speed.token_seconds
    )
    return ledger


def test_streams_show_sooner_that_a_replica_hangs():
    ledger = known()
    ledger.reserve(profile(), now_seconds=0.0)
    for now, expected in ((0.5, False), (0.7, True)):
        assert is_hanging(ledger, now, is_on_trial=True) is expected
    ledger.reserve(profile(is_stream=False), now_seconds=0.0)
    assert not is_hanging(ledger, 0.7, is_on_trial=True)


def test_where_nobody_knows_how_fast_engines_are_the_first_answer_may_take_half_a_minute():
    ledger = ReplicaLedger("a")
    ledger.reserve(profile(), now_seconds=0.0)
    assert not is_hanging(ledger, 29.0)
    assert is_hanging(ledger, 31.0)


def test_a_replica_from_which_nothing_comes_back_is_stuck_after_a_while():
    """A prompt of 100 tokens should take milliseconds: after 5 s without a sign it hangs."""
    ledger = known(promised_capacity_tokens=10_000)
    ledger.reserve(profile(), now_seconds=0.0)
    assert not is_hanging(ledger, 4.9)
    assert is_hanging(ledger, 5.1)
    other = ledger.reserve(profile(), now_seconds=5.2)
    ledger.streamed(other, num_events=1, now_seconds=5.3)
    assert not is_hanging(ledger, 10.2), "it has answered another since"


def test_a_long_prompt_is_given_its_time():
    """A million tokens at the prior of 30 us are 30 s, four times that 2 minutes."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=10**7)
    ledger.reserve(profile(prompt=10**6), now_seconds=0.0)
    assert not is_hanging(ledger, 100.0)
    assert is_hanging(ledger, 125.0)


def test_an_engine_that_computes_is_not_stuck_whatever_we_see_of_it():
    """Another router's long answers keep ours waiting: its counters grow all the while."""
    ledger = known()
    ledger.reserve(profile(), now_seconds=0.0)
    for second in range(20):
        ledger.apply_reading(computed(1000 + 50 * second, at=float(second)))
    assert not is_hanging(ledger, 20.0)
    assert is_hanging(ledger, 25.0)


def test_whole_answers_show_nothing_until_they_should_have_ended():
    """Expected to have 50 tokens, at most eight times as many: 400 of 50 ms are 20 s.

    Four times that are waited for on top of the half minute of engines that nobody knows.
    """
    ledger = ReplicaLedger("a", promised_capacity_tokens=10_000)
    ledger.reserve(profile(is_stream=False), now_seconds=0.0)
    ledger.settle(now_seconds=1.0)
    ledger.reserve(profile(), now_seconds=1.0)
    assert not is_hanging(ledger, 60.0)
    assert is_hanging(ledger, 112.0)


def test_counters_that_stand_still_show_that_a_replica_hangs_without_streams():
    """Whole answers are its only traffic; its page is read each second and says the same."""
    ledger = known(promised_capacity_tokens=10_000)
    lease = ledger.reserve(profile(is_stream=False), now_seconds=1.5)
    for second in range(4):
        ledger.apply_reading(computed(1000 + 50 * second, at=float(second)))
    for second in range(4, 9):
        ledger.settle(now_seconds=float(second))
        ledger.apply_reading(computed(1150, at=float(second)))
        assert is_hanging(ledger, second + 0.1) is (second > 7)
    assert ledger.unanswered == [lease]


def test_a_page_that_nobody_answers_is_no_sign_that_the_engine_hangs():
    """The last reading is of second 3: its counters could not have been seen to stand still."""
    ledger = known(promised_capacity_tokens=10_000)
    for second in range(4):
        ledger.apply_reading(computed(1000 + 50 * second, at=float(second)))
    ledger.reserve(profile(is_stream=False), now_seconds=3.5)
    assert not is_hanging(ledger, 20.0)
