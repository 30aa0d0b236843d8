"""How fast an accelerator's kernels are: what was measured, and the law for what was not.

A matrix of w weights over m tokens takes ``w * s(m) + c(m)`` seconds: s is the price of a weight
at m tokens (bandwidth for few tokens, arithmetic for many), c what a call costs. Both are
tables over m, because tiles and caches make them bend. Attention is linear in sequences, in KV
bytes and in the products of queries and keys.

Where the numbers come from:

* RTX 4090, RTX PRO 6000: fitted to kernel times of LLMServingSim's profiler (casys-kaist, MIT;
  Llama-3.1-8B, 152 token counts, 8,643 and 19,364 attention shapes): mean error of one layer
  2.3 and 2.9 %. ``python -m bench.simulator fit`` prints them again.
* H100, H200, A100-80, L40S: derived from fits to aiconfigurator-core 0.12.0's measured kernels
  (ai-dynamo, Apache-2.0; vLLM 0.24, bf16), 1.5 to 6.6 % from that database.
* Experts' grouped products: the same database's rows for Qwen3-30B-A3B and Mixtral, 256 or more
  tokens per expert: RTX PRO 6000 161 and 188 of 468 TFLOP/s, H100 405 and 504 of 989, H200 470 and
  650, A100 82 and 100 of 312, L40S 148 and 218 of 362; RTX 4090 by the mean share.
* Every other: the means over those six, which lie within 25 % of each.
"""

from dataclasses import dataclass

from memroute.catalog import Accelerator

# Llama-3.1-8B's elementwise kernels (activation, two norms, rotary) move so much per token.
REFERENCE_WIDTH_BYTES = 172_032
# Its heads: what the attention terms were fitted on.
REFERENCE_KV_HEADS = 8
REFERENCE_QUERY_WIDTH = 4096


@dataclass(frozen=True, slots=True)
class Knot:
    """Prices at one number of tokens."""

    tokens: int
    picoseconds_per_weight: float
    """Of 16-bit weights."""
    call_microseconds: float
    elementwise_microseconds: float
    """Per layer, at the reference width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeAttention:
    """One layer's attention over sequences that get one token each."""

    call_microseconds: float
    sequence_microseconds: float
    """Per sequence at the reference number of KV heads."""
    kv_bytes_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillAttention:
    """One layer's attention over a chunk of a prompt."""

    call_microseconds: float
    token_nanoseconds: float
    """Per new token at the reference query width."""
    cached_token_nanoseconds: float
    """Per token already in the cache, likewise."""
    flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRates:
    """What one accelerator's kernels cost."""

    knots: tuple[Knot, ...]
    decode: DecodeAttention
    mixed_decode: DecodeAttention
    """Beside a prefill in the same step; FlashAttention 2 is slower there."""
    prefill: PrefillAttention
    grouped_flops: float
    """Operations per second of grouped products (experts), far below those of one matrix."""
    error_ratio: float
    """How far a step may be off, measured or estimated."""
    source: str


def _knots(*rows: tuple[int, float, float, float]) -> tuple[Knot, ...]:
    return tuple(Knot(*row) for row in rows)


_RTX_4090 = KernelRates(
    knots=_knots(
        (1, 2.089, 2.9, 8.5), (16, 2.118, 4.8, 9.7), (32, 2.293, 4.5, 9.7), (64, 2.275, 7.7, 10.3),
        (96, 2.468, 3.8, 13.3), (128, 2.801, 0.0, 12.8), (192, 2.809, 14.6, 20.0),
        (256, 3.531, 5.6, 23.6), (384, 5.053, 11.9, 33.6), (512, 6.762, 7.7, 45.9),
        (768, 9.770, 9.0, 74.1), (1024, 13.05, 7.6, 116.6), (1536, 19.03, 11.7, 193.4),
        (2048, 25.08, 16.2, 252.1),
    ),
    decode=DecodeAttention(
        call_microseconds=12.5, sequence_microseconds=0.241, kv_bytes_per_second=939e9
    ),
    mixed_decode=DecodeAttention(
        call_microseconds=0.0, sequence_microseconds=1.483, kv_bytes_per_second=455e9
    ),
    prefill=PrefillAttention(
        call_microseconds=0.0, token_nanoseconds=54.8, cached_token_nanoseconds=15.3, flops=136e12
    ),
    grouped_flops=66e12, error_ratio=0.06,
    source="kernel profile (LLMServingSim, RTX 4090, bf16)",
)  # fmt: skip
_RTX_PRO_6000 = KernelRates(
    knots=_knots(
        (1, 1.361, 2.5, 10.2), (16, 1.337, 3.2, 10.6), (32, 1.358, 5.5, 10.9),
        (64, 1.468, 2.2, 11.2), (96, 1.457, 6.7, 11.8), (128, 1.487, 6.3, 12.4),
        (192, 1.710, 4.1, 16.8), (256, 1.853, 9.3, 17.5), (384, 2.183, 21.5, 21.1),
        (512, 2.776, 22.7, 22.7), (768, 4.103, 22.0, 36.6), (1024, 5.140, 32.6, 53.9),
        (1536, 7.576, 36.6, 98.9), (2048, 9.712, 37.5, 137.8),
    ),
    decode=DecodeAttention(
        call_microseconds=13.0, sequence_microseconds=0.106, kv_bytes_per_second=1453e9
    ),
    mixed_decode=DecodeAttention(
        call_microseconds=0.0, sequence_microseconds=0.788, kv_bytes_per_second=927e9
    ),
    prefill=PrefillAttention(
        call_microseconds=0.0, token_nanoseconds=39.4, cached_token_nanoseconds=10.4, flops=303e12
    ),
    grouped_flops=168e12, error_ratio=0.06,
    source="kernel profile (LLMServingSim, RTX PRO 6000, bf16)",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Shares:
    """An accelerator by the shares of its data sheet's peaks that its kernels reach."""

    bandwidth_ratio: float
    flops_ratio: float
    prefill_floor_picoseconds: float
    """Per weight, beside the arithmetic: what p0 is in a fit of prefill."""
    sequence_microseconds: float
    kv_bandwidth_ratio: float
    attention_flops_ratio: float
    grouped_flops_ratio: float
    error_ratio: float
    source: str

    def rates(self, accelerator: Accelerator) -> KernelRates:
        """The rates of one accelerator at these shares."""
        memory = 2e12 / (accelerator.bandwidth_bytes_per_second * self.bandwidth_ratio)
        arithmetic = 2e12 / (accelerator.bf16_flops * self.flops_ratio)
        ridge = max(2, round((memory - self.prefill_floor_picoseconds) / arithmetic))
        counts = sorted({1, ridge, 256, 512, 1024, 2048, 4096})
        decode = DecodeAttention(
            call_microseconds=8.0,
            sequence_microseconds=self.sequence_microseconds,
            kv_bytes_per_second=accelerator.bandwidth_bytes_per_second * self.kv_bandwidth_ratio,
        )
        return KernelRates(
            knots=tuple(
                Knot(
                    tokens,
                    max(memory, self.prefill_floor_picoseconds + arithmetic * tokens),
                    1.0,
                    8.0,
                )
                for tokens in counts
            ),
            decode=decode,
            mixed_decode=decode,
            prefill=PrefillAttention(
                call_microseconds=8.0,
                token_nanoseconds=0.0,
                cached_token_nanoseconds=0.0,
                flops=accelerator.bf16_flops * self.attention_flops_ratio,
            ),
            grouped_flops=accelerator.bf16_flops * self.grouped_flops_ratio,
            error_ratio=self.error_ratio,
            source=self.source,
        )


_DATABASE = "kernel database (aiconfigurator-core 0.12, vLLM 0.24, bf16)"
_MEASURED_SHARES = {
    "H100": _Shares(0.745, 0.734, 0.43, 0.35, 0.92, 0.65, 0.45, 0.08, _DATABASE),
    "H200": _Shares(0.720, 0.722, 0.20, 0.45, 0.94, 0.63, 0.50, 0.08, _DATABASE),
    "A100-80": _Shares(0.650, 0.821, 1.12, 1.20, 0.76, 0.58, 0.29, 0.08, _DATABASE),
    "L40S": _Shares(0.790, 0.613, 1.38, 1.15, 0.80, 0.45, 0.48, 0.10, _DATABASE),
}
_UNMEASURED = "no kernel of it was measured: mean shares of six accelerators that were"


def kernel_rates(accelerator: Accelerator) -> KernelRates:
    """The rates of an accelerator; how sure they are is in ``error_ratio`` and ``source``."""
    measured = {"RTX-4090": _RTX_4090, "RTX-PRO-6000": _RTX_PRO_6000}.get(accelerator.name)
    if measured is not None:
        return measured
    shares = _MEASURED_SHARES.get(accelerator.name)
    if shares is None:
        floor = 0.4 * 2e12 / (accelerator.bandwidth_bytes_per_second * 0.75)
        shares = _Shares(0.75, 0.72, floor, 0.5, 0.87, 0.6, 0.40, 0.25, _UNMEASURED)
    return shares.rates(accelerator)
