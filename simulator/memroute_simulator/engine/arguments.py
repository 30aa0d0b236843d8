"""The command line of the simulated engine: vLLM's flags, as far as they matter to it."""

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memroute.catalog import ACCELERATORS, Accelerator, accelerator_by_name, architecture_for_model
from memroute.errors import MemrouteError, UnsupportedShapeError
from memroute.footprint import (
    KVCacheDtype,
    ModelArchitecture,
    Parallelism,
    Quantization,
    architecture_from_config,
)
from memroute.footprint.replica import MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS
from memroute.units import GIB
from memroute_simulator.engine.dialect import MetricsDialect
from memroute_simulator.engine.endings import ENDINGS
from memroute_simulator.engine.kv_events_config import KVEventsConfig, KVEventsConfigError
from memroute_simulator.engine.model import SchedulingPolicy
from memroute_simulator.engine.offloading import OffloadingConfig, OffloadingConfigError
from memroute_simulator.engine.spec import EngineKind, EngineSpec

LOGGER = logging.getLogger(__name__)
DEFAULT_GPU_MEMORY_UTILIZATION = 0.92
# vLLM's default from 0.20 on.
VLLM_VERSION = "0.32.0"
_VERSIONS = {
    MetricsDialect.VLLM_0_10: "0.10.2",
    MetricsDialect.VLLM_0_8: "0.8.5",
    MetricsDialect.VLLM_0_6: "0.6.6",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineArguments:
    """How the engine was started."""

    model: str
    served_model_names: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    runner: str = "generate"
    max_model_len: int | None = None
    max_num_seqs: int = MAX_NUM_SEQS
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS
    gpu_memory_utilization: float = DEFAULT_GPU_MEMORY_UTILIZATION
    kv_cache_memory_bytes: int | None = None
    offloading: OffloadingConfig | None = None
    """KV cache on the host; kept by models with one kind of cache alone, here."""
    cpu_offload_gib: float = 0.0
    """Of each device's weights, what stays on the host."""
    kv_cache_dtype: KVCacheDtype = KVCacheDtype.AUTO
    block_size: int | None = None
    enforce_eager: bool = False
    enable_prefix_caching: bool = True
    quantization: Quantization = Quantization.NONE
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False
    scheduling_policy: SchedulingPolicy = SchedulingPolicy.FCFS
    watermark: float = 0.0
    long_prefill_token_threshold: int = 0
    enable_lora: bool = False
    max_loras: int = 1
    max_lora_rank: int = 16
    adapters: Mapping[str, str] = field(default_factory=dict)
    max_num_queued_reqs: int | None = None
    stream_interval: int = 1
    """Tokens per event of a stream, after the first."""
    kv_events: KVEventsConfig | None = None
    enable_prompt_tokens_details: bool = False
    enable_server_load_tracking: bool = False
    enable_sleep_mode: bool = False
    """Whether ``/sleep`` frees memory; without it the endpoint answers, and frees none."""
    shutdown_timeout_seconds: float = 0.0
    seed: int = 0
    revision: str | None = None
    """Of the model on the hub; None: whatever is known of it."""
    time_scale: float = 1.0
    accelerator: str | None = None
    link: str | None = None
    kind: EngineKind = EngineKind.VLLM
    dialect: MetricsDialect = MetricsDialect.VLLM
    faults: Mapping[str, str] = field(default_factory=dict)
    ending: str | None = None
    """How it ends instead of starting."""

    @property
    def reported_version(self) -> str:
        """What ``/version`` says."""
        return _VERSIONS.get(self.dialect, VLLM_VERSION)

    @property
    def parallelism(self) -> Parallelism:
        """How it is spread."""
        return Parallelism(
            tensor_parallel_size=self.tensor_parallel_size,
            pipeline_parallel_size=self.pipeline_parallel_size,
            data_parallel_size=self.data_parallel_size,
            expert_parallel=self.enable_expert_parallel,
        )

    @property
    def has_folder(self) -> bool:
        """Whether the model is a folder of this disk."""
        return (Path(self.model) / "config.json").is_file()

    def architecture(self) -> ModelArchitecture:
        """By the catalogue, or by the ``config.json`` of a folder. Raises ``MemrouteError``."""
        if self.has_folder:
            path = Path(self.model) / "config.json"
            return architecture_from_config(json.loads(path.read_text()))
        return architecture_for_model(self.model)

    def spec(
        self,
        architecture: ModelArchitecture,
        accelerator: Accelerator,
        *,
        num_blocks: int | None = None,
    ) -> EngineSpec:
        """The engine that these flags make on such an accelerator."""
        spec = EngineSpec(
            architecture=architecture,
            accelerator=accelerator,
            kind=self.kind,
            quantization=self.quantization,
            kv_cache_dtype=self.kv_cache_dtype,
            parallelism=self.parallelism,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_context_tokens=self.max_model_len,
            utilization_ratio=self.gpu_memory_utilization,
            num_blocks=num_blocks,
            block_size_tokens=self.block_size,
            is_eager=self.enforce_eager,
            link=self.link,
            caches_prefixes=self.enable_prefix_caching,
            policy=self.scheduling_policy,
            watermark_ratio=self.watermark,
            long_prefill_token_threshold=self.long_prefill_token_threshold,
            max_adapters=self.max_loras if self.enable_lora else None,
            adapter_rank=self.max_lora_rank,
            weights_on_host_bytes=int(self.cpu_offload_gib * GIB),
        )
        offloading = self.offloading
        if offloading is None:
            return spec
        try:
            tiered = replace(
                spec,
                host_kv_bytes=offloading.size_bytes,
                host_blocks_per_chunk=offloading.chunk_blocks(spec.layout.block_size_tokens),
            )
            _ = tiered.host_limits
        except UnsupportedShapeError as error:
            # A real engine would keep it; here it serves on without.
            LOGGER.warning("KV cache on the host is ignored: %s", error)
            return spec
        except OffloadingConfigError as error:
            raise SystemExit(str(error)) from None
        return tiered

    def standalone_spec(self) -> EngineSpec:
        """The engine outside an emulated node: on the accelerator that a flag names."""
        accelerator = accelerator_by_name(self.accelerator or "H100")
        if accelerator is None:
            names = ", ".join(one.name for one in ACCELERATORS)
            msg = f"no accelerator {self.accelerator!r} in the catalogue; there are {names}"
            raise SystemExit(msg)
        try:
            architecture = self.architecture()
            spec = self.spec(architecture, accelerator)
            if self.kv_cache_memory_bytes is not None:
                blocks = spec.layout.num_blocks_in(self.kv_cache_memory_bytes)
                spec = self.spec(architecture, accelerator, num_blocks=blocks)
            blocks, needed = spec.total_blocks, spec.layout.blocks_for(spec.context_tokens)
        except MemrouteError as error:
            raise SystemExit(str(error)) from None
        if blocks < needed:
            msg = (
                f"{spec.context_tokens} tokens need {needed} blocks of KV cache, "
                f"{accelerator.name} leaves {blocks}: lower --max-model-len"
            )
            raise SystemExit(msg)
        return spec


def engine_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(
        prog="memroute-simulator engine",
        description="A simulated inference engine behind vLLM's HTTP surface.",
        epilog="MEMROUTE_DRIVER_URL names the driver of an emulated node; without it the engine "
        "runs on the accelerator of --simulator-accelerator. VLLM_SERVER_DEV_MODE=1 opens sleep, "
        "pause and reset; VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 adapters at run time.",
    )
    add = parser.add_argument
    add("--model", required=True, help="a name from the catalogue, or a folder with config.json")
    add("--revision", help="of the model on the hub of HF_ENDPOINT: its architecture is read there")
    add("--served-model-name", nargs="+", help="names clients ask for (default: the model)")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000)
    add("--runner", choices=("generate", "pooling"), default="generate")
    add("--max-model-len", type=int)
    add("--max-num-seqs", type=int, default=MAX_NUM_SEQS)
    add("--max-num-batched-tokens", type=int, default=MAX_NUM_BATCHED_TOKENS)
    add("--gpu-memory-utilization", type=float, default=DEFAULT_GPU_MEMORY_UTILIZATION)
    add("--kv-cache-memory-bytes", type=int)
    add("--kv-offloading-size", dest="kv_offloading_size_gib", type=float)
    add("--kv-transfer-config", metavar="JSON", help="of the OffloadingConnector alone")
    add("--cpu-offload-gb", dest="cpu_offload_gib", type=float, default=0.0)
    add("--kv-cache-dtype", type=KVCacheDtype, default=KVCacheDtype.AUTO)
    add("--block-size", type=int)
    add("--enforce-eager", action=argparse.BooleanOptionalAction, default=False)
    add("--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True)
    add("--quantization", type=Quantization, default=Quantization.NONE)
    add("--tensor-parallel-size", "-tp", type=int, default=1)
    add("--pipeline-parallel-size", "-pp", type=int, default=1)
    add("--data-parallel-size", "-dp", type=int, default=1)
    add("--enable-expert-parallel", action="store_true")
    add("--scheduling-policy", type=SchedulingPolicy, default=SchedulingPolicy.FCFS)
    add("--watermark", type=float, default=0.0)
    add("--long-prefill-token-threshold", type=int, default=0)
    add("--enable-lora", action="store_true")
    add("--max-loras", type=int, default=1)
    add("--max-lora-rank", type=int, default=16)
    add("--lora-modules", nargs="*", default=[], metavar="NAME=PATH")
    add("--max-num-queued-reqs", type=int)
    add("--stream-interval", type=_positive_count, default=1)
    add("--kv-events-config", metavar="JSON")
    add("--enable-prompt-tokens-details", action="store_true")
    add("--enable-server-load-tracking", action="store_true")
    add("--enable-sleep-mode", action="store_true")
    add("--shutdown-timeout", dest="shutdown_timeout_seconds", type=float, default=0.0)
    add("--seed", type=int, default=0)
    group = parser.add_argument_group("simulator")
    group.add_argument(
        "--simulator-time-scale", dest="time_scale", type=float, default=1.0,
        help="seconds that pass per simulated second (below 1: faster than the hardware)",
    )  # fmt: skip
    group.add_argument(
        "--simulator-accelerator", dest="accelerator",
        help="outside an emulated node: what it runs on (default: H100)",
    )  # fmt: skip
    group.add_argument(
        "--simulator-link", dest="link", metavar="NAME",
        help="what joins its devices (memroute simulate --link); default: not known",
    )  # fmt: skip
    group.add_argument(
        "--simulator-rules", dest="kind", type=EngineKind, default=EngineKind.VLLM,
        choices=list(EngineKind), help="whose scheduling rules",
    )  # fmt: skip
    group.add_argument(
        "--simulator-metrics", dest="dialect", type=MetricsDialect, default=MetricsDialect.VLLM,
        choices=list(MetricsDialect), help="whose names /metrics has",
    )  # fmt: skip
    group.add_argument(
        "--simulator-fault", dest="faults", action="append", default=[], metavar="NAME=VALUE",
        help="start with a fault on (GET /simulator/faults lists them)",
    )  # fmt: skip
    group.add_argument(
        "--simulator-ending", dest="ending", choices=sorted(ENDINGS), metavar="NAME",
        help="instead of starting, end as engines do that fail so: last lines and exit code",
    )  # fmt: skip
    return parser


def _positive_count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        msg = f"{text!r} is not 1 or more"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def parse_arguments(argv: Sequence[str]) -> EngineArguments:
    """Read the flags; an unknown one ends the program, as it does vLLM."""
    parser = engine_parser()
    known: dict[str, Any] = vars(parser.parse_args(argv))
    names = known.pop("served_model_name")
    events = known.pop("kv_events_config")
    try:
        known["kv_events"] = KVEventsConfig.parse(events) if events else None
    except KVEventsConfigError as error:
        parser.error(str(error))
    try:
        known["offloading"] = OffloadingConfig.parse(
            known.pop("kv_offloading_size_gib"), known.pop("kv_transfer_config")
        )
    except OffloadingConfigError as error:
        parser.error(str(error))
    known["adapters"] = _pairs(parser, known.pop("lora_modules"), "--lora-modules")
    known["faults"] = _pairs(parser, known["faults"], "--simulator-fault")
    return EngineArguments(served_model_names=tuple(names or [known["model"]]), **known)


def _pairs(parser: argparse.ArgumentParser, texts: Sequence[str], flag: str) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            parser.error(f"{flag} takes NAME=VALUE, not {text}")
    return dict(text.split("=", 1) for text in texts)
