"""Public start logs of vLLM, predicted: KV tokens from the log's overheads, and all without.

Each row cites what the log said, in GiB per accelerator. Two questions are asked:

* given weights, activation, libraries and graphs as logged, how many KV tokens follow?
* given the flags alone, how much does everything take beside the same KV pool?
"""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.footprint import peers
from memroute.catalog import architecture_for_model
from memroute.footprint import (
    ModelArchitecture,
    Parallelism,
    ReplicaShape,
    StateCacheMode,
    architecture_from_config,
    kv_cache_layout,
    replica_footprint,
)
from memroute.footprint.kv_cache import KVCacheLayout
from memroute.units import GIB

MAX_TOKENS_ERROR_RATIO = 0.02
MAX_FOOTPRINT_ERROR_RATIO = 0.06

QWEN2_5_3B = architecture_from_config(
    {
        "model_type": "qwen2", "hidden_size": 2048, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "intermediate_size": 11008,
        "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 32768,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLog:
    """One engine's start, as its log tells it; None for what it does not say."""

    setup: str
    source: str
    architecture: ModelArchitecture
    max_context_tokens: int
    tensor_parallel_size: int = 1
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    total_gib: float | None = None
    utilization: float | None = None
    weights_gib: float | None = None
    overhead_gib: float | None = None
    """Activation, libraries, and graphs from 0.21 on: what the budget pays beside weights."""
    graphs_gib: float = 0.0
    """Graphs that were captured outside the budget (before 0.21)."""
    kv_gib: float | None = None
    kv_tokens: int | None = None

    @property
    def layout(self) -> KVCacheLayout:
        """The cache as the engine lays it out; these versions keep one state per sequence."""
        return kv_cache_layout(
            self.architecture,
            parallelism=Parallelism(tensor_parallel_size=self.tensor_parallel_size),
            max_num_batched_tokens=self.max_num_batched_tokens,
            state_cache_mode=StateCacheMode.NONE,
        )


LOGS = (
    StartLog(
        setup="Qwen3-Next-80B bf16, 2 x H200, vLLM 0.10.2, util 0.9",
        source="14.77x of 262,144 tokens; free 139.21 of 139.81",
        architecture=architecture_for_model("Qwen/Qwen3-Next-80B-A3B-Instruct"),
        max_context_tokens=262_144, tensor_parallel_size=2, max_num_seqs=1024,
        max_num_batched_tokens=8192, total_gib=139.81, utilization=0.9, weights_gib=74.28,
        overhead_gib=5.58 + 1.38, graphs_gib=2.37, kv_gib=44.59, kv_tokens=int(14.77 * 262_144),
    ),
    StartLog(
        setup="Qwen3-Next-80B bf16, 4 x H100, vLLM 0.10.2",
        source="weights 37.99, activation 4.71, non-torch 1.84",
        architecture=architecture_for_model("Qwen/Qwen3-Next-80B-A3B-Instruct"),
        max_context_tokens=262_144, tensor_parallel_size=4, max_num_seqs=1024,
        max_num_batched_tokens=8192, weights_gib=37.99, overhead_gib=4.71 + 1.84,
    ),
    StartLog(
        setup="Qwen3-8B-FP8, RTX 4090, vLLM 0.10.2, util 0.8",
        source="weights 8.80, activation 1.40, non-torch 0.02, graphs 0.68, KV 8.60",
        architecture=architecture_for_model("Qwen/Qwen3-8B-FP8"),
        max_context_tokens=1024, total_gib=23.53, utilization=0.8, weights_gib=8.80,
        overhead_gib=1.40 + 0.02, graphs_gib=0.68, kv_gib=8.60,
    ),
    StartLog(
        setup="Qwen3-8B bf16, RTX 5090, vLLM 0.24, util 0.92",
        source="weights 15.27, all else about 1.35, 89,040 tokens",
        architecture=architecture_for_model("Qwen/Qwen3-8B"),
        max_context_tokens=32_768, total_gib=31.36, utilization=0.92, weights_gib=15.27,
        overhead_gib=1.35, kv_tokens=89_040,
    ),
    StartLog(
        setup="gemma-3-4b-it, B200, batched tokens 16384",
        source="vllm#21489: weights 8.58, activation 9.96, non-torch 0.07, graphs 0.65",
        architecture=architecture_for_model("google/gemma-3-4b-it"),
        max_context_tokens=131_072, max_num_seqs=1024, max_num_batched_tokens=16_384,
        weights_gib=8.58, overhead_gib=9.96 + 0.07, graphs_gib=0.65,
    ),
    StartLog(
        setup="Qwen3-235B-FP8, 4 x H100, vLLM 0.9",
        source="vllm#21348: 178,880 tokens in 8.11 GiB",
        architecture=architecture_for_model("Qwen/Qwen3-235B-A22B-FP8"),
        max_context_tokens=40_960, tensor_parallel_size=4, kv_gib=8.11, kv_tokens=178_880,
    ),
    StartLog(
        setup="Qwen2.5-3B, KV 2.41 GiB", source="70,240 tokens", architecture=QWEN2_5_3B,
        max_context_tokens=32_768, kv_gib=2.41, kv_tokens=70_240,
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One quantity of one log, predicted by memroute and by others."""

    setup: str
    quantity: str
    logged: float
    memroute: float
    hf_mem: float | None = None
    kvfit: float | None = None
    kaito: float | None = None
    low: float | None = None
    high: float | None = None
    """The range that memroute itself gives."""
    max_error_ratio: float

    @property
    def error_ratio(self) -> float:
        """Of memroute's prediction."""
        return self.memroute / self.logged - 1

    @property
    def is_off(self) -> bool:
        """Whether the bar is missed."""
        return abs(self.error_ratio) > self.max_error_ratio


def predictions() -> Iterator[Prediction]:
    """Every quantity of every log."""
    for log in LOGS:
        kv_gib = _kv_gib(log)
        if kv_gib is not None and (log.kv_tokens is not None or log.kv_gib is not None):
            layout, pool = log.layout, int(kv_gib * GIB)
            tokens = layout.reported_tokens(pool, log.max_context_tokens)
            logged = log.kv_tokens
            if logged is None:
                # The log gives bytes alone: what the engine makes of them.
                logged = layout.reported_tokens(
                    int((log.kv_gib or 0) * GIB), log.max_context_tokens
                )
            yield Prediction(
                setup=log.setup, quantity="KV tokens, overheads as logged", logged=logged,
                memroute=tokens, max_error_ratio=MAX_TOKENS_ERROR_RATIO,
            )  # fmt: skip
        if log.weights_gib is not None and log.overhead_gib is not None:
            yield _whole(log, kv_gib or 0.0)


def _kv_gib(log: StartLog) -> float | None:
    """The pool that follows from the log's budget; else as logged."""
    if (
        log.total_gib is None
        or log.utilization is None
        or log.weights_gib is None
        or log.overhead_gib is None
    ):
        return log.kv_gib
    return log.total_gib * log.utilization - log.weights_gib - log.overhead_gib


def _whole(log: StartLog, kv_gib: float) -> Prediction:
    assert log.weights_gib is not None  # noqa: S101 - the caller has looked
    assert log.overhead_gib is not None  # noqa: S101
    footprint = replica_footprint(
        ReplicaShape(
            architecture=log.architecture,
            max_context_tokens=log.max_context_tokens,
            concurrency=1,
            tensor_parallel_size=log.tensor_parallel_size,
            max_num_seqs=log.max_num_seqs,
            max_num_batched_tokens=log.max_num_batched_tokens,
        )
    )
    engine, pool = footprint.engine, int(kv_gib * GIB)
    beside = pool - footprint.kv_cache_bytes
    tokens = pool // max(1, log.layout.bytes_per_token)
    ranks = log.tensor_parallel_size
    return Prediction(
        setup=log.setup,
        quantity=f"GiB in all{'' if kv_gib else ' but KV'}, flags alone",
        logged=log.weights_gib + log.overhead_gib + log.graphs_gib + kv_gib,
        memroute=(engine.expected + beside) / GIB,
        low=(engine.low + beside) / GIB,
        high=(engine.high + beside) / GIB,
        hf_mem=peers.hf_mem_bytes(log.architecture, tokens, ranks) / GIB,
        kvfit=peers.kvfit_bytes(log.architecture, tokens, ranks) / GIB,
        kaito=peers.kaito_bytes(log.architecture, log.layout, tokens, ranks) / GIB,
        max_error_ratio=MAX_FOOTPRINT_ERROR_RATIO,
    )
