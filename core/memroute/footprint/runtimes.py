"""What each engine takes beside weights and KV pool, by its own rules; a file each.

| engine | rule | where a constant is not known |
| --- | --- | --- |
| vLLM | ``overhead``: laws fitted to start logs of 0.10 to 0.32 | ranges of those logs |
| SGLang | what ``arg_groups/memory_hook.py`` of 0.5.23 keeps free | at least vLLM's range |
| llama.cpp | a step's buffer, fitted to its start log | the 1 GiB that it leaves free itself |
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from memroute.footprint.engine_type import EngineType
from memroute.footprint.estimate import Estimate
from memroute.footprint.runtime import Runtime, vllm_runtime
from memroute.footprint.runtime_llama_cpp import check_llama_cpp, llama_cpp_runtime
from memroute.footprint.runtime_sglang import check_sglang, sglang_runtime

if TYPE_CHECKING:
    from memroute.footprint.replica import ReplicaShape


def runtime_of(shape: "ReplicaShape") -> Runtime:
    """What its engine takes, for the batches that it is limited to."""
    match shape.engine:
        case EngineType.SGLANG:
            runtime = sglang_runtime(shape)
        case EngineType.LLAMA_CPP:
            runtime = llama_cpp_runtime(shape)
        case _:
            runtime = vllm_runtime(shape)
    return replace(runtime, graphs=Estimate.exactly(0)) if shape.is_eager else runtime


def check_engine(shape: "ReplicaShape") -> None:
    """Raise ``UnsupportedShapeError``, with the way out, for what an engine cannot do."""
    match shape.engine:
        case EngineType.SGLANG:
            check_sglang(shape)
        case EngineType.LLAMA_CPP:
            check_llama_cpp(shape)
        case _:
            return
