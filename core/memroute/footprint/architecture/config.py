"""Typed access to a Hugging Face ``config.json``, with errors that name the field."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memroute.errors import InvalidConfigError

# Tokenizers write 1e30 for no limit at all; what is larger is no number of anything.
MAX_NUMBER = 10**31
_TRUE = ("true", "1", "yes")


class ConfigReader:
    """Reads fields of one configuration.

    A field is read under the first of its names that is present and not null: families
    renamed the same thing (``num_local_experts``, ``n_routed_experts``, ``num_experts``).
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    @property
    def family(self) -> str:
        """``model_type``; empty when there is none."""
        return str(self._config.get("model_type") or "")

    def raw(self, *names: str) -> Any:
        """The value as it stands; None when absent or null."""
        for name in names:
            value = self._config.get(name)
            if value is not None:
                return value
        return None

    def optional_int(self, *names: str) -> int | None:
        """A non-negative integer; None when absent or null. Raises ``InvalidConfigError``."""
        value = self.raw(*names)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_whole(value):
            raise InvalidConfigError(names[0], value, "an integer")
        if value < 0:
            raise InvalidConfigError(names[0], value, "a non-negative integer")
        return int(value)

    def positive(self, *names: str, default: int | None = None) -> int:
        """A positive integer. Raises ``InvalidConfigError`` when absent and without default."""
        value = self.optional_int(*names)
        if value is None:
            value = default
        if value is None:
            raise InvalidConfigError(names[0], None, "a positive integer")
        if value == 0:
            raise InvalidConfigError(names[0], 0, "a positive integer")
        return value

    def count(self, *names: str, default: int = 0) -> int:
        """A non-negative integer, ``default`` when absent."""
        value = self.optional_int(*names)
        return default if value is None else value

    def flag(self, *names: str, default: bool = False) -> bool:
        """A boolean, ``default`` when absent; also where it is written as a text."""
        value = self.raw(*names)
        if isinstance(value, str):
            return value.strip().lower() in _TRUE
        return default if value is None else bool(value)

    def objects(self, name: str) -> Mapping[str, Any] | None:
        """An object of objects; None when absent. Raises ``InvalidConfigError``."""
        value = self.raw(name)
        if value is None:
            return None
        is_one = isinstance(value, Mapping) and all(
            one is None or isinstance(one, Mapping) for one in value.values()
        )
        if not is_one:
            raise InvalidConfigError(name, value, "an object of objects")
        return dict(value)

    def indices(self, name: str) -> frozenset[int]:
        """The layers that a list names, none where it is absent. Raises ``InvalidConfigError``."""
        listed = self.raw(name) or []
        if not isinstance(listed, list | tuple) or not all(isinstance(one, int) for one in listed):
            raise InvalidConfigError(name, listed, "a list of layers")
        return frozenset(listed)

    def per_layer(self, name: str, num_layers: int) -> list[Any] | None:
        """A list with something for each layer; None when absent or empty.

        Raises ``InvalidConfigError`` for anything else.
        """
        listed = self.raw(name)
        if listed is None or listed == []:
            return None
        if not isinstance(listed, list | tuple) or len(listed) < num_layers:
            raise InvalidConfigError(
                name, listed, f"a list with one for each of {num_layers} layers"
            )
        return list(listed[:num_layers])

    def layer_types(self, num_layers: int, default: Callable[[int], str]) -> list[str]:
        """The kind of each layer: ``layer_types``, or by the family's rule.

        Raises ``InvalidConfigError`` when the list is shorter than the stack.
        """
        listed = self.raw("layer_types")
        if listed is None:
            return [default(index) for index in range(num_layers)]
        if not isinstance(listed, Sequence) or isinstance(listed, str) or len(listed) < num_layers:
            raise InvalidConfigError("layer_types", listed, f"a list of {num_layers} kinds")
        return [str(kind) for kind in listed[:num_layers]]


def _is_whole(value: float) -> bool:
    """Whether it is a whole number; JSON as Python reads it has infinities and NaN, too."""
    return -MAX_NUMBER < value < MAX_NUMBER and value == int(value)
