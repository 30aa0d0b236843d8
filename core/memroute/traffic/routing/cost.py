"""What a request costs on one replica, in seconds: the page to read first.

A request goes to the replica on which it costs least.

```text
cost = wait     until the prompts that wait there are computed
     + own      seconds of its own prompt, the uncached part
     + KAPPA x answers there x (own + RHO x seconds per prompt token x its expected output tokens)
                what the answers that decode there lose
     + MEMORY_SECONDS x k / (FULL_RATIO - min(k, 1))     k: projected KV use with the request
     then over the replica's weight
     + STALE_SECONDS if the replica's reading is out of date
     + ADAPTER_SECONDS if nobody uses the request's LoRA adapter there
```

rounded down to ``SAME_SECONDS``. A replica that is closed to the request costs
``AdmissionSettings.closed_seconds`` more: what waiting for it is worth (``shortlist``).

All prices are learned: how fast the replica computes prompts (``replica.prefill_law``), what is in
its prefix cache, what its KV cache will hold. ``wait`` and ``own`` add up to the time to the first
token. LMetric (arXiv 2603.15202) multiplies the third term in whole. Here it weighs a twentieth: a
second that many answers share hurts each of them less than a second that one request waits. The
fourth term keeps unequal KV caches equally full, and is next to nothing until one fills. Ties are
broken at random, so that no replica is favoured, and routers that see the same do not all choose
the same.
"""

from collections.abc import Mapping
from typing import Final, Protocol

from memroute.traffic.admission.gates import ClosedReason
from memroute.traffic.replica.ledger import ReplicaLedger
from memroute.traffic.request import RequestProfile

MEMROUTE: Final = "memroute"
"""The name of the policy that is priced here."""
# Weight of a second that one answer in progress loses, against a second that this request waits:
# many answers share the loss, and each feels it less.
# Unit: ratio. Source: a sweep over the suite (docs/adr/0011).
KAPPA: Final = 0.05
# Prompt tokens that one output token weighs in what answers in progress lose: an output token
# reads the whole context anew in every step.
# Unit: prompt tokens per output token. Source: chosen by hand.
RHO: Final = 4.0
# Cost that the barrier of memory adds at half of the KV cache: nothing beside a prompt until the
# cache fills.
# Unit: seconds. Source: chosen by hand.
MEMORY_SECONDS: Final = 0.02
# Pole of the barrier of memory, just beyond a full KV cache: k / (FULL_RATIO - min(k, 1)) is 50
# when the cache is full, not infinite.
# Unit: ratio of the KV cache. Source: chosen by hand.
FULL_RATIO: Final = 1.02
# Cost of a replica on which nobody uses the request's LoRA adapter: some hundred MB to load from
# the host's memory, and steps shared with one more adapter.
# Unit: seconds. Source: chosen by hand.
ADAPTER_SECONDS: Final = 0.1
# Cost of a replica whose readings are out of date. More than any prompt costs, so that replicas
# whose readings are trusted come first.
# Unit: seconds. Source: chosen by hand.
STALE_SECONDS: Final = 10.0
# Differences in cost below this count as none, and the replica is drawn at random: noise alone
# makes learned speeds differ by as much, and nobody would notice.
# Unit: seconds. Source: chosen by hand.
SAME_SECONDS: Final = 0.002


class RandomSource(Protocol):
    """The source of ties' draws: a ``random.Random``, seeded by the caller."""

    def random(self) -> float:
        """A number from 0 to 1."""
        ...


class Choice:
    """The chosen replica, and why."""

    __slots__ = (
        "closed", "hit_tokens", "num_candidates", "num_open", "own_seconds", "policy",
        "projected_ratio", "replica", "wait_seconds", "waited_for_wake",
    )  # fmt: skip

    def __init__(
        self,
        *,
        replica: str,
        policy: str,
        num_candidates: int,
        wait_seconds: float,
        own_seconds: float,
        hit_tokens: int,
        projected_ratio: float | None,
        closed: Mapping[ClosedReason, int],
        num_open: int | None = None,
        waited_for_wake: bool = False,
    ) -> None:
        self.replica = replica
        self.policy = policy
        self.num_candidates = num_candidates
        self.wait_seconds = wait_seconds
        """Seconds until the prompt's turn, as far as this router can tell."""
        self.own_seconds = own_seconds
        """Seconds of its own prefill."""
        self.hit_tokens = hit_tokens
        """Tokens of its prompt that count as cached on the replica."""
        self.projected_ratio = projected_ratio
        """Projected KV use with the request, 0 to 1 and above; None: the capacity is unknown."""
        self.closed = closed
        """Replicas that were closed to the request, by reason."""
        self.num_open = num_open
        """Open replicas that a published policy chose from; None: it chose from all, or the policy
        is memroute's, which prices the closed ones too."""
        self.waited_for_wake = waited_for_wake
        """Whether the request has waited for a replica to wake."""

    def at(self, replica: str) -> "Choice":
        """The same where another replica got the request; nothing of its prompt counts as cached.

        What was foreseen was foreseen of the chosen one.
        """
        return Choice(
            replica=replica,
            policy=self.policy,
            num_candidates=self.num_candidates,
            wait_seconds=self.wait_seconds,
            own_seconds=self.own_seconds,
            hit_tokens=0,
            projected_ratio=None,
            closed=self.closed,
            num_open=self.num_open,
            waited_for_wake=self.waited_for_wake,
        )

    @property
    def why(self) -> str:
        """A sentence, with the numbers."""
        ratio = "unknown" if self.projected_ratio is None else f"{self.projected_ratio:.3f}"
        closed = ", ".join(f"{count} {why}" for why, count in self.closed.items())
        backends = f"{self.num_candidates} backend(s)"
        if self.num_open is not None:
            backends = f"{self.num_open} open of {backends}"
        picked = "best of" if self.policy == MEMROUTE else "its pick of"
        return (
            f"{self.policy}: {picked} {backends}; waits "
            f"{self.wait_seconds:.3f} s there, prefills {self.own_seconds:.3f} s, "
            f"{self.hit_tokens} tokens cached, projected KV use {ratio}"
            + (f"; closed: {closed}" if closed else "")
            + ("; it was asleep" if self.waited_for_wake else "")
        )


def wait_seconds(ledger: ReplicaLedger, *, now_seconds: float) -> float:
    """Seconds until a prompt that came now would have its turn, behind ours and foreign ones."""
    speed = ledger.speed
    wait = 0.0
    since = speed.busy_since_seconds
    if since >= 0:
        wait = speed.prefill_seconds(ledger.num_pending, ledger.pending_tokens)
        wait = max(0.0, wait - (now_seconds - since))
    others = ledger.num_foreign_waiting
    if others:
        wait += others * speed.prompt_seconds
        if ledger.num_pending:
            wait += others * speed.token_seconds * ledger.pending_tokens / ledger.num_pending
    return wait


def cost_seconds(
    ledger: ReplicaLedger,
    profile: RequestProfile,
    *,
    work_tokens: int,
    output_tokens: int,
    max_age_seconds: float,
    now_seconds: float,
) -> float:
    """What the request costs on the replica, by the formula of the module's text.

    ``work_tokens``: uncached tokens of its prompt. ``max_age_seconds``: greatest age of a trusted
    reading.
    """
    speed = ledger.speed
    own = speed.token_seconds * work_tokens
    shared = KAPPA * (ledger.num_streams + ledger.num_foreign_running)
    cost = (
        wait_seconds(ledger, now_seconds=now_seconds)
        + speed.prompt_seconds
        + own
        + shared * (own + RHO * speed.token_seconds * output_tokens)
    )
    capacity = ledger.capacity_tokens
    if capacity:
        needed = ledger.needed_tokens(profile.num_prompt_tokens, work_tokens)
        k = (ledger.projected_tokens() + needed + output_tokens) / capacity
        cost += MEMORY_SECONDS * k / (FULL_RATIO - min(k, 1.0))
    cost /= ledger.weight_ratio
    if ledger.read_at_seconds < now_seconds - max_age_seconds:
        cost += STALE_SECONDS
    adapter = profile.adapter
    if adapter and not ledger.has_adapter(adapter):
        cost += ADAPTER_SECONDS
    return int(cost / SAME_SECONDS) * SAME_SECONDS
