"""A GGUF file's header: what the model is made of, and what each tensor weighs, to the byte.

```text
"GGUF" version(u32) tensors(u64) pairs(u64)
pairs    key(string) type(u32) value            string: length(u64) bytes; array: type count values
tensors  name(string) dims(u32) dim(u64)… type(u32) offset(u64)
```

Little-endian throughout (version 2 and 3). Only the header is needed, some megabytes at the most:
a Range request of a hub's file will do. Arrays of texts (a vocabulary) are counted and not kept.
Sources: ``gguf-py``, ``ggml-common.h``, ``src/llama-hparams.cpp`` of b11434.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from memroute.errors import InvalidConfigError, MemrouteError, UnsupportedShapeError
from memroute.footprint.architecture import (
    MLP,
    Attention,
    LatentAttention,
    Layer,
    Mixer,
    MixtureOfExperts,
    ModelArchitecture,
)
from memroute.units import ceil_div

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Bounds on what is read of a file that anybody may have written: pairs, tensors, elements.
MAX_PAIRS = 100_000
MAX_TENSORS = 1_000_000
MAX_ELEMENTS = 10_000_000
# Numbers by their type: struct's letter. 8 is a text, 9 an array.
_NUMBERS: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_TEXT, _ARRAY = 8, 9
# Elements of a block, and its bytes, by ggml's number of the type.
BLOCKS: Final[Mapping[int, tuple[int, int]]] = MappingProxyType({
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 40), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8),
    28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
})  # fmt: skip


class GGUFError(MemrouteError):
    """The bytes are no GGUF header, or one that makes no sense."""


class IncompleteGGUFError(GGUFError):
    """The header goes on past the bytes that were given: read more of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFTensor:
    """One tensor, by the header."""

    name: str
    shape: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFHeader:
    """What the header of a file says."""

    metadata: Mapping[str, Any]
    """Values by key; of an array of texts, how many they are."""
    tensors: tuple[GGUFTensor, ...]

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors: what loading the file takes."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    @property
    def family(self) -> str:
        """``general.architecture``; empty where it does not say."""
        return str(self.metadata.get("general.architecture") or "")


def read_gguf_header(data: bytes) -> GGUFHeader:
    """The header at the beginning of ``data``.

    Raises ``IncompleteGGUFError`` when it is longer, and ``GGUFError`` when it is none.
    """
    if data[:4] != MAGIC[: len(data[:4])]:
        message = f"it does not begin with {MAGIC.decode()}: no GGUF file"
        raise GGUFError(message)
    reader = _Reader(data)
    reader.at = 4
    version, num_tensors, num_pairs = reader.unpack("<IQQ")
    if version not in VERSIONS:
        message = f"version {version} of GGUF is not known; {VERSIONS[0]} and {VERSIONS[1]} are"
        raise GGUFError(message)
    if num_pairs > MAX_PAIRS or num_tensors > MAX_TENSORS:
        message = f"{num_pairs} pairs and {num_tensors} tensors are no model's header"
        raise GGUFError(message)
    metadata: dict[str, Any] = {}
    for _ in range(num_pairs):
        key = reader.text()
        metadata[key] = reader.value(reader.unpack("<I")[0])
    tensors = tuple(reader.tensor() for _ in range(num_tensors))
    return GGUFHeader(metadata=MappingProxyType(metadata), tensors=tensors)


class _Reader:
    """The bytes, and how far they have been read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def unpack(self, form: str) -> tuple[Any, ...]:
        size = struct.calcsize(form)
        return struct.unpack(form, self.take(size))

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self._data):
            message = f"the header goes on past {len(self._data)} bytes"
            raise IncompleteGGUFError(message)
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def text(self) -> str:
        return self.take(self.unpack("<Q")[0]).decode(errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.unpack("<IQ")
            if count > MAX_ELEMENTS:
                message = f"an array of {count} elements is no header's"
                raise GGUFError(message)
            return self._array(inner, count)
        letter = _NUMBERS.get(kind)
        if letter is None:
            message = f"type {kind} of a value is not known"
            raise GGUFError(message)
        return self.unpack(f"<{letter}")[0]

    def _array(self, inner: int, count: int) -> Any:
        if inner == _TEXT:
            for _ in range(count):
                self.take(self.unpack("<Q")[0])
            return count
        letter = _NUMBERS.get(inner)
        if letter is None:
            message = f"an array of type {inner} is not known"
            raise GGUFError(message)
        return list(self.unpack(f"<{count}{letter}"))

    def tensor(self) -> GGUFTensor:
        name = self.text()
        (num_dims,) = self.unpack("<I")
        if num_dims > 8:  # noqa: PLR2004 - ggml has four
            message = f"tensor {name!r:.80} has {num_dims} dimensions"
            raise GGUFError(message)
        shape = self.unpack(f"<{num_dims}Q")
        kind, _offset = self.unpack("<IQ")
        block = BLOCKS.get(kind)
        if block is None:
            message = f"tensor {name!r:.80} is of type {kind}, which is not known"
            raise GGUFError(message)
        count = 1
        for one in shape:
            count *= one
        elements, size = block
        return GGUFTensor(name=name, shape=shape, num_bytes=ceil_div(count, elements) * size)


# What states are told by: an architecture that carries them has a cache that grows by sequences.
_STATE_KEYS = ("ssm.state_size", "wkv.head_size", "shortconv.l_cache")


def architecture_from_gguf(
    header: GGUFHeader, checkpoint_bytes: int | None = None
) -> ModelArchitecture:
    """The model that a GGUF file holds; its weights are the file's tensors.

    ``checkpoint_bytes``: those of all files, where it is one of several parts.

    Windows are left out: memroute has llama.cpp keep them in full (``--swa-full``), since only
    then it can use a prompt's cache again. Where keys and values differ in size, a head is taken
    to have half of both together. Raises ``InvalidConfigError`` where the header lacks what
    decides the cache, and ``UnsupportedShapeError`` for recurrent states.
    """
    fields = _Fields(header)
    for key in _STATE_KEYS:
        if fields.raw(key) is not None:
            message = (
                f"{header.family} carries recurrent states ({header.family}.{key}); memroute has "
                f"no rule for how llama.cpp keeps them: serve the model with vLLM"
            )
            raise UnsupportedShapeError(message)
    num_layers = fields.positive("block_count")
    # Layers that only predict ahead are in the file, and cache nothing while nobody speculates.
    num_layers -= fields.count("nextn_predict_layers")
    hidden = fields.positive("embedding_length")
    layers = tuple(
        Layer(mixer=_mixer(fields, index, hidden), feed_forwards=_feed_forwards(fields, index))
        for index in range(num_layers)
    )
    vocabulary = header.metadata.get("tokenizer.ggml.tokens") or fields.raw("vocab_size")
    return ModelArchitecture(
        family=header.family,
        hidden_size=hidden,
        layers=layers,
        max_context_tokens=fields.count("context_length") or None,
        vocab_size=vocabulary if isinstance(vocabulary, int) else None,
        checkpoint_bytes=checkpoint_bytes or header.tensor_bytes or None,
        is_exact=False,
    )


class _Fields:
    """The fields of the model's own architecture, whole numbers checked."""

    def __init__(self, header: GGUFHeader) -> None:
        self._header = header

    def raw(self, name: str) -> Any:
        return self._header.metadata.get(self._key(name))

    def _key(self, name: str) -> str:
        return f"{self._header.family}.{name}"

    def count(self, name: str, index: int | None = None) -> int:
        """A number from 0; 0 where it is not there; of an array, the layer's."""
        value = self.raw(name)
        if isinstance(value, list) and index is not None:
            value = value[index] if index < len(value) else None
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidConfigError(self._key(name), value, "a number from 0")
        return value

    def positive(self, name: str, index: int | None = None) -> int:
        value = self.count(name, index)
        if not value:
            raise InvalidConfigError(self._key(name), None, "a positive number")
        return value


def _mixer(fields: _Fields, index: int, hidden: int) -> Mixer | None:
    num_heads = fields.count("attention.head_count", index)
    if not num_heads:
        return None  # a layer without attention
    kv_heads = fields.count("attention.head_count_kv", index) or num_heads
    if fields.raw("attention.head_count_kv") is not None:
        kv_heads = fields.count("attention.head_count_kv", index)
        if not kv_heads:
            return None
    rank = fields.count("attention.kv_lora_rank")
    if rank and fields.raw("attention.key_length_mla") is not None:
        key_dim = fields.positive("attention.key_length")
        return LatentAttention(
            num_heads=num_heads, query_rank=None, kv_lora_rank=rank, nope_head_dim=0,
            rope_head_dim=max(0, key_dim - rank), value_head_dim=rank,
        )  # fmt: skip
    key_dim = fields.count("attention.key_length") or hidden // num_heads
    value_dim = fields.count("attention.value_length") or hidden // num_heads
    return Attention(
        num_heads=num_heads, num_kv_heads=kv_heads, head_dim=ceil_div(key_dim + value_dim, 2)
    )


def _feed_forwards(fields: _Fields, index: int) -> tuple[MixtureOfExperts | MLP, ...] | None:
    """The widths, for the buffers of a step."""
    experts, used = fields.count("expert_count"), fields.count("expert_used_count")
    width = fields.count("expert_feed_forward_length")
    if experts and used and width:
        return (
            MixtureOfExperts(
                num_experts=experts, num_experts_per_token=used, intermediate_size=width,
                shared_intermediate_size=width * fields.count("expert_shared_count"),
            ),
        )  # fmt: skip
    dense = fields.count("feed_forward_length", index)
    return (MLP(intermediate_size=dense),) if dense else None
