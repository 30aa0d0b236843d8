"""What one rank reads from its memory in a decode step: weights and KV cache."""

from dataclasses import dataclass

from memroute.bandwidth.attention import AttentionLayers


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReads:
    """Bytes that a rank reads per step."""

    dense_bytes: int
    """Weights that every step reads, the output head among them."""
    expert_bytes: int
    """All experts of the rank; of them a step reads those that its tokens reach."""
    missed_ratio: float
    """Share of the experts that one token does not reach."""
    attention: tuple[AttentionLayers, ...]
    state_bytes: int
    """Of one sequence, read and written."""

    def weights_bytes(self, num_group_tokens: int) -> float:
        """Weights of a step with so many tokens on all data-parallel ranks together."""
        return self.dense_bytes + self.expert_bytes * (1 - self.missed_ratio**num_group_tokens)

    def kv_bytes(self, num_sequences: int, context_tokens: int) -> float:
        """KV cache (and states) of so many sequences of that length."""
        each = sum(
            layers.num_layers * layers.seen(context_tokens) * layers.token_bytes
            for layers in self.attention
        )
        return num_sequences * (each + 2 * self.state_bytes)
