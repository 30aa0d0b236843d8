"""What a hub said of a model, pinned in ``status.model``: the commit, and what decides memory.

A branch moves. What it was when it was first read is written into the status before any replica
is planned, and read from there ever after: replicas that start months apart run the same commit,
and a restart while the hub is down needs no hub. An edit of ``source.hub.revision`` asks anew.

Whoever may edit a status may have been there: a pin is believed when it has the right shape and
is of the model and revision that the spec asks for, and its configuration is read like any other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memroute_hub import HubModel, ModelName, is_commit
from memroute_hub.gguf_files import is_meant
from memroute_kube.shapes import mapping

# Characters of a configuration in a status, as the schema has it. Chosen by hand: ten times the
# usual largest (a list of layers that are not quantized), a sixth of what etcd takes of an object.
MAX_CONFIG_CHARACTERS = 262_144


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPin:
    """One commit of a repository, and the facts that a footprint needs."""

    name: ModelName
    """As the spec asked for it."""
    commit: str
    endpoint: str | None
    """The hub, where it is not the usual one; None for that."""
    checkpoint_bytes: int | None
    config: str
    """``config.json`` as one line of JSON: the same text for the same facts. Of a GGUF file, what
    its header says of memory."""
    file: str | None = None
    """The GGUF file that was read; None where it was a ``config.json``."""

    def document(self) -> dict[str, Any]:
        """As the status has it."""
        pinned: dict[str, Any] = {
            "name": self.name.repository,
            "revision": self.name.wanted_revision,
            "commit": self.commit,
            "config": self.config,
        }
        if self.file is not None:
            pinned["file"] = self.file
        if self.endpoint is not None:
            pinned["endpoint"] = self.endpoint
        if self.checkpoint_bytes is not None:
            pinned["checkpointBytes"] = self.checkpoint_bytes
        return pinned


def pin_from(model: HubModel, name: ModelName, usual_endpoint: str) -> ModelPin | None:
    """The pin of what a hub has said; None when its configuration is too large for a status."""
    config = model.config_text
    if len(config) > MAX_CONFIG_CHARACTERS:
        return None
    return ModelPin(
        name=name,
        commit=model.commit,
        endpoint=None if model.endpoint == usual_endpoint else model.endpoint,
        checkpoint_bytes=model.checkpoint_bytes,
        config=config,
        file=model.file,
    )


def read_pin(status: object, name: ModelName) -> ModelPin | None:
    """The pin in a status; None when it has none of that model and revision."""
    pinned: Mapping[str, Any] = mapping(mapping(status).get("model"))
    commit, config = pinned.get("commit"), pinned.get("config")
    endpoint, size = pinned.get("endpoint"), pinned.get("checkpointBytes")
    file = pinned.get("file")
    if (
        pinned.get("name") != name.repository
        or pinned.get("revision") != name.wanted_revision
        or not isinstance(commit, str)
        or not is_commit(commit)
        or not isinstance(config, str)
        or not isinstance(endpoint, str | None)
        or not isinstance(file, str | None)
        # What was read of one file is nothing about another; a config.json is about all.
        or (file is not None and not is_meant(file, name.file))
    ):
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        size = None
    return ModelPin(
        name=name,
        commit=commit,
        endpoint=endpoint,
        checkpoint_bytes=size,
        config=config,
        file=file,
    )
