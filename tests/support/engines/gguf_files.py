"""GGUF files by the standard library alone: a tiny random Llama that llama.cpp loads and serves."""

import random
import struct
from dataclasses import dataclass

ALIGNMENT = 32
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
F32, F16 = 0, 1
# <unk>, <s>, </s>, one token for each byte, and the letters with a space before them.
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *(
    f"▁{chr(97 + i)}" for i in range(26)
)]  # fmt: skip
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


@dataclass(frozen=True, kw_only=True)
class TinyLlama:
    """Its sizes."""

    layers: int = 2
    hidden: int = 64
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 32
    intermediate: int = 128
    vocabulary: int = len(TOKENS)
    context: int = 4096

    def metadata(self):
        """Key → (type, value), as a converter writes them."""
        padding = [f"<pad{i}>" for i in range(self.vocabulary - len(TOKENS))]
        tokens = TOKENS + padding
        kinds = [2, 3, 3] + [6] * 256 + [1] * 26 + [5] * len(padding)
        scores = [0.0] * len(tokens)
        return {
            "general.architecture": (STRING, "llama"),
            "general.name": (STRING, "tiny-random"),
            "general.file_type": (UINT32, 1),
            "llama.context_length": (UINT32, self.context),
            "llama.embedding_length": (UINT32, self.hidden),
            "llama.block_count": (UINT32, self.layers),
            "llama.feed_forward_length": (UINT32, self.intermediate),
            "llama.attention.head_count": (UINT32, self.heads),
            "llama.attention.head_count_kv": (UINT32, self.kv_heads),
            "llama.attention.key_length": (UINT32, self.head_dim),
            "llama.attention.value_length": (UINT32, self.head_dim),
            "llama.attention.layer_norm_rms_epsilon": (FLOAT32, 1e-5),
            "llama.rope.dimension_count": (UINT32, self.head_dim),
            "llama.vocab_size": (UINT32, self.vocabulary),
            "tokenizer.ggml.model": (STRING, "llama"),
            "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
            "tokenizer.ggml.scores": (ARRAY, (FLOAT32, scores)),
            "tokenizer.ggml.token_type": (ARRAY, (INT32, kinds)),
            "tokenizer.ggml.bos_token_id": (UINT32, 1),
            "tokenizer.ggml.eos_token_id": (UINT32, 2),
            "tokenizer.ggml.unknown_token_id": (UINT32, 0),
            "tokenizer.ggml.add_bos_token": (BOOL, True),
            "tokenizer.chat_template": (STRING, TEMPLATE),
        }

    def tensors(self):
        """Name, shape (inputs first, as GGUF has it), type."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield "token_embd.weight", (self.hidden, self.vocabulary), F16
        yield "output_norm.weight", (self.hidden,), F32
        yield "output.weight", (self.hidden, self.vocabulary), F16
        for index in range(self.layers):
            block = f"blk.{index}."
            yield block + "attn_norm.weight", (self.hidden,), F32
            yield block + "ffn_norm.weight", (self.hidden,), F32
            yield block + "attn_q.weight", (self.hidden, wide), F16
            yield block + "attn_k.weight", (self.hidden, narrow), F16
            yield block + "attn_v.weight", (self.hidden, narrow), F16
            yield block + "attn_output.weight", (wide, self.hidden), F16
            yield block + "ffn_gate.weight", (self.hidden, self.intermediate), F16
            yield block + "ffn_up.weight", (self.hidden, self.intermediate), F16
            yield block + "ffn_down.weight", (self.intermediate, self.hidden), F16


def header(metadata, tensors):
    """The header of a file: everything before its data."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, (kind, value) in metadata.items():
        parts += [_string(key), struct.pack("<I", kind), _value(kind, value)]
    offset = 0
    for name, shape, kind in tensors:
        parts += [
            _string(name),
            struct.pack("<I", len(shape)),
            struct.pack(f"<{len(shape)}Q", *shape),
        ]
        parts.append(struct.pack("<IQ", kind, offset))
        offset += _padded(_size(shape, kind))
    whole = b"".join(parts)
    return whole + bytes(_padded(len(whole)) - len(whole))


def tiny_gguf(path, shape=None):
    """Write the file; its tensors' bytes."""
    shape = shape or TinyLlama()
    tensors = list(shape.tensors())
    rng = random.Random(0)
    # 64 random halves between -0.1 and 0.1, over and over: random enough to generate text.
    noise = struct.pack("<64e", *(rng.uniform(-0.1, 0.1) for _ in range(64)))
    total = 0
    with path.open("wb") as file:
        file.write(header(shape.metadata(), tensors))
        for _, dims, kind in tensors:
            size = _size(dims, kind)
            ones = struct.pack("<f", 1.0) * (size // 4)
            data = ones if kind == F32 else (noise * (size // len(noise) + 1))[:size]
            file.write(data + bytes(_padded(size) - size))
            total += size
    return total


def _size(shape, kind):
    count = 1
    for one in shape:
        count *= one
    return count * (4 if kind == F32 else 2)


def _padded(size):
    return -(-size // ALIGNMENT) * ALIGNMENT


def _string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(kind, value):
    if kind == STRING:
        return _string(value)
    if kind == ARRAY:
        inner, values = value
        return struct.pack("<IQ", inner, len(values)) + b"".join(_value(inner, v) for v in values)
    return struct.pack({UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}[kind], value)
