"""Whatever comes in whatever order: the invariants of a dispatcher, by a state machine."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dispatch_rig import Asking, answer, end, pool, read
from memroute.traffic.admission import QueueLimits
from memroute.traffic.dispatch import Assignment
from memroute.traffic.routing import POLICY_NAMES
from sizes import tries

LIMITS = QueueLimits(max_requests=12, max_tokens=60_000, max_seconds=10)


class Dispatching(RuleBasedStateMachine):
    """Three replicas of two versions and two contexts, one slot for an adapter each.

    Prompts of up to 20,000 tokens spend a tenant's quantum of 8,192; each ticket gets exactly one
    verdict, or leaves without one.
    """

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.placed, self.held, self.told = [], [], set()
        self.made = None

    @rule(
        policy=st.sampled_from(POLICY_NAMES),
        waits_for_replicas=st.booleans(),
        shares=st.sampled_from([{}, {"x": 80.0, "y": 20.0}]),
    )
    @precondition(lambda self: self.made is None)
    def start(self, policy, waits_for_replicas, shares):
        """A pool."""
        self.made = made = pool(
            replicas=3, capacity=30_000, limits=LIMITS, policy=policy, shares=shares,
            waits_for_replicas=waits_for_replicas,
        )  # fmt: skip
        made.backends["a"].ledger.promise(capacity_tokens=30_000, max_context_tokens=8_000)
        made.backends["c"].version = "y"
        made.backends["a"].version = made.backends["b"].version = "x"
        for name in "abc":
            read(made, name, adapters=frozenset(), max_adapters=1)

    @rule(
        prompt=st.one_of(st.integers(1, 900), st.integers(1, 20_000)),
        choices=st.sampled_from([1, 1, 1, 4, 10**6]),
        tenant=st.sampled_from("xyz"),
        priority=st.integers(-1, 1),
        adapter=st.sampled_from(["", "", "", "sql", "chat"]),
        draw=st.floats(0, 0.999),
        is_stream=st.booleans(),
    )
    @precondition(lambda self: self.made is not None)
    def submit(self, prompt, choices, is_stream, **facts):
        """A request comes."""
        ticket = Asking(
            prompt=prompt, output=50 * choices, num_choices=choices, is_stream=is_stream, **facts
        )
        self.ask(ticket)

    def ask(self, ticket):
        verdict = self.made.submit(ticket, now_seconds=self.now)
        if verdict is None:
            self.held.append(ticket)
        else:
            self.tell(ticket, verdict)

    def tell(self, ticket, verdict):
        assert ticket not in self.told, "told twice"
        self.told.add(ticket)
        if isinstance(verdict, Assignment):
            assert verdict.choice.replica not in ticket.tried
            limit = verdict.backend.ledger.limit_tokens
            assert ticket.profile.least_tokens <= limit
            self.placed.append((ticket, verdict))
        else:
            assert verdict.message
            assert verdict.retry_after_seconds is None or verdict.retry_after_seconds >= 1

    @rule(seconds=st.sampled_from([0.005, 0.05, 1.0, 6.0]))
    @precondition(lambda self: self.made is not None)
    def turns(self, seconds):
        """Time passes."""
        self.now += seconds
        self.advance()

    def advance(self):
        for ticket, verdict in self.made.turns(now_seconds=self.now):
            self.held.remove(ticket)
            self.tell(ticket, verdict)

    @rule(number=st.integers(0, 50))
    @precondition(lambda self: self.placed)
    def first_token(self, number):
        """An answer begins."""
        _, assignment = self.placed[number % len(self.placed)]
        answer(assignment, self.now)
        assignment.backend.health.answered()

    @rule(number=st.integers(0, 50))
    @precondition(lambda self: self.placed)
    def last_token(self, number):
        """An answer ends."""
        _, assignment = self.placed.pop(number % len(self.placed))
        end(self.made, assignment, self.now)

    @rule(number=st.integers(0, 50))
    @precondition(lambda self: self.placed)
    def fails(self, number):
        """A replica fails one, which is tried elsewhere."""
        ticket, assignment = self.placed.pop(number % len(self.placed))
        assignment.backend.health.fault(now_seconds=self.now)
        end(self.made, assignment, self.now, is_complete=False)
        ticket.tried.append(assignment.choice.replica)
        self.told.discard(ticket)
        self.ask(ticket)

    @rule(number=st.integers(0, 50))
    @precondition(lambda self: self.held)
    def leaves(self, number):
        """A client gives up."""
        assert self.made.withdraw(self.held.pop(number % len(self.held)))

    @rule(
        name=st.sampled_from("abc"),
        ratio=st.floats(0, 1),
        adapters=st.sampled_from([frozenset(), frozenset({"sql"})]),
    )
    @precondition(lambda self: self.made is not None)
    def scrape(self, name, ratio, adapters):
        """A replica is read."""
        read(self.made, name, ratio, at=self.now, adapters=adapters, max_adapters=1)

    @rule(name=st.sampled_from("abc"), is_routable=st.booleans())
    @precondition(lambda self: self.made is not None)
    def drains(self, name, is_routable):
        """A replica drains, or is back."""
        self.made.backends[name].is_routable = is_routable

    @invariant()
    def nobody_is_lost(self):
        """What waits is what was not told."""
        if self.made is None:
            return
        self.advance()
        assert self.made.num_held == len(self.held)
        assert self.made.held_tokens >= sum(
            ticket.profile.num_prompt_tokens for ticket in self.held
        )
        if not self.held:
            assert self.made.held_tokens == 0

    @invariant()
    def nobody_waits_for_what_is_idle(self):
        """A request that an idle replica could hold is not held."""
        if self.made is None or not self.held:
            return
        shares = self.made.settings.shares
        for name, backend in self.made.backends.items():
            ledger = backend.ledger
            if ledger.leases or ledger.foreign_tokens or not backend.is_routable:
                continue
            if not backend.health.may_try(now_seconds=self.now):
                continue
            if not ledger.is_fresh(max_age_seconds=5.0, now_seconds=self.now):
                continue  # such a one is waited for until the first token is due
            for ticket in self.held:
                profile = ticket.profile
                fits = profile.least_tokens <= ledger.limit_tokens
                has_slot = not profile.adapter or ledger.has_adapter_slot() or ledger.has_adapter(
                    profile.adapter
                )  # fmt: skip
                # Which version it draws depends on those that are there.
                assert name in ticket.tried or not fits or not has_slot or shares, (
                    name, profile.num_prompt_tokens, self.made.settings.policy,
                )  # fmt: skip

    def teardown(self):
        """All answers end, everybody is told, nothing stays reserved."""
        if self.made is None:
            return
        for _ in range(60):
            while self.placed:
                end(self.made, self.placed.pop()[1], self.now)
            self.now += 0.5
            self.advance()
        assert self.held == []
        assert self.made.num_held == self.made.held_tokens == 0
        for backend in self.made.backends.values():
            assert backend.ledger.reserved_tokens == 0
            assert backend.ledger.num_pending == 0


TestDispatching = Dispatching.TestCase
TestDispatching.settings = settings(max_examples=tries(40, 60), stateful_step_count=40)
