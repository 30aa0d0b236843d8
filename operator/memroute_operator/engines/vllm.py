"""vLLM: sized by a share of a whole device, or by the bytes of its KV pool on a shared one."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from memroute.footprint import EngineType
from memroute.placement import Placed, PlacementMode
from memroute_kube.resources import ENGINE_PORT
from memroute_kube.shapes import listed, mapping
from memroute_operator.engines import host_weights, sleep_mode
from memroute_operator.engines.host_cache import FLAG, host_cache_of
from memroute_operator.engines.reports import (
    MAX_BLOCK_SIZE_TOKENS,
    MAX_BLOCKS,
    MAX_CACHE_TOKENS,
    EngineReport,
    PoolReport,
    ratio,
    whole,
)
from memroute_operator.engines.seam import HOST, Drain, Phase, Probes, Variables, http_probes
from memroute_operator.readings.samples import parse_samples
from memroute_operator.spec.deployment import Deployment

# How long its pod may take to end, and how long it finishes requests of that, in seconds.
# KServe's arithmetic: grace less preStop (15 s, not used here) less 5 s to end.
GRACE_SECONDS = 60
SHUTDOWN_TIMEOUT_SECONDS = 40
# Above this, engines have been seen to run out of memory in spite of their own profile.
MAX_UTILIZATION_RATIO = 0.95
# What opens the calls by which adapters are loaded and unloaded.
RUNTIME_LORA = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
# The least that vLLM takes, in steps of 0.01.
MIN_UTILIZATION_RATIO = 0.01
# The series whose labels are its cache configuration.
CACHE_CONFIG = "vllm:cache_config_info"
PHASES: Final = (
    Phase(words="starting", pattern=re.compile(r"vLLM API server version|Initializing a V1 LLM")),
    Phase(words="loading weights", pattern=re.compile(r"Starting to load|Loading safetensors")),
    Phase(words="profiling memory", pattern=re.compile(r"Model loading took|model weights take")),
    Phase(words="allocating the KV cache", pattern=re.compile(r"Available KV cache memory")),
    Phase(words="capturing graphs", pattern=re.compile(r"GPU KV cache size|Capturing CUDA graph")),
    Phase(
        words="serving",
        pattern=re.compile(r"Application startup complete|Starting vLLM (API )?server"),
    ),
)  # fmt: skip


class VLLM:
    """vLLM 0.18 and newer (``--shutdown-timeout``)."""

    type = EngineType.VLLM
    phases: Sequence[Phase] = PHASES

    def kv_cache_bytes(self, deployment: Deployment, placed: Placed) -> int:
        """What it is given on a shared device; what its share leaves on a whole one."""
        footprint = deployment.footprint_on(placed.product)
        if placed.mode is PlacementMode.SHARED:
            return footprint.kv_cache_bytes
        budget = int(utilization_ratio(deployment, placed) * placed.usable_bytes_per_device)
        return footprint.kv_cache_bytes_within(budget)

    def capacity_tokens(self, deployment: Deployment, placed: Placed) -> int:
        """The null block left out."""
        shape = deployment.shape
        assert shape is not None  # noqa: S101
        return shape.kv_layout.capacity_tokens(
            self.kv_cache_bytes(deployment, placed), deployment.max_context_tokens
        )

    def command(self, deployment: Deployment) -> list[str]:
        """The image's own."""
        return []

    def arguments(self, deployment: Deployment, placed: Placed) -> list[str]:
        """The flags that vLLM is started with."""
        shape = deployment.shape
        assert shape is not None  # noqa: S101
        arguments = [
            "--model", deployment.model_argument,
            "--served-model-name", deployment.served_name,
            "--host", HOST,
            "--port", str(ENGINE_PORT),
            "--max-model-len", str(deployment.max_context_tokens),
            "--max-num-seqs", str(shape.max_num_seqs),
            "--max-num-batched-tokens", str(shape.max_num_batched_tokens),
            "--tensor-parallel-size", str(placed.num_devices),
            "--kv-cache-dtype", shape.kv_cache_dtype.value,
            "--shutdown-timeout", str(SHUTDOWN_TIMEOUT_SECONDS),
        ]  # fmt: skip
        if deployment.model_revision is not None:
            arguments += ["--revision", deployment.model_revision]
        if shape.block_size_tokens is not None:
            arguments += ["--block-size", str(shape.block_size_tokens)]
        if shape.is_eager:
            arguments.append("--enforce-eager")
        if (slots := deployment.slots) is not None:
            arguments += ["--enable-lora", "--max-loras", str(slots.max_adapters)]
            arguments += ["--max-lora-rank", str(slots.max_rank)]
        if shape.quantization.value != "none":
            arguments += ["--quantization", shape.quantization.value]
        if placed.mode is PlacementMode.SHARED:
            # An absolute size: a share of the device would count the neighbours' bytes as its own.
            size = self.kv_cache_bytes(deployment, placed)
            arguments += ["--kv-cache-memory-bytes", str(size)]
            share = _share_needed(deployment, placed)
        else:
            share = utilization_ratio(deployment, placed)
        arguments += ["--gpu-memory-utilization", f"{share:.2f}"]
        if (host := host_cache_of(deployment, placed)) is not None:
            arguments += [FLAG, str(host.size_gib)]
        if sleep_mode.sleep_on(deployment, placed) is not None:
            arguments.append(sleep_mode.FLAG)
        arguments += host_weights.arguments(deployment)
        return arguments + list(deployment.engine_args)

    def environment(self, deployment: Deployment, placed: Placed) -> Variables:
        """None of its own, unless it is told to load adapters or to sleep while it runs."""
        own = {variable.get("name") for variable in deployment.engine_env}
        opened = []
        if deployment.slots is not None and RUNTIME_LORA not in own:
            opened.append({"name": RUNTIME_LORA, "value": "1"})
        if sleep_mode.sleep_on(deployment, placed) is not None:
            opened.append({"name": sleep_mode.VARIABLE, "value": "1"})
        return opened

    def probes(self, deployment: Deployment) -> Probes:
        """``/health`` is 200 unless the engine is dead; it opens once the weights are loaded."""
        return http_probes()

    def drain(self, deployment: Deployment) -> Drain:
        """It finishes by itself: ``--shutdown-timeout`` (its default of 0 would abort)."""
        return Drain(grace_seconds=GRACE_SECONDS, finish_seconds=SHUTDOWN_TIMEOUT_SECONDS)

    def refusal(self, spec: Mapping[str, Any]) -> str | None:
        """Of what a spec can ask for, one adapter's name: the model's own means the model."""
        model = mapping(spec.get("model"))
        served = model.get("servedName") or model.get("name")
        for one in map(mapping, listed(spec.get("adapters"))):
            if one.get("source") and one.get("name") == served:
                return (
                    f"spec.adapters has {served:.80}, which is the model's own name: no request "
                    f"would reach the adapter; call it something else"
                )
        return None

    def read_report(self, page: str) -> EngineReport | None:
        """Its cache configuration; None where it did not size its own pool.

        None as well where the numbers cannot be: an engine without a KV cache (encoder-only
        models) writes ``num_gpu_blocks="1"`` and ``kv_cache_size_tokens="None"``.

        With ``--data-parallel-size`` there is one series per rank, and ``num_gpu_blocks`` is the
        sum over all ranks in each of them, while ``kv_cache_size_tokens`` is one rank's (vLLM
        0.32.0, measured).
        """
        series = [sample.labels for sample in parse_samples(page, {CACHE_CONFIG})]
        if not series:
            return None
        labels = series[0]
        if labels.get("kv_cache_memory_bytes", "None") != "None":
            return None
        if labels.get("num_gpu_blocks_override", "None") != "None":
            return None
        num_ranks = max(1, len({one.get("engine") for one in series}))
        num_blocks = whole(labels.get("num_gpu_blocks"), 2, MAX_BLOCKS)
        share = ratio(labels.get("gpu_memory_utilization"))
        if num_blocks is None or share is None or labels.get("is_attention_free") == "True":
            return None
        return PoolReport(
            num_blocks=max(1, num_blocks // num_ranks),
            utilization_ratio=share,
            block_size_tokens=whole(labels.get("block_size"), 1, MAX_BLOCK_SIZE_TOKENS),
            kv_cache_size_tokens=whole(labels.get("kv_cache_size_tokens"), 1, MAX_CACHE_TOKENS),
            num_ranks=num_ranks,
        )


def utilization_ratio(deployment: Deployment, placed: Placed) -> float:
    """The share of a whole device that the engine may use, in steps of 0.01.

    What was promised, less what the engine does not count as its own (its context).
    """
    footprint = deployment.footprint_on(placed.product)
    share = (placed.bytes_per_device - footprint.outside_bytes) / placed.usable_bytes_per_device
    return min(MAX_UTILIZATION_RATIO, math.floor(share * 100) / 100)


def _share_needed(deployment: Deployment, placed: Placed) -> float:
    """The share of a shared device that has to be free when the engine starts, in steps of 0.01.

    It sizes nothing there. But vLLM ends at once where less is free, whatever the size of its pool
    (0.32, ``request_memory``), and by default that is 0.92 of the device: no neighbour could be
    there. Weights and pool are less than was promised by all else that an engine takes, so that
    the engine's own context and what sizes of devices differ by do not matter.
    """
    footprint = deployment.footprint_on(placed.product)
    needed = footprint.weights_bytes + footprint.kv_cache_bytes
    share = math.floor(needed / placed.usable_bytes_per_device * 100) / 100
    return min(MAX_UTILIZATION_RATIO, max(MIN_UTILIZATION_RATIO, share))
