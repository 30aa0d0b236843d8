"""Weights of tenants' shares."""

from memroute.traffic.admission import FairQueue, QueueLimits
from memroute.traffic.dispatch.fair_share import FairShares

LIMITS = QueueLimits(max_requests=1000, max_tokens=10**7, max_seconds=100)


def hold(queue, name, tenant, num_tokens=1000):
    return queue.hold(
        name,
        num_tokens=num_tokens,
        work_tokens=num_tokens,
        deadline_seconds=1e6,
        now_seconds=0.0,
        tenant=tenant,
    )


def test_a_tenant_of_weight_three_has_three_times_the_turns():
    """While both have requests waiting: of the first 160 turns of 1,000 tokens, three quarters."""
    weights = {"big": 3.0}
    queue = FairQueue(LIMITS, weights)
    for number in range(300):
        for tenant in ("big", "small"):
            hold(queue, (tenant, number), tenant)
    turns = []
    for _ in range(160):
        first = queue.in_order()[0]
        queue.served(first)
        turns.append(first.tenant)
    assert 0.70 <= turns.count("big") / len(turns) <= 0.80


def test_a_full_queue_makes_room_by_weight():
    """Who has most waiting for its weight gives way, not who has most."""
    queue = FairQueue(LIMITS, {"big": 4.0})
    for number in range(8):
        hold(queue, ("big", number), "big")
    for number in range(4):
        hold(queue, ("small", number), "small")
    assert queue.victim(1000, tenant="new", priority=0).tenant == "small"
    assert FairQueue(LIMITS).victim(1, tenant="new", priority=0) is None


def test_the_share_of_a_pool_is_by_weight():
    """Of 3,000 tokens/s, a tenant of weight 2 beside one of 1 has a share of 2,000."""
    weights = {"big": 2.0}
    shares = FairShares(weights)
    for second in range(30):
        for tenant, tokens in (("big", 1900), ("small", 1100)):
            shares.asked(tenant, 2 * tokens, now_seconds=float(second))
            shares.given(tenant, tokens, now_seconds=float(second))
    shares.update(now_seconds=30.0)
    assert shares.is_over("small", now_seconds=30.0)
    assert not shares.is_over("big", now_seconds=30.0)
    weights.clear()
    shares.update(now_seconds=30.0)
    assert shares.is_over("big", now_seconds=30.0), "a file that is read again changes it at once"
