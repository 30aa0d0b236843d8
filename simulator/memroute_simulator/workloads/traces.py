"""Recorded traces, read as workloads: Azure's CSV, Mooncake's and LLMServingSim's JSON lines.

The format is told by the first line. ``MEMROUTE_TRACES`` may name a folder in which traces are
looked up by their file's name.
"""

import csv
import json
import random
from datetime import datetime
from pathlib import Path
from typing import Any

from memroute_simulator.workloads.request import Workload, WorkloadRequest, open_loop

MOONCAKE_BLOCK_TOKENS = 512
SERVING_BLOCK_TOKENS = 16
TICK_SECONDS = 3.0
# Mooncake's conversation timestamps are multiples of 3 s; requests are spread over the tick.


class TraceError(Exception):
    """A file is no trace that can be read; the message is for people."""


def read_trace(path: Path, *, seed: int = 0, max_context_tokens: int | None = None) -> Workload:
    """A trace file as a workload, its first request at 0.

    Requests longer than ``max_context_tokens`` are dropped and counted in the notes. Raises
    ``TraceError``.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read {path}: {error}"
        raise TraceError(msg) from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        msg = f"{path} is empty"
        raise TraceError(msg)
    try:
        if lines[0].startswith("TIMESTAMP,"):
            workload = _azure(path.stem, lines)
        else:
            rows = [json.loads(line) for line in lines]
            workload = _json_rows(path.stem, rows, seed)
    except (KeyError, TypeError, ValueError) as error:
        msg = (
            f"{path} is no trace: expected Azure's CSV (TIMESTAMP,ContextTokens,GeneratedTokens) "
            f"or JSON lines with timestamp or arrival_time_ns, input_length, output_length and "
            f"hash_ids ({error!r})"
        )
        raise TraceError(msg) from None
    return workload.within(max_context_tokens)


def _azure(name: str, lines: list[str]) -> Workload:
    times, requests = [], []
    for index, row in enumerate(csv.DictReader(lines)):
        # Seven fractional digits: fromisoformat cuts them to six.
        times.append(datetime.fromisoformat(row["TIMESTAMP"]).timestamp())
        requests.append(
            WorkloadRequest(
                prompt=((2 * index, int(row["ContextTokens"])),),
                num_output_tokens=int(row["GeneratedTokens"]),
                output_id=2 * index + 1,
            )
        )
    first = times[0]
    return open_loop(name, [time - first for time in times], requests)


def _json_rows(name: str, rows: list[dict[str, Any]], seed: int) -> Workload:
    notes: tuple[str, ...] = ()
    if "arrival_time_ns" in rows[0]:
        times = [row["arrival_time_ns"] / 1e9 for row in rows]
        size = SERVING_BLOCK_TOKENS
    else:
        times = [row["timestamp"] / 1e3 for row in rows]
        size = MOONCAKE_BLOCK_TOKENS
        if all(time % TICK_SECONDS == 0 for time in times):
            rng = random.Random(seed)  # noqa: S311 - a workload, no secret
            times = [time + rng.random() * TICK_SECONDS for time in times]
            notes = ("spread over ticks of 3 s",)
    requests = []
    for index, row in enumerate(rows):
        length = int(row["input_length"] if "input_length" in row else row["input_toks"])
        output = int(row["output_length"] if "output_length" in row else row["output_toks"])
        ids = row.get("hash_ids") or ()
        prompt = [(block, size) for block in ids[: length // size]]
        rest = length - size * len(prompt)
        if rest > 0:
            # A partial last block is shared by its id, where it has one.
            shared = ids[length // size] if len(ids) > length // size else None
            prompt.append((shared if shared is not None else -1 - index, rest))
        requests.append(
            WorkloadRequest(
                prompt=tuple(prompt), num_output_tokens=max(1, output), output_id=-(10**9) - index
            )
        )
    return open_loop(name, times, requests, notes)
