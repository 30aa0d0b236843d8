"""Checkpoints as tools write them: the tensors of a model, by how each matrix is stored.

Independent of memroute's formulas: a list of matrices that a reader of transformers' source would
write down, and for each format the tensors that its tool stores (names, dtypes, shapes). What a
``safetensors`` header says of them is the truth that formulas are compared with.
"""

import json
from collections.abc import Callable, Iterator

DTYPE_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "U8": 1, "I8": 1, "I32": 4, "I64": 8}
Tensors = dict[str, tuple[str, tuple[int, ...]]]
Matrix = tuple[str, int, int]
"""Name, outputs, inputs."""


def llama_matrices(config: dict) -> Iterator[Matrix]:
    """The linear layers of a Llama or Qwen3-MoE, as their checkpoints name them."""
    h, heads = config["hidden_size"], config["num_attention_heads"]
    d = config.get("head_dim") or h // heads
    kv = config["num_key_value_heads"]
    for layer in range(config["num_hidden_layers"]):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        yield f"{attention}.q_proj", heads * d, h
        yield f"{attention}.k_proj", kv * d, h
        yield f"{attention}.v_proj", kv * d, h
        yield f"{attention}.o_proj", h, heads * d
        if "num_experts" not in config:
            yield from _mlp(mlp, h, config["intermediate_size"])
        for expert in range(config.get("num_experts", 0)):
            yield from _mlp(f"{mlp}.experts.{expert}", h, config["moe_intermediate_size"])


def _mlp(path: str, hidden: int, size: int) -> Iterator[Matrix]:
    yield f"{path}.gate_proj", size, hidden
    yield f"{path}.up_proj", size, hidden
    yield f"{path}.down_proj", hidden, size


def llama_rest(config: dict) -> Tensors:
    """Everything that is no linear layer: tables, norms, routers; at 16 bit."""
    h, vocabulary = config["hidden_size"], config["vocab_size"]
    found: Tensors = {
        "model.embed_tokens.weight": ("BF16", (vocabulary, h)),
        "model.norm.weight": ("BF16", (h,)),
    }
    for layer in range(config["num_hidden_layers"]):
        path = f"model.layers.{layer}"
        found[f"{path}.input_layernorm.weight"] = ("BF16", (h,))
        found[f"{path}.post_attention_layernorm.weight"] = ("BF16", (h,))
        if "num_experts" in config:
            found[f"{path}.mlp.gate.weight"] = ("BF16", (config["num_experts"], h))
            for norm in ("q_norm", "k_norm"):
                found[f"{path}.self_attn.{norm}.weight"] = ("BF16", (config["head_dim"],))
    return found


def plain(name: str, rows: int, columns: int) -> Tensors:
    """A matrix at 16 bit."""
    return {f"{name}.weight": ("BF16", (rows, columns))}


def gptq(bits: int, group: int) -> Callable[[str, int, int], Tensors]:
    """GPTQModel: 32-bit words along the inputs, packed zero points, the order of the groups."""

    def store(name: str, rows: int, columns: int) -> Tensors:
        groups = -(-columns // group) if group > 0 else 1
        return {
            f"{name}.qweight": ("I32", (columns * bits // 32, rows)),
            f"{name}.qzeros": ("I32", (groups, rows * bits // 32)),
            f"{name}.scales": ("F16", (groups, rows)),
            f"{name}.g_idx": ("I32", (columns,)),
        }

    return store


def awq(group: int) -> Callable[[str, int, int], Tensors]:
    """AutoAWQ: 32-bit words along the outputs."""

    def store(name: str, rows: int, columns: int) -> Tensors:
        return {
            f"{name}.qweight": ("I32", (columns, rows // 8)),
            f"{name}.qzeros": ("I32", (-(-columns // group), rows // 8)),
            f"{name}.scales": ("F16", (-(-columns // group), rows)),
        }

    return store


def packed(bits: int, group: int | None, *, symmetric: bool) -> Callable[[str, int, int], Tensors]:
    """compressed-tensors, pack-quantized: as many whole values as a 32-bit word holds."""

    def store(name: str, rows: int, columns: int) -> Tensors:
        values = 32 // bits
        groups = 1 if group is None else -(-columns // group)
        found: Tensors = {
            f"{name}.weight_packed": ("I32", (rows, -(-columns // values))),
            f"{name}.weight_scale": ("BF16", (rows, groups)),
            f"{name}.weight_shape": ("I64", (2,)),
        }
        if not symmetric:
            found[f"{name}.weight_zero_point"] = ("I32", (-(-rows // values), groups))
        return found

    return store


def byte_channel(dtype: str) -> Callable[[str, int, int], Tensors]:
    """compressed-tensors, float- and int-quantized: a byte for each value, a scale per row."""

    def store(name: str, rows: int, columns: int) -> Tensors:
        return {
            f"{name}.weight": (dtype, (rows, columns)),
            f"{name}.weight_scale": ("BF16", (rows, 1)),
        }

    return store


def fp8_block(name: str, rows: int, columns: int) -> Tensors:
    """DeepSeek's and Qwen's: a 32-bit scale for each block of 128 x 128."""
    blocks = (-(-rows // 128), -(-columns // 128))
    return {
        f"{name}.weight": ("F8_E4M3", (rows, columns)),
        f"{name}.weight_scale_inv": ("F32", blocks),
    }


def fp8_tensor(name: str, rows: int, columns: int) -> Tensors:
    """ModelOpt's FP8: one scale for the weights, one for what goes in."""
    return {
        f"{name}.weight": ("F8_E4M3", (rows, columns)),
        f"{name}.weight_scale": ("F32", ()),
        f"{name}.input_scale": ("F32", ()),
    }


def nvfp4(name: str, rows: int, columns: int) -> Tensors:
    """ModelOpt's NVFP4: two values in a byte, an FP8 scale for 16, scalars beside."""
    return {
        f"{name}.weight": ("U8", (rows, columns // 2)),
        f"{name}.weight_scale": ("F8_E4M3", (rows, columns // 16)),
        f"{name}.weight_scale_2": ("F32", ()),
        f"{name}.input_scale": ("F32", ()),
    }


def nf4(name: str, rows: int, columns: int) -> Tensors:
    """Bitsandbytes NF4 with quantized scales."""
    blocks = -(-rows * columns // 64)
    return {
        f"{name}.weight": ("U8", (rows * columns // 2, 1)),
        f"{name}.weight.absmax": ("U8", (blocks,)),
        f"{name}.weight.nested_absmax": ("F32", (-(-blocks // 256),)),
        f"{name}.weight.nested_quant_map": ("F32", (256,)),
        f"{name}.weight.quant_map": ("F32", (16,)),
        f"{name}.weight.quant_state.bitsandbytes__nf4": ("U8", (94,)),
    }


def int8_rows(name: str, rows: int, columns: int) -> Tensors:
    """Bitsandbytes LLM.int8(): a 32-bit scale for each row."""
    return {f"{name}.weight": ("I8", (rows, columns)), f"{name}.SCB": ("F32", (rows,))}


def header(tensors: Tensors) -> str:
    """The JSON header of a ``.safetensors`` file that holds the tensors."""
    document, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in tensors.items():
        size = DTYPE_BYTES[dtype]
        for dimension in shape:
            size *= dimension
        document[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    return json.dumps(document)


def checkpoint(
    config: dict, store: Callable[[str], Callable[[str, int, int], Tensors] | None]
) -> Tensors:
    """All tensors of a model. ``store``: how the matrix of a name is stored; None: at 16 bit."""
    found = llama_rest(config)
    matrices = list(llama_matrices(config))
    if not config.get("tie_word_embeddings"):
        matrices.append(("lm_head", config["vocab_size"], config["hidden_size"]))
    for name, rows, columns in matrices:
        found |= (store(name) or plain)(name, rows, columns)
    return found
