"""The fairness bench's tenth tenant comes through the router's own gate."""

from bench.routing.fairness import FLOOD, NUM_TENANTS, flooded_attainment_ratio
from bench.routing.floods import FLOODS, through_the_gate
from memroute_router.access.newcomers import NEWCOMERS
from memroute_simulator.workloads import WorkloadRequest


def request(number, tenant):
    return WorkloadRequest(
        prompt=((2 * number, 10),), num_output_tokens=5, output_id=2 * number + 1, tenant=tenant
    )


def admitted(flood, num_of_flood=40):
    asked = [(n / 10, request(n, FLOOD)) for n in range(num_of_flood)]
    asked += [(n / 10, request(1000 + n, "tenant-1")) for n in range(10)]
    return through_the_gate(asked, flood, flooder=FLOOD, num_tenants=NUM_TENANTS)


def test_what_becomes_of_each_flood_at_the_gate():
    """Fresh keys are 401; ten keys of one tenant are one tenant; no word is a tenant at once."""
    by_name = {flood.name: admitted(flood) for flood in FLOODS}
    none = by_name["by key; the tenth has none, a new one each"]
    assert [request.tenant for _, request in none] == ["tenant-1"] * 10
    ten = by_name["by key; the tenth has ten"]
    assert {request.tenant for _, request in ten} == {FLOOD, "tenant-1"}
    words = by_name["by word (--tenants key); a new one each"]
    flood = {request.tenant for _, request in words if request.output_id < 1000}
    assert flood == {NEWCOMERS}
    for kept in by_name.values():
        assert {request.priority for _, request in kept} == {0}, "no key may claim a priority"


def test_the_nine_are_served_beside_a_new_word_for_each_request():
    """Four seconds of ``e4``, whose ninety have 0.99; with a tenant for each word it was 0.14."""
    word = next(flood.name for flood in FLOODS if not flood.has_keys)
    assert flooded_attainment_ratio("memroute", seed=1, span_seconds=4.0, told_apart=word) >= 0.95
