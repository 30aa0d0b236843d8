"""The same engine in other words: older vLLM names, SGLang's, llama.cpp's, TGI's."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from prometheus_client import generate_latest

from memroute_simulator.engine.dialect import MetricsDialect
from memroute_simulator.engine.metrics.vllm import EngineMetrics
from memroute_simulator.engine.model import Scheduler

_NEW_SINCE_0_10 = (
    "num_requests_waiting_by_reason", "engine_sleep_state", "external_prefix_cache", "mm_cache",
    "prompt_tokens_by_source", "prompt_tokens_cached", "admission_rejections",
    "request_num_preemptions", "estimated_", "sleep_mode_",
    "kv_offload_", "request_time_per_output_token_seconds", "request_prefill_kv_computed_tokens",
)  # fmt: skip
_NEW_CONFIG_LABELS = ("kv_cache_size_tokens", "kv_cache_max_concurrency")


def render(
    metrics: EngineMetrics,
    schedulers: Sequence[Scheduler],
    inboxes: Sequence[int],
    dialect: MetricsDialect,
    constants: Mapping[str, float] = MappingProxyType({}),
) -> bytes:
    """The page. ``inboxes``: requests per rank that the engine has not taken in yet.

    ``constants``: what the engine has measured at its start, where its page says that.
    """
    for series, scheduler, inbox in zip(metrics.ranks, schedulers, inboxes, strict=True):
        series.set_gauges(scheduler, inbox)
    match dialect:
        case MetricsDialect.SGLANG:
            page = _sglang(metrics.model_name, schedulers, inboxes)
            return (page + _sglang_memory(metrics.model_name, constants)).encode()
        case MetricsDialect.LLAMA_CPP:
            return _llama_cpp(schedulers, inboxes).encode()
        case MetricsDialect.TGI:
            return _tgi(schedulers, inboxes).encode()
        case MetricsDialect.VLLM:
            return generate_latest(metrics.registry)
    return _older(generate_latest(metrics.registry).decode(), dialect).encode()


def _older(page: str, dialect: MetricsDialect) -> str:
    lines = [line for line in page.splitlines() if not any(new in line for new in _NEW_SINCE_0_10)]
    text = "\n".join(lines)
    for label in _NEW_CONFIG_LABELS:
        text = re.sub(rf'{label}="[^"]*",?', "", text)
    text = text.replace("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")
    usage = [line for line in text.splitlines() if "vllm:kv_cache_usage_perc" in line]
    old_usage = "\n".join(usage).replace("kv_cache_usage_perc", "gpu_cache_usage_perc")
    if dialect is MetricsDialect.VLLM_0_10:
        # 0.9.2 to 0.10 print both names.
        return f"{text}\n{old_usage}\n"
    text = text.replace("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
    text = text.replace("vllm:prefix_cache_", "vllm:gpu_prefix_cache_")
    if dialect is MetricsDialect.VLLM_0_6:
        text = re.sub(r'engine="\d+",?', "", text)
        names = re.findall(r"vllm:num_requests_running\{(.*?)\}", text)
        labels = names[0].rstrip(",") if names else ""
        for name in ("num_requests_swapped", "cpu_cache_usage_perc"):
            text += f"\n# TYPE vllm:{name} gauge\nvllm:{name}{{{labels}}} 0.0"
    return text + "\n"


def _sglang(model: str, schedulers: Sequence[Scheduler], inboxes: Sequence[int]) -> str:
    lines = []
    rows: dict[str, list[tuple[str, float]]] = {}
    for rank, (scheduler, inbox) in enumerate(zip(schedulers, inboxes, strict=True)):
        cache, counts = scheduler.cache, scheduler.counts
        size = cache.layout.block_size_tokens
        total = cache.num_usable * size
        used = (cache.num_usable - cache.num_free) * size
        labels = f'model_name="{model}",engine_type="unified",tp_rank="0",pp_rank="0"'
        if len(schedulers) > 1:
            labels += f',dp_rank="{rank}"'
        evictable = cache.num_cached_blocks * size
        hit = counts.prefix_hit_tokens / counts.prefix_query_tokens if (
            counts.prefix_query_tokens
        ) else 0.0  # fmt: skip
        values = {
            "num_running_reqs": scheduler.num_running,
            "num_queue_reqs": scheduler.num_waiting + inbox,
            "num_used_tokens": used,
            "token_usage": round(used / total, 2) if total else 0.0,
            "kv_used_tokens": used,
            "kv_evictable_tokens": evictable,
            "kv_available_tokens": total - used - evictable,
            "max_total_num_tokens": total,
            "page_size": size,
            "cache_hit_rate": hit,
            "num_retracted_requests_total": counts.num_preemptions,
            "prompt_tokens_total": counts.prompt_tokens,
            "generation_tokens_total": counts.generated_tokens,
            "cached_tokens_total": counts.prefix_hit_tokens,
        }
        for name, value in values.items():
            rows.setdefault(name, []).append((labels, float(value)))
    for name, series in rows.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines.append(f"# HELP sglang:{name} {name}\n# TYPE sglang:{name} {kind}")
        lines += [f"sglang:{name}{{{labels}}} {value}" for labels, value in series]
    return "\n".join(lines) + "\n"


def _sglang_memory(model: str, constants: Mapping[str, float]) -> str:
    labels = f'model_name="{model}",engine_type="unified",tp_rank="0",pp_rank="0"'
    lines = []
    for name, value in constants.items():
        phase = ',phase="decode"' if name == "graph_memory_usage_gb" else ""
        lines.append(f"# TYPE sglang:{name} gauge\nsglang:{name}{{{labels}{phase}}} {value}\n")
    return "".join(lines)


def _llama_cpp(schedulers: Sequence[Scheduler], inboxes: Sequence[int]) -> str:
    """No labels, no KV use: what its page of the autumn of 2026 has."""
    values = {
        "prompt_tokens_total": sum(s.counts.prompt_tokens for s in schedulers),
        "prompt_tokens_cached_total": sum(s.counts.prefix_hit_tokens for s in schedulers),
        "tokens_predicted_total": sum(s.counts.generated_tokens for s in schedulers),
        "requests_processing": sum(s.num_running for s in schedulers),
        "requests_deferred": sum(s.num_waiting for s in schedulers) + sum(inboxes),
    }
    return "".join(
        f"# HELP llamacpp:{name} {name}\n"
        f"# TYPE llamacpp:{name} {'counter' if name.endswith('_total') else 'gauge'}\n"
        f"llamacpp:{name} {value}\n"
        for name, value in values.items()
    )


def _tgi(schedulers: Sequence[Scheduler], inboxes: Sequence[int]) -> str:
    size = schedulers[0].cache.layout.block_size_tokens
    used = sum((s.cache.num_usable - s.cache.num_free) * size for s in schedulers)
    values = {
        "tgi_queue_size": sum(s.num_waiting for s in schedulers) + sum(inboxes),
        "tgi_batch_current_size": sum(s.num_running for s in schedulers),
        "tgi_batch_current_max_tokens": used,
        "tgi_batch_max_total_tokens": sum(s.cache.num_usable * size for s in schedulers),
    }
    return "".join(f"# TYPE {name} gauge\n{name} {value}\n" for name, value in values.items())


def only_series(page: bytes, names: frozenset[str]) -> bytes:
    """The series of those names and their families, as ``/metrics/?name[]=`` of vLLM has them.

    (With the slash it is prometheus_client's own application that answers, not vLLM's route.)
    """
    kept: list[str] = []
    comments: list[str] = []
    for line in page.decode().splitlines():
        if line.startswith("#"):
            if line.startswith("# HELP"):
                comments = []
            comments.append(line)
        elif re.split(r"[{ ]", line, maxsplit=1)[0] in names:
            kept += [*comments, line]
            comments = []
    return "".join(f"{line}\n" for line in kept).encode()
