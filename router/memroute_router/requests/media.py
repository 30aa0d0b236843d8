"""Tokens of an image or a recording, by the family of the model.

Every family cuts images in its own way; each rule is that of its image processor (transformers,
vLLM), and says here what it leaves out. A family is known by ``model_type`` of the model's
``config.json``, where the router has the model's folder, else guessed from the name that the model
is served by. Whatever is wrong with a rule, ``PromptLengths`` learns per pool, apart from text.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from memroute_router.requests.attachments import Attachment, AttachmentKind

UNKNOWN_ATTACHMENT_TOKENS: Final = 1024
# An image of unknown size: 64 to 16,384 by model and size. A start; each pool learns its mean.
UNKNOWN_VIDEO_TOKENS: Final = 4096
# Some frames per second at some hundred tokens each. Chosen by hand.
DEFAULT_TOKENS_PER_SECOND: Final = 12.5
# Of sound: Voxtral, Phi-4-multimodal, Qwen3-Omni.
BYTES_PER_EMBEDDED_TOKEN: Final = 8192
# Of ``prompt_embeds``: 4,096 dimensions of two bytes.
MAX_SIDE_PIXELS: Final = 65_535
# What a header says beyond is a lie, or nothing that an engine would open.

ImageRule = Callable[[int, int], int]
"""Tokens of an image of so many pixels in width and height, at least 1 each."""


class MediaFamily:
    """How one family of models counts what is no text; never changed."""

    __slots__ = ("_image", "name", "tokens_per_second")

    def __init__(
        self,
        name: str,
        image: ImageRule,
        *,
        tokens_per_second: float = DEFAULT_TOKENS_PER_SECOND,
    ) -> None:
        self.name = name
        self._image = image
        self.tokens_per_second = tokens_per_second
        """Of sound."""

    def tokens(self, attachment: Attachment) -> tuple[int, bool]:
        """Tokens of it, and whether they follow from its size."""
        kind = attachment.kind
        if kind is AttachmentKind.IMAGE and attachment.width and attachment.height:
            width = min(MAX_SIDE_PIXELS, attachment.width)
            height = min(MAX_SIDE_PIXELS, attachment.height)
            return max(1, self._image(width, height)), True
        if kind is AttachmentKind.AUDIO and attachment.seconds:
            return max(1, math.ceil(attachment.seconds * self.tokens_per_second)), True
        if kind is AttachmentKind.VIDEO:
            return UNKNOWN_VIDEO_TOKENS, False
        if kind is AttachmentKind.EMBEDS and attachment.num_bytes:
            return max(1, attachment.num_bytes // BYTES_PER_EMBEDDED_TOKEN), False
        return UNKNOWN_ATTACHMENT_TOKENS, False


def merged_patches(cell: int, least_pixels: int, most_pixels: int) -> ImageRule:
    """Qwen-VL's: the image is scaled to between so many pixels, each ``cell`` squared is a token.

    As ``smart_resize`` of qwen-vl-utils; a begin and an end mark beside.
    """

    def tokens(width: int, height: int) -> int:
        rows, columns = max(1, round(height / cell)), max(1, round(width / cell))
        if rows * columns * cell * cell > most_pixels:
            scale = math.sqrt(width * height / most_pixels)
            rows = max(1, math.floor(height / scale / cell))
            columns = max(1, math.floor(width / scale / cell))
        elif rows * columns * cell * cell < least_pixels:
            scale = math.sqrt(least_pixels / (width * height))
            rows, columns = math.ceil(height * scale / cell), math.ceil(width * scale / cell)
        return rows * columns + 2

    return tokens


def constant(num_tokens: int) -> ImageRule:
    """The same for every image."""

    def tokens(_width: int, _height: int) -> int:
        return num_tokens

    return tokens


def rows_of_patches(cell: int, longest_side: int) -> ImageRule:
    """Pixtral's and Mistral's: a token per cell, and one at the end of each row."""

    def tokens(width: int, height: int) -> int:
        scale = max(1.0, max(width, height) / longest_side)
        columns = math.ceil(round(width / scale) / cell)
        rows = math.ceil(round(height / scale) / cell)
        return max(1, rows) * (max(1, columns) + 1)

    return tokens


def tiles(tile: int, tokens_per_tile: int, most: int, *, extra: int = 2) -> ImageRule:
    """InternVL's and Llama 4's: the grid whose shape is nearest, and the whole image once more.

    Ties go to the grid that wastes fewer pixels; Llama 4 also weighs how much a grid enlarges,
    which is left out: on its odd shapes this is a tile or two off.
    """
    grids = [
        (columns, rows)
        for columns in range(1, most + 1)
        for rows in range(1, most // columns + 1)
    ]  # fmt: skip

    def tokens(width: int, height: int) -> int:
        shape = width / height
        best, best_off = (1, 1), math.inf
        for columns, rows in grids:
            off = abs(shape - columns / rows)
            larger = width * height > 0.5 * tile * tile * columns * rows
            if off < best_off or (
                off == best_off and larger and columns * rows > best[0] * best[1]
            ):
                best, best_off = (columns, rows), off
        num_tiles = best[0] * best[1]
        return tokens_per_tile * (num_tiles + (num_tiles > 1)) + extra

    return tokens


def llava_next(width: int, height: int) -> int:
    """LLaVA-NeXT: 576 for the whole, and the best of five grids of 336-pixel tiles, unpadded."""
    grids = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
    best, best_fit = grids[0], (-1.0, 0.0)
    for columns, rows in grids:
        scale = min(336 * columns / width, 336 * rows / height)
        used = min(width * height, math.floor(width * scale) * math.floor(height * scale))
        fit = float(used), -(336.0 * 336.0 * columns * rows - used)
        if fit > best_fit:
            best, best_fit = (columns, rows), fit
    columns, rows = 24 * best[0], 24 * best[1]
    if width / height > columns / rows:
        rows = max(1, round(height * columns / width))
    else:
        columns = max(1, round(width * rows / height))
    return 576 + rows * columns + rows


_QWEN2 = MediaFamily(
    "qwen2-vl", merged_patches(28, 56 * 56, 28 * 28 * 16_384), tokens_per_second=25.0
)
_QWEN3 = MediaFamily("qwen3-vl", merged_patches(32, 256 * 256, 4096 * 4096))
_GLM = MediaFamily("glm-4v", merged_patches(28, 112 * 112, 9_633_792))
_KIMI = MediaFamily("kimi-vl", merged_patches(28, 28 * 28, 28 * 28 * 4096))
_GEMMA = MediaFamily("gemma", constant(260), tokens_per_second=6.25)
# 256, and the marks and empty lines around them.
_PIXTRAL = MediaFamily("pixtral", rows_of_patches(16, 1024))
_MISTRAL = MediaFamily("mistral3", rows_of_patches(28, 1540))
_LLAMA4 = MediaFamily("llama4", tiles(336, 145, 16))
_INTERNVL = MediaFamily("internvl", tiles(448, 256, 12))
_LLAVA = MediaFamily("llava", constant(576))
_LLAVA_NEXT = MediaFamily("llava-next", llava_next)
UNKNOWN_FAMILY: Final = MediaFamily("unknown", merged_patches(28, 56 * 56, 28 * 28 * 4096))
"""Most models of today merge patches to a token per 28 by 28 pixels; a bound as most set it."""

_BY_TYPE: Final[Mapping[str, MediaFamily]] = {
    "qwen2_vl": _QWEN2, "qwen2_5_vl": _QWEN2, "qwen2_5_omni": _QWEN2, "qwen2_audio": _QWEN2,
    "qwen3_vl": _QWEN3, "qwen3_vl_moe": _QWEN3, "qwen3_5": _QWEN3, "qwen3_5_moe": _QWEN3,
    "qwen3_omni_moe": _QWEN3, "glm4v": _GLM, "glm4v_moe": _GLM, "kimi_vl": _KIMI,
    "gemma3": _GEMMA, "gemma3n": _GEMMA, "pixtral": _PIXTRAL, "mistral3": _MISTRAL,
    "llama4": _LLAMA4, "internvl": _INTERNVL, "internvl_chat": _INTERNVL, "llava": _LLAVA,
    "llava_next": _LLAVA_NEXT,
}  # fmt: skip
"""By ``model_type`` of ``config.json``."""
_BY_NAME: Final = (
    # A word of the served name, in lower case without "-", "_" and "."; the first that fits counts.
    ("qwen2vl", _QWEN2), ("qwen25vl", _QWEN2), ("qwen25omni", _QWEN2), ("qwen2audio", _QWEN2),
    ("qwenvl", _QWEN2), ("qwen3", _QWEN3), ("glm4", _GLM), ("kimi", _KIMI), ("gemma", _GEMMA),
    ("pixtral", _PIXTRAL), ("ministral", _MISTRAL), ("mistral", _MISTRAL), ("magistral", _MISTRAL),
    ("llama4", _LLAMA4), ("internvl", _INTERNVL), ("llavanext", _LLAVA_NEXT),
    ("llavav16", _LLAVA_NEXT), ("llava16", _LLAVA_NEXT), ("llava", _LLAVA),
)  # fmt: skip


def media_family(model: str, config: Mapping[str, Any] | None = None) -> MediaFamily:
    """The family of a model, by its ``config.json`` or, without one, by its served name."""
    if config is not None:
        known = _BY_TYPE.get(str(config.get("model_type")))
        if known is not None:
            return known
    name = "".join(letter for letter in model.lower() if letter not in "-_. ")
    for word, family in _BY_NAME:
        if word in name:
            return family
    return UNKNOWN_FAMILY
