"""What an engine says of its memory after start, and how that corrects the estimate.

An engine that sized its own KV pool from a utilization has measured everything else:

```text
budget       = utilization x total                 (vLLM: ceil(total x util))
measured     = budget - KV pool                    weights, activations, graphs, libraries
KV pool      = num_gpu_blocks / DP ranks x bytes per block
```

One block of rounding is the error. The residual against the formula's weights replaces the
laws of ``footprint.overhead`` for the same model, engine, flags and accelerator. Log lines
say more: they tell the terms apart.
"""

import re
from dataclasses import dataclass, fields

from memroute.footprint.estimate import Estimate
from memroute.units import GIB

MEASURED_SPREAD_BYTES = int(0.1 * GIB)
# Two starts of the same engine differ by the order of its allocations; logs of repeated starts
# stay within 0.1 GiB.


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationKey:
    """What must be equal for a measurement to say something about the next start."""

    model: str
    engine: str
    """Image, or engine and version."""
    flags: str
    """What memory depends on, canonical: quantization, dtype, parallel sizes, batch limits."""
    product: str
    """The accelerator, as its label names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What one start measured on each accelerator."""

    key: CalibrationKey
    overhead_bytes: int
    """Everything of the engine that is neither the formula's weights nor KV pool."""
    expected_overhead_bytes: int
    """What the laws had expected."""

    @property
    def overhead(self) -> Estimate:
        """The measured overhead, with the spread of repeated starts."""
        return Estimate(
            low=max(0, self.overhead_bytes - MEASURED_SPREAD_BYTES),
            expected=self.overhead_bytes,
            high=self.overhead_bytes + MEASURED_SPREAD_BYTES,
        )


def measured_overhead_bytes(
    *, budget_bytes: int, kv_cache_bytes: int, weights_bytes: int
) -> int | None:
    """Bytes beside weights and KV pool; None when the report contradicts itself."""
    overhead = budget_bytes - kv_cache_bytes - weights_bytes
    return overhead if overhead >= 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLog:
    """What the log of an engine's start says, in bytes; None for what it does not say."""

    weights_bytes: int | None = None
    peak_activation_bytes: int | None = None
    non_torch_bytes: int | None = None
    cuda_graph_bytes: int | None = None
    kv_cache_bytes: int | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    kv_cache_tokens: int | None = None
    max_context_tokens: int | None = None

    def overhead_bytes(self, formula_weights_bytes: int) -> int | None:
        """Bytes beside the formula's weights and the KV pool; None where too little is said.

        What the weights took beyond the formula counts. Graphs and libraries that a log does not
        mention are taken as nothing: it mentions what it measures.
        """
        if self.peak_activation_bytes is None:
            return None
        loaded = self.weights_bytes or formula_weights_bytes
        return (
            max(0, loaded - formula_weights_bytes)
            + self.peak_activation_bytes
            + (self.non_torch_bytes or 0)
            + (self.cuda_graph_bytes or 0)
        )


_GIB = r"([0-9]+(?:\.[0-9]+)?) ?GiB"
_PATTERNS = {
    # vLLM 0.10 to 0.32; each line's first number unless it says otherwise.
    "weights_bytes": (rf"Model loading took {_GIB}", rf"model weights take {_GIB}"),
    "peak_activation_bytes": (
        rf"(?:peak|PyTorch) activation (?:peak )?(?:memory )?(?:takes |is |of )?{_GIB}",
        rf"{_GIB} for peak activation",
    ),
    "non_torch_bytes": (rf"non_torch_memory takes {_GIB}", rf"{_GIB} for non-torch memory"),
    "cuda_graph_bytes": (
        rf"CUDA graph pool memory: {_GIB} \(actual\)",
        rf"Graph capturing finished in [0-9.]+ secs?, took {_GIB}",
    ),
    "kv_cache_bytes": (rf"Available KV cache memory: {_GIB}",),
    "free_bytes": (r"Free memory on device \S*\s?\(([0-9.]+)/",),
    "total_bytes": (rf"Free memory on device \S*\s?\([0-9.]+/{_GIB}\)",),
}
_TOKENS = re.compile(
    r"KV cache size: ([0-9,]+) tokens(?:, Maximum concurrency for ([0-9,]+) tokens)?"
)


def read_start_log(text: str) -> StartLog:
    """What a vLLM start log says; later lines win, as a restart's do."""
    found: dict[str, int] = {}
    for name, patterns in _PATTERNS.items():
        for pattern in patterns:
            for match in re.finditer(pattern, text, re.IGNORECASE):
                found[name] = int(float(match.group(1)) * GIB)
    for match in _TOKENS.finditer(text):
        found["kv_cache_tokens"] = int(match.group(1).replace(",", ""))
        if match.group(2):
            found["max_context_tokens"] = int(match.group(2).replace(",", ""))
    return StartLog(**{field.name: found.get(field.name) for field in fields(StartLog)})
