"""Seconds of one engine step, from architecture, accelerator and parallelism.

```text
step = sum over matrices  w * s(m) + c(m)           s, c: prices at m tokens (kernels.py)
     + elementwise kernels                          bytes that norms and activations move
     + layers x attention                           sequences, KV bytes, query-key products
     + output head and sampler                      over the sequences that get a token
     + experts                                      those that the tokens of all ranks reach
     + exchanges                                    all-reduces, experts' gathers (exchanges.py)
     + the engine's own CPU                         0.2 ms and 20 us per sequence; more by ranks
```

Pure arithmetic over tables made once (``matrices.py``): a step costs microseconds to price.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memroute.bandwidth.attention import (
    AttentionLayers,
    attention_layers,
    attention_seconds,
    state_bytes,
)
from memroute.bandwidth.batch import StepBatch
from memroute.bandwidth.exchanges import Exchanges, exchanges_of, launch_seconds
from memroute.bandwidth.kernels import KernelRates, kernel_rates
from memroute.bandwidth.links import Link, LinkSource, usual_link
from memroute.bandwidth.matrices import PriceTable, RankMatrices
from memroute.bandwidth.reads import StepReads
from memroute.catalog import Accelerator
from memroute.footprint import (
    KVCacheDtype,
    ModelArchitecture,
    Parallelism,
    Quantization,
)
from memroute.footprint.weights.model import resolve_format
from memroute.footprint.weights.sharding import SINGLE

# Fitted on the two public runs of vLLM 0.19 in LLMServingSim's repository: calibration.
CPU_STEP_SECONDS = 0.2e-3
CPU_SEQUENCE_SECONDS = 20e-6
# Sampling: one kernel, and float32 logits that are read and written. Profiles of two cards, bf16.
SAMPLER_SECONDS = 25e-6
SAMPLER_BYTES_PER_LOGIT = 4
# A model whose matrices the prices were not fitted on: tiles fall otherwise.
UNSEEN_SHAPE_ERROR_RATIO = 0.04
# Of grouped products: which experts tokens reach (their load is uneven), and which kernel serves
# them, move aiconfigurator's rows by so much.
EXPERTS_ERROR_RATIO = 0.10
# The batch at which doubts are told.
TYPICAL_SEQUENCES = 64
# LoRA: two products on each of four fused matrices, some 5 us apiece, per layer.
ADAPTER_LAUNCH_SECONDS = 40e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """The step-time law of one rank. Make it with ``StepTime.of``."""

    error_ratio: float
    """How far a step may be off: a fit's own error, or an estimate where nothing was measured."""
    source: str
    link: Link
    """What joins the ranks."""
    _dense: PriceTable
    _experts: PriceTable | None
    _exchanges: Exchanges
    _is_alone: bool
    """Whether its rank sends nobody anything."""
    _head: PriceTable
    _rates: KernelRates
    _attention: tuple[AttentionLayers, ...]
    _state_seconds_per_sequence: float
    _sampler_seconds_per_sequence: float
    _adapter_seconds: float
    _num_layers: int
    _data_parallel_size: int
    _launch_seconds: float
    _idle_seconds: float
    """Of a decode step: launches and tails of kernels, in which the card waits."""
    reads: StepReads
    """What a rank reads per step."""
    _scale: float = 1.0
    """Of everything but exchanges: how far a bound is from what is expected."""
    cpu_step_seconds: float = CPU_STEP_SECONDS
    cpu_sequence_seconds: float = CPU_SEQUENCE_SECONDS
    host_read_seconds: float = 0.0
    """To read the weights that stay on the host, all of them; 0 where none do. Kernels read them
    over the link in every step and wait for them: added, as vLLM's UVA has it."""

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
        link: Link | None = None,
        is_eager: bool = False,
    ) -> "StepTime":
        """The law for a model so spread over such accelerators.

        ``adapter_bytes``: of one LoRA adapter on one rank. ``link``: what joins the cards of the
        node; None: not known. ``is_eager``: without CUDA graphs. Raises ``UnknownWeightsError``
        for a family whose modules are not known.
        """
        link = link or usual_link(accelerator)
        rates = kernel_rates(accelerator)
        formats = resolve_format(architecture, quantization)
        matrices = RankMatrices(architecture, accelerator, rates, formats, parallelism)
        exchanges = exchanges_of(architecture, parallelism, link, is_eager=is_eager)
        experts = matrices.experts()
        layers = attention_layers(architecture, parallelism, kv_cache_dtype)
        stages = parallelism.pipeline_parallel_size
        vocabulary = (architecture.vocab_size or 0) / parallelism.tensor_parallel_size
        bandwidth = accelerator.bandwidth_bytes_per_second * 0.9
        states = state_bytes(architecture, parallelism, kv_cache_dtype)
        dense = matrices.dense()
        num_attention = sum(one.num_layers for one in layers)
        attention_calls = num_attention * rates.decode.call_microseconds * 1e-6
        return cls(
            error_ratio=_error_ratio(rates, dense, experts, exchanges),
            source=_source(rates, exchanges),
            link=link,
            _dense=dense,
            _experts=experts,
            _exchanges=exchanges,
            _is_alone=exchanges.is_none,
            _head=matrices.head(),
            _rates=rates,
            _attention=layers,
            _state_seconds_per_sequence=2 * states / bandwidth,
            _sampler_seconds_per_sequence=vocabulary * SAMPLER_BYTES_PER_LOGIT / bandwidth,
            _adapter_seconds=adapter_bytes / bandwidth,
            _num_layers=architecture.num_layers // stages,
            _data_parallel_size=parallelism.data_parallel_size,
            _idle_seconds=matrices.launches_seconds() + SAMPLER_SECONDS + attention_calls,
            reads=StepReads(
                dense_bytes=matrices.dense_bytes(),
                expert_bytes=matrices.expert_bytes(),
                missed_ratio=matrices.missed_ratio(),
                attention=layers,
                state_bytes=states,
            ),
            _launch_seconds=launch_seconds(architecture.num_layers // stages, is_eager=is_eager),
        )

    def step_seconds(self, batch: StepBatch) -> float:
        """Seconds of one step; 0 for an empty one."""
        num_tokens = batch.num_tokens
        if not num_tokens:
            return 0.0
        outputs = batch.num_decodes + batch.num_prefill_outputs
        sequences = batch.num_decodes + len(batch.prefills)
        seconds = self._dense.at(num_tokens)
        seconds += attention_seconds(self._attention, self._rates, batch)
        if self._experts is not None:
            seconds += self._experts.at(
                batch.num_group_tokens or num_tokens * self._data_parallel_size
            )
        seconds += sequences * self._state_seconds_per_sequence
        if outputs:
            seconds += self._head.at(outputs) + SAMPLER_SECONDS
            seconds += outputs * self._sampler_seconds_per_sequence
        if batch.num_adapters:
            seconds += batch.num_adapters * self._adapter_seconds
            seconds += self._num_layers * ADAPTER_LAUNCH_SECONDS
        seconds = max(seconds * self._scale, self._launch_seconds)
        if self.host_read_seconds:
            seconds += self._host_seconds(
                batch.num_group_tokens or num_tokens * self._data_parallel_size
            )
        cpu = self.cpu_step_seconds + sequences * self.cpu_sequence_seconds
        if not self._is_alone:
            seconds += self._exchanges.seconds(num_tokens)
            cpu += self._exchanges.cpu_seconds(sequences)
        return seconds + self._scale * cpu

    def _host_seconds(self, num_group_tokens: int) -> float:
        """Of a mixture of experts those are read that the step's tokens reach (inferred)."""
        reads = self.reads
        whole = reads.dense_bytes + reads.expert_bytes
        return self.host_read_seconds * reads.weights_bytes(num_group_tokens) / whole

    def together_seconds(self, batches: Sequence[StepBatch]) -> float:
        """Seconds of a step that ranks take together, of which each batch is one's.

        Experts serve the tokens of all; the slowest rank is waited for.
        """
        if len(batches) == 1 and self._data_parallel_size == 1:
            return self.step_seconds(batches[0])
        total = sum(batch.num_tokens for batch in batches)
        return max(
            (self.step_seconds(replace(batch, num_group_tokens=total)) for batch in batches),
            default=0.0,
        )

    def gap_seconds(self, num_sequences: int) -> float:
        """Seconds of a step in which the accelerator waits for the engine's CPU."""
        cpu = self.cpu_step_seconds + num_sequences * self.cpu_sequence_seconds
        if not self._is_alone:
            cpu += self._exchanges.cpu_seconds(num_sequences)
        return self._scale * cpu

    def idle_seconds(self, num_sequences: int) -> float:
        """Seconds of a decode step in which the accelerator neither moves nor computes.

        The CPU's part, what each kernel's launch costs, and messages between ranks.
        """
        idle = self.gap_seconds(num_sequences) + self._scale * self._idle_seconds
        return idle + self.exchange_seconds(num_sequences)

    def read_bytes_per_second(self, num_sequences: int, context_tokens: int) -> float:
        """What a rank reads per second while so many sequences of that length decode."""
        tokens = num_sequences * self._data_parallel_size
        read = self.reads.weights_bytes(tokens)
        read += self.reads.kv_bytes(num_sequences, context_tokens)
        return read / self.decode_seconds(num_sequences, context_tokens)

    def exchange_seconds(self, num_tokens: int) -> float:
        """Seconds of a step in which ranks send each other a rank's so many tokens; 0 for one."""
        return 0.0 if self._is_alone else self._exchanges.seconds(num_tokens)

    def fastest(self) -> "StepTime":
        """The same with every step as short as the doubts allow."""
        return self._at_bound(-1, self.link.fast_ratio)

    def slowest(self) -> "StepTime":
        """The same with every step as long as the doubts allow."""
        return self._at_bound(1, self.link.slow_ratio)

    def _at_bound(self, sign: int, link_ratio: float) -> "StepTime":
        error = kernels_error_ratio(self._rates, self._dense, self._experts)
        return replace(
            self, _scale=1 + sign * error, _exchanges=self._exchanges.at_bound(link_ratio)
        )

    def decode_seconds(self, num_sequences: int, context_tokens: int) -> float:
        """Seconds of a step in which so many sequences of that length get one token each."""
        return self.step_seconds(
            StepBatch(
                num_decodes=num_sequences,
                decode_context_tokens=num_sequences * context_tokens,
            )
        )

    def prefill_seconds(
        self, num_tokens: int, max_num_batched_tokens: int, *, cached_tokens: int = 0
    ) -> float:
        """Seconds to read one prompt on an idle engine, in chunks of a step's budget.

        ``cached_tokens``: before them, in the cache already.
        """
        seconds, done = 0.0, 0
        while done < num_tokens:
            chunk = min(max_num_batched_tokens, num_tokens - done)
            last = int(done + chunk == num_tokens)
            batch = StepBatch(prefills=((chunk, cached_tokens + done),), num_prefill_outputs=last)
            seconds += self.step_seconds(batch)
            done += chunk
        return seconds

    def is_compute_bound(self, num_sequences: int, context_tokens: int) -> bool:
        """Whether arithmetic takes longer in a decode step than what is moved."""
        batch = StepBatch(
            num_decodes=num_sequences, decode_context_tokens=num_sequences * context_tokens
        )
        moved = self._dense.at(1)
        attention = attention_seconds(self._attention, self._rates, batch)
        return self._dense.at(num_sequences) - moved > moved + attention


def kernels_error_ratio(rates: KernelRates, dense: PriceTable, experts: PriceTable | None) -> float:
    """How far the kernels of a decode step of 64 sequences may be off, all doubts added."""
    error = rates.error_ratio + UNSEEN_SHAPE_ERROR_RATIO
    if experts is not None:
        routed = experts.at(TYPICAL_SEQUENCES)
        error += EXPERTS_ERROR_RATIO * routed / (routed + dense.at(TYPICAL_SEQUENCES))
    return error


def _error_ratio(
    rates: KernelRates, dense: PriceTable, experts: PriceTable | None, exchanges: Exchanges
) -> float:
    """How far such a step may be off, exchanges included: towards the farther bound."""
    error = kernels_error_ratio(rates, dense, experts)
    kernels = dense.at(TYPICAL_SEQUENCES)
    if experts is not None:
        kernels += experts.at(TYPICAL_SEQUENCES)
    exchange = exchanges.seconds(TYPICAL_SEQUENCES)
    link = exchanges.link
    doubt = max(1 - link.fast_ratio, link.slow_ratio - 1)
    return (error * kernels + doubt * exchange) / (kernels + exchange)


def _source(rates: KernelRates, exchanges: Exchanges) -> str:
    if exchanges.is_none:
        return rates.source
    link = exchanges.link
    known = {
        LinkSource.MEASURED: "as measured",
        LinkSource.NAMED: "as given",
        LinkSource.CARD: "of the card",
        LinkSource.UNKNOWN: "assumed: the node's is not known, see --link",
    }[link.source]
    return f"{rates.source}; link {link.name}, {known}"
