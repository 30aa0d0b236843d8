"""``--kv-events-config``: what the flag says, apart from the sockets that it asks for."""

import json
from dataclasses import dataclass


class KVEventsConfigError(Exception):
    """``--kv-events-config`` cannot be read; the message is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVEventsConfig:
    """``--kv-events-config``, with vLLM's defaults."""

    endpoint: str = "tcp://*:5557"
    replay_endpoint: str | None = None
    buffer_steps: int = 10_000
    hwm: int = 100_000
    topic: str = ""
    as_arrays: bool = False
    """The encoding up to 0.22."""

    @classmethod
    def parse(cls, text: str) -> "KVEventsConfig | None":
        """Read the flag's JSON; None where events are off. Raises ``KVEventsConfigError``."""
        try:
            document = json.loads(text)
        except ValueError:
            msg = f"--kv-events-config is not JSON: {text}"
            raise KVEventsConfigError(msg) from None
        if not isinstance(document, dict):
            msg = f"--kv-events-config is not a JSON object: {text}"
            raise KVEventsConfigError(msg)
        if not document.get("enable_kv_cache_events") or document.get("publisher") == "null":
            return None
        names = ("endpoint", "replay_endpoint", "buffer_steps", "hwm", "topic")
        return cls(**{name: document[name] for name in names if name in document})
