"""NVIDIA ModelOpt: one algorithm for all that is not excluded, or one for each module.

``config.json`` has it inline (``ignore``), ``hf_quant_config.json`` one level deeper
(``exclude_modules``). The output head is quantized where a list of exclusions is given and does
not name it, as vLLM 0.32 has it (``modelopt.py``); without a list it is left alone, as ModelOpt
does by default. MIXED_PRECISION: what ``quantized_layers`` does not name is at 16 bit.
"""

from dataclasses import replace

from memroute.footprint.weights.configs.compressed_tensors import compressed_tensors
from memroute.footprint.weights.configs.reading import (
    Config,
    exclusions,
    group_of,
    mapping,
    refuse,
)
from memroute.footprint.weights.formats import (
    FP8_BLOCK,
    FP8_CHANNEL,
    FP8_TENSOR,
    INT4_GROUP,
    INT8_CHANNEL,
    MXFP4,
    MXFP8,
    NVFP4,
    WeightFormat,
)
from memroute.footprint.weights.patterns import module_list
from memroute.footprint.weights.stored import ANY_MATRIX, LINEAR_AND_HEAD, LINEAR_ONLY, Rule

MIXED = "MIXED_PRECISION"
_EXCLUDED = ("exclude_modules", "ignore")
_ALGORITHMS = {
    "FP8": FP8_TENSOR, "FP8_PER_CHANNEL_PER_TOKEN": FP8_CHANNEL, "FP8_PB_WO": FP8_BLOCK,
    "FP8_BLOCK_SCALES": FP8_BLOCK, "FP8_PB_REAL": FP8_BLOCK, "MXFP8": MXFP8,
    "NVFP4": NVFP4, "W4A16_NVFP4": NVFP4, "NVFP4_AWQ": NVFP4, "W4A8_NVFP4_FP8": NVFP4,
    "MXFP4": MXFP4, "W4A8_MXFP4_FP8": MXFP4,
    "W4A16_AWQ": INT4_GROUP, "W4A16": INT4_GROUP, "W4A8_AWQ": INT4_GROUP, "INT4_AWQ": INT4_GROUP,
    "W8A16": INT8_CHANNEL, "INT8_SQ": INT8_CHANNEL, "W8A8_SQ_PER_CHANNEL": INT8_CHANNEL,
}  # fmt: skip
_NARROW_GROUPS = ("nvfp4", "mxfp4", "mxfp8", "int4")


def modelopt(config: Config) -> tuple[Rule, ...]:
    """The rules. Raises ``UnsupportedShapeError`` for an algorithm without a formula."""
    inner = mapping(config.get("quantization")) or config
    algorithm = str(inner.get("quant_algo") or "").upper()
    excluded = exclusions(inner, *_EXCLUDED)
    if algorithm == MIXED:
        return (*excluded, *_mixed(inner))
    if not algorithm and inner.get("config_groups"):
        return compressed_tensors(inner)
    if algorithm in ("", "NONE", "NO_QUANTIZATION") and _says_cache(inner):
        return ()
    form = _form(algorithm, inner)
    is_listed = any(inner.get(field) is not None for field in _EXCLUDED)
    return (*excluded, Rule(form=form, kinds=LINEAR_AND_HEAD if is_listed else LINEAR_ONLY))


def _says_cache(inner: Config) -> bool:
    return any(inner.get(field) for field in ("kv_cache_quant_algo", "kv_cache_scheme"))


def _form(algorithm: str, said: Config) -> WeightFormat:
    form = _ALGORITHMS.get(algorithm)
    if form is None:
        refuse(f"ModelOpt algorithm {algorithm or 'unknown'}")
    size = group_of(said.get("group_size"))
    if size is None:
        return form
    if form.block_shape is not None:
        return replace(form, block_shape=(size, size))
    return replace(form, group_size=size) if form.name in _NARROW_GROUPS else form


def _mixed(inner: Config) -> list[Rule]:
    by_form: dict[WeightFormat, list[str]] = {}
    for name, said in mapping(inner.get("quantized_layers")).items():
        algorithm = str(mapping(said).get("quant_algo") or "").upper()
        by_form.setdefault(_form(algorithm, mapping(said)), []).append(str(name))
    if not by_form:
        refuse(f"ModelOpt algorithm {MIXED} without quantized_layers")
    # The widest first: what two entries name is counted at the wider one.
    forms = sorted(by_form, key=lambda form: -form.bits_per_weight)
    return [Rule(form=form, modules=module_list(by_form[form]), kinds=ANY_MATRIX) for form in forms]
