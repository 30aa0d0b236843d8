"""What the words of ``spec.memory``, ``spec.placement`` and ``spec.engine`` mean in the core."""

from memroute.footprint import EngineType, KVCacheDtype, Quantization
from memroute.placement import PlacementMode, PlacementStrategy
from memroute_kube.words import Words

ENGINE_TYPES = Words(
    meanings={
        "VLLM": EngineType.VLLM,
        "SGLang": EngineType.SGLANG,
        "LlamaCPP": EngineType.LLAMA_CPP,
        "Custom": EngineType.CUSTOM,
    }
)
# Auto: as the checkpoint says, which is 16 bit unless its config says otherwise.
QUANTIZATIONS = Words(
    meanings={
        "Auto": Quantization.NONE,
        "FP8": Quantization.FP8,
        "AWQ": Quantization.AWQ,
        "GPTQ": Quantization.GPTQ,
    },
    renamed={"none": "Auto"},
)
KV_CACHE_DTYPES = Words(meanings={"Auto": KVCacheDtype.AUTO, "FP8": KVCacheDtype.FP8})
PLACEMENT_MODES = Words(
    meanings={"Exclusive": PlacementMode.EXCLUSIVE, "Shared": PlacementMode.SHARED}
)
PLACEMENT_STRATEGIES = Words(
    meanings={"Pack": PlacementStrategy.PACK, "Spread": PlacementStrategy.SPREAD}
)
PREEMPTIONS = Words(meanings={"Never": False, "LowerPriority": True})
"""Whether replicas of lower priority may be asked to give way."""
EXECUTIONS = Words(meanings={"Graphs": False, "Eager": True})
"""Whether steps run eagerly."""
