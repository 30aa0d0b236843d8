"""The words of a ModelDeployment's enumerations, and what each means here.

The API's words are CamelCase, so that none is a boolean to YAML; inside, values are kebab-case.
This is the one place where they meet. Objects that 0.1 stored have its words: they mean the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, TypeVar

Meaning = TypeVar("Meaning")


@dataclass(frozen=True, slots=True, kw_only=True)
class Words(Generic[Meaning]):
    """The words of one enumeration."""

    meanings: Mapping[str, Meaning]
    """By the API's word, in the order of the schema; the first is the default."""
    renamed: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """0.1's word → today's, where it is more than its lower case."""

    @property
    def default(self) -> str:
        """The word that is taken where none is given."""
        return next(iter(self.meanings))

    def today(self, word: object) -> str | None:
        """The API's word for what today's or 0.1's says; None for what is neither."""
        if not isinstance(word, str):
            return None
        if word in self.meanings:
            return word
        if word in self.renamed:
            return self.renamed[word]
        return next((one for one in self.meanings if one.lower() == word), None)

    def meaning(self, word: object) -> Meaning | None:
        """What a word means; None for one that is not known."""
        today = self.today(word)
        return None if today is None else self.meanings[today]

    def read(self, word: object) -> Meaning:
        """What a word means. Raises ``ValueError`` for one that is not known."""
        found = self.meaning(word)
        if found is None:
            message = f"{word!r:.80} is not known: {', '.join(self.meanings)} are"
            raise ValueError(message)
        return found

    def word(self, meaning: Meaning) -> str | None:
        """The API's word for something; None where it has none."""
        return next((word for word, one in self.meanings.items() if one == meaning), None)
