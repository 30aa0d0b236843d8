"""Lists of modules as checkpoints write them, and which modules they mean.

```text
re:.*self_attn.*            a regular expression, anchored at the beginning
model.layers.*.mlp.gate     a shell pattern of the whole name
lm_head, mlp.gate           whole components of a name: gate is the router, never gate_proj
attn, mlp.gate_             a part of a name, where it is nobody's whole (AWQ, ModelOpt)
(self_attn|lm_head)         in a list of what is left alone, an expression without its mark
                            (transformers), found anywhere
```
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import translate
from functools import lru_cache

from memroute.errors import UnknownFormatError
from memroute.footprint.weights.expressions import Expression, expression
from memroute.footprint.weights.names import Names, local_name

REGEX = "re:"
# Words that are whole components wherever they are any: routers and norms of other models.
WHOLE_WORDS = frozenset({"gate", "router", "norm", "head", "proj", "layer", "model", "expert"})
# A wrapper's list may name all of its language model.
WHOLE_MODEL = "language_model"
# What only expressions have; ``*``, ``?`` and ``[`` are of shell patterns too.
_OF_EXPRESSIONS = frozenset("\\|()^$+{}")
# Of one list. Unit: parts of names. Source: chosen by hand; published lists have a handful.
MAX_PARTS = 1_024
# What one module may be asked, of one checkpoint, in matches of one expression; the largest models
# have a thousand modules with ten names each. Source: chosen by hand, some seconds in all.
MAX_COST = 2_000
TOO_MANY = "a quantization_config with so many expressions that name modules"


@dataclass(frozen=True, slots=True)
class ModuleList:
    """The modules that a list of patterns means."""

    plain: frozenset[str]
    """Runs of whole components, local."""
    expressions: tuple[Expression, ...]
    found_anywhere: tuple[Expression, ...] = ()
    """Of a list of exclusions: expressions without their mark."""
    parts: tuple[str, ...] = ()
    """Of a list of exclusions: what is a part of a name, and no run of components."""

    def __bool__(self) -> bool:
        """Whether anything is listed."""
        return bool(self.plain or self.expressions or self.found_anywhere)

    @property
    def cost(self) -> int:
        """What it takes to ask for one module, in matches of one expression."""
        return 1 + sum(one.cost for one in (*self.expressions, *self.found_anywhere))

    def with_parts(self, words: frozenset[str]) -> "ModuleList":
        """As a list of exclusions has it: a pattern that is no component is a part of one.

        ``words``: components of all names of the model. Raises ``UnknownFormatError`` for a list
        that takes too long.
        """
        parts = tuple(sorted(one for one in self.plain if _is_part(one, words | WHOLE_WORDS)))
        if len(parts) > MAX_PARTS:
            msg = f"a list of {len(parts)} parts of names"
            raise UnknownFormatError(msg)
        return replace(self, parts=parts)

    def matches(self, names: Names) -> bool:
        """Whether the module is meant."""
        if WHOLE_MODEL in self.plain:
            return True
        if self.plain and any(run in self.plain for one in names.local for run in _runs(one)):
            return True
        if any(one.match(name) for one in self.expressions for name in names.full):
            return True
        if any(one.search(name) for one in self.found_anywhere for name in names.full):
            return True
        return any(part in name for part in self.parts for name in names.local)


@dataclass(frozen=True, slots=True)
class OneExpression:
    """The modules that one expression means."""

    expression: Expression
    is_anywhere: bool = False
    """Else a name has to begin so."""

    @property
    def cost(self) -> int:
        """What it takes to ask for one module, in matches of one expression."""
        return self.expression.cost

    def __call__(self, names: Names) -> bool:
        """Whether the module is meant."""
        match = self.expression.search if self.is_anywhere else self.expression.match
        return any(match(name) for name in names.full)


def _is_part(pattern: str, words: frozenset[str]) -> bool:
    """Whether it begins or ends within a component: ``mlp.gate_``, never ``mlp.gate``."""
    first, *inner, last = (
        components if len(components := pattern.split(".")) > 1 else (pattern,) * 2
    )
    # What has ``layers`` inside is of something beside the language model.
    is_possible = words.issuperset(inner) and "layers" not in inner
    return is_possible and not words.issuperset((first, last))


def module_list(patterns: Iterable[str], *, is_exclusion: bool = False) -> ModuleList:
    """The list.

    Raises as ``expression``, and ``UnknownFormatError`` for too many of them.
    """
    plain: set[str] = set()
    expressions, anywhere = [], []
    for pattern in patterns:
        if pattern.startswith(REGEX):
            expressions.append(expression(pattern.removeprefix(REGEX)))
        elif is_exclusion and not _OF_EXPRESSIONS.isdisjoint(pattern):
            anywhere.append(expression(pattern))
        elif not frozenset("*?[").isdisjoint(pattern):
            expressions.append(_shell(pattern))
        else:
            plain.add(local_name(pattern.strip(".")))
        if len(expressions) + len(anywhere) > MAX_COST:
            raise UnknownFormatError(TOO_MANY)
    return ModuleList(frozenset(plain - {""}), tuple(expressions), tuple(anywhere))


@lru_cache(maxsize=4096)
def _shell(pattern: str) -> Expression:
    """A shell pattern over a full or local name, or over whole components of its beginning.

    ``module*`` is the tree below the module (ModelOpt): ``layers.1*`` is not ``layers.10``.
    """
    body = local_name(pattern.strip("."))
    if re.search(r"\d\*$", body):
        body = body.removesuffix("*")
    shells = (body, f"*.{body}", f"{body}.*", f"*.{body}.*")
    # Its stars are atomic: each is tried once, and none of them again.
    return Expression(re.compile("|".join(map(translate, shells))))


def _runs(name: str) -> Iterable[str]:
    """All runs of whole components of a name."""
    components = name.split(".")
    for start in range(len(components)):
        for end in range(start + 1, len(components) + 1):
            yield ".".join(components[start:end])
