"""The exceptions of memroute's core.

```text
MemrouteError
├── UnknownModelError          the catalogue has no architecture under that name
├── UnknownArchitectureError   a config.json of a family whose formula we do not have
└── UnsupportedShapeError      the model cannot be split or stored as asked
```

An expected refusal ("no replica has room") is a value, never one of these.
"""


class MemrouteError(Exception):
    """Base of every error that memroute raises on purpose."""


class UnknownModelError(MemrouteError):
    """The catalogue has no architecture under that name."""

    def __init__(self, model: str, known_models: tuple[str, ...]) -> None:
        super().__init__(
            f"model {model!r} is not in the catalogue; known models: {', '.join(known_models)}"
        )
        self.model = model
        self.known_models = known_models


class UnknownArchitectureError(MemrouteError):
    """A ``config.json`` of a family whose formula we do not have."""

    def __init__(self, family: str | None, known_families: tuple[str, ...]) -> None:
        super().__init__(
            f"model family {family!r} has no footprint formula; "
            f"known families: {', '.join(known_families)}"
        )
        self.family = family
        self.known_families = known_families


class UnsupportedShapeError(MemrouteError):
    """The model cannot be split or stored as asked, on any accelerator."""
