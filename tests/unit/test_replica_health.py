from memroute.traffic.replica import ReplicaHealth


def test_a_fault_takes_a_replica_out_and_one_trial_brings_it_back():
    health = ReplicaHealth()
    assert health.may_try(now_seconds=0)
    assert health.fault(now_seconds=0)
    assert not health.fault(now_seconds=1), "others that were under way say nothing new"
    assert not health.may_try(now_seconds=4.9)
    assert health.may_try(now_seconds=5)
    health.trying(now_seconds=5)
    assert not health.may_try(now_seconds=5.1), "one request at a time is on trial"
    health.answered()
    assert health.may_try(now_seconds=5.2)
    assert not health.is_out


def test_a_replica_that_fails_its_trial_is_out_for_twice_as_long():
    """5, 10, 20, 40, 60, 60 seconds."""
    health = ReplicaHealth()
    now, outs = 0.0, []
    health.fault(now_seconds=now)
    for _ in range(6):
        begun = now
        while not health.may_try(now_seconds=now):
            now += 0.5
        outs.append(now - begun)
        health.trying(now_seconds=now)
        health.fault(now_seconds=now)
    assert outs == [5, 10, 20, 40, 60, 60]


def test_one_poisonous_request_does_not_take_a_replica_out():
    """Five errors in a row do; an answer between them starts the count anew."""
    health = ReplicaHealth()
    for _ in range(4):
        assert not health.error(now_seconds=0)
    health.answered()
    for _ in range(4):
        assert not health.error(now_seconds=0)
    assert health.error(now_seconds=0)
    assert health.is_out
