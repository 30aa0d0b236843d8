"""Who waits for its tenant's share of a model's KV tokens, and whose turn it is."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute_router.access.quotas import Permit, TenantUse
from memroute_router.access.rules import Limits
from memroute_router.access.share_line import ShareLines


class World:
    """Lines of one model, on a clock of the test's own."""

    def __init__(self, share=1000, max_waiting=100):
        self.share, self.now, self.soon, self.faults = share, 0.0, [], []
        self.pool = SimpleNamespace(num_held=0, dispatcher=SimpleNamespace(num_apart=0))
        self.lines = ShareLines(
            self.soon.append,
            lambda place, error: self.faults.append((place, error)),
            may_have=lambda permit, _: self.fits(permit),
            max_seconds=10.0,
            max_waiting=max_waiting,
        )
        self.tenants = {name: TenantUse(name, Limits(), 0.5) for name in "ab"}
        self.told = []

    def fits(self, permit):
        return permit.tenant.kv_tokens.get("m", 0) + permit.kv_tokens <= self.share

    def ask(self, name, tokens, *, tenant="a", priority=0, deadline=1.0):
        """A request: it has its share at once, or waits."""
        use = self.tenants[tenant]
        lacks = (
            self.lines.others_wait(tenant, "m") or use.kv_tokens.get("m", 0) + tokens > self.share
        )
        permit = Permit(
            use, None, "m", num_tokens=0, kv_tokens=tokens, lacks_share=lacks, now_seconds=self.now
        )
        if lacks:
            self.lines.wait(
                Asking(self, name, permit), permit, self.pool,
                priority=priority, deadline_seconds=deadline, now_seconds=self.now,
            )  # fmt: skip
        return permit

    def end(self, permit):
        if permit.lacks_share:
            self.lines.withdraw(permit)
        permit.settle(0, now_seconds=self.now)
        self.lines.changed()
        self.run()

    def run(self):
        while self.soon:
            self.soon.pop(0)()

    def tick(self, now):
        self.now = now
        self.lines.tick(now_seconds=now)
        self.run()


class Asking:
    def __init__(self, world, name, permit):
        self.world, self.name, self.permit = world, name, permit

    def try_again(self):
        if self.name.startswith("bug"):
            raise RuntimeError(self.name)
        self.world.told.append(self.name)

    def waited_in_vain(self):
        self.world.told.append(f"{self.name} in vain")

    def crashed(self):
        self.world.told.append(f"{self.name} crashed")


def test_they_go_by_priority_deadline_and_arrival():
    world = World()
    first = world.ask("first", 1000)
    for name, facts in (
        ("late", {"deadline": 5.0}), ("urgent", {"deadline": 0.5}), ("soon", {"deadline": 0.5}),
        ("batch", {"priority": -1, "deadline": 0.1}), ("vip", {"priority": 5, "deadline": 9.0}),
    ):  # fmt: skip
        world.ask(name, 200, **facts)
    world.run()
    assert world.told == []
    world.end(first)
    assert world.told == ["vip", "urgent", "soon", "late", "batch"]


def test_a_small_one_does_not_pass_a_large_one():
    """Else the large one would wait for as long as small ones come."""
    world = World()
    first, second = world.ask("first", 600), world.ask("second", 400)
    world.ask("large", 900)
    world.ask("small", 10)
    world.end(second)
    assert world.told == []
    world.end(first)
    assert world.told == ["large", "small"]


def test_tenants_do_not_wait_for_each_other():
    """Each has a share of its own; who competes for room is the dispatcher's to say."""
    world = World()
    world.ask("a1", 1000)
    world.ask("a2", 500)
    assert not world.ask("b1", 1000, tenant="b").lacks_share


def test_who_waits_for_too_long_is_told_and_leaves_no_place():
    world = World()
    world.ask("first", 1000)
    world.ask("x", 500)
    world.tick(9.0)
    assert world.told == []
    world.tick(10.0)
    assert world.told == ["x in vain"]
    assert len(world.lines) == world.pool.dispatcher.num_apart == 0


def test_a_larger_fleet_lets_them_go_without_an_end():
    """What the replicas hold grows with each of them."""
    world = World()
    world.ask("first", 1000)
    world.ask("x", 500)
    world.share = 2000
    world.tick(0.25)
    assert world.told == ["x"]


def test_one_that_breaks_fails_alone():
    world = World()
    first = world.ask("first", 1000)
    for name in ("bug", "next"):
        world.ask(name, 200)
    world.end(first)
    assert world.told == ["bug crashed", "next"]
    assert [place for place, _ in world.faults] == ["kv-share"]


@pytest.mark.parametrize(("held", "apart", "may"), [(0, 0, True), (1, 1, True), (2, 1, False)])
def test_they_count_in_what_may_wait(held, apart, may):
    world = World(max_waiting=3)
    world.pool.num_held, world.pool.dispatcher.num_apart = held, apart
    assert world.lines.may_wait(world.pool) is may


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "end", "tick"]), st.integers(1, 1000), st.integers(0, 30),
            st.sampled_from("ab"), st.integers(-1, 1),
        ),
        max_size=60,
    )
)  # fmt: skip
def test_no_share_is_exceeded_and_nobody_waits_who_could_go(steps):
    """Whatever is asked and ends, in whatever order."""
    world, permits = World(), []
    for number, (step, tokens, which, tenant, priority) in enumerate(steps):
        if step == "ask":
            permits.append(world.ask(str(number), tokens, tenant=tenant, priority=priority))
        elif step == "end" and permits:
            world.end(permits.pop(which % len(permits)))
        elif step == "tick":
            world.tick(world.now + which / 10)
            waits = {place.permit for place in world.lines.waiting()}
            for permit in [p for p in permits if p.lacks_share and p not in waits]:
                permits.remove(permit)  # it was told that it waits in vain
                permit.settle(0, now_seconds=world.now)
        world.run()
        for name, use in world.tenants.items():
            mine = [p for p in permits if p.tenant is use and not p.lacks_share]
            assert use.kv_tokens.get("m", 0) == sum(p.kv_tokens for p in mine) <= world.share
            line = world.lines._lines.get((name, "m"))
            assert line is None or not world.fits(line[0].permit)
        assert world.pool.dispatcher.num_apart == len(world.lines)
    while permits:
        world.end(permits.pop())
    assert len(world.lines) == world.pool.dispatcher.num_apart == 0
    assert not world.lines._lines
    assert all(not use.kv_tokens and not use.num_requests for use in world.tenants.values())
