"""Bytes of what stands beside a language model: encoders of images and sounds, by their shape."""

from memroute.footprint.architecture import ModelArchitecture, VisionTower


def vision_tower_bytes(vision: VisionTower, text_hidden_size: int) -> int:
    """Bytes of a vision transformer by its shape, at 16 bit, its projector included.

    Per layer 4 h^2 of attention and 2 h I of MLP, 3 h I where that is gated; the projector is taken
    as two matrices. Within 15 % for the towers of Gemma 3 (0.78 GiB) and Qwen3.5, within 5 % for
    that of Qwen2.5-VL (676 M parameters).
    """
    h = vision.hidden_size
    matrices = 3 if vision.is_gated else 2
    layers = vision.num_layers * (4 * h * h + matrices * h * vision.intermediate_size)
    projector = h * text_hidden_size + text_hidden_size * text_hidden_size
    return 2 * (layers + projector)


def tower_bytes(architecture: ModelArchitecture) -> int:
    """Bytes of all towers whose shape is known."""
    vision = () if architecture.vision is None else (architecture.vision,)
    return sum(
        vision_tower_bytes(one, architecture.hidden_size)
        for one in (*vision, *architecture.other_towers)
    )


def has_towers(architecture: ModelArchitecture) -> bool:
    """Whether anything stands beside the language model."""
    is_any = architecture.vision is not None or architecture.other_towers
    return bool(is_any or architecture.unknown_towers)


def is_any_guessed(architecture: ModelArchitecture) -> bool:
    """Whether a tower's shape was read from fields whose names are not known."""
    vision = () if architecture.vision is None else (architecture.vision,)
    return any(one.is_guessed for one in (*vision, *architecture.other_towers))
