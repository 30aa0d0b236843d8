"""Quotas: how much in any minute, and at once."""

import json
import random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute_router.access.quotas import Permit, Quotas
from memroute_router.access.rules import Grant, KeyRing, Limits, ModelNames, Tenant, digest_of
from memroute_router.access.usage_asked import edit
from memroute_router.access.verdicts import tokens_to_reserve, tokens_used
from memroute_router.access.windows import SLOT_SECONDS, MinuteWindow, whole_seconds
from sizes import size


def ring(*, limits=None, share=None, key_limits=None):
    tenant = Tenant(
        name="t", models=ModelNames(["*"]), limits=limits or Limits(), max_kv_share_ratio=share
    )
    grants = [Grant(tenant, "one", limits=key_limits), Grant(tenant, "two")]
    by_digest = {digest_of(g.key_id.encode()): g for g in grants}
    return KeyRing(tenants={"t": tenant}, by_digest=by_digest), grants


def ask(quotas, grant, now, **facts):
    given_facts = {"num_tokens": 1, "kv_tokens": 0, "capacity_tokens": None, "num_routers": 1}
    return quotas.ask(grant, "m", now_seconds=now, **(given_facts | facts))


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.floats(0.0, 20.0), st.integers(1, 40), st.integers(-20, 0)), max_size=80)
)
def test_no_minute_has_more_than_the_limit(steps):
    """Whatever is asked, whenever, and whatever of it is given back later."""
    window, limit, now, taken = MinuteWindow(), 100, 1000.0, []
    for passed, amount, returned in steps:
        now += passed
        if window.seconds_until(amount, limit, now_seconds=now) != 0.0:
            continue
        slot = window.add(amount, now_seconds=now)
        given_back = -min(amount, -returned)
        window.correct(slot, given_back, now_seconds=now)
        taken.append((now, amount + given_back))
        in_minute = sum(n for at, n in taken if at > now - 60.0)
        assert in_minute <= limit
        assert window.total >= in_minute


def test_a_minute_is_over_half_a_second_late_and_never_early():
    """What is used within a slot of 0.5 s counts until all of the slot is a minute old."""
    window = MinuteWindow()
    window.add(10, now_seconds=1000.2)
    for now, wait in ((1000.2, 60.3), (1030.0, 30.5), (1060.4, 0.1), (1060.5, 0.0)):
        assert window.seconds_until(1, 10, now_seconds=now) == pytest.approx(wait)
    assert window.seconds_until(11, 10, now_seconds=1060.5) is None, "never"
    assert whole_seconds(60.3) == 61


def test_more_than_was_reserved_counts_from_when_it_is_seen():
    window = MinuteWindow()
    slot = window.add(10, now_seconds=0.0)
    window.correct(slot, 5, now_seconds=50.0)
    window.advance(now_seconds=61.0)
    assert window.total == 5
    window.correct(slot, -10, now_seconds=61.0)
    assert window.total == 5, "what is forgotten cannot be given back"
    window.advance(now_seconds=111.0)
    assert window.total == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(size(1, 3)))
@pytest.mark.parametrize("sets_limits", [False, True])
def test_token_limits_hold_within_two_percent(seed, sets_limits):
    """A tenant that asks for all it can get, for ten minutes, with answers of unknown lengths.

    It never uses more in a minute than its limit, and what it gets is at least 98 % of it.
    """
    rng = random.Random(seed)
    limit = 60_000
    facts, grants = ring(limits=Limits(tokens_per_minute=limit))
    quotas = Quotas()
    quotas.configure(facts)
    running, ended, now = [], [], 100.0
    lengths = [rng.randint(20, 400) for _ in range(500)]
    likely = sorted(lengths)[475]
    while now < 700.0:
        now += 0.05
        for due in [r for r in running if r[0] <= now]:
            running.remove(due)
            due[1].settle(due[2], now_seconds=now)
            ended.append((now, due[2]))
        for _ in range(4):
            prompt, output = rng.randint(50, 300), rng.choice(lengths)
            most = rng.choice((output, 2 * output)) if sets_limits else None
            reserved = tokens_to_reserve(
                num_prompt_tokens=prompt,
                max_output_tokens=most,
                num_choices=1,
                likely_output_tokens=likely,
                assumed_output_tokens=256,
                limit_tokens=limit,
            )
            found = ask(quotas, grants[0], now, num_tokens=reserved)
            if isinstance(found, Permit):
                running.append((now + output * 0.01, found, prompt + output))
    by_minute = [
        sum(n for at, n in ended if start < at <= start + 60.0) for start in range(160, 640, 10)
    ]
    used = sum(n for at, n in ended if 100.0 < at <= 700.0)
    assert max(by_minute) <= 1.02 * limit
    assert used >= 0.98 * 10 * limit * 60.0 / (60.0 + SLOT_SECONDS)


def test_a_limit_that_is_small_beside_the_tenants_is_taken_as_it_is():
    """So that even a flood of which nothing is known yet cannot use more than its minute."""
    known = {"num_prompt_tokens": 100, "num_choices": 2, "assumed_output_tokens": 64}
    assert (
        tokens_to_reserve(
            **known, max_output_tokens=500, likely_output_tokens=None, limit_tokens=20_000
        )
        == 1100
    )
    assert (
        tokens_to_reserve(
            **known, max_output_tokens=50_000, likely_output_tokens=300, limit_tokens=20_000
        )
        == 700
    )
    assert (
        tokens_to_reserve(
            **known, max_output_tokens=None, likely_output_tokens=None, limit_tokens=20_000
        )
        == 356
    )


@pytest.mark.parametrize(
    ("facts", "used"),
    [
        ({"prompt_tokens": 7, "output_tokens": 5}, 12),
        ({"was_sent": False}, 0),
        ({"is_error": True, "is_served": False}, 0),
        ({"num_events": 9, "is_served": False}, 49),
        ({"is_served": False}, 40),
        ({}, 100),
        ({"prompt_tokens": 7}, 7),
        ({"output_tokens": 5}, 45),
    ],
)
def test_what_a_request_has_used(facts, used):
    """The engine's word where there is one; else what can be seen of it."""
    known = {
        "was_sent": True, "is_error": False, "reserved_tokens": 100, "estimated_prompt_tokens": 40,
        "num_events": 0, "prompt_tokens": None, "output_tokens": None, "is_served": True,
    }  # fmt: skip
    assert tokens_used(**(known | facts)) == used


def test_a_key_has_limits_of_its_own_within_its_tenants():
    facts, (one, two) = ring(
        limits=Limits(requests_per_minute=3), key_limits=Limits(requests_per_minute=1)
    )
    quotas = Quotas()
    quotas.configure(facts)
    assert isinstance(ask(quotas, one, 0.0), Permit)
    refused = ask(quotas, one, 1.0)
    assert (refused.reason, "in one" in refused.message) == ("requests-per-minute", True)
    assert isinstance(ask(quotas, two, 1.0), Permit)
    assert isinstance(ask(quotas, two, 1.0), Permit)
    assert not isinstance(ask(quotas, two, 1.0), Permit)


def test_nothing_is_taken_where_one_of_several_limits_refuses():
    facts, (one, _) = ring(
        limits=Limits(tokens_per_minute=1000, max_requests=5), share=0.1, key_limits=Limits()
    )
    quotas = Quotas()
    quotas.configure(facts)
    refused = ask(quotas, one, 0.0, num_tokens=500, kv_tokens=500, capacity_tokens=1000)
    assert (refused.reason, refused.retry_after_seconds) == ("kv-share", None)
    use = quotas.by_tenant["t"]
    assert (use.tokens.total, use.num_requests, use.kv_tokens) == (0, 0, {})


def test_where_nobody_knows_what_replicas_hold_no_share_is_refused():
    """Unknown is not nothing: else a model that was just started could not be asked."""
    facts, (one, _) = ring(share=0.1)
    quotas = Quotas()
    quotas.configure(facts)
    assert isinstance(ask(quotas, one, 0.0, kv_tokens=10**6, capacity_tokens=None), Permit)


def test_a_permit_is_settled_once():
    facts, (one, _) = ring()
    quotas = Quotas()
    quotas.configure(facts)
    permit = ask(quotas, one, 0.0)
    permit.settle(1, now_seconds=1.0)
    with pytest.raises(RuntimeError):
        permit.settle(1, now_seconds=1.0)


def test_a_tenant_that_leaves_the_file_ends_what_it_has_under_way():
    facts, (one, _) = ring(limits=Limits(max_requests=1))
    quotas = Quotas()
    quotas.configure(facts)
    permit = ask(quotas, one, 0.0)
    quotas.configure(KeyRing(tenants={}, by_digest={}))
    late = ask(quotas, one, 0.0)
    permit.settle(5, now_seconds=1.0)
    late.settle(5, now_seconds=1.0)
    assert quotas.by_tenant == {}


def test_no_spelling_of_a_field_keeps_the_router_from_asking():
    """A tenant whose engine does not say how much it had is charged for the events it was sent."""
    names = (
        (b'"stream_options"', rb'"stream\u005foptions"'),
        (b'"cache_salt"', rb'"cache\u005fsalt"'),
    )
    for asked, salt in zip(*names, strict=True):
        data = b'{"model":"m",%b:{"include_usage":false},%b:null} \n' % (asked, salt)
        edited = edit(data, b"/v1/completions", asks_usage=True, cache_salt="s")
        document = orjson.loads(edited.body)
        assert document == {
            "model": "m", "stream_options": {"include_usage": True}, "cache_salt": "s",
        }  # fmt: skip
        assert document == json.loads(edited.body), "of the two the last one counts, as for engines"
        assert edited.hides_usage
