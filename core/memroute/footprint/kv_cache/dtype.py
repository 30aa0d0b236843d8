"""How keys and values are stored: bytes of what one token leaves in one head."""

from enum import StrEnum

from memroute.errors import UnsupportedShapeError

FP32_SCALE_BYTES = 4
NVFP4_BLOCK = 16
DS_MLA_ROW_BYTES = {"fp8_ds_mla": 656, "nvfp4_ds_mla": 352}
# One opaque row per token of latent values, rotary part and scales (vLLM flashmla_sparse.py).


class KVCacheDtype(StrEnum):
    """How keys and values are stored; the values are vLLM's flag values."""

    AUTO = "auto"
    """What the checkpoint says of its cache (``checkpoint``), else the model's own type: 16 bit
    for every model that engines serve."""
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FP8 = "fp8"
    FP8_E4M3 = "fp8_e4m3"
    FP8_E5M2 = "fp8_e5m2"
    FP8_DS_MLA = "fp8_ds_mla"
    """DeepSeek's packed row for sparse latent attention."""
    NVFP4_DS_MLA = "nvfp4_ds_mla"
    INT8_PER_TOKEN_HEAD = "int8_per_token_head"  # noqa: S105 - a flag value
    FP8_PER_TOKEN_HEAD = "fp8_per_token_head"  # noqa: S105
    INT4_PER_TOKEN_HEAD = "int4_per_token_head"  # noqa: S105
    NVFP4 = "nvfp4"

    @property
    def is_quantized(self) -> bool:
        """Whether values are narrower than the model's own."""
        return self not in {KVCacheDtype.AUTO, KVCacheDtype.BFLOAT16, KVCacheDtype.FLOAT16}

    def head_bytes(self, key_dim: int, value_dim: int) -> int:
        """Bytes of one token's key and value in one head, scales included."""
        match self:
            case KVCacheDtype.AUTO | KVCacheDtype.BFLOAT16 | KVCacheDtype.FLOAT16:
                return 2 * (key_dim + value_dim)
            case KVCacheDtype.FP8 | KVCacheDtype.FP8_E4M3 | KVCacheDtype.FP8_E5M2:
                return key_dim + value_dim  # per-tensor scales: negligible
            case KVCacheDtype.INT8_PER_TOKEN_HEAD | KVCacheDtype.FP8_PER_TOKEN_HEAD:
                return key_dim + value_dim + 2 * FP32_SCALE_BYTES
            case KVCacheDtype.INT4_PER_TOKEN_HEAD:
                return key_dim // 2 + value_dim // 2 + 2 * FP32_SCALE_BYTES
            case KVCacheDtype.NVFP4:
                return sum(dim // 2 + dim // NVFP4_BLOCK for dim in (key_dim, value_dim))
            case KVCacheDtype.FP8_DS_MLA | KVCacheDtype.NVFP4_DS_MLA:
                msg = f"kv-cache-dtype {self} is for sparse latent attention only"
                raise UnsupportedShapeError(msg)

    def latent_bytes(self, latent_dim: int, *, is_sparse: bool) -> int:
        """Bytes of one token's latent vector (MLA: no separate value).

        A sparse kernel stores any quantized cache as its own packed rows.
        """
        if is_sparse and self in {KVCacheDtype.FP8, KVCacheDtype.FP8_E4M3}:
            return DS_MLA_ROW_BYTES["fp8_ds_mla"]
        if self.value in DS_MLA_ROW_BYTES:
            return DS_MLA_ROW_BYTES[self.value]
        if self is KVCacheDtype.NVFP4:
            msg = "kv-cache-dtype nvfp4 is not for latent attention; use nvfp4_ds_mla"
            raise UnsupportedShapeError(msg)
        return 2 * latent_dim if not self.is_quantized else latent_dim
