"""Seconds of one engine step, from architecture, accelerator and parallelism.

```text
step = sum over matrices  w * s(m) + c(m)           s, c: prices at m tokens (kernels.py)
     + elementwise kernels                          bytes that norms and activations move
     + layers x attention                           sequences, KV bytes, query-key products
     + output head and sampler                      over the sequences that get a token
     + all-reduces                                  2 per layer, over the link between ranks
     + the engine's own CPU                         0.2 ms and 20 us per sequence
```

Pure arithmetic over tables made once (``matrices.py``): a step costs microseconds to price.
"""

from collections import defaultdict
from dataclasses import dataclass

from memroute.bandwidth.kernels import (
    REFERENCE_KV_HEADS,
    REFERENCE_QUERY_WIDTH,
    KernelRates,
    kernel_rates,
)
from memroute.bandwidth.matrices import PriceTable, RankMatrices
from memroute.catalog import Accelerator
from memroute.footprint import (
    KVCacheDtype,
    ModelArchitecture,
    Parallelism,
    Quantization,
    kv_cache_layout,
)
from memroute.footprint.architecture import Attention, LatentAttention
from memroute.footprint.kv_cache.cells import CellKind
from memroute.footprint.weights.model import resolve_format
from memroute.footprint.weights.sharding import SINGLE

CPU_STEP_SECONDS = 0.2e-3
CPU_SEQUENCE_SECONDS = 20e-6
# Fitted on the two public runs of vLLM 0.19 in LLMServingSim's repository: calibration.
SAMPLER_SECONDS = 25e-6
SAMPLER_BYTES_PER_LOGIT = 4
UNSEEN_SHAPE_ERROR_RATIO = 0.04
# A model whose matrices the prices were not fitted on: tiles fall otherwise.
LINK_ERROR_RATIO = 0.4
# What an all-reduce reaches depends on topology and library: PCIe more than NVLink.
EXPERTS_ERROR_RATIO = 0.15
# Grouped matrix products were not measured.
ADAPTER_LAUNCH_SECONDS = 40e-6
# LoRA: two products on each of four fused matrices, some 5 us apiece, per layer.


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

    @property
    def num_tokens(self) -> int:
        """Tokens that pass the matrices."""
        return self.num_decodes + sum(new for new, _ in self.prefills)


@dataclass(frozen=True, slots=True)
class _AttentionLayers:
    """Equal attention layers of one rank."""

    num_layers: int
    kv_heads: float
    query_width: int
    token_bytes: float
    """KV bytes of one token in one layer."""
    flops_per_pair: float
    """Operations per query-key pair."""
    reach_tokens: int | None

    def seen(self, context_tokens: float) -> float:
        """What is attended to of a context."""
        return (
            context_tokens if self.reach_tokens is None else min(context_tokens, self.reach_tokens)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """The step-time law of one rank. Make it with ``StepTime.of``."""

    error_ratio: float
    """How far a step may be off: a fit's own error, or an estimate where nothing was measured."""
    source: str
    _dense: PriceTable
    _head: PriceTable
    _rates: KernelRates
    _attention: tuple[_AttentionLayers, ...]
    _state_seconds_per_sequence: float
    _sampler_seconds_per_sequence: float
    _adapter_seconds: float
    _num_layers: int
    cpu_step_seconds: float = CPU_STEP_SECONDS
    cpu_sequence_seconds: float = CPU_SEQUENCE_SECONDS

    @classmethod
    def of(
        cls,
        architecture: ModelArchitecture,
        accelerator: Accelerator,
        *,
        quantization: Quantization = Quantization.NONE,
        kv_cache_dtype: KVCacheDtype = KVCacheDtype.AUTO,
        parallelism: Parallelism = SINGLE,
        adapter_bytes: int = 0,
    ) -> "StepTime":
        """The law for a model so spread over such accelerators.

        ``adapter_bytes``: of one LoRA adapter on one rank. Raises ``UnknownWeightsError`` for
        a family whose modules are not known.
        """
        rates = kernel_rates(accelerator)
        formats = resolve_format(architecture, quantization)
        matrices = RankMatrices(architecture, accelerator, rates, formats, parallelism)
        layers = _attention_layers(architecture, parallelism, kv_cache_dtype)
        stages = parallelism.pipeline_parallel_size
        vocabulary = (architecture.vocab_size or 0) / parallelism.tensor_parallel_size
        bandwidth = accelerator.bandwidth_bytes_per_second * 0.9
        state_bytes = _state_bytes(architecture, parallelism, kv_cache_dtype)
        return cls(
            error_ratio=_error_ratio(matrices),
            source=rates.source,
            _dense=matrices.dense(),
            _head=matrices.head(),
            _rates=rates,
            _attention=layers,
            _state_seconds_per_sequence=2 * state_bytes / bandwidth,
            _sampler_seconds_per_sequence=vocabulary * SAMPLER_BYTES_PER_LOGIT / bandwidth,
            _adapter_seconds=adapter_bytes / bandwidth,
            _num_layers=architecture.num_layers // stages,
        )

    def step_seconds(self, batch: StepBatch) -> float:
        """Seconds of one step; 0 for an empty one."""
        num_tokens = batch.num_tokens
        if not num_tokens:
            return 0.0
        outputs = batch.num_decodes + batch.num_prefill_outputs
        sequences = batch.num_decodes + len(batch.prefills)
        seconds = self._dense.at(num_tokens) + self._attention_seconds(batch)
        seconds += sequences * self._state_seconds_per_sequence
        if outputs:
            seconds += self._head.at(outputs) + SAMPLER_SECONDS
            seconds += outputs * self._sampler_seconds_per_sequence
        if batch.num_adapters:
            seconds += batch.num_adapters * self._adapter_seconds
            seconds += self._num_layers * ADAPTER_LAUNCH_SECONDS
        return seconds + self.cpu_step_seconds + sequences * self.cpu_sequence_seconds

    def decode_seconds(self, num_sequences: int, context_tokens: int) -> float:
        """Seconds of a step in which so many sequences of that length get one token each."""
        return self.step_seconds(
            StepBatch(
                num_decodes=num_sequences,
                decode_context_tokens=num_sequences * context_tokens,
            )
        )

    def prefill_seconds(self, num_tokens: int, max_num_batched_tokens: int) -> float:
        """Seconds to read one prompt on an idle engine, in chunks of a step's budget."""
        seconds, done = 0.0, 0
        while done < num_tokens:
            chunk = min(max_num_batched_tokens, num_tokens - done)
            last = int(done + chunk == num_tokens)
            batch = StepBatch(prefills=((chunk, done),), num_prefill_outputs=last)
            seconds += self.step_seconds(batch)
            done += chunk
        return seconds

    def is_compute_bound(self, num_sequences: int, context_tokens: int) -> bool:
        """Whether arithmetic takes longer in a decode step than what is moved."""
        batch = StepBatch(
            num_decodes=num_sequences, decode_context_tokens=num_sequences * context_tokens
        )
        moved = self._dense.at(1)
        return self._dense.at(num_sequences) - moved > moved + self._attention_seconds(batch)

    def _attention_seconds(self, batch: StepBatch) -> float:
        total = 0.0
        decodes, context = batch.num_decodes, batch.decode_context_tokens
        decode = self._rates.mixed_decode if batch.prefills else self._rates.decode
        prefill = self._rates.prefill
        for layers in self._attention:
            microseconds = 0.0
            if decodes:
                seen = decodes * layers.seen(context / decodes)
                heads = layers.kv_heads / REFERENCE_KV_HEADS
                microseconds += decode.call_microseconds
                microseconds += decodes * decode.sequence_microseconds * heads
                microseconds += seen * layers.token_bytes / decode.kv_bytes_per_second * 1e6
            width = layers.query_width / REFERENCE_QUERY_WIDTH
            for new, cached in batch.prefills:
                pairs = new * layers.seen(cached + new / 2)
                microseconds += prefill.call_microseconds
                microseconds += new * prefill.token_nanoseconds * width / 1e3
                microseconds += layers.seen(cached) * prefill.cached_token_nanoseconds * width / 1e3
                microseconds += pairs * layers.flops_per_pair / prefill.flops * 1e6
            total += layers.num_layers * microseconds
        return total * 1e-6


def _attention_layers(
    architecture: ModelArchitecture, parallelism: Parallelism, dtype: KVCacheDtype
) -> tuple[_AttentionLayers, ...]:
    tp = parallelism.tensor_parallel_size
    layout = kv_cache_layout(architecture, kv_cache_dtype=dtype, parallelism=parallelism)
    counted: defaultdict[_AttentionLayers, int] = defaultdict(int)
    cells = {page.layer: page.cell for group in layout.groups for page in group.pages}
    for index, layer in enumerate(architecture.layers):
        mixer = layer.mixer
        cell = cells.get(index)
        token_bytes = cell.token_bytes if cell is not None else 0
        if isinstance(mixer, Attention):
            facts = _AttentionLayers(
                0, max(1.0, mixer.num_kv_heads / tp), mixer.num_heads * mixer.head_dim // tp,
                token_bytes, 4.0 * mixer.num_heads * mixer.head_dim / tp,
                mixer.window_tokens or mixer.chunk_tokens,
            )  # fmt: skip
        elif isinstance(mixer, LatentAttention):
            width = mixer.nope_head_dim + mixer.rope_head_dim + mixer.value_head_dim
            heads = mixer.num_heads // tp
            facts = _AttentionLayers(
                0, 1.0, heads * mixer.value_head_dim, token_bytes, 2.0 * heads * width, None
            )
        else:
            continue
        counted[facts] += 1
    return tuple(
        _AttentionLayers(
            count, f.kv_heads, f.query_width, f.token_bytes, f.flops_per_pair, f.reach_tokens
        )
        for f, count in counted.items()
    )


def _state_bytes(
    architecture: ModelArchitecture, parallelism: Parallelism, dtype: KVCacheDtype
) -> int:
    layout = kv_cache_layout(architecture, kv_cache_dtype=dtype, parallelism=parallelism)
    return sum(
        page.cell.state_bytes
        for group in layout.groups
        if group.kind is CellKind.STATE
        for page in group.pages
    )


def _error_ratio(matrices: RankMatrices) -> float:
    """How far a decode step of 64 sequences may be off, all doubts added."""
    error = matrices.rates.error_ratio + UNSEEN_SHAPE_ERROR_RATIO
    if matrices.has_experts:
        error += EXPERTS_ERROR_RATIO
    exchange = matrices.exchange_seconds(64)
    if exchange:
        error += LINK_ERROR_RATIO * exchange / matrices.dense().at(64)
    return error
