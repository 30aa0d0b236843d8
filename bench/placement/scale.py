"""How long one plan takes at the size of a fleet."""

import time
from typing import Any

from bench.placement.instance import ModelSize, deployment, node
from memroute.placement import Inventory, Placed, PlacementMode, plan

MODELS = (
    ModelSize(model="Qwen/Qwen3-0.6B"),
    ModelSize(model="Qwen/Qwen3-4B"),
    ModelSize(model="Qwen/Qwen3-8B"),
    ModelSize(model="Qwen/Qwen3-14B"),
    ModelSize(model="mistralai/Mistral-Small-24B-Instruct-2501"),
    ModelSize(model="Qwen/Qwen3-32B", tensor_parallel_size=2),
    ModelSize(model="meta-llama/Llama-3.1-70B-Instruct", tensor_parallel_size=4),
)
TOO_LARGE = ModelSize(model="meta-llama/Llama-3.1-70B-Instruct")
NODE_DEVICES = 8


def scale(
    *, num_devices: int, num_models: int, num_replicas: int, num_hopeless: int
) -> list[dict[str, Any]]:
    """In each mode a cold plan of what fits, of twice too much, and of what fits nowhere."""
    rows = []
    for mode in PlacementMode:
        inventory = Inventory(
            nodes=tuple(
                node(f"n{n:05}", ("H100",) * NODE_DEVICES, mode=mode)
                for n in range(num_devices // NODE_DEVICES)
            )
        )
        fitting = [
            replica
            for number in range(num_models)
            for replica in deployment(number, MODELS[number % len(MODELS)], num_replicas, mode=mode)
        ]
        hopeless = deployment(num_models, TOO_LARGE, num_hopeless, mode=mode)
        tight = [
            replica
            for number in range(num_models)
            for replica in deployment(
                number, MODELS[number % len(MODELS)], max(1, 2 * num_devices // num_models),
                mode=mode,
            )
        ]  # fmt: skip
        for what, wanted in (
            ("models", fitting), ("models, twice too many", tight), ("fit nowhere", hopeless),
        ):  # fmt: skip
            began = time.process_time()
            decisions = plan(inventory, wanted)
            seconds = time.process_time() - began
            rows.append(
                {
                    "mode": mode.value,
                    "what": what,
                    "num_devices": num_devices,
                    "num_models": 1 if what == "fit nowhere" else num_models,
                    "wanted_replicas": len(wanted),
                    "placed_replicas": sum(isinstance(one, Placed) for one in decisions),
                    "cpu_seconds": seconds,
                }
            )
    return rows
