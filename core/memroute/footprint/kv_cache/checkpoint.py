"""The dtype of the cache that comes with a checkpoint: what ``auto`` becomes in vLLM 0.32.

A checkpoint whose keys and values were calibrated says so beside its weights, and vLLM follows:

```text
ModelOpt            kv_cache_quant_algo FP8 or NVFP4, or a kv_cache_scheme of static 8-bit floats;
                    asked at the top of config.json alone        utils/torch_utils.py
compressed-tensors  any kv_cache_scheme becomes fp8, but not for latent attention
                                                      layers/attention/attention.py
others              the model's own dtype
```
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from memroute.footprint.architecture import LatentAttention, ModelArchitecture
from memroute.footprint.kv_cache.dtype import KVCacheDtype
from memroute.footprint.weights.configs import method_of

_MODELOPT = {"fp8": KVCacheDtype.FP8_E4M3, "nvfp4": KVCacheDtype.NVFP4}
_FP8_BITS, _FP4_BITS = 8, 4


def resolved_dtype(architecture: ModelArchitecture, asked: KVCacheDtype) -> KVCacheDtype:
    """What is asked for; for ``auto`` what the checkpoint says, else ``auto``."""
    return _of_checkpoint(architecture) if asked is KVCacheDtype.AUTO else asked


@lru_cache(maxsize=1024)
def _of_checkpoint(architecture: ModelArchitecture) -> KVCacheDtype:
    config = architecture.quantization_config
    method = method_of(config) if config else ""
    if method.startswith("modelopt") and not architecture.is_quantization_nested:
        return _of_modelopt(config)
    is_latent = isinstance(architecture.attention, LatentAttention)
    if method == "compressed-tensors" and config.get("kv_cache_scheme") and not is_latent:
        return KVCacheDtype.FP8
    return KVCacheDtype.AUTO


def _of_modelopt(config: Mapping[str, Any]) -> KVCacheDtype:
    inner = config.get("quantization")
    places = (inner if isinstance(inner, Mapping) else config, config)
    said = next(
        (one for field in ("kv_cache_scheme", "kv_cache_quant_algo") for place in places
         if (one := place.get(field))), None,
    )  # fmt: skip
    if isinstance(said, Mapping):
        is_float, bits = said.get("type") == "float", said.get("num_bits")
        if is_float and bits == _FP8_BITS and said.get("dynamic") is False:
            return KVCacheDtype.FP8_E4M3
        return KVCacheDtype.NVFP4 if is_float and bits == _FP4_BITS else KVCacheDtype.AUTO
    return _MODELOPT.get(str(said).lower(), KVCacheDtype.AUTO)
