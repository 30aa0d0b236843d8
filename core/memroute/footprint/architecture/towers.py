"""What stands beside a language model: towers that read images and sounds.

Their shape is read by the names of its fields. Where these are some that are not known, a tower is
a guess or unknown, and either is said: no tower weighs nothing.
"""

import re
from collections.abc import Mapping
from typing import Any

from memroute.footprint.architecture.components import VisionTower
from memroute.footprint.architecture.config import ConfigReader

VISION = "vision_config"
# Parts that are towers by their name. Talkers and vocoders are left out: engines that serve text
# do not load them.
_TOWER = re.compile(
    r"(?:^|_)(?:vision|visual|vit|image|img|video|audio|speech|sound|whisper|encoder|tower)"
    r"(?:\w*(?:config|tower|encoder|model))?$"
)
_HIDDEN = ("embed_dim", "hidden_size", "width", "d_model", "hidden_dim", "n_embd", "dim")
_LAYERS = (
    "num_hidden_layers", "depth", "layers", "encoder_layers", "num_layers", "n_layers", "n_layer",
)  # fmt: skip
_INTERMEDIATE = (
    "intermediate_size", "encoder_ffn_dim", "ffn_dim", "mlp_dim", "ffn_hidden_size",
)  # fmt: skip
# A feed-forward that is wider is nonsense: 8 times its input is the widest there is.
MAX_RATIO = 1_000
_GATED = ("silu", "swiglu", "swish")
# Sizes of classes whose configurations are published without them (transformers 5.19).
_CLASSES = {
    "clip_vision_model": (768, 12, 3072), "siglip_vision_model": (768, 12, 3072),
    "pixtral": (1024, 24, 4096),
}  # fmt: skip


def read_towers(
    part: Mapping[str, Any],
) -> tuple[VisionTower | None, tuple[VisionTower, ...], tuple[str, ...]]:
    """The vision tower, the other towers, and the names of those whose shape is not known.

    Raises ``InvalidConfigError`` for a size that is no number.
    """
    vision, others, unknown = None, [], []
    for key, value in part.items():
        if not _TOWER.search(key):
            continue
        if not isinstance(value, Mapping) or not value:
            if _is_named(key, value):
                unknown.append(key)
            continue
        tower = _tower(value, part)
        if tower is None:
            unknown.append(key)
        elif vision is None and key in (VISION, "visual"):
            vision = tower
        else:
            others.append(tower)
    return vision, tuple(others), tuple(unknown)


def _is_named(key: str, value: object) -> bool:
    """Whether a tower is there, and nobody says which: its name, or all is left to its class."""
    is_said = isinstance(value, Mapping) or (isinstance(value, str | list) and bool(value))
    return is_said and key.endswith(("_config", "tower"))


def _tower(said: Mapping[str, Any], part: Mapping[str, Any]) -> VisionTower | None:
    reader = ConfigReader(said)
    usual = _CLASSES.get(reader.family, (None, None, None))
    hidden, is_hidden_guessed = _size(reader, said, _HIDDEN)
    layers, is_depth_guessed = _size(reader, said, _LAYERS)
    hidden, layers = hidden or usual[0], layers or usual[1]
    if not hidden or not layers:
        return None
    intermediate, _ = _size(reader, said, _INTERMEDIATE)
    ratio = reader.raw("mlp_ratio")
    if not intermediate and isinstance(ratio, int | float) and 0 < ratio < MAX_RATIO:
        intermediate = int(hidden * ratio)
    return VisionTower(
        hidden_size=hidden,
        num_layers=layers,
        intermediate_size=intermediate or usual[2] or 4 * hidden,
        num_patches=_patches(reader),
        patches_per_token=_patches_per_token(reader, ConfigReader(part)),
        is_gated=str(reader.raw("hidden_act") or "") in _GATED,
        is_guessed=is_hidden_guessed or is_depth_guessed,
    )


def _size(
    reader: ConfigReader, said: Mapping[str, Any], names: tuple[str, ...]
) -> tuple[int | None, bool]:
    """A size by its name, else by a name that ends so; and whether the latter."""
    found = reader.optional_int(*names)
    if found:
        return found, False
    for name in names:
        for key in said:
            if key.endswith(f"_{name}") and not key.startswith(("out_", "text_", "projector_")):
                value = reader.optional_int(key)
                if value:
                    return value, True
    return None, False


def _patches(reader: ConfigReader) -> int | None:
    image, patch = reader.raw("image_size"), reader.raw("patch_size")
    if isinstance(image, int) and isinstance(patch, int) and patch > 0:
        return int((image // patch) ** 2)
    return None


def _patches_per_token(reader: ConfigReader, part: ConfigReader) -> float:
    per_token = float((reader.optional_int("spatial_merge_size") or 1) ** 2)
    tokens = part.optional_int("mm_tokens_per_image", "vision_soft_tokens_per_image")
    patches = _patches(reader)
    return patches / tokens if tokens and patches else per_token
