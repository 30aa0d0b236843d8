"""From how many tokens on fetching a prefix beats computing it again.

```text
fetch(n)   = wait + bytes of n tokens on a rank / rate of the link at the engine's copies
             + the step that makes the first token
compute(n) = prefill of n tokens on an idle engine, in chunks of a step's budget
```

vLLM loads between steps and does not overlap a load with the layers of its own request, so both are
whole. SGLang overlaps; there the law is an upper bound of a fetch.
"""

from dataclasses import dataclass

from memroute.bandwidth import StepTime
from memroute.hierarchy.kv_tier import KVTier
from memroute.hierarchy.links import HostLink

# Until a hit is looked up, allocated, issued and seen to be complete: the intercept of figure 1 of
# vLLM's blog of 2026-01-08 (10 ms; Llama-3.1-8B on an H100), less that model's step (7 ms).
WAIT_SECONDS = 3e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOrCompute:
    """Both ways to have a prefix in the device's cache."""

    tier: KVTier
    link: HostLink
    step_time: StepTime
    max_num_batched_tokens: int

    def first_token_seconds(
        self, prompt_tokens: int, *, on_device: int = 0, on_host: int = 0
    ) -> float:
        """Seconds to the first token on an idle engine.

        ``on_device``, ``on_host``: tokens at the prompt's beginning that the device has, and those
        behind them that only the host has. Whole chunks are fetched, the rest is computed.
        """
        fetched = on_host - on_host % self.tier.chunk_tokens
        # The last token is always computed: its output is the first of the answer.
        cached = min(on_device + fetched, prompt_tokens - 1)
        seconds = self.step_time.prefill_seconds(
            prompt_tokens - cached, self.max_num_batched_tokens, cached_tokens=cached
        )
        if fetched:
            seconds += WAIT_SECONDS + self.tier.load_seconds(fetched, self.link)
        return seconds

    def fetch_seconds(self, num_tokens: int) -> float:
        """Seconds to the first token of a prompt that the host has whole."""
        return self.first_token_seconds(num_tokens, on_host=num_tokens)

    def compute_seconds(self, num_tokens: int) -> float:
        """Seconds to the first token of a prompt that nobody has."""
        return self.first_token_seconds(num_tokens)

    def pays(self, num_tokens: int) -> bool:
        """Whether fetching so many tokens is faster than computing them."""
        return self.fetch_seconds(num_tokens) < self.compute_seconds(num_tokens)

    def break_even_tokens(self, limit_tokens: int) -> int | None:
        """The fewest tokens, in whole chunks, from which on fetching is faster.

        None where computing is faster up to the limit. A load takes as long for each token, and
        computing longer for each further one: what pays once pays for every longer prefix.
        """
        chunk = self.tier.chunk_tokens
        low, high = 1, limit_tokens // chunk
        if high < 1 or not self.pays(high * chunk):
            return None
        while low < high:
            middle = (low + high) // 2
            if self.pays(middle * chunk):
                high = middle
            else:
                low = middle + 1
        return low * chunk
