"""SGLang: told what share of memory is static, and on a shared device how many tokens its pool has.

SGLang counts so (0.5.23, ``kv_cache_configurator.py``), all measured before and after loading:

```text
KV pool = free after loading - free before loading x (1 - mem_fraction_static)
        = free before loading x mem_fraction_static - weights
```

so its static share is weights and pool, of what was free *before* it loaded. That is not known to
the byte: a context takes more or less, and on a shared device neighbours have taken anything from
nothing to all that was not promised. The share is reckoned from the least that can be free, so
that the pool always has room; on a shared device ``--max-total-tokens`` caps it at what was given.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from memroute.footprint import EngineType, ReplicaFootprint
from memroute.footprint.runtime_sglang import SGLANG_CACHE_DTYPES, SGLANG_QUANTIZATIONS
from memroute.placement import Placed, PlacementMode
from memroute.units import GIB
from memroute_kube.resources import ENGINE_PORT
from memroute_kube.shapes import mapping
from memroute_operator.engines.reports import MAX_CACHE_TOKENS, MAX_GIB, EngineReport, PartsReport
from memroute_operator.engines.seam import (
    HOST,
    Drain,
    Phase,
    Probes,
    Variables,
    http_probes,
    needs_image,
    owned_args,
)
from memroute_operator.engines.sglang_owned import refusal as refusal_of_flags
from memroute_operator.readings.samples import parse_samples
from memroute_operator.spec.deployment import Deployment

# How long its pod may take to end, in seconds. SGLang finishes what it has after SIGTERM without
# a bound of its own, and looks every 5 s whether it is done: kubelet's is the only limit.
GRACE_SECONDS = 60
# Steps of the static share: six decimals are less than a page of any pool.
SHARE_STEPS = 10**6
# More than this is nobody's static memory: something of the rest is needed to run.
MAX_SHARE = 0.98
WEIGHTS = "sglang:weight_memory_usage_gb"
KV_CACHE = "sglang:kv_cache_memory_usage_gb"
GRAPHS = "sglang:graph_memory_usage_gb"
CACHE_TOKENS = "sglang:max_total_num_tokens"
PHASES: Final = (
    Phase(words="starting", pattern=re.compile(r"server_args=")),
    Phase(words="loading weights", pattern=re.compile(r"Load weight begin")),
    Phase(words="allocating the KV cache", pattern=re.compile(r"Load weight end")),
    Phase(words="capturing graphs", pattern=re.compile(r"KV Cache is allocated|Capture cuda")),
    Phase(words="warming up", pattern=re.compile(r"max_total_num_tokens=")),
    Phase(words="serving", pattern=re.compile(r"The server is fired up")),
)  # fmt: skip


class SGLang:
    """SGLang 0.5."""

    type = EngineType.SGLANG
    phases: Sequence[Phase] = PHASES

    def kv_cache_bytes(self, deployment: Deployment, placed: Placed) -> int:
        """What its cap allows on a shared device; what its share leaves on a whole one."""
        footprint = deployment.footprint_on(placed.product)
        if placed.mode is PlacementMode.SHARED:
            return footprint.kv_cache_bytes
        least = _least_free(deployment, footprint, placed.usable_bytes_per_device)
        static = int(_share_of_whole(deployment, placed) * least)
        return max(0, static - footprint.weights_bytes)

    def capacity_tokens(self, deployment: Deployment, placed: Placed) -> int:
        """``max_total_num_tokens``: its padding page left out."""
        shape = deployment.shape
        assert shape is not None  # noqa: S101
        layout = shape.kv_layout
        blocks = max(0, layout.num_blocks_in(self.kv_cache_bytes(deployment, placed)) - 1)
        return blocks * layout.block_size_tokens

    def command(self, deployment: Deployment) -> list[str]:
        """Its images have no entrypoint of their own."""
        return ["python3", "-m", "sglang.launch_server"]

    def arguments(self, deployment: Deployment, placed: Placed) -> list[str]:
        """The flags that SGLang is started with."""
        shape = deployment.shape
        assert shape is not None  # noqa: S101
        footprint = deployment.footprint_on(placed.product)
        arguments = [
            "--model-path", deployment.model_argument,
            "--served-model-name", deployment.served_name,
            "--host", HOST,
            "--port", str(ENGINE_PORT),
            "--context-length", str(deployment.max_context_tokens),
            "--max-running-requests", str(shape.max_num_seqs),
            "--chunked-prefill-size", str(shape.max_num_batched_tokens),
            "--tp-size", str(placed.num_devices),
            "--kv-cache-dtype", SGLANG_CACHE_DTYPES[shape.kv_cache_dtype],
        ]  # fmt: skip
        if deployment.model_revision is not None:
            arguments += ["--revision", deployment.model_revision]
        if shape.quantization in SGLANG_QUANTIZATIONS:
            arguments += ["--quantization", SGLANG_QUANTIZATIONS[shape.quantization]]
        if placed.mode is PlacementMode.SHARED:
            share = _share_of_promise(deployment, footprint)
            capacity = self.capacity_tokens(deployment, placed)
            arguments += ["--mem-fraction-static", f"{share:.6f}"]
            arguments += ["--max-total-tokens", str(capacity)]
        else:
            share = _share_of_whole(deployment, placed)
            arguments += ["--mem-fraction-static", f"{share:.6f}"]
        if shape.block_size_tokens is not None:
            arguments += ["--page-size", str(shape.block_size_tokens)]
        if shape.is_eager:
            arguments.append("--disable-cuda-graph")
        if (slots := deployment.slots) is not None:
            # Requests for the model itself take one place of a batch.
            arguments += ["--enable-lora", "--max-loras-per-batch", str(slots.max_adapters + 1)]
            arguments += ["--max-lora-rank", str(slots.max_rank), "--lora-target-modules", "all"]
        return [*arguments, "--enable-metrics", *deployment.engine_args]

    def environment(self, deployment: Deployment, placed: Placed) -> Variables:
        """Cheap probes, sizes that do not depend on when they are measured, unequal neighbours."""
        variables = [
            # /health would generate a token at each probe of an idle engine.
            {"name": "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION", "value": "0"},
            # The pool is sized before graphs are captured: what the share above is reckoned for.
            {"name": "SGLANG_ENABLE_POST_CAPTURE_KV_SIZING", "value": "0"},
        ]
        if placed.mode is PlacementMode.SHARED and placed.num_devices > 1:
            # Devices of one replica have other neighbours, so their free memory differs.
            variables.append({"name": "SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK", "value": "0"})
        return variables

    def probes(self, deployment: Deployment) -> Probes:
        """``/ready`` asks nothing of the scheduler; ``/health`` is 503 while it starts."""
        return http_probes(readiness_path="/ready")

    def drain(self, deployment: Deployment) -> Drain:
        """It finishes by itself, for as long as the pod may take to end."""
        return Drain(grace_seconds=GRACE_SECONDS, finish_seconds=GRACE_SECONDS)

    def refusal(self, spec: Mapping[str, Any]) -> str | None:
        """It needs an image of its own, and its flags of memory are memroute's."""
        return (
            owned_args(spec, refusal_of_flags)
            or needs_image(spec, self.type, "lmsysorg/sglang with a version of your choice")
            or _misnamed(spec)
        )

    def read_report(self, page: str) -> EngineReport | None:
        """Weights, pool and graphs, as it measured them: the most that a rank says (GiB).

        And the tokens of its pool: the fewest that a rank says.
        """
        tokens = [
            int(sample.value)
            for sample in parse_samples(page, {CACHE_TOKENS})
            if sample.value is not None and 1 <= sample.value <= MAX_CACHE_TOKENS
        ]
        parts: dict[str, float] = {}
        by_rank: dict[str, float] = {}
        for sample in parse_samples(page, {WEIGHTS, KV_CACHE, GRAPHS}):
            if sample.value is None or not 0 <= sample.value <= MAX_GIB:
                return None
            if sample.name == GRAPHS:
                rank = ",".join(
                    f"{name}={value}"
                    for name, value in sorted(sample.labels.items())
                    if name != "phase"
                )
                by_rank[rank] = by_rank.get(rank, 0.0) + sample.value
            else:
                parts[sample.name] = max(parts.get(sample.name, 0.0), sample.value)
        if not parts.get(WEIGHTS) or KV_CACHE not in parts:
            return None
        return PartsReport(
            weights_bytes=int(parts[WEIGHTS] * GIB),
            kv_cache_bytes=int(parts[KV_CACHE] * GIB),
            graph_bytes=int(max(by_rank.values()) * GIB) if by_rank else None,
            kv_tokens=min(tokens, default=None),
        )


def _misnamed(spec: Mapping[str, Any]) -> str | None:
    """Why an adapter's name cannot be asked for: SGLang takes ``MODEL:ADAPTER`` for one alone.

    Any other name it takes for the model itself, and would answer without the adapter.
    """
    model = mapping(spec.get("model"))
    served = model.get("servedName") or model.get("name")
    for one in spec.get("adapters") or ():
        name = str(one.get("name"))
        if one.get("source") and ":" in str(served):
            return (
                f"SGLang knows an adapter as MODEL:ADAPTER, and takes what follows the first colon "
                f"of {served:.80} for one: set spec.model.servedName to a name without a colon"
            )
        is_named = name.startswith(f"{served}:") and name != f"{served}:"
        if one.get("source") and not is_named:
            return (
                f"spec.adapters has {name:.80}, which SGLang would take for the model itself: "
                f"it knows an adapter as MODEL:ADAPTER; call it {served}:{name}"
            )
    return None


def _least_free(deployment: Deployment, footprint: ReplicaFootprint, given_bytes: int) -> int:
    """What is free of ``given_bytes`` when SGLang looks, at the least.

    Its context is there then, and communication is set up: by the law, also where a measurement
    has put communication into one number with the rest.
    """
    laws = deployment.footprint or footprint
    return max(1, given_bytes - footprint.context.high - laws.non_torch.high)


def _share_of_whole(deployment: Deployment, placed: Placed) -> float:
    """What was promised, less all that is neither weights nor pool.

    Where more is free than the least, the pool grows by the share of it, and what the rest needs
    has shrunk by all of it: it never gets too little.
    """
    footprint = deployment.footprint_on(placed.product)
    rest = footprint.engine_bytes - footprint.weights_bytes - footprint.kv_cache_bytes
    static = placed.bytes_per_device - footprint.outside_bytes - rest
    least = _least_free(deployment, footprint, placed.usable_bytes_per_device)
    return min(MAX_SHARE, math.floor(max(0, static) / least * SHARE_STEPS) / SHARE_STEPS)


def _share_of_promise(deployment: Deployment, footprint: ReplicaFootprint) -> float:
    """Enough of the promise for weights and pool, though neighbours have taken all else."""
    static = footprint.weights_bytes + footprint.kv_cache_bytes
    least = max(static, _least_free(deployment, footprint, footprint.total_bytes))
    return min(MAX_SHARE, math.ceil(static / least * SHARE_STEPS) / SHARE_STEPS)
