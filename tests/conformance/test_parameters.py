"""Parameter counts against transformers itself: models built on the meta device."""

import json
import random

import pytest

from memroute.footprint import architecture_from_config, num_parameters
from random_architectures import FAMILIES, random_config

NUM_SEEDS = 4


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_equal_those_of_transformers(family):
    """Random small models of every family: exact, from the written and from the full config."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    for seed in range(NUM_SEEDS):
        written = random_config(family, random.Random(f"{family}/{seed}"))
        full = CONFIG_MAPPING[family](**written)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(full)
        expected = sum(parameter.numel() for parameter in model.parameters())
        documents = (
            written | {"model_type": family},
            json.loads(full.to_json_string(use_diff=False)),
        )
        for document in documents:
            assert num_parameters(architecture_from_config(document)) == expected, (family, seed)
