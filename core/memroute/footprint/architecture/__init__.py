"""What a model is made of: from a Hugging Face ``config.json`` to frozen facts.

``components`` has the vocabulary (mixers, feed-forwards, layers), ``families`` the registry;
each of ``dense``, ``gemma``, ``experts``, ``latent`` and ``hybrid`` reads the families whose
skeleton it knows. Nothing is keyed to a model's name: what a configuration says decides.
"""

from memroute.footprint.architecture.components import (
    MLP,
    Attention,
    GatedDeltaNet,
    LatentAttention,
    Layer,
    LightningAttention,
    Mamba2,
    Mixer,
    MixtureOfExperts,
    ModelArchitecture,
    QueryKeyNorm,
    SparseIndexer,
    VisionTower,
)
from memroute.footprint.architecture.families import (
    KNOWN_FAMILIES,
    architecture_from_config,
    architecture_from_json,
)

__all__ = [
    "KNOWN_FAMILIES",
    "MLP",
    "Attention",
    "GatedDeltaNet",
    "LatentAttention",
    "Layer",
    "LightningAttention",
    "Mamba2",
    "Mixer",
    "MixtureOfExperts",
    "ModelArchitecture",
    "QueryKeyNorm",
    "SparseIndexer",
    "VisionTower",
    "architecture_from_config",
    "architecture_from_json",
]
