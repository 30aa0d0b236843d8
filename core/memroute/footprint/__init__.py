"""How many bytes? Weights, KV cache, overheads: per rank, per replica, per request.

``replica.replica_footprint`` is the answer; the other modules are its terms:

```text
need per accelerator = weights + peak activation + CUDA graphs + communication + KV pool
                         (the engine's budget)
                     + CUDA context + margin
                         (outside the budget)
```

``architecture`` reads a model from its configuration, ``weights`` and ``kv_cache`` are exact,
``overhead`` is a range, ``calibration`` replaces it by what an engine has measured.
Formulas and measured constants: vLLM 0.32's ``gpu_worker.py`` and ``kv_cache_utils.py``,
public start-up logs, transformers' parameter counts.
"""

from memroute.footprint.alternatives import Alternative, smaller_alternatives
from memroute.footprint.architecture import (
    KNOWN_FAMILIES,
    ModelArchitecture,
    architecture_from_config,
    architecture_from_json,
)
from memroute.footprint.calibration import Calibration, CalibrationKey
from memroute.footprint.engine_type import EngineType
from memroute.footprint.estimate import Estimate
from memroute.footprint.host import HostRequest, host_request
from memroute.footprint.kv_cache import (
    KVCacheDtype,
    KVCacheLayout,
    LengthShare,
    StateCacheMode,
    kv_cache_layout,
)
from memroute.footprint.replica import ReplicaFootprint, ReplicaShape, replica_footprint
from memroute.footprint.weights import (
    Parallelism,
    Quantization,
    active_parameters,
    num_parameters,
    weights_bytes,
    weights_per_rank,
)

__all__ = [
    "KNOWN_FAMILIES",
    "Alternative",
    "Calibration",
    "CalibrationKey",
    "EngineType",
    "Estimate",
    "HostRequest",
    "KVCacheDtype",
    "KVCacheLayout",
    "LengthShare",
    "ModelArchitecture",
    "Parallelism",
    "Quantization",
    "ReplicaFootprint",
    "ReplicaShape",
    "StateCacheMode",
    "active_parameters",
    "architecture_from_config",
    "architecture_from_json",
    "host_request",
    "kv_cache_layout",
    "num_parameters",
    "replica_footprint",
    "smaller_alternatives",
    "weights_bytes",
    "weights_per_rank",
]
