"""The ways to run a model on one kind of accelerator, and the first that is good enough.

A replica that is given whole devices turns all that is left into KV cache. An option fits when
that holds the wanted sequences of the whole context. The highest precision that fits wins, on
the fewest devices: quality first, then cost.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from memroute.bandwidth import Throughput, link_of, throughput_of
from memroute.catalog import Accelerator
from memroute.errors import UnknownWeightsError, UnsupportedShapeError
from memroute.footprint import (
    Calibration,
    CalibrationKey,
    EngineType,
    KVCacheDtype,
    LengthShare,
    ModelArchitecture,
    Quantization,
    ReplicaFootprint,
    ReplicaShape,
    replica_footprint,
)
from memroute.footprint.calibration import StartLog
from memroute.footprint.weights import resolve_format
from memroute.hierarchy import HOST_LINKS, HostLink, WeightsOffload, host_link_of
from memroute.units import format_gib

MAX_LOG_WEIGHTS_RATIO = 0.08
# Loaded weights lie within 7 % of the formula: farther off, the log is of another shape.
TENSOR_PARALLEL_SIZES = (1, 2, 4, 8)
PRECISIONS = (Quantization.NONE, Quantization.FP8, Quantization.AWQ)
"""From the highest down; AWQ stands for any 4-bit checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What somebody wants to run, and what traffic it gets."""

    architecture: ModelArchitecture
    max_context_tokens: int
    concurrency: int
    """Sequences of the whole context that must fit at once."""
    prompt_tokens: int
    output_tokens: int
    """Of a usual request: what users and rates are counted in."""
    quantization: Quantization | None = None
    """None: the highest that fits."""
    kv_cache_dtype: KVCacheDtype = KVCacheDtype.AUTO
    tensor_parallel_size: int | None = None
    """None: the fewest devices that fit."""
    engine: EngineType = EngineType.VLLM
    """What serves it."""
    links: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What joins the devices of a node, by accelerator (``link_of``); not known where missing."""
    start_log: StartLog | None = None
    """What an engine of this model has logged: its overheads replace the laws."""
    weights_on_host_bytes: int = 0
    """Of each device's weights, what stays on the host and is read in every step."""
    host_link: HostLink | None = None
    """How a device reaches its host; None: as its data sheet says."""

    @property
    def shape(self) -> ReplicaShape:
        """As asked; one device and the checkpoint's precision where nothing was."""
        return ReplicaShape(
            architecture=self.architecture,
            max_context_tokens=self.max_context_tokens,
            concurrency=self.concurrency,
            quantization=self.quantization or Quantization.NONE,
            kv_cache_dtype=self.kv_cache_dtype,
            tensor_parallel_size=self.tensor_parallel_size or 1,
            engine=self.engine,
            weights_on_host_bytes=self.weights_on_host_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to run it, on whole devices."""

    accelerator: Accelerator
    shape: ReplicaShape
    footprint: ReplicaFootprint
    precision: str
    """How the linear layers are stored: ``bf16``, ``fp8``, ``int4``, …"""
    pool_bytes: int
    """What is left for KV cache on each device; 0 when not even the weights fit."""
    kv_capacity_tokens: int
    num_users: int
    """Usual requests that the pool holds at once, at their final length."""
    longest_context_tokens: int
    """The longest sequence that the pool holds, up to what was asked."""
    throughput: Throughput | None
    """With that many users; None where nothing fits, and for a family without formulas."""

    @property
    def num_devices(self) -> int:
        """Accelerators of one replica."""
        return self.footprint.num_devices

    @property
    def fits(self) -> bool:
        """Whether the wanted sequences fit at once."""
        return self.pool_bytes >= self.footprint.kv_cache_bytes

    @property
    def missing_bytes(self) -> int:
        """How much each device is short of; 0 when it fits."""
        return max(0, self.footprint.total_bytes - self.accelerator.usable_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoOption:
    """Why nothing fits on an accelerator, and what would make it fit."""

    accelerator: Accelerator
    reason: str
    suggestions: tuple[str, ...]


def answer(question: Question, accelerator: Accelerator) -> Option | NoOption:
    """The best way to run it there, or why there is none.

    Precision is given up last: the highest that fits, on the fewest devices.
    """
    closest: Option | None = None
    refusal = "the model cannot be split so"
    if accelerator.is_slice and (question.tensor_parallel_size or 1) > 1:
        refusal = f"a group of {question.tensor_parallel_size} cannot span several MIG slices"
    for quantization, size in _candidates(question, accelerator):
        try:
            option = _option(question, accelerator, quantization, size)
        except (UnsupportedShapeError, UnknownWeightsError) as error:
            refusal = str(error)
            continue
        if option.fits:
            return option
        if closest is None or option.missing_bytes < closest.missing_bytes:
            closest = option
    if closest is None:
        return NoOption(accelerator=accelerator, reason=refusal, suggestions=())
    devices = "1 device" if closest.num_devices == 1 else f"{closest.num_devices} devices"
    return NoOption(
        accelerator=accelerator,
        reason=(
            f"closest is {closest.precision} on {devices}: needs "
            f"{format_gib(closest.footprint.total_bytes)} per device, "
            f"short by {format_gib(closest.missing_bytes)}"
        ),
        suggestions=_suggestions(question, accelerator),
    )


def options_for(question: Question, accelerator: Accelerator) -> Iterator[Option]:
    """Every way to run it there, fitting or not, by falling precision and rising devices."""
    for quantization, size in _candidates(question, accelerator):
        try:
            yield _option(question, accelerator, quantization, size)
        except (UnsupportedShapeError, UnknownWeightsError):
            continue


def _candidates(question: Question, accelerator: Accelerator) -> Iterator[tuple[Quantization, int]]:
    """A slice serves alone: no group spans several."""
    precisions = PRECISIONS if question.quantization is None else (question.quantization,)
    given = question.tensor_parallel_size
    sizes: tuple[int, ...] = TENSOR_PARALLEL_SIZES if given is None else (given,)
    if accelerator.is_slice:
        sizes = tuple(size for size in sizes if size == 1)
    for quantization in precisions:
        for size in sizes:
            yield quantization, size


def _option(
    question: Question, accelerator: Accelerator, quantization: Quantization, size: int
) -> Option:
    shape = replace(question.shape, quantization=quantization, tensor_parallel_size=size)
    footprint = _footprint(shape, question.start_log)
    budget = accelerator.usable_bytes - footprint.outside_bytes
    pool = footprint.kv_cache_bytes_within(budget)
    layout = footprint.kv_layout
    usual = question.prompt_tokens + question.output_tokens
    users = layout.num_sequences_within(pool, [LengthShare(tokens=usual)])
    throughput = None
    weights = footprint.weights_estimate
    if users and weights.has_formula:
        # Half of the answer is there on average; the engine runs no more than its limit.
        throughput = throughput_of(
            shape,
            accelerator,
            num_sequences=shape.max_num_seqs,
            context_tokens=question.prompt_tokens + question.output_tokens // 2,
            max_sequences=users,
            link=link_of(question.links.get(accelerator.name), accelerator),
            host_read_seconds=_host_read_seconds(question, accelerator, size),
        )
    return Option(
        accelerator=accelerator,
        shape=shape,
        footprint=footprint,
        precision=(
            resolve_format(shape.architecture, quantization).name
            if weights.has_formula
            else weights.format_name
        ),
        pool_bytes=pool,
        kv_capacity_tokens=layout.capacity_tokens(pool, question.max_context_tokens),
        num_users=users,
        longest_context_tokens=layout.longest_context_tokens(pool, question.max_context_tokens),
        throughput=throughput,
    )


def _host_read_seconds(question: Question, accelerator: Accelerator, num_devices: int) -> float:
    if not question.weights_on_host_bytes:
        return 0.0
    link = question.host_link or host_link_of(accelerator)
    if link is None:
        names = ", ".join(one.name for one in HOST_LINKS)
        msg = (
            f"no data sheet says how {accelerator.name} reaches its host: name it by --host-link "
            f"({names})"
        )
        raise UnsupportedShapeError(msg)
    offload = WeightsOffload(
        bytes_per_device=question.weights_on_host_bytes, num_devices=num_devices
    )
    return offload.read_seconds(link)


def _footprint(shape: ReplicaShape, log: StartLog | None) -> ReplicaFootprint:
    """By the laws; by the log where it was written by an engine of as many ranks and bits."""
    footprint = replica_footprint(shape)
    if log is None:
        return footprint
    loaded, formula = log.weights_bytes, footprint.weights.low
    if loaded is not None and abs(loaded - formula) > MAX_LOG_WEIGHTS_RATIO * formula:
        return footprint
    overhead = log.overhead_bytes(formula)
    if overhead is None:
        return footprint
    key = CalibrationKey(model="", engine="", flags="", product="")
    calibration = Calibration(key=key, overhead_bytes=overhead, expected_overhead_bytes=overhead)
    return replica_footprint(shape, calibration)


def _suggestions(question: Question, accelerator: Accelerator) -> tuple[str, ...]:
    """Single changes of the question that have an option, the mildest first."""
    found = []
    for words, changed in _changes(question):
        for option in options_for(changed, accelerator):
            if option.fits:
                found.append(words)
                break
    # Of several contexts (or numbers of users) that fit, the largest comes first: keep it.
    first: dict[str, str] = {}
    for words in found:
        first.setdefault(words.split(" ")[0], words)
    return tuple(first.values())


def _changes(question: Question) -> Iterator[tuple[str, Question]]:
    if not question.shape.is_cache_quantized:
        yield "--kv-cache-dtype fp8", replace(question, kv_cache_dtype=KVCacheDtype.FP8)
    if question.tensor_parallel_size is not None:
        yield "--tensor-parallel auto", replace(question, tensor_parallel_size=None)
    if question.quantization is not None:
        yield "--precision auto", replace(question, quantization=None)
    value = question.concurrency // 2
    while value >= 1:
        yield f"--concurrency {value}", replace(question, concurrency=value)
        value //= 2
    value = question.max_context_tokens // 2
    while value >= 1024:  # noqa: PLR2004 - below this it is not an answer any more
        yield f"--context {value}", replace(question, max_context_tokens=value)
        value //= 2
