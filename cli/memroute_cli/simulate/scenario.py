"""What is simulated: fleets, a workload, latency targets; from flags or from a YAML file.

The targets are the SLO that runs are judged by, and the ``ttftTargetMilliseconds`` and
``tpotTargetMilliseconds`` that memroute admits by.

```yaml
workload: {name: azure-conv, requests: 4000, rate: 40}   # or a trace file
target: {ttft: 1.0, tpot: 0.05}
objective: requests              # or tokens, sizes: who is late when not all can be in time
perCard: 1                       # replicas that share each card: parts of its memory and time
sharing: time-slices             # how they do: or fractions (MPS)
routers: 2
scrape: 1.0
policies: [memroute, least-request]
fleets:
  two-h100:
    - {model: meta-llama/Llama-3.1-8B, accelerator: H100, replicas: 2}
  mixed:
    - {model: meta-llama/Llama-3.1-8B, accelerator: L4, replicas: 4, maxContextTokens: 8192}
events:
  - {at: 30, change: fail, replica: "0"}
  - {at: 60, change: recover, replica: "0"}
```
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import yaml

from memroute.bandwidth import SharingMechanism, link_of
from memroute.catalog import ACCELERATORS, accelerator_by_name
from memroute.closeness import did_you_mean
from memroute.errors import MemrouteError
from memroute.footprint import KVCacheDtype, Parallelism, Quantization
from memroute.footprint.kv_cache import NUM_NULL_BLOCKS
from memroute.hierarchy import HostLink
from memroute.traffic.admission import AdmissionSettings, OverloadObjective
from memroute.traffic.dispatch import DispatchSettings
from memroute.units import GIB
from memroute_cli.plan.files import PlanError
from memroute_cli.plan.models import NamedModel, read_model
from memroute_cli.terminal.errors import UserError
from memroute_cli.terminal.host_links import read_host_link
from memroute_cli.terminal.quantities import bytes_of
from memroute_simulator.engine.model import SchedulingPolicy
from memroute_simulator.engine.spec import EngineKind, EngineSpec
from memroute_simulator.virtual.cluster import Fleet, FleetChange, FleetEvent
from memroute_simulator.virtual.outcome import LatencyTarget
from memroute_simulator.virtual.router import POLICIES, RouterSettings
from memroute_simulator.workloads import GENERATORS, Workload, WorkloadError, workload_by_name

DEFAULT_TARGET = LatencyTarget(
    ttft_seconds=AdmissionSettings().ttft_target_seconds,
    tpot_seconds=AdmissionSettings().tpot_target_seconds,
)
"""Those of a ModelDeployment that names none."""
DEFAULT_OBJECTIVE = AdmissionSettings().objective
DEFAULT_SCRAPE_SECONDS = RouterSettings().scrape_seconds


class ScenarioError(UserError):
    """The scenario makes no sense; the message is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a person calls the settings: the keys of a scenario file, or flags."""

    requests: str = "workload.requests"
    rate: str = "workload.rate"
    ttft: str = "target.ttft"
    tpot: str = "target.tpot"
    routers: str = "routers"
    scrape: str = "scrape"
    replicas: str = "replicas"
    context: str = "maxContextTokens"
    engine: str = "kind"
    quantization: str = "quantization"
    kv_cache_dtype: str = "kvCacheDtype"
    tensor_parallel: str = "tensorParallelSize"
    policy: str = "policies"
    objective: str = "objective"
    workload: str = "workload"
    per_card: str = "perCard"
    sharing: str = "sharing"
    host_memory: str = "hostMemory"
    host_link: str = "hostLink"
    weights_offload: str = "weightsOnHostGiB"


IN_FILE = Words()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that one call simulates: each fleet with each policy, on one workload."""

    fleets: Mapping[str, tuple[tuple[EngineSpec, int], ...]]
    policies: tuple[str, ...]
    workload: Workload
    target: LatencyTarget
    events: tuple[FleetEvent, ...]
    replicas_per_card: int
    sharing: SharingMechanism
    num_routers: int
    router: RouterSettings
    timeout_seconds: float | None
    seed: int

    def runs(self) -> list[tuple[str, str, Fleet]]:
        """(fleet's name, policy, fleet) of each run."""
        return [
            (
                name,
                policy,
                Fleet(
                    engines=engines,
                    replicas_per_card=self.replicas_per_card,
                    sharing=self.sharing,
                    policy=policy,
                    num_routers=self.num_routers,
                    router=self.router,
                    timeout_seconds=self.timeout_seconds,
                ),
            )
            for name, engines in self.fleets.items()
            for policy in self.policies
        ]


_TOP = {
    "workload", "target", "objective", "routers", "scrape", "policies", "fleets", "events",
    "timeout", "seed", "perCard", "sharing",
}  # fmt: skip
_ENGINE = {
    "model", "accelerator", "replicas", "kind", "quantization", "kvCacheDtype",
    "tensorParallelSize", "dataParallelSize", "maxNumSeqs", "maxNumBatchedTokens",
    "maxContextTokens", "utilization", "kvCacheTokens", "prefixCaching", "scheduling",
    "watermark", "maxAdapters", "link", "expertParallel", "hostMemory", "hostLink",
    "weightsOnHostGiB",
}  # fmt: skip


def read_scenario(path: Path) -> dict[str, Any]:
    """The document of a scenario file. Raises ``ScenarioError``."""
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise ScenarioError(msg) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"{path} is no YAML: {' '.join(str(error).split())}"
        raise ScenarioError(msg) from None
    if not isinstance(document, dict):
        msg = f"{path} is not a YAML mapping"
        raise ScenarioError(msg)
    return document


def scenario(document: Mapping[str, Any], words: Words = IN_FILE) -> Scenario:
    """Check a document and build what it says. Raises ``ScenarioError``, in these words."""
    _only_known(document, _TOP, "the scenario")
    fleets = document.get("fleets")
    if not isinstance(fleets, dict) or not fleets:
        msg = "the scenario names no fleets"
        raise ScenarioError(msg)
    seed = int(document.get("seed", 0))
    per_card = int(_positive(document.get("perCard", 1), words.per_card))
    engines = {
        str(name): _engines(str(name), rows, words, per_card) for name, rows in fleets.items()
    }
    policies = tuple(document.get("policies") or ("memroute",))
    for policy in policies:
        if policy not in POLICIES:
            hint = did_you_mean(str(policy), POLICIES) or f"; there are {', '.join(POLICIES)}"
            msg = f"no policy {policy!r}{hint}"
            raise ScenarioError(msg)
    target = _target(document.get("target") or {}, words)
    return Scenario(
        fleets=engines,
        policies=policies,
        workload=_workload(document.get("workload") or {}, engines, seed, words),
        target=target,
        events=tuple(_event(row, engines) for row in document.get("events") or ()),
        replicas_per_card=per_card,
        sharing=_one_of(
            SharingMechanism, document.get("sharing", SharingMechanism.TIME_SLICES), words.sharing
        ),
        num_routers=int(_positive(document.get("routers", 1), words.routers)),
        router=RouterSettings(
            scrape_seconds=_positive(document.get("scrape", DEFAULT_SCRAPE_SECONDS), words.scrape),
            dispatch=DispatchSettings(
                limits=AdmissionSettings(
                    ttft_target_seconds=target.ttft_seconds,
                    tpot_target_seconds=target.tpot_seconds,
                    objective=_objective(document.get("objective", DEFAULT_OBJECTIVE.value)),
                )
            ),
        ),
        timeout_seconds=document.get("timeout"),
        seed=seed,
    )


def _target(row: Mapping[str, Any], words: Words) -> LatencyTarget:
    _only_known(row, {"ttft", "tpot"}, "target")
    return LatencyTarget(
        ttft_seconds=_positive(row.get("ttft", DEFAULT_TARGET.ttft_seconds), words.ttft),
        tpot_seconds=_positive(row.get("tpot", DEFAULT_TARGET.tpot_seconds), words.tpot),
    )


def _objective(name: object) -> OverloadObjective:
    for objective in OverloadObjective:
        if objective.value == name:
            return objective
    hint = did_you_mean(str(name), OverloadObjective)
    msg = f"no objective {name!r}; there are {', '.join(OverloadObjective)}{hint}"
    raise ScenarioError(msg)


def _only_known(given: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        msg = f"{where} does not take {', '.join(unknown)}; it takes {', '.join(sorted(known))}"
        raise ScenarioError(msg)


def _positive(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < math.inf:
        msg = f"{name} must be a number above 0, not {value!r}"
        raise ScenarioError(msg)
    return number


def _engines(
    name: str, rows: Any, words: Words, per_card: int
) -> tuple[tuple[EngineSpec, int], ...]:
    if isinstance(rows, Mapping):
        rows = [rows]
    if not isinstance(rows, Sequence) or not rows or isinstance(rows, str):
        msg = f"fleet {name} is not a list of engines"
        raise ScenarioError(msg)
    return tuple(_engine(name, row, words, per_card) for row in rows)


def _engine(
    fleet: str, row: Mapping[str, Any], words: Words, per_card: int
) -> tuple[EngineSpec, int]:
    where = f"fleet {fleet}"
    _only_known(row, _ENGINE, where)
    if "model" not in row or "accelerator" not in row:
        msg = f"{where} needs model and accelerator"
        raise ScenarioError(msg)
    accelerator = accelerator_by_name(str(row["accelerator"]))
    if accelerator is None:
        name = str(row["accelerator"])
        hint = did_you_mean(name, (known.name for known in ACCELERATORS))
        msg = f"{where}: no accelerator {name!r} (memroute plan --list names them){hint}"
        raise ScenarioError(msg)
    try:
        model = read_model(str(row["model"]), None)
        spec = EngineSpec(
            architecture=model.architecture,
            accelerator=accelerator,
            kind=_one_of(EngineKind, row.get("kind", "vllm"), words.engine),
            quantization=_one_of(Quantization, row.get("quantization", "none"), words.quantization),
            kv_cache_dtype=_one_of(
                KVCacheDtype, row.get("kvCacheDtype", "auto"), words.kv_cache_dtype
            ),
            parallelism=Parallelism(
                tensor_parallel_size=int(
                    _positive(row.get("tensorParallelSize", 1), words.tensor_parallel)
                ),
                data_parallel_size=int(row.get("dataParallelSize", 1)),
                expert_parallel=bool(row.get("expertParallel", False)),
            ),
            max_num_seqs=int(row.get("maxNumSeqs", 256)),
            max_num_batched_tokens=int(row.get("maxNumBatchedTokens", 2048)),
            max_context_tokens=row.get("maxContextTokens"),
            # Engines that share a card have equal parts of its memory.
            utilization_ratio=float(row.get("utilization", 0.92)) / per_card,
            caches_prefixes=bool(row.get("prefixCaching", True)),
            policy=SchedulingPolicy(row.get("scheduling", "fcfs")),
            watermark_ratio=float(row.get("watermark", 0.0)),
            max_adapters=row.get("maxAdapters"),
            link=row.get("link"),
            host_kv_bytes=_host_bytes(row.get("hostMemory"), words),
            host_link=_host_link(row.get("hostLink"), words),
            weights_on_host_bytes=_weights_bytes(row.get("weightsOnHostGiB"), words),
        )
        link_of(spec.link, accelerator)
        # Refused here rather than in the middle of a run.
        _ = spec.host_limits
        if spec.weights_on_host_bytes:
            _ = spec.step_time
        _check_context(model, spec, words)
        tokens = row.get("kvCacheTokens")
        if tokens is not None:
            spec = replace(spec, num_blocks=spec.layout.blocks_for(int(tokens)) + NUM_NULL_BLOCKS)
        needed, blocks = spec.layout.blocks_for(spec.context_tokens), spec.total_blocks
    except (MemrouteError, PlanError, TypeError, ValueError) as error:
        msg = f"{where}: {error}"
        raise ScenarioError(msg) from None
    if blocks <= needed:
        msg = (
            f"{where}: {row['model']} leaves {max(0, blocks):,} blocks of KV cache on "
            f"{accelerator.name}, one sequence of {spec.context_tokens:,} tokens needs {needed:,}; "
            f"lower {words.context}, quantize, or use more devices"
        )
        raise ScenarioError(msg)
    return spec, int(_positive(row.get("replicas", 1), f"{where}: {words.replicas}"))


def _host_bytes(value: Any, words: Words) -> int | None:
    if value is None:
        return None
    size = bytes_of(str(value))
    if not size:
        msg = f"{words.host_memory} {value}: a size such as 64GiB"
        raise ScenarioError(msg)
    return size


def _weights_bytes(value: Any, words: Words) -> int:
    if value is None:
        return 0
    text = str(value)
    if not text.isdecimal() or not int(text):
        msg = f"{words.weights_offload} {value}: whole GiB of each device, such as 8"
        raise ScenarioError(msg)
    return int(text) * GIB


def _host_link(value: Any, words: Words) -> HostLink | None:
    if value is None:
        return None
    try:
        return read_host_link(words.host_link, str(value))
    except ValueError as error:
        raise ScenarioError(str(error)) from None


Word = TypeVar("Word", bound=StrEnum)


def _one_of(kind: type[Word], value: Any, name: str) -> Word:
    for member in kind:
        if member.value == value:
            return member
    known = [member.value for member in kind]
    msg = f"{name} {value}: one of {', '.join(known)}{did_you_mean(str(value), known)}"
    raise ScenarioError(msg)


def _check_context(model: NamedModel, spec: EngineSpec, words: Words) -> None:
    """Raises ``ScenarioError`` for a context that the model was not made for, as a plan does."""
    longest = model.architecture.max_context_tokens
    if longest is not None and spec.context_tokens > longest:
        msg = (
            f"{words.context} {spec.context_tokens}: {model.name} was made for at most "
            f"{longest} tokens"
        )
        raise ScenarioError(msg)


def _workload(
    row: Mapping[str, Any],
    fleets: Mapping[str, tuple[tuple[EngineSpec, int], ...]],
    seed: int,
    words: Words,
) -> Workload:
    if isinstance(row, str):
        row = {"name": row}
    _only_known(row, {"name", "requests", "rate", "speed"}, "workload")
    shortest = min(spec.context_tokens for engines in fleets.values() for spec, _ in engines)
    rate = row.get("rate")
    try:
        workload = workload_by_name(
            str(row.get("name", "azure-conv")),
            num_requests=int(_positive(row.get("requests", 2000), words.requests)),
            rate_per_second=None if rate is None else _positive(rate, words.rate),
            seed=seed,
            max_context_tokens=shortest,
        )
    except WorkloadError as error:
        name = str(row.get("name"))
        hint = "" if Path(name).exists() else did_you_mean(name, GENERATORS)
        msg = f"{words.workload}: no workload {name!r}{hint}" if hint else str(error)
        raise ScenarioError(msg) from None
    if not workload.num_requests:
        msg = f"no request of {workload.name} fits into {shortest:,} tokens"
        raise ScenarioError(msg)
    speed = row.get("speed")
    return workload if speed is None else workload.sped_up(_positive(speed, "workload.speed"))


def _event(
    row: Mapping[str, Any], fleets: Mapping[str, tuple[tuple[EngineSpec, int], ...]]
) -> FleetEvent:
    _only_known(row, {"at", "change", "replica", "slowdown"}, "an event")
    try:
        change = FleetChange(row.get("change", ""))
    except ValueError:
        msg = f"no change {row.get('change')!r}; there are {', '.join(FleetChange)}"
        raise ScenarioError(msg) from None
    replica = str(row.get("replica", ""))
    fewest = min(sum(count for _, count in engines) for engines in fleets.values())
    if change is not FleetChange.ADD and replica not in {str(i) for i in range(fewest)}:
        msg = f"event {change}: no replica {replica!r} in every fleet; they are 0 to {fewest - 1}"
        raise ScenarioError(msg)
    return FleetEvent(
        at_seconds=float(row.get("at", 0.0)),
        change=change,
        replica=replica,
        slowdown_ratio=float(row.get("slowdown", 1.0)),
    )
