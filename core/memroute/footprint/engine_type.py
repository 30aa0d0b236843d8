"""Which inference engine: each has its own rules of memory."""

from enum import StrEnum


class EngineType(StrEnum):
    """An inference engine; the values are labels, ``spelled`` is how the API writes it."""

    VLLM = "vllm"
    SGLANG = "sglang"

    @property
    def spelled(self) -> str:
        """As ``spec.engine.type`` has it."""
        return _SPELLED[self]

    @classmethod
    def of(cls, text: str) -> "EngineType":
        """The engine by any spelling (``vllm``, ``VLLM``, ``LlamaCpp``). Raises ``ValueError``."""
        plain = text.replace("-", "").replace(".", "").replace("_", "").lower()
        for one in cls:
            if one.value.replace("-", "") == plain:
                return one
        message = f"no engine {text!r}; there are {', '.join(_SPELLED.values())}"
        raise ValueError(message)


_SPELLED = {EngineType.VLLM: "VLLM", EngineType.SGLANG: "SGLang"}
