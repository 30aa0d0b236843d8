"""Known accelerators and model architectures, a source per row."""

from memroute.catalog.accelerators import (
    ACCELERATORS,
    Accelerator,
    accelerator_by_name,
    accelerator_for_product,
)
from memroute.catalog.models import MODELS, architecture_for_model

__all__ = [
    "ACCELERATORS",
    "MODELS",
    "Accelerator",
    "accelerator_by_name",
    "accelerator_for_product",
    "architecture_for_model",
]
