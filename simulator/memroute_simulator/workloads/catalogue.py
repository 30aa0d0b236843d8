"""Workloads by name."""

import os
import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from memroute_simulator.workloads import benchmarks, conversations, production
from memroute_simulator.workloads.request import Workload
from memroute_simulator.workloads.traces import TraceError, read_trace

TRACES_VARIABLE = "MEMROUTE_TRACES"

Generator = Callable[[random.Random, int, float | None], Workload]
"""(chance, number of requests, rate per second or None for the published one)."""

GENERATORS: Mapping[str, Generator] = MappingProxyType(
    {
        "azure-conv": production.azure_conv,
        "azure-code": production.azure_code,
        "sharegpt": production.sharegpt,
        **{
            f"servegen-{group}": partial(production.servegen, group=group)
            for group in production.TENANT_GROUPS
        },
        "mooncake-conversation": conversations.mooncake_conversation,
        "mooncake-synthetic": conversations.mooncake_synthetic,
        "mooncake-toolagent": conversations.mooncake_toolagent,
        "multi-round-qa": conversations.multi_round_qa,
        "interactive-chat": conversations.interactive_chat,
        "shared-prefix": benchmarks.shared_prefix,
        "shared-prefix-small": benchmarks.shared_prefix_small,
        **{name: partial(benchmarks.mix, name=name) for name in benchmarks.MIXES},
        "priority-mix": benchmarks.priority_mix,
        "multi-lora": benchmarks.multi_lora,
    }
)


class WorkloadError(Exception):
    """No such workload; the message lists what there is."""


def workload_by_name(
    name: str,
    *,
    num_requests: int,
    rate_per_second: float | None = None,
    seed: int = 0,
    max_context_tokens: int | None = None,
) -> Workload:
    """A generator's workload, or a trace file's (a path, or a name under ``MEMROUTE_TRACES``).

    A trace is cut to ``num_requests`` and, where a rate is given, sped up to it. Requests that
    an engine of ``max_context_tokens`` would refuse are dropped. Raises ``WorkloadError``.
    """
    generator = GENERATORS.get(name)
    if generator is not None:
        rng = random.Random(f"{name}/{seed}")  # noqa: S311 - a workload, no secret
        workload = generator(rng, num_requests, rate_per_second)
        return workload.within(max_context_tokens)
    path = _trace_path(name)
    if path is None:
        known = ", ".join(GENERATORS)
        msg = (
            f"no workload {name!r}: neither a file (here, or under {TRACES_VARIABLE}) nor one of "
            f"{known}"
        )
        raise WorkloadError(msg)
    try:
        workload = read_trace(path, seed=seed, max_context_tokens=max_context_tokens)
    except TraceError as error:
        raise WorkloadError(str(error)) from None
    workload = workload.first(num_requests)
    if rate_per_second is not None and workload.rate_per_second:
        workload = workload.sped_up(rate_per_second / workload.rate_per_second)
    return workload


def _trace_path(name: str) -> Path | None:
    if Path(name).is_file():
        return Path(name)
    folder = os.environ.get(TRACES_VARIABLE)
    if folder:
        found = sorted(Path(folder).glob(f"**/{Path(name).name}*"))
        files = [path for path in found if path.suffix in {".csv", ".jsonl"}]
        if files:
            return files[0]
    return None
