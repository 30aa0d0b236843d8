"""How many bytes? Weights, KV cache, overheads: per rank, per replica, per request.

``replica.replica_footprint`` is the answer; the other modules are its terms:

```text
need per accelerator = weights + peak activation + CUDA graphs + communication + KV pool
                         (the engine's budget)
                     + CUDA context + margin
                         (outside the budget)
```

Formulas and measured constants: vLLM 0.32's ``gpu_worker.py`` and ``kv_cache_interface.py``,
public start-up logs, transformers' parameter counts.
"""

from memroute.footprint.alternatives import Alternative, smaller_alternatives
from memroute.footprint.architecture import ModelArchitecture, architecture_from_config
from memroute.footprint.kv_cache import KVCacheDtype, KVCacheLayout
from memroute.footprint.replica import ReplicaFootprint, ReplicaShape, replica_footprint
from memroute.footprint.request import RequestProfile
from memroute.footprint.weights import Quantization, num_parameters, weights_bytes_per_rank

__all__ = [
    "Alternative",
    "KVCacheDtype",
    "KVCacheLayout",
    "ModelArchitecture",
    "Quantization",
    "ReplicaFootprint",
    "ReplicaShape",
    "RequestProfile",
    "architecture_from_config",
    "num_parameters",
    "replica_footprint",
    "smaller_alternatives",
    "weights_bytes_per_rank",
]
