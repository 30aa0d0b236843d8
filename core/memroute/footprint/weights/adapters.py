"""What LoRA adapters take: slots of two thin matrices beside every linear layer.

vLLM allocates ``max_loras`` slots of ``max_lora_rank`` when it starts, whether adapters are
loaded or not. The first matrix (rank x inputs) is split along inputs that are split, the
second (outputs x rank) along outputs that are; embeddings get none.
"""

from memroute.footprint.architecture import ModelArchitecture
from memroute.footprint.weights.modules import modules_of
from memroute.footprint.weights.sharding import SINGLE, Parallelism, rank_shape
from memroute.footprint.weights.stored import UNQUANTIZED


def adapter_bytes_per_rank(
    architecture: ModelArchitecture,
    *,
    max_adapters: int,
    max_rank: int,
    parallelism: Parallelism = SINGLE,
    dtype_bytes: int = 2,
) -> int:
    """Bytes of the adapter slots on one rank."""
    values = 0
    for module in modules_of(architecture):
        if module.is_linear:
            shape = rank_shape(module, parallelism, UNQUANTIZED)
            values += shape.num_copies * (shape.num_inputs + shape.num_outputs)
    return max_adapters * max_rank * values * dtype_bytes
