"""What one step computes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """What one step computes."""

    num_decodes: int = 0
    """Sequences that get one token each."""
    decode_context_tokens: int = 0
    """Tokens that they attend to, themselves included, all together."""
    prefills: tuple[tuple[int, int], ...] = ()
    """(new tokens, tokens before them in the cache) of each chunk."""
    num_prefill_outputs: int = 0
    """Chunks that end a prompt: their sequences get a token too."""
    num_adapters: int = 0
    """Distinct LoRA adapters in the step."""
    num_group_tokens: int | None = None
    """Tokens of all data-parallel ranks in the step, where they exchange tokens in every layer;
    None: as many on each rank as here."""

    @property
    def num_tokens(self) -> int:
        """Tokens that pass the matrices."""
        return self.num_decodes + sum(new for new, _ in self.prefills)
