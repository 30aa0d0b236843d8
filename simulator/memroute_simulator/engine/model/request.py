"""A request inside an engine: what it asks, and how far it has come."""

from dataclasses import dataclass, field
from enum import StrEnum

from memroute_simulator.engine.model.content import Content


class RequestState(StrEnum):
    """Where a request is."""

    WAITING = "waiting"
    LOADING = "loading"
    """It holds its blocks, and what the host has of it is on its way."""
    PREFILLING = "prefilling"
    DECODING = "decoding"
    FINISHED = "finished"
    ABORTED = "aborted"


@dataclass(slots=True, kw_only=True, eq=False)
class EngineRequest:
    """One request. Owned by its scheduler from ``add`` until it is finished or aborted.

    While it decodes, its counts are kept by the scheduler, which advances all decoding
    requests at once: ask ``num_generated_tokens`` of the scheduler's ``progress``.
    """

    request_id: str
    num_prompt_tokens: int
    num_output_tokens: int
    """How many tokens it will generate; decided before it starts."""
    content: Content
    max_output_tokens: int | None = None
    """What the client allowed; None: exactly what will be generated."""
    priority: int = 0
    """Smaller is served first, as in vLLM; read by the priority policy alone."""
    arrival_seconds: float = 0.0
    adapter: str | None = None

    state: RequestState = RequestState.WAITING
    num_computed_tokens: int = 0
    """Tokens whose keys and values are in the cache, while it does not decode."""
    num_generated_tokens: int = 0
    """As of the last time the scheduler settled it."""
    num_preemptions: int = 0
    num_hit_tokens: int = 0
    """Prompt tokens found at its first admission, on the device and on the host."""
    num_host_hit_tokens: int = 0
    """Of these, what came from the host."""
    order: int = -1
    """Position in the running set: later admissions are greater."""
    epoch: int = 0
    """Raised when plans made for it (growth, end) are void."""
    decode_round: int = 0
    """The scheduler's round at which its counts were last settled."""
    tables: list[list[int]] = field(default_factory=list)
    """Block ids by KV group, those behind a window dropped from the front."""
    num_dropped_blocks: list[int] = field(default_factory=list)
    num_keyed_blocks: list[int] = field(default_factory=list)
    junction_tokens: int = 0
    """Where its prefix leaves that of others, as far as windows had not kept it: 0 for nowhere."""

    @property
    def num_tokens(self) -> int:
        """Tokens whose keys and values it needs: prompt and generated, as last settled."""
        return self.num_prompt_tokens + self.num_generated_tokens
