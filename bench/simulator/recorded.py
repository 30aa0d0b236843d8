"""Recorded runs of real engines: read from their folders, replayed in virtual time.

A run is a folder with ``meta.json`` (engine arguments; hardware and blocks where recorded),
``requests.jsonl`` (when each request was queued, got its first token, ended) and
``timeseries.csv`` (running, waiting, KV use once a second). The workload lies beside the
folder, named in ``meta.json``; without it the lengths of ``requests.jsonl`` serve, and prefixes
are taken as unshared.

Latencies count from when the engine queued the request, as the recordings do.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memroute.bandwidth import StepTime, link_of
from memroute.catalog import (
    ACCELERATORS,
    MODELS,
    Accelerator,
    accelerator_for_product,
    architecture_for_model,
)
from memroute.errors import MemrouteError
from memroute.footprint import (
    KVCacheDtype,
    ModelArchitecture,
    Parallelism,
    Quantization,
    architecture_from_config,
)
from memroute_simulator.engine.model import EngineRequest, SegmentedContent
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.virtual.loop import VirtualLoop
from memroute_simulator.virtual.replica import Ticket, VirtualReplica

OLD_UTILIZATION_RATIO = 0.9
# vLLM's default before 0.20.
BIG_ACCELERATOR_BYTES = 70 * 1024**3
# From there on vLLM's server batches more by default (A100 apart): 8,192 tokens, 1,024 sequences.
SAMPLE_SECONDS = 1.0
_TUNED = re.compile(r"(-(instruct|base|chat|thinking|it|\d{4}))+", re.IGNORECASE)


class RunError(Exception):
    """A folder is no run, or names what is not known; the message is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRequest:
    """One request: what it was, and when what happened to it."""

    arrival_seconds: float
    """From the start of the workload."""
    num_prompt_tokens: int
    num_output_tokens: int
    prefix: tuple[tuple[int, int], ...]
    """(block id, tokens), chained."""
    ttft_seconds: float
    tpot_seconds: float | None
    e2e_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The engine at one second of the run."""

    seconds: float
    num_running: int
    num_waiting: int
    kv_cache_utilization_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """A real run, and the engine that it says it ran on."""

    name: str
    spec: EngineSpec
    requests: tuple[RecordedRequest, ...]
    samples: tuple[Sample, ...]
    num_preemptions: int | None
    """None where it was not recorded."""
    are_blocks_recorded: bool
    has_prefixes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """What the simulator makes of the same workload."""

    ttft_seconds: tuple[float, ...]
    tpot_seconds: tuple[float, ...]
    e2e_seconds: tuple[float, ...]
    samples: tuple[Sample, ...]
    num_preemptions: int
    num_steps: int


def runs_in(folder: Path, model_configs: Path | None, link: str | None = None) -> list[RecordedRun]:
    """Every run under a folder. Raises ``RunError`` when there is none."""
    runs = [
        read_run(meta.parent, model_configs, link) for meta in sorted(folder.glob("**/meta.json"))
    ]
    if not runs:
        msg = f"no run under {folder}: a run is a folder with meta.json and requests.jsonl"
        raise RunError(msg)
    return runs


def read_run(folder: Path, model_configs: Path | None, link: str | None = None) -> RecordedRun:
    """One run; ``link``: of its node, where the run does not say.

    Raises ``RunError`` for what is missing or unknown.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text())
        lines = (folder / "requests.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        kwargs = meta["engine_kwargs"]
    except (OSError, ValueError, KeyError) as error:
        msg = f"{folder}: not a readable run ({error!r})"
        raise RunError(msg) from None
    architecture = _architecture(str(meta.get("model") or kwargs.get("model")), model_configs)
    accelerator = _accelerator(meta, folder.name)
    blocks = (meta.get("kv_cache") or {}).get("num_gpu_blocks")
    try:
        requests = _requests(rows, _workload(folder, meta))
        spec = _spec(kwargs, meta, architecture, accelerator, blocks, link)
        link_of(spec.link, accelerator)
    except (KeyError, TypeError, ValueError, MemrouteError) as error:
        msg = f"{folder}: cannot be replayed ({error!r})"
        raise RunError(msg) from None
    return RecordedRun(
        name=folder.name,
        spec=spec,
        requests=requests,
        samples=_samples(folder / "timeseries.csv"),
        num_preemptions=_preemptions(meta, rows),
        are_blocks_recorded=blocks is not None,
        has_prefixes=any(request.prefix for request in requests),
    )


def simulate(run: RecordedRun, *, law: StepTime | None = None) -> SimulatedRun:
    """Replay the run's workload; with another law of step times than what is expected."""
    loop = VirtualLoop()
    spec = run.spec
    replica = VirtualReplica(
        loop, spec.schedulers(), law or spec.step_time, steps_together=spec.steps_together
    )
    tickets = []
    for index, request in enumerate(run.requests):
        shared = sum(tokens for _, tokens in request.prefix)
        rest = request.num_prompt_tokens - shared
        own = ((-1 - index, rest),) if rest > 0 else ()
        ticket = Ticket(
            request=EngineRequest(
                request_id=str(index),
                num_prompt_tokens=request.num_prompt_tokens,
                num_output_tokens=request.num_output_tokens,
                content=SegmentedContent((*request.prefix, *own), -(10**9) - index),
            )
        )
        tickets.append(ticket)
        loop.at(request.arrival_seconds, _submission(replica, ticket))
    samples: list[Sample] = []

    def sample() -> None:
        reading = replica.reading()
        samples.append(
            Sample(
                seconds=loop.now_seconds,
                num_running=reading.num_running,
                num_waiting=reading.num_waiting,
                kv_cache_utilization_ratio=reading.kv_cache_utilization_ratio,
            )
        )
        if any(ticket.last_token_seconds is None for ticket in tickets):
            loop.after(SAMPLE_SECONDS, sample)

    loop.at(SAMPLE_SECONDS, sample)
    loop.run()
    return SimulatedRun(
        ttft_seconds=tuple(_since_queued(t, t.first_token_seconds) for t in tickets),
        tpot_seconds=tuple(
            ((t.last_token_seconds or 0.0) - (t.first_token_seconds or 0.0))
            / (t.request.num_output_tokens - 1)
            for t in tickets
            if t.request.num_output_tokens > 1
        ),
        e2e_seconds=tuple(_since_queued(t, t.last_token_seconds) for t in tickets),
        samples=tuple(samples),
        num_preemptions=sum(s.counts.num_preemptions for s in replica.schedulers),
        num_steps=sum(s.counts.num_steps for s in replica.schedulers),
    )


def _submission(replica: VirtualReplica, ticket: Ticket) -> Any:
    return lambda: replica.submit(ticket)


def _since_queued(ticket: Ticket, seconds: float | None) -> float:
    if seconds is None or ticket.queued_seconds is None:
        msg = f"request {ticket.request.request_id} never ended: the KV pool is too small for it"
        raise RunError(msg)
    return seconds - ticket.queued_seconds


# Reading.


def _spec(
    kwargs: Mapping[str, Any],
    meta: Mapping[str, Any],
    architecture: ModelArchitecture,
    accelerator: Accelerator,
    num_blocks: int | None,
    link: str | None,
) -> EngineSpec:
    big = accelerator.usable_bytes >= BIG_ACCELERATOR_BYTES and "A100" not in accelerator.name
    cache = meta.get("kv_cache") or {}
    spec = EngineSpec(
        architecture=architecture,
        accelerator=accelerator,
        quantization=Quantization(kwargs.get("quantization") or "none"),
        kv_cache_dtype=KVCacheDtype(kwargs.get("kv_cache_dtype") or "auto"),
        parallelism=Parallelism(
            tensor_parallel_size=kwargs.get("tensor_parallel_size") or 1,
            pipeline_parallel_size=kwargs.get("pipeline_parallel_size") or 1,
            data_parallel_size=kwargs.get("data_parallel_size") or 1,
            expert_parallel=bool(kwargs.get("enable_expert_parallel")),
        ),
        max_num_seqs=kwargs.get("max_num_seqs") or (1024 if big else 256),
        max_num_batched_tokens=kwargs.get("max_num_batched_tokens") or (8192 if big else 2048),
        max_context_tokens=kwargs.get("max_model_len"),
        utilization_ratio=(
            kwargs.get("gpu_memory_utilization")
            or cache.get("gpu_memory_utilization")
            or OLD_UTILIZATION_RATIO
        ),
        num_blocks=num_blocks,
        link=(meta.get("hardware") or {}).get("link") or meta.get("link") or link,
        block_size_tokens=cache.get("block_size"),
        caches_prefixes=cache.get("enable_prefix_caching") is not False
        and kwargs.get("enable_prefix_caching") is not False,
    )
    # Engines share data-parallel blocks out by rank; a sum over ranks is what is recorded.
    ranks = spec.parallelism.data_parallel_size
    if num_blocks is not None and ranks > 1:
        spec = replace(spec, num_blocks=num_blocks // ranks)
    return spec


def _architecture(model: str, folder: Path | None) -> ModelArchitecture:
    names = [model.replace("/", "--"), model.replace("/Llama", "/Meta-Llama").replace("/", "--")]
    for name in names:
        path = folder / f"{name}.json" if folder is not None else None
        if path is not None and path.is_file():
            return architecture_from_config(json.loads(path.read_text()))
    known = next((one for one in MODELS if _is_tuned(model, one)), model)
    try:
        return architecture_for_model(known)
    except MemrouteError:
        msg = (
            f"no configuration of {model}: neither {names[0]}.json under --model-configs "
            f"({folder}) nor in the catalogue"
        )
        raise RunError(msg) from None


def _is_tuned(model: str, known: str) -> bool:
    """Whether a model is the known one trained on: its matrices are the same, its words others."""
    same, rest = model[: len(known)], model[len(known) :]
    return same.casefold() == known.casefold() and _TUNED.fullmatch(rest) is not None


def _accelerator(meta: Mapping[str, Any], folder_name: str) -> Accelerator:
    """By the device's name, or by the run's: ``RTXPRO6000_Llama-3.1-8B``."""
    device = str((meta.get("hardware") or {}).get("device_name") or "")
    exact = accelerator_for_product(device) if device else None
    if exact is not None:
        return exact
    for text in (device, folder_name):
        squeezed = _squeezed(text)
        found = [a for a in ACCELERATORS if _squeezed(a.name) in squeezed]
        if found:
            return max(found, key=lambda a: len(a.name))
    msg = f"{folder_name}: neither hardware.device_name nor the folder's name is an accelerator"
    raise RunError(msg)


def _squeezed(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", name.upper())


def _workload(folder: Path, meta: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    stem = Path(str(meta.get("dataset_path") or "")).stem
    if not stem:
        return None
    for place in (folder, folder.parent, folder.parent.parent):
        for path in sorted(place.glob(f"{stem}*.jsonl")):
            return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return None


def _requests(
    rows: Sequence[Mapping[str, Any]], workload: Sequence[Mapping[str, Any]] | None
) -> tuple[RecordedRequest, ...]:
    first = min(float(row["arrival_time"]) for row in rows)
    requests = []
    for row in rows:
        match = re.search(r"(\d+)$", str(row["request_id"]))
        planned: Mapping[str, Any] = {}
        if workload is not None and match is not None and int(match[1]) < len(workload):
            planned = workload[int(match[1])]
        outputs = int(row["output_toks"])
        arrival = float(row["arrival_time"]) - first
        if "arrival_time_ns" in planned:
            arrival = planned["arrival_time_ns"] / 1e9
        ids, size = _block_ids(planned, int(row["input_toks"]))
        requests.append(
            RecordedRequest(
                arrival_seconds=arrival,
                num_prompt_tokens=int(row["input_toks"]),
                num_output_tokens=outputs,
                prefix=tuple((block, size) for block in ids),
                ttft_seconds=row["first_token_ts"] - row["queued_ts"],
                tpot_seconds=(
                    (row["last_token_ts"] - row["first_token_ts"]) / (outputs - 1)
                    if outputs > 1
                    else None
                ),
                e2e_seconds=row["last_token_ts"] - row["queued_ts"],
            )
        )
    return tuple(requests)


def _block_ids(planned: Mapping[str, Any], num_prompt_tokens: int) -> tuple[list[int], int]:
    """Chained ids of full blocks: given, or made from token ids where those are given."""
    size = 16
    if "hash_ids" in planned:
        return list(planned["hash_ids"])[: num_prompt_tokens // size], size
    tokens = planned.get("input_tok_ids") or ()
    full = min(len(tokens), num_prompt_tokens) // size
    return [hash(tuple(tokens[i * size : (i + 1) * size])) & (2**60 - 1) for i in range(full)], size


def _samples(path: Path) -> tuple[Sample, ...]:
    if not path.is_file():
        return ()
    with path.open() as file:
        rows = list(csv.DictReader(file))
    # A column of zeros under load was not recorded.
    has_kv = any(float(row.get("kv_cache_pct") or 0) > 0 for row in rows)
    return tuple(
        Sample(
            seconds=float(row["t"]),
            num_running=int(float(row["running"])),
            num_waiting=int(float(row["waiting"])),
            kv_cache_utilization_ratio=float(row["kv_cache_pct"]) / 100 if has_kv else None,
        )
        for row in rows
    )


def _preemptions(meta: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> int | None:
    for name in ("num_preemptions", "preemptions"):
        if meta.get(name) is not None:
            return int(meta[name])
        if any(name in row for row in rows):
            return sum(int(row.get(name) or 0) for row in rows)
    return None
