"""KV cache on the host by vLLM's flags: ``--kv-offloading-size``, ``--kv-transfer-config``.

Both may be given: the first is the size, the second has the rest in ``kv_connector_extra_config``.
Of its keys those are read that change what is simulated; the others are passed over, as vLLM does
with keys that its spec does not know.
"""

import json
from dataclasses import dataclass
from typing import Any

from memroute.units import GIB

CONNECTOR = "OffloadingConnector"


class OffloadingConfigError(Exception):
    """``--kv-transfer-config`` cannot be read; the message is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadingConfig:
    """A tier on the host."""

    size_bytes: int
    """Of one engine, all its ranks together."""
    block_tokens: int | None = None
    """``block_size`` of the connector, in tokens: another way to say how large a chunk is."""
    blocks_per_chunk: int = 1
    describes_events: bool = False
    is_shown: bool = True
    """Whether ``cache_config_info`` has the size: only that of the flag is shown there."""

    def chunk_blocks(self, block_size_tokens: int) -> int:
        """Blocks of a chunk. Raises ``OffloadingConfigError``."""
        if self.block_tokens is None:
            return self.blocks_per_chunk
        if self.block_tokens % block_size_tokens:
            msg = (
                f"block_size {self.block_tokens} of the offloading connector is no multiple of the "
                f"engine's block size {block_size_tokens}"
            )
            raise OffloadingConfigError(msg)
        return self.block_tokens // block_size_tokens

    @classmethod
    def parse(cls, size_gib: float | None, text: str | None) -> "OffloadingConfig | None":
        """Read both flags; None where nothing is kept on the host.

        Raises ``OffloadingConfigError``.
        """
        document = _object(text, "--kv-transfer-config") if text else {}
        connector = document.get("kv_connector")
        if connector is not None and connector != CONNECTOR:
            msg = f"kv_connector {connector!r} is not simulated; {CONNECTOR} is"
            raise OffloadingConfigError(msg)
        extra = document.get("kv_connector_extra_config", {})
        if not isinstance(extra, dict):
            msg = "kv_connector_extra_config is no JSON object"
            raise OffloadingConfigError(msg)
        size = int(size_gib * GIB) if size_gib else _count(extra, "cpu_bytes_to_use")
        if not size or (not size_gib and connector is None):
            return None
        if "block_size" in extra and "blocks_per_chunk" in extra:
            msg = "block_size and blocks_per_chunk say the same: give one of them"
            raise OffloadingConfigError(msg)
        return cls(
            size_bytes=size,
            block_tokens=_count(extra, "block_size"),
            blocks_per_chunk=_count(extra, "blocks_per_chunk") or 1,
            describes_events=extra.get("self_describing_kv_events") is True,
            is_shown=bool(size_gib),
        )


def _object(text: str, flag: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        msg = f"{flag} is no JSON object: {text}"
        raise OffloadingConfigError(msg)
    return document


def _count(extra: dict[str, Any], name: str) -> int | None:
    value = extra.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        msg = f"{name} of kv_connector_extra_config is {value!r}, not a whole number above 0"
        raise OffloadingConfigError(msg)
    return value
