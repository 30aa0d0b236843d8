"""What a model weighs: its formula, and the bytes of its files where they are known.

```text
both, within 1 %          the formula
both, farther apart       the larger, and that they are apart is said
a formula alone           the formula
bytes alone               the bytes, spread evenly: an unknown family, an unknown quantization
neither                   refused
```

Files may hold more than an engine loads: layers for multi-token prediction, a tied table twice,
32-bit values. What explains a difference is no difference. Towers beside the language model are
what the files have beside its text.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from memroute.errors import UnknownFormatError, UnknownWeightsError, UnsupportedShapeError
from memroute.footprint.architecture import ModelArchitecture
from memroute.footprint.weights.configs import stored_formats
from memroute.footprint.weights.formats import Quantization
from memroute.footprint.weights.model import mtp_bytes_per_rank, resolve_format
from memroute.footprint.weights.sharding import (
    SINGLE,
    Parallelism,
    bytes_by_stage,
    check_parallelism,
)
from memroute.footprint.weights.towers import has_towers, is_any_guessed, tower_bytes
from memroute.units import GIB, ceil_div

# How far formula and files may be apart before it is said: headers and padding are below it.
MAX_DIFFERENCE_RATIO = 0.01
# What is replicated (norms, routers, tables of a tied head) is unknown where bytes alone count, so
# a rank is taken to hold 5 % more than its even share. Chosen by hand.
REPLICATED_RATIO = 1.05
# Families whose files have a layer for multi-token prediction that their configuration leaves out.
UNSAID_PREDICTION = frozenset({"qwen3_next"})
# A tower's bytes by its shape: within 15 % for those that are known, and half for those that were
# read from fields whose names are not. The latter is chosen by hand.
TOWER_UNCERTAINTY_RATIO, GUESSED_UNCERTAINTY_RATIO = 0.15, 0.5


# What is said of a guess.
GUESSED = (
    "Its towers beside the language model are not known: their fields have other names, so they "
    "are guessed by their shape; the bytes of the checkpoint would tell."
)


class WeightsSource(StrEnum):
    """Where a number of bytes comes from; the value is shown in status."""

    FORMULA = "formula"
    CHECKPOINT = "checkpoint"
    """No formula fits, or the published files hold more than it says: their bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsEstimate:
    """Bytes of the weights on the fullest rank."""

    bytes_per_rank: int
    """Language model and towers."""
    vision_bytes: int
    """Of those, the towers: replicated on every rank."""
    source: WeightsSource
    is_vision_exact: bool
    """False where the towers' bytes come from their shape alone."""
    format_name: str
    vision_uncertainty_ratio: float = 0.0
    """By how much the towers' bytes may be off."""
    has_formula: bool = True
    """Whether each matrix is known: what a step reads is not, without."""
    note: str = ""
    """What a person should know: a sentence, or nothing."""


@lru_cache(maxsize=4096)
def weights_per_rank(
    architecture: ModelArchitecture,
    *,
    quantization: Quantization = Quantization.NONE,
    parallelism: Parallelism = SINGLE,
) -> WeightsEstimate:
    """Bytes of the weights on the fullest rank.

    Raises ``UnsupportedShapeError`` when the model cannot be split or stored so, and
    ``UnknownWeightsError`` when neither formula nor checkpoint say what it weighs.
    """
    if not architecture.is_exact:
        return _from_checkpoint(architecture, quantization, parallelism)
    try:
        formats = resolve_format(architecture, quantization)
    except UnknownFormatError as error:
        if architecture.checkpoint_bytes is None:
            raise
        note = f"{error.what} has no formula: weights are the bytes of the checkpoint."
        return _from_checkpoint(architecture, quantization, parallelism, note=note)
    text = max(bytes_by_stage(architecture, formats, parallelism))
    beside = _beside(architecture)
    ways = parallelism.tensor_parallel_size * parallelism.pipeline_parallel_size
    unexplained = beside.unexplained_bytes
    more = unexplained if ways == 1 else int(ceil_div(unexplained, ways) * REPLICATED_RATIO)
    return WeightsEstimate(
        bytes_per_rank=text + beside.tower_bytes + more,
        vision_bytes=beside.tower_bytes,
        source=WeightsSource.CHECKPOINT if more else WeightsSource.FORMULA,
        is_vision_exact=beside.uncertainty_ratio == 0,
        vision_uncertainty_ratio=beside.uncertainty_ratio,
        format_name=formats.name,
        note=beside.note,
    )


def _from_checkpoint(
    architecture: ModelArchitecture,
    quantization: Quantization,
    parallelism: Parallelism,
    *,
    note: str = "",
) -> WeightsEstimate:
    """The bytes of the files, split evenly, quantized as a whole if asked."""
    if architecture.checkpoint_bytes is None:
        raise UnknownWeightsError(architecture.family, "a known family")
    check_parallelism(architecture, parallelism)
    size = architecture.checkpoint_bytes
    name = "as published"
    if quantization is not Quantization.NONE:
        if architecture.quantization_config:
            msg = f"the checkpoint is quantized already, quantization={quantization} cannot be"
            raise UnsupportedShapeError(msg)
        # Tables stay at 16 bit and their share is unknown: a tenth is a generous guess.
        size = int(size * (0.1 + 0.9 * quantization.bits_per_weight / 16))
        name = quantization.value
    ways = parallelism.tensor_parallel_size * parallelism.pipeline_parallel_size
    share = size if ways == 1 else int(ceil_div(size, ways) * REPLICATED_RATIO)
    return WeightsEstimate(
        bytes_per_rank=share,
        vision_bytes=0,
        source=WeightsSource.CHECKPOINT,
        is_vision_exact=True,
        format_name=name,
        has_formula=False,
        note=note,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beside:
    """What comes on top of the text that the formula gives."""

    tower_bytes: int = 0
    uncertainty_ratio: float = 0.0
    unexplained_bytes: int = 0
    """What the files hold more, and nothing explains."""
    note: str = ""


@lru_cache(maxsize=1024)
def _beside(architecture: ModelArchitecture) -> _Beside:
    by_shape = tower_bytes(architecture)
    size = architecture.checkpoint_bytes
    if size is None:
        return _by_shape(architecture, by_shape)
    text = max(bytes_by_stage(architecture, stored_formats(architecture), SINGLE))
    if has_towers(architecture):
        return _towers_of_files(architecture, text, size, by_shape)
    held = _explained(architecture, text, size)
    if abs(size - held) <= MAX_DIFFERENCE_RATIO * held:
        return _Beside()
    return _Beside(unexplained_bytes=max(0, size - held), note=_apart(size, held))


def _by_shape(architecture: ModelArchitecture, by_shape: int) -> _Beside:
    if architecture.unknown_towers:
        missing = f"the shape of its {architecture.unknown_towers[0]} by names that are known"
        raise UnknownWeightsError(architecture.family, missing)
    if not by_shape:
        return _Beside()
    note = GUESSED if is_any_guessed(architecture) else ""
    return _Beside(tower_bytes=by_shape, uncertainty_ratio=_doubt(architecture), note=note)


def _towers_of_files(
    architecture: ModelArchitecture, text: int, size: int, by_shape: int
) -> _Beside:
    """The towers are what the files have beside the text, if that can be."""
    wide = 2 if architecture.is_stored_wide and not architecture.quantization_config else 1
    rest = size // wide - text
    mtp = _prediction_bytes(architecture)
    # Prediction layers are in the files, but not loaded.
    if rest - mtp > by_shape // 2:
        rest -= mtp
    ratio = _doubt(architecture) if by_shape else 0.0
    formula = text + by_shape
    # Towers of unknown shape explain whatever is left.
    unexplained = abs(rest - by_shape) - ratio * by_shape
    is_apart = unexplained > MAX_DIFFERENCE_RATIO * formula
    is_known = by_shape > 0 and not architecture.unknown_towers
    note = _apart(size // wide, formula) if is_apart and (is_known or rest < 0) else ""
    if rest >= by_shape // 2 and rest > 0:
        return _Beside(tower_bytes=rest, note=note)
    return _Beside(tower_bytes=by_shape, uncertainty_ratio=ratio, note=note)


def _doubt(architecture: ModelArchitecture) -> float:
    """By how much the towers' bytes by their shape may be off."""
    is_guessed = is_any_guessed(architecture)
    return GUESSED_UNCERTAINTY_RATIO if is_guessed else TOWER_UNCERTAINTY_RATIO


def _explained(architecture: ModelArchitecture, text: int, size: int) -> int:
    """Of what files of this model may hold, what is nearest to their bytes.

    Only what engines do not load may be more than the text.
    """
    mtp = _prediction_bytes(architecture)
    table = 2 * (architecture.vocab_size or 0) * architecture.hidden_size
    wide = architecture.is_stored_wide and not architecture.quantization_config
    found = {
        factor * (text + more + twice)
        for factor in ((1, 2) if wide else (1,))
        for more in {0, mtp}
        for twice in {0, table if architecture.tied_embeddings else 0}
    }
    return min(found, key=lambda held: (abs(held - size), held))


def _prediction_bytes(architecture: ModelArchitecture) -> int:
    """Bytes of the layers for multi-token prediction in the files; 0 where there are none."""
    if architecture.num_mtp_layers:
        return mtp_bytes_per_rank(architecture)
    if architecture.family in UNSAID_PREDICTION:
        return mtp_bytes_per_rank(replace(architecture, num_mtp_layers=1))
    return 0


def _apart(size: int, formula: int) -> str:
    """That they are apart, and which of them counts."""
    counts = "the files count" if size > formula else "the formula counts"
    return (
        f"The checkpoint has {size / GIB:.2f} GiB, its configuration makes {formula / GIB:.2f} "
        f"({size / formula - 1:+.1%}): {counts}, being larger."
    )
