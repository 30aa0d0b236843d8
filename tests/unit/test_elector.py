"""The Lease over real HTTP: taking it, keeping it, losing it, giving it back."""

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest

from api_stub import api_stub
from memroute_operator.election.elector import Elector, LeaseName, read_lease, run_until_cancelled
from memroute_operator.election.leadership import Leadership, LeaseTiming
from memroute_operator.health import Marks

LEASE = LeaseName(namespace="system", name="memroute-operator")
PATH = "/apis/coordination.k8s.io/v1/namespaces/system/leases/memroute-operator"
# The least that the API's whole seconds allow.
TIMING = LeaseTiming(duration_seconds=1.0, renew_seconds=0.7, retry_seconds=0.2)
# Where no Lease may end while the test runs, however busy the machine is.
LASTING = LeaseTiming(duration_seconds=60.0, renew_seconds=50.0, retry_seconds=0.1)


@asynccontextmanager
async def candidate(client, name, *, timing=TIMING, **options):
    elector = Elector(
        client, LEASE, Leadership(identity=name, timing=timing), marks=Marks(), **options
    )
    task = asyncio.create_task(run_until_cancelled(elector))
    try:
        yield elector
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_the_first_leads_and_the_lease_says_so():
    """The Lease need not be there before: the chart ships none."""
    async with api_stub() as (stub, client), candidate(client, "a") as elector:
        await elector.wait_leading()
        assert elector.term == 1
        spec = stub.objects[PATH]["spec"]
        assert spec["holderIdentity"] == "a"
        assert spec["leaseDurationSeconds"] == 1


async def test_one_that_ends_well_hands_over_at_once():
    """The next one need not wait for the duration: an upgrade takes a moment."""
    async with api_stub(num_clients=2) as (stub, one, two):
        async with candidate(one, "a", timing=LASTING) as first:
            await first.wait_leading()
            async with candidate(two, "b") as second:
                assert second.seconds_left() == 0
        assert stub.objects[PATH]["spec"]["holderIdentity"] == ""
        async with candidate(two, "c") as third:
            await third.wait_leading()
            assert stub.objects[PATH]["spec"]["leaseTransitions"] == 1


@pytest.mark.slow
async def test_one_that_dies_is_followed_once_its_lease_has_ended():
    async with api_stub(num_clients=2) as (stub, one, two):
        dead = Elector(one, LEASE, Leadership(identity="a", timing=TIMING), marks=Marks())
        task = asyncio.create_task(dead.run())
        await dead.wait_leading()
        task.cancel()  # without giving back: as by SIGKILL
        changes = []
        async with candidate(two, "b", on_change=changes.append) as second:
            await second.wait_leading()
            assert dead.seconds_left() == 0
            assert stub.objects[PATH]["spec"]["holderIdentity"] == "b"
            assert changes == [True]


@pytest.mark.slow
async def test_one_whose_renewals_fail_writes_no_more_until_one_succeeds():
    """Nobody else took the Lease meanwhile, so what was planned may go on."""
    async with api_stub() as (stub, client):
        changed = asyncio.Event()
        async with candidate(client, "a", on_change=lambda _: changed.set()) as elector:
            await elector.wait_leading()
            changed.clear()
            stub.is_down = True
            await changed.wait()
            assert elector.seconds_left() == 0
            stub.is_down = False
            await elector.wait_leading()
            assert elector.term == 1


async def test_a_renewal_that_is_confirmed_late_wakes_who_waits_to_lead():
    """The API server hung past the deadline, and then took a renewal that was sent before it.

    Nobody had looked meanwhile, so the candidate never stepped down: there is no change to tell.
    """
    now, changes = 0.0, []
    options = {"timing": LASTING, "clock": lambda: now, "on_change": changes.append}
    async with api_stub() as (stub, client), candidate(client, "a", **options) as elector:
        await elector.wait_leading()
        stub.gate.clear()
        now = 30.0
        while (pending := stub.writes[-1]) == stub.writes[0]:
            await asyncio.sleep(0.01)
        assert pending[0] == "PUT"
        now = 60.0  # too late for the renewal of 0 s, and not for the one that was sent at 30 s
        waiting = asyncio.create_task(elector.wait_leading())
        await asyncio.sleep(0)
        assert not waiting.done()
        stub.gate.set()
        await asyncio.wait_for(waiting, timeout=10)
        assert elector.term == 1
        assert changes == [True]


@pytest.mark.slow
async def test_one_that_finds_the_lease_anothers_comes_back_in_a_new_term():
    """What was planned before must not be written after."""
    async with api_stub() as (stub, client), candidate(client, "a") as elector:
        await elector.wait_leading()
        stub.objects[PATH]["spec"] |= {"holderIdentity": "b"}
        stub.objects[PATH]["metadata"]["resourceVersion"] = "999"
        while elector.leadership.has_kept_it:
            await asyncio.sleep(0.01)
        assert elector.seconds_left() == 0
        await elector.wait_leading()
        assert elector.term == 2


async def test_a_renewal_keeps_what_others_have_written_into_the_lease():
    """A label of the platform's own tools is not ours to remove."""
    async with api_stub() as (stub, client), candidate(client, "a", timing=LASTING) as elector:
        await elector.wait_leading()
        stub.objects[PATH]["metadata"]["labels"] = {"team": "x"}
        seen = stub.objects[PATH]["metadata"]["resourceVersion"]
        while stub.objects[PATH]["metadata"]["resourceVersion"] == seen:
            await asyncio.sleep(0)
        assert elector.seconds_left() > 0


@pytest.mark.parametrize(
    "spec",
    [
        None,
        {},
        {"holderIdentity": None, "leaseDurationSeconds": None},
        {"holderIdentity": "", "leaseDurationSeconds": 0, "leaseTransitions": "x"},
    ],
)
def test_an_empty_or_odd_lease_is_one_that_nobody_holds(spec):
    """A Lease that was made by hand, to be there, is no leader."""
    record = read_lease({"metadata": {}, "spec": spec})
    assert record.holder == ""
    assert record.duration_seconds is None
