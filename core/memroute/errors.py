"""The exceptions of memroute's core.

```text
MemrouteError
├── UnknownModelError          the catalogue has no architecture under that name
├── UnknownArchitectureError   a config.json of a family whose formula we do not have
├── InvalidConfigError         a config.json with a field that is missing or makes no sense
├── UnknownWeightsError        neither a formula nor checkpoint bytes say what a model weighs
└── UnsupportedShapeError      the model cannot be split or stored as asked
    └── UnknownFormatError     its checkpoint is quantized in a way that has no formula
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
            f"model family {family!r} has no footprint formula: give the bytes of its checkpoint "
            f"(metadata.total_size of model.safetensors.index.json), and its cache is bounded by "
            f"full attention; known families: {', '.join(known_families)}"
        )
        self.family = family
        self.known_families = known_families


class InvalidConfigError(MemrouteError):
    """A ``config.json`` with a field that is missing or makes no sense."""

    def __init__(
        self, field: str, value: object, wanted: str, *, problem: str | None = None
    ) -> None:
        found = problem or ("it is missing" if value is None else f"it is {value!r}")
        super().__init__(f"config.json: {field} must be {wanted}; {found}")
        self.field = field
        self.value = value
        self.wanted = wanted


class UnknownWeightsError(MemrouteError):
    """Neither a formula nor checkpoint bytes say what a model weighs."""

    def __init__(self, family: str, missing: str) -> None:
        super().__init__(
            f"the weights of this {family or 'unknown'} model are not known: its configuration "
            f"does not give {missing}, and no checkpoint bytes were given"
        )
        self.family = family
        self.missing = missing


class UnknownLinkError(MemrouteError):
    """A link between accelerators that is neither a name nor a measurement."""

    def __init__(self, text: str, names: tuple[str, ...]) -> None:
        super().__init__(
            f"link {text!r} is not known: one of {', '.join(names)}, or what was measured, such as "
            f"17.4us-15GBps (microseconds of a small all-reduce, GB/s of a large one)"
        )
        self.text = text
        self.names = names


class UnsupportedShapeError(MemrouteError):
    """The model cannot be split or stored as asked, on any accelerator."""


class UnknownFormatError(UnsupportedShapeError):
    """A checkpoint is quantized in a way that has no formula, and no bytes settle its size."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} has no formula: give the bytes of the checkpoint (metadata.total_size of "
            f"model.safetensors.index.json), which then count"
        )
        self.what = what
