"""What engine is simulated: model, accelerator, flags. Everything else follows from it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

from memroute.bandwidth import StepBatch, StepTime, link_of
from memroute.catalog import Accelerator
from memroute.errors import UnsupportedShapeError
from memroute.footprint import (
    KVCacheDtype,
    KVCacheLayout,
    ModelArchitecture,
    Parallelism,
    Quantization,
    ReplicaFootprint,
    ReplicaShape,
    kv_cache_layout,
    replica_footprint,
)
from memroute.footprint.architecture import MixtureOfExperts
from memroute.footprint.replica import MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS
from memroute.footprint.weights import adapter_bytes_per_rank
from memroute.footprint.weights.sharding import SINGLE
from memroute.hierarchy import HostLink, WeightsOffload, host_link_of, kv_tier
from memroute_simulator.engine.model import (
    BlockEvent,
    HostTier,
    HostTierLimits,
    KVCache,
    Scheduler,
    SchedulingPolicy,
    SGLangScheduler,
    VLLMScheduler,
)

DEFAULT_UTILIZATION_RATIO = 0.92
# vLLM's --gpu-memory-utilization from 0.20 on.


class EngineKind(StrEnum):
    """Whose rules a simulated engine follows."""

    VLLM = "vllm"
    SGLANG = "sglang"


@dataclass(frozen=True, kw_only=True, eq=False)
class EngineSpec:
    """One engine. The KV pool is what the accelerator leaves, unless it is given."""

    architecture: ModelArchitecture
    accelerator: Accelerator
    kind: EngineKind = EngineKind.VLLM
    quantization: Quantization = Quantization.NONE
    kv_cache_dtype: KVCacheDtype = KVCacheDtype.AUTO
    parallelism: Parallelism = SINGLE
    max_num_seqs: int = MAX_NUM_SEQS
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS
    max_context_tokens: int | None = None
    """None: the model's own limit."""
    utilization_ratio: float = DEFAULT_UTILIZATION_RATIO
    num_blocks: int | None = None
    """Blocks of the pool of one rank, the null block included; None: computed."""
    block_size_tokens: int | None = None
    caches_prefixes: bool = True
    policy: SchedulingPolicy = SchedulingPolicy.FCFS
    watermark_ratio: float = 0.0
    long_prefill_token_threshold: int = 0
    max_adapters: int | None = None
    adapter_rank: int = 16
    is_eager: bool = False
    """Without CUDA graphs: their memory is KV cache, and steps wait for launches."""
    link: str | None = None
    """What joins the cards of its node: a name or a measurement (``link_of``); None: not known."""
    host_kv_bytes: int | None = None
    """KV cache on the host of each data-parallel rank (``--kv-offloading-size``); None: none."""
    host_blocks_per_chunk: int = 1
    """Blocks that are moved, looked up and evicted as one (``blocks_per_chunk``)."""
    host_link: HostLink | None = None
    """How a device reaches its host; None: as its data sheet says."""
    weights_on_host_bytes: int = 0
    """Of each device's weights, what is read from the host in every step (``--cpu-offload-gb``)."""

    @property
    def context_tokens(self) -> int:
        """The longest sequence that the engine takes."""
        return self.max_context_tokens or self.architecture.max_context_tokens or 8192

    @cached_property
    def layout(self) -> KVCacheLayout:
        """How one rank stores its KV cache."""
        return kv_cache_layout(
            self.architecture,
            kv_cache_dtype=self.kv_cache_dtype,
            parallelism=self.parallelism,
            max_num_batched_tokens=self.max_num_batched_tokens,
            block_size_tokens=self.block_size_tokens,
        )

    @cached_property
    def footprint(self) -> ReplicaFootprint:
        """What the engine is expected to take, with KV cache for one request.

        Raises ``UnsupportedShapeError`` or ``UnknownWeightsError``.
        """
        parallelism = self.parallelism
        return replica_footprint(
            ReplicaShape(
                architecture=self.architecture,
                max_context_tokens=self.context_tokens,
                concurrency=1,
                quantization=self.quantization,
                kv_cache_dtype=self.kv_cache_dtype,
                tensor_parallel_size=parallelism.tensor_parallel_size,
                pipeline_parallel_size=parallelism.pipeline_parallel_size,
                data_parallel_size=parallelism.data_parallel_size,
                expert_parallel=parallelism.expert_parallel,
                max_num_seqs=self.max_num_seqs,
                max_num_batched_tokens=self.max_num_batched_tokens,
                max_adapters=self.max_adapters or 0,
                max_adapter_rank=self.adapter_rank,
                is_eager=self.is_eager,
                weights_on_host_bytes=self.weights_on_host_bytes,
            )
        )

    @cached_property
    def total_blocks(self) -> int:
        """Blocks of the pool of one rank, the null block included.

        Computed from what engines are expected to take, not from what memroute reserves.
        Raises ``UnsupportedShapeError`` or ``UnknownWeightsError`` as the footprint does.
        """
        if self.num_blocks is not None:
            return self.num_blocks
        footprint = self.footprint
        budget = int(self.accelerator.usable_bytes * self.utilization_ratio)
        other = footprint.engine.expected - footprint.kv_cache_bytes
        return self.layout.num_blocks_in(max(0, budget - other))

    @property
    def capacity_tokens(self) -> int:
        """KV tokens of one rank when sequences are as long as the context allows."""
        pool = self.total_blocks * self.layout.bytes_per_block
        return self.layout.capacity_tokens(pool, self.context_tokens)

    @cached_property
    def step_time(self) -> StepTime:
        """How long a step takes. Raises ``UnsupportedShapeError`` where a link is not known."""
        law = StepTime.of(
            self.architecture,
            self.accelerator,
            quantization=self.quantization,
            kv_cache_dtype=self.kv_cache_dtype,
            parallelism=self.parallelism,
            adapter_bytes=(
                adapter_bytes_per_rank(
                    self.architecture,
                    max_adapters=1,
                    max_rank=self.adapter_rank,
                    parallelism=self.parallelism,
                )
                if self.max_adapters
                else 0
            ),
            link=link_of(self.link, self.accelerator),
            is_eager=self.is_eager,
        )
        if not self.weights_on_host_bytes:
            return law
        offload = WeightsOffload(
            bytes_per_device=self.weights_on_host_bytes,
            num_devices=self.parallelism.num_devices,
        )
        return replace(law, host_read_seconds=offload.read_seconds(self._known_host_link()))

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens per second of an idle replica: one full chunk on each rank.

        What an operator measures to calibrate a router that has to be told (llm-d).
        """
        tokens = self.max_num_batched_tokens
        seconds = self.step_time.step_seconds(StepBatch(prefills=((tokens, 0),)))
        return self.parallelism.data_parallel_size * tokens / seconds

    @property
    def steps_together(self) -> bool:
        """Whether data-parallel ranks exchange tokens in every layer, and so step as one."""
        return self.parallelism.data_parallel_size > 1 and any(
            isinstance(feed_forward, MixtureOfExperts)
            for layer in self.architecture.layers
            for feed_forward in layer.feed_forwards or ()
        )

    @cached_property
    def host_limits(self) -> HostTierLimits | None:
        """The host's tier of one rank; None where there is none.

        Raises ``UnsupportedShapeError`` for an engine or a model of which it is not simulated.
        """
        if self.host_kv_bytes is None:
            return None
        groups = self.layout.groups
        if self.kind is not EngineKind.VLLM or len(groups) != 1 or groups[0].reach_tokens:
            msg = "KV cache on the host is simulated for vLLM, and models with one kind of cache"
            raise UnsupportedShapeError(msg)
        link = self._known_host_link()
        parallelism = self.parallelism
        tier = kv_tier(
            ReplicaShape(
                architecture=self.architecture,
                max_context_tokens=self.context_tokens,
                concurrency=1,
                kv_cache_dtype=self.kv_cache_dtype,
                tensor_parallel_size=parallelism.tensor_parallel_size,
                pipeline_parallel_size=parallelism.pipeline_parallel_size,
                block_size_tokens=self.block_size_tokens,
            ),
            self.host_kv_bytes,
            blocks_per_chunk=self.host_blocks_per_chunk,
        )
        shared = link.shared_by(parallelism.num_devices)
        return HostTierLimits(
            num_chunks=tier.num_chunks,
            chunk_tokens=tier.chunk_tokens,
            chunk_bytes=tier.chunk_bytes,
            load_seconds=tier.load_seconds(tier.chunk_tokens, shared),
            store_seconds=tier.store_seconds(tier.chunk_tokens, shared),
        )

    def _known_host_link(self) -> HostLink:
        link = self.host_link or host_link_of(self.accelerator)
        if link is None:
            msg = f"no data sheet says how {self.accelerator.name} reaches its host: name the link"
            raise UnsupportedShapeError(msg)
        return link

    def schedulers(
        self,
        *,
        on_event: Callable[[int, BlockEvent], None] | None = None,
        reports_emitted: bool = False,
    ) -> list[Scheduler]:
        """A scheduler with an empty cache for each data-parallel rank."""
        return [
            self._scheduler(rank, on_event, reports_emitted)
            for rank in range(self.parallelism.data_parallel_size)
        ]

    def _scheduler(
        self,
        rank: int,
        on_event: Callable[[int, BlockEvent], None] | None,
        reports_emitted: bool,
    ) -> Scheduler:
        limits = self.host_limits
        cache = KVCache(
            num_blocks=self.total_blocks,
            layout=self.layout,
            caches_prefixes=self.caches_prefixes,
            on_event=None if on_event is None else lambda event: on_event(rank, event),
        )
        if self.kind is EngineKind.SGLANG:
            return SGLangScheduler(
                cache=cache,
                max_num_seqs=self.max_num_seqs,
                policy=self.policy,
                max_adapters=self.max_adapters,
                reports_emitted=reports_emitted,
            )
        return VLLMScheduler(
            cache=cache,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_num_seqs=self.max_num_seqs,
            policy=self.policy,
            watermark_ratio=self.watermark_ratio,
            long_prefill_token_threshold=self.long_prefill_token_threshold,
            max_adapters=self.max_adapters,
            reports_emitted=reports_emitted,
            host=None if limits is None else HostTier(limits),
        )
