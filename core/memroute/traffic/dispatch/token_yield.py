"""Which requests bring few tokens for their work: what the objective ``tokens`` needs.

```text
yield = (prompt + answer) / (PROMPT_WORK_TOKENS + prompt + RHO x answer)
```

in tokens per prompt token's worth of an engine's time. A request whose yield is below
``THIN_RATIO`` of the mean of late is thin: while others wait it leaves room for them, as a tenant
over its share does (``selection``). Prompts count in whole: what of them is cached is not known
when a request comes.
"""

from typing import Final

from memroute.traffic.replica.prefill_law import PRIOR_PROMPT_SECONDS, PRIOR_TOKEN_SECONDS
from memroute.traffic.routing.cost import RHO

# Prompt tokens that take as long as what a prompt takes whatever its length.
# Unit: tokens. Source: the prior of the prefill law.
PROMPT_WORK_TOKENS: Final = PRIOR_PROMPT_SECONDS / PRIOR_TOKEN_SECONDS
# Yield below which a request is thin. At 1 half of the requests are, and 5 % fewer tokens are in
# time at 1.5 times what a fleet can serve.
# Unit: ratio of the mean yield. Source: chosen by hand.
THIN_RATIO: Final = 0.8
# Requests after which one counts half in the mean, as in ``size_shares``.
# Unit: requests. Source: chosen by hand.
HALF_LIFE_REQUESTS: Final = 500.0
# What a request keeps of its weight with each later one.
# Unit: ratio. Source: the half-life.
KEEP_RATIO: Final[float] = 0.5 ** (1.0 / HALF_LIFE_REQUESTS)


class TokenYield:
    """Owns the mean yield of the requests of late."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._work_tokens = 0.0

    def asked(self, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """A request came."""
        tokens = num_prompt_tokens + num_output_tokens
        self._tokens = KEEP_RATIO * self._tokens + tokens
        self._work_tokens = KEEP_RATIO * self._work_tokens + _work_tokens(
            num_prompt_tokens, num_output_tokens
        )

    def is_thin(self, num_prompt_tokens: int, num_output_tokens: int) -> bool:
        """Whether such a request brings few tokens for its work, beside those of late."""
        tokens = num_prompt_tokens + num_output_tokens
        work = _work_tokens(num_prompt_tokens, num_output_tokens)
        return tokens * self._work_tokens < THIN_RATIO * self._tokens * work


def _work_tokens(num_prompt_tokens: int, num_output_tokens: int) -> float:
    return PROMPT_WORK_TOKENS + num_prompt_tokens + RHO * num_output_tokens
