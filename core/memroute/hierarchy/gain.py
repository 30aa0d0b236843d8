"""What a host tier buys: conversations kept, hits, time to first token, tokens per second.

Traffic is described by three numbers: how many conversations are alive, how many tokens a prompt
has, and which share of it was there before (reuse). Conversations come back in random order, so
that a cache that keeps the last C tokens of a working set of W finds C / W of what comes back. The
host writes through: it holds what the device holds and more, so only what it holds beyond counts.

```text
device hits = min(1, device / working set)
all hits    = min(1, max(device, host) / working set)
seconds of the engine per request = prefill of what is not found + fetch of what the host has
                                    + output x step / sequences
```

Loads are serial: measured rates by hit ratio follow the sum, not the larger of the two (vLLM's blog
of 2026-01-08, figure 2: within 6 %).
"""

from dataclasses import dataclass

from memroute.hierarchy.break_even import FetchOrCompute


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """Traffic that comes back."""

    num_conversations: int
    """Alive at once on this replica: between their first request and their last."""
    prompt_tokens: int
    output_tokens: int
    reuse_ratio: float
    """Share of a prompt that was there before, 0 to 1."""

    @property
    def reused_tokens(self) -> int:
        """Of one prompt."""
        return int(self.prompt_tokens * self.reuse_ratio)

    @property
    def working_set_tokens(self) -> int:
        """What would have to be kept to find everything that comes back."""
        return self.num_conversations * self.reused_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class TierGain:
    """One tier's figures for such traffic."""

    kept_conversations: int
    device_hit_ratio: float
    """Share of all prompt tokens that the device's cache has."""
    host_hit_ratio: float
    """Share that only the host has."""
    ttft_seconds: float
    """Mean on an idle engine: prefill and fetch, no queue."""
    tokens_per_second: float
    """Output tokens with the engine busy."""


def tier_gain(
    reuse: Reuse,
    *,
    device_tokens: int,
    host_tokens: int,
    ways: FetchOrCompute,
    step_seconds: float,
    num_sequences: int,
) -> TierGain:
    """The figures for so many tokens of cache on the device and on the host.

    ``device_tokens``: what running requests leave of the pool. ``step_seconds``: of a decode step
    with ``num_sequences`` of them.
    """
    working_set = reuse.working_set_tokens
    device = _found(device_tokens, working_set)
    total = max(device, _found(host_tokens, working_set))
    reused = reuse.reused_tokens
    prompt = reuse.prompt_tokens
    cold = ways.first_token_seconds(prompt)
    warm = ways.first_token_seconds(prompt, on_device=reused)
    fetched = ways.first_token_seconds(prompt, on_host=reused)
    ttft = device * warm + (total - device) * fetched + (1 - total) * cold
    decode = reuse.output_tokens * step_seconds / num_sequences
    kept = reuse.num_conversations if not working_set else int(total * reuse.num_conversations)
    return TierGain(
        kept_conversations=kept,
        device_hit_ratio=device * reuse.reuse_ratio,
        host_hit_ratio=(total - device) * reuse.reuse_ratio,
        ttft_seconds=ttft,
        tokens_per_second=reuse.output_tokens / (ttft + decode),
    )


def _found(kept_tokens: int, working_set_tokens: int) -> float:
    if not working_set_tokens:
        return 1.0
    return min(1.0, kept_tokens / working_set_tokens)
