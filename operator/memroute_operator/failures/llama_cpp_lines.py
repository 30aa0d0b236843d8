"""What llama.cpp's server writes when it fails (b11434). Its exit code is always 1."""

from typing import Final

from memroute.footprint import EngineType
from memroute_operator.failures.signature import Signature, Where, pattern

_LLAMA_CPP = frozenset({EngineType.LLAMA_CPP})

LLAMA_CPP_LINES: Final = (
    Signature(
        name="CacheTypeRefused", where=Where.LOG, engines=_LLAMA_CPP,
        pattern=pattern(r"quantized V cache requires flash_attn|Unsupported cache type: "
                        r"(?P<t>\S+)"),
        seen_as="`quantized V cache requires flash_attn to be enabled`, `Unsupported cache type: "
                "x`",
        sentence="llama.cpp cannot store the KV cache so",
        next_step="set spec.memory.kvCacheDtype to Auto",
    ),
    Signature(
        name="NoRoomForCache", where=Where.LOG, engines=_LLAMA_CPP,
        pattern=pattern(r"failed to allocate buffer for kv cache|"
                        r"failed to allocate compute (?:pp )?buffers"),
        seen_as="`failed to allocate buffer for kv cache`, `failed to allocate compute pp buffers`",
        sentence="the device has not the memory for the KV cache and buffers that llama.cpp asks "
                 "for",
        next_step="nvidia-smi on the node shows whether another process holds memory there; if "
                  "not, "
                  "lower spec.memory.maxContextTokens or spec.memory.concurrency",
    ),
)  # fmt: skip

LLAMA_CPP_SYMPTOMS: Final = (
    Signature(
        name="ModelFileUnreadable", where=Where.LOG, engines=_LLAMA_CPP,
        pattern=pattern(r"failed to load model from '?(?P<file>[^'\s]+)"),
        seen_as="`failed to load model from 'x'`",
        sentence="llama.cpp cannot read the model[[ {file}]]: it is not there, or it is no GGUF "
                 "file",
        next_step="check that the file is there and complete, and that spec.model names a "
                  "repository of GGUF files",
    ),
)  # fmt: skip
