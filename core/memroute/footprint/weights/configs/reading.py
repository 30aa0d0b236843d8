"""Fields of a quantization configuration that anybody may have written."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from memroute.errors import UnknownFormatError, UnsupportedShapeError
from memroute.footprint.weights.formats import SIXTEEN_BIT, WeightFormat
from memroute.footprint.weights.patterns import module_list
from memroute.footprint.weights.stored import ANY_MATRIX, Rule

Config = Mapping[str, Any]
# Bits of one weight that anything stores.
MIN_BITS, MAX_BITS = 1, 32


def refuse(what: str) -> NoReturn:
    """Raises ``UnknownFormatError``: better no number than a wrong one."""
    raise UnknownFormatError(what)


def mapping(value: object) -> Config:
    """An object, empty for anything else."""
    return value if isinstance(value, Mapping) else {}


def whole(value: object, default: int) -> int:
    """A number of bits or weights; ``default`` for nothing. Raises ``UnsupportedShapeError``."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _no_number(value)
    try:
        return int(value)
    except (ValueError, OverflowError) as error:
        raise _no_number(value) from error


def _no_number(value: object) -> UnsupportedShapeError:
    return UnsupportedShapeError(f"quantization_config: {value!r:.80} is no number of weights")


def is_false(value: object) -> bool:
    """Whether a flag is off, also where it is written as a text."""
    return value is False or str(value).lower() in ("false", "0")


def bits_of(value: object, default: int = 16) -> int:
    """Bits of one weight. Raises ``UnsupportedShapeError``."""
    bits = whole(value, default)
    if not MIN_BITS <= bits <= MAX_BITS:
        msg = f"quantization_config: {bits} bits are no weight"
        raise UnsupportedShapeError(msg)
    return bits


def group_of(value: object, default: int | None = None) -> int | None:
    """Weights of a group; None where a whole channel shares one scale (-1, 0)."""
    size = whole(value, default or 0)
    return size if size > 0 else None


def pair(value: object) -> tuple[int, int] | None:
    """The shape of a block (``[128, 128]``, older ``128x128``), or None."""
    if isinstance(value, str) and value.count("x") == 1:
        value = value.split("x")
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:  # noqa: PLR2004
        return None
    rows, columns = whole(value[0], 0), whole(value[1], 0)
    return (rows, columns) if rows > 0 and columns > 0 else None


def texts(value: object) -> Iterator[str]:
    """The texts of a list, and of lists in it; the names of an object."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from map(str, value)
    elif isinstance(value, Sequence):
        for one in value:
            yield from texts(one)


def exclusions(config: Config, *fields: str) -> tuple[Rule, ...]:
    """The rule of what is left at 16 bit; none where nothing is."""
    said = (text for field in fields for text in texts(config.get(field)))
    listed = module_list(said, is_exclusion=True)
    if not listed:
        return ()
    return (Rule(form=SIXTEEN_BIT, modules=listed, kinds=ANY_MATRIX, is_exclusion=True),)


def integers(
    bits: int, group_size: int | None, *, zero_point_bits: int = 0, bits_per_input: int = 0
) -> WeightFormat:
    """Integers in groups with a 16-bit scale; 16 bit and more are not quantized."""
    if bits >= SIXTEEN_BIT.bits:
        return SIXTEEN_BIT
    return WeightFormat(
        name=f"int{bits}", bits=bits, group_size=group_size, scale_bits=16,
        zero_point_bits=zero_point_bits, bits_per_input=bits_per_input,
    )  # fmt: skip
