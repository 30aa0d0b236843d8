"""Kernel prices from profiles: what ``memroute.bandwidth.kernels`` holds, fitted again.

Reads ``profile_<GPU>_Llama-3.1-8B_tp1`` folders (``dense.csv``: microseconds of one kernel by
tokens; ``attention.csv``: of one layer's attention) and prints the table of an accelerator:
price of a weight and of a call at each number of tokens, elementwise kernels of a layer, and the
terms of attention, each with the error that is left.
"""

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KNOTS = (1, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
SHAPES = {
    "qkv_proj": (4096, 6144), "o_proj": (4096, 4096), "gate_up_proj": (4096, 28_672),
    "down_proj": (14_336, 4096),
}  # fmt: skip
ELEMENTWISE = {"act_fn": 1, "layernorm": 2, "rotary_emb": 1}
KV_BYTES_PER_TOKEN = 4096
FLOPS_PER_PAIR = 4 * 4096
SMOOTHED_FROM_TOKENS = 256
# From there on tiles make single counts jump: neighbours are averaged.

Floats = NDArray[np.float64]


def main(argv: Sequence[str]) -> int:
    """Fit every profile of a folder."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulator fit", description=__doc__)
    parser.add_argument("--ground-truth", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(argv)
    folders = sorted(options.ground_truth.glob("**/profile_*"))
    if not folders:
        print(f"bench.simulator fit: no profile_* under {options.ground_truth}", file=sys.stderr)
        return 2
    for folder in folders:
        print(folder.name)
        _fit_dense(folder / "dense.csv")
        _fit_attention(folder / "attention.csv")
    return 0


def _fit_dense(path: Path) -> None:
    times: defaultdict[str, dict[int, float]] = defaultdict(dict)
    with path.open() as file:
        for row in csv.DictReader(file):
            times[row["layer"]][int(row["tokens"])] = float(row["time_us"])
    counts = sorted(times["qkv_proj"])
    rows = []
    for knot in KNOTS:
        near = [c for c in counts if 0.9 * knot <= c <= 1.1 * knot] if knot >= KNOTS[1] else [1]
        points = [
            (inputs * outputs / 1e6, _at(times[name], count, knot))
            for name, (inputs, outputs) in SHAPES.items()
            for count in near
        ]
        x = np.array([[1.0, millions] for millions, _ in points])
        y = np.array([microseconds for _, microseconds in points])
        call, weight = _least_squares(x, y)
        if call < 0:
            call, weight = 0.0, float(np.mean(y / x[:, 1]))
        rest = sum(times[name][knot] * number for name, number in ELEMENTWISE.items())
        rows.append((knot, weight, call, rest))
        print(f"  {knot:5} tokens: {weight:8.4f} ps/weight {call:6.1f} us/call {rest:7.1f} us rest")
    weights = sum(inputs * outputs for inputs, outputs in SHAPES.values()) / 1e6
    errors = []
    for count in counts:
        real = sum(times[name][count] for name in SHAPES)
        real += sum(times[name][count] * number for name, number in ELEMENTWISE.items())
        layer = [w * weights + len(SHAPES) * c + r for _, w, c, r in rows]
        errors.append(float(np.interp(count, KNOTS, layer)) / real - 1)
    print(f"  one layer: mean error {np.mean(np.abs(errors)):.1%}, bias {np.mean(errors):+.1%}")


def _at(times: dict[int, float], count: int, knot: int) -> float:
    """A neighbour's time, moved to the knot where time grows with the count."""
    return times[count] * knot / count if knot >= SMOOTHED_FROM_TOKENS else times[count]


def _fit_attention(path: Path) -> None:
    with path.open() as file:
        names = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
        data = np.array([[float(row[name]) for name in names] for row in csv.DictReader(file)])
    chunk, cached, count, context, time = data.T
    decode = (chunk == 0) & (context >= 128)  # noqa: PLR2004 - shorter ones cost their launch
    terms = _least_squares(
        np.c_[np.ones(decode.sum()), count[decode], (count * context)[decode]], time[decode]
    )
    print(
        f"  decode: {terms[0]:.1f} us + {terms[1]:.3f} us/sequence, "
        f"{KV_BYTES_PER_TOKEN / terms[2] / 1e3:.0f} GB/s of KV"
    )
    mixed = (
        (chunk >= 64) & (count >= 8) & (context >= 256) & (cached <= 4096) & (context <= 4096)  # noqa: PLR2004
    )
    c, k, n, ctx = chunk[mixed], cached[mixed], count[mixed], (count * context)[mixed]
    x = np.c_[np.ones(mixed.sum()), n, ctx, c, k, c * (k + c / 2)]
    terms = _least_squares(x, time[mixed])
    left = np.abs(x @ terms / time[mixed] - 1)
    print(
        f"  mixed: {terms[1]:.3f} us/sequence, {KV_BYTES_PER_TOKEN / terms[2] / 1e3:.0f} GB/s of "
        f"KV, {terms[3] * 1e3:.1f} ns/token, {terms[4] * 1e3:.1f} ns/cached token, "
        f"{FLOPS_PER_PAIR / terms[5] / 1e6:.0f} TFLOP/s; mean error {left.mean():.1%}"
    )


def _least_squares(x: Floats, y: Floats) -> Any:
    """Of relative errors."""
    solution, *_ = np.linalg.lstsq(x / y[:, None], np.ones(len(y)), rcond=None)
    return solution
