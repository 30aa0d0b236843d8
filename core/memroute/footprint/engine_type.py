"""Which inference engine: each has its own rules of memory."""

from enum import StrEnum


class EngineType(StrEnum):
    """An inference engine; ``spelled`` is how the API and people write it."""

    VLLM = "vllm"
    SGLANG = "sglang"
    LLAMA_CPP = "llama-cpp"
    CUSTOM = "custom"
    """Any other: nobody knows its rules, so vLLM's stand for them."""

    @property
    def spelled(self) -> str:
        """As ``spec.engine.type`` has it."""
        return _SPELLED[self]


_SPELLED = {
    EngineType.VLLM: "VLLM",
    EngineType.SGLANG: "SGLang",
    EngineType.LLAMA_CPP: "LlamaCPP",
    EngineType.CUSTOM: "Custom",
}
