"""What the matrices of one rank cost at each number of tokens.

Query, key and value (and gate and up) are one matrix, as engines fuse them. Experts: of E, a
step over m tokens touches ``E (1 - (1 - k/E)^m)``, each with its share of the tokens; m counts
the tokens of all data-parallel ranks, because the experts of each serve them all.
Quantized weights move fewer bytes; 8-bit floats also multiply at their own peak.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from memroute.bandwidth.kernels import REFERENCE_WIDTH_BYTES, KernelRates, Knot
from memroute.catalog import Accelerator
from memroute.errors import UnknownWeightsError
from memroute.footprint import ModelArchitecture, Parallelism
from memroute.footprint.architecture import MLP, Attention, MixtureOfExperts
from memroute.footprint.weights.model import experts_of
from memroute.footprint.weights.modules import Axis, Module, Split, modules_of
from memroute.footprint.weights.sharding import SINGLE, rank_module_bytes, rank_shape
from memroute.footprint.weights.stored import StoredFormats

# Choosing experts, sorting tokens by them and adding up: what the same rows leave at 128 tokens.
EXPERTS_LAYER_MICROSECONDS = 20.0


@dataclass(frozen=True, slots=True)
class PriceTable:
    """A piecewise linear function of a count, extended by its last slope."""

    counts: tuple[int, ...]
    seconds: tuple[float, ...]

    def at(self, count: int) -> float:
        """Seconds at a count of at least 1."""
        counts, seconds = self.counts, self.seconds
        index = min(max(bisect_right(counts, count) - 1, 0), len(counts) - 2)
        low, high = counts[index], counts[index + 1]
        share = (count - low) / (high - low)
        return seconds[index] + share * (seconds[index + 1] - seconds[index])


class RankMatrices:
    """The matrices of one rank, fused, and their price at each number of tokens."""

    def __init__(
        self,
        architecture: ModelArchitecture,
        accelerator: Accelerator,
        rates: KernelRates,
        formats: StoredFormats,
        parallelism: Parallelism,
    ) -> None:
        self.architecture = architecture
        self.parallelism = parallelism
        self.rates = rates
        self._accelerator = accelerator
        self._formats = formats
        heads: list[Module] = []
        fused: defaultdict[tuple[str, int], list[Module]] = defaultdict(list)
        experts: list[Module] = []
        for module in modules_of(architecture):
            if module.is_table:
                heads.append(module)
            elif module.split is Split.EXPERTS:
                experts.append(module)
            elif module.is_linear and module.num_inputs > 1:
                parent = module.name.rsplit(".", 1)[0]
                is_fused = module.axis is Axis.OUTPUTS
                fused[parent if is_fused else module.name, module.num_inputs].append(module)
        if not fused and not experts:
            raise UnknownWeightsError(architecture.family, "its matrices")
        # Layers repeat: each kind of call is priced once.
        self._fused = _counted(fused.values(), self._kind)
        self._head = next((m for m in heads if m.name == "lm_head"), heads[0])
        self._expert_modules = experts
        self._experts = _counted([[module] for module in experts], self._kind)

    @property
    def has_experts(self) -> bool:
        """Whether tokens are routed."""
        return bool(self._experts)

    def dense(self) -> PriceTable:
        """Everything whose price follows from the number of tokens alone."""
        return PriceTable(
            tuple(knot.tokens for knot in self.rates.knots),
            tuple(
                self._fused_seconds(knot) + self._elementwise_seconds(knot)
                for knot in self.rates.knots
            ),
        )

    def experts(self) -> PriceTable | None:
        """The experts, by the tokens of all data-parallel ranks together; None without any."""
        if not self._experts:
            return None
        last = self.rates.knots[-1].tokens
        counts = (*(k.tokens for k in self.rates.knots), *(last * n for n in (2, 4, 8)))
        return PriceTable(counts, tuple(self._all_experts_seconds(count) for count in counts))

    def launches_seconds(self) -> float:
        """What a step's matrices and elementwise kernels cost beside their bytes and arithmetic.

        The card waits meanwhile: for the launch, and for a kernel's last blocks.
        """
        first = self.rates.knots[0]
        calls = sum(count for _, count in self._fused) + sum(count for _, count in self._experts)
        elementwise = self.architecture.num_layers * first.elementwise_microseconds
        return (calls * first.call_microseconds + elementwise) * 1e-6

    def dense_bytes(self) -> int:
        """Weights that one rank reads in every step."""
        read = [(module, count) for modules, count in self._fused for module in modules]
        return sum(count * self._bytes(module) for module, count in [*read, (self._head, 1)])

    def expert_bytes(self) -> int:
        """Weights of all experts of one rank."""
        return sum(self._bytes(module) for module in self._expert_modules)

    def missed_ratio(self) -> float:
        """Share of the experts that one token does not reach; 1 without any."""
        if not self._expert_modules:
            return 1.0
        moe = experts_of(self.architecture, self._expert_modules[0])
        return 1 - moe.num_experts_per_token / moe.num_experts

    def _bytes(self, module: Module) -> int:
        return rank_module_bytes(module, self.parallelism, self._formats)

    def head(self) -> PriceTable:
        """The output head, by the number of sequences that get a token."""
        return PriceTable(
            tuple(knot.tokens for knot in self.rates.knots),
            tuple(self._call_seconds([self._head], knot) for knot in self.rates.knots),
        )

    def _fused_seconds(self, knot: Knot) -> float:
        return sum(count * self._call_seconds(modules, knot) for modules, count in self._fused)

    def _all_experts_seconds(self, num_tokens: int) -> float:
        seconds = sum(
            count * self._experts_seconds(modules[0], num_tokens)
            for modules, count in self._experts
        )
        layers = {module.name.split(".experts.")[0] for module in self._expert_modules}
        return seconds + len(layers) * EXPERTS_LAYER_MICROSECONDS * 1e-6

    def _kind(self, module: Module) -> object:
        """What of a module decides its price."""
        return (
            module.num_inputs, module.num_outputs, module.num_copies, module.split, module.axis,
            module.num_units, module.dtype_bytes, self._formats.format_of(module),
        )  # fmt: skip

    def _call_seconds(self, modules: Sequence[Module], knot: Knot) -> float:
        picoseconds = 0.0
        for module in modules:
            shape = rank_shape(module, self.parallelism, self._formats)
            weights = shape.num_outputs * shape.num_inputs * shape.num_copies
            picoseconds += weights * self._price(module, knot.picoseconds_per_weight)
        return picoseconds * 1e-12 + knot.call_microseconds * 1e-6

    def _experts_seconds(self, module: Module, num_tokens: int) -> float:
        moe = experts_of(self.architecture, module)
        shape = rank_shape(module, self.parallelism, self._formats)
        touched = 1 - (1 - moe.num_experts_per_token / moe.num_experts) ** num_tokens
        each = num_tokens * moe.num_experts_per_token / (moe.num_experts * touched)
        weights = shape.num_outputs * shape.num_inputs * shape.num_copies * touched
        floor = self._price(module, self.rates.knots[0].picoseconds_per_weight)
        arithmetic = each * 2e12 / self.rates.grouped_flops / self._speedup(module)
        # Memory and arithmetic of grouped products overlap in part: so joined they lie within 12 %
        # of aiconfigurator's rows for Qwen3-30B-A3B on RTX PRO 6000 (1 to 1,024 tokens per
        # expert); the larger of them alone is 20 % low where both matter.
        price = math.cbrt(floor**3 + arithmetic**3)
        return weights * price * 1e-12 + self.rates.knots[0].call_microseconds * 1e-6

    def _speedup(self, module: Module) -> float:
        """How much faster 8-bit floats multiply than 16-bit ones; 1 for a module in others."""
        form = self._formats.format_of(module)
        if form.is_quantized and form.bits == 8 and self._accelerator.fp8_flops:  # noqa: PLR2004
            return self._accelerator.fp8_flops / self._accelerator.bf16_flops
        return 1.0

    def _price(self, module: Module, picoseconds: float) -> float:
        """The price of a weight in the format that it is stored in."""
        form = self._formats.format_of(module)
        if not form.is_quantized:
            return picoseconds * module.dtype_bytes / 2
        floor = self.rates.knots[0].picoseconds_per_weight
        stored = rank_module_bytes(module, SINGLE, self._formats) / module.num_parameters
        return floor * stored / 2 + max(0.0, picoseconds - floor) / self._speedup(module)

    def _elementwise_seconds(self, knot: Knot) -> float:
        first = self.rates.knots[0].elementwise_microseconds
        growth = knot.elementwise_microseconds - first
        width = _elementwise_bytes(self.architecture, self.parallelism) / REFERENCE_WIDTH_BYTES
        return self.architecture.num_layers * (first + growth * width) * 1e-6


def _counted(
    calls: Iterable[list[Module]], kind: Callable[[Module], object]
) -> list[tuple[list[Module], int]]:
    """Calls of equal kinds, one of each, and how many there are."""
    counted: dict[object, tuple[list[Module], int]] = {}
    for modules in calls:
        key = tuple(kind(module) for module in modules)
        first, count = counted.get(key, (modules, 0))
        counted[key] = (first, count + 1)
    return list(counted.values())


def _elementwise_bytes(architecture: ModelArchitecture, parallelism: Parallelism) -> float:
    """Bytes per token and layer that norms, activations and rotary embeddings move."""
    tp = parallelism.tensor_parallel_size
    layer = architecture.layers[0]
    inner = 0.0
    for feed_forward in layer.feed_forwards or ():
        if isinstance(feed_forward, MLP):
            inner += 3 * feed_forward.intermediate_size / tp
        elif isinstance(feed_forward, MixtureOfExperts):
            inner += 3 * feed_forward.intermediate_size * feed_forward.num_experts_per_token / tp
    rotary = 0.0
    if isinstance(layer.mixer, Attention):
        heads = layer.mixer.num_heads + layer.mixer.num_kv_heads
        rotary = 2 * heads * layer.mixer.head_dim / tp
    return 2 * (inner + 8 * architecture.hidden_size + rotary)
