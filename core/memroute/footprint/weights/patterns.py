"""Lists of modules as checkpoints write them, and which modules they mean.

```text
re:.*self_attn.*            a regular expression, anchored at the beginning
model.layers.*.mlp.gate     a shell pattern of the whole name
lm_head, mlp.gate           whole components of a name: gate is the router, never gate_proj
attn                        a part of a component, where it is nobody's whole (AWQ, ModelOpt)
```
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from memroute.errors import UnsupportedShapeError
from memroute.footprint.weights.names import Names, local_name

REGEX = "re:"
# Words that are whole components wherever they are any: routers and norms of other models.
WHOLE_WORDS = frozenset({"gate", "router", "norm", "head", "proj", "layer", "model", "expert"})
# A wrapper's list may name all of its language model.
WHOLE_MODEL = "language_model"


@dataclass(frozen=True, slots=True)
class ModuleList:
    """The modules that a list of patterns means."""

    plain: frozenset[str]
    """Runs of whole components, local."""
    parts: tuple[str, ...]
    """Single words: where no component of a model is one, a part of a component."""
    expressions: tuple[re.Pattern[str], ...]

    def __bool__(self) -> bool:
        """Whether anything is listed."""
        return bool(self.plain or self.expressions)

    def matches(self, names: Names, *, words: frozenset[str] | None = None) -> bool:
        """Whether the module is meant.

        ``words``: components of all names of the model. With them a pattern that is none of them
        is a part of one.
        """
        if WHOLE_MODEL in self.plain:
            return True
        if self.plain and any(run in self.plain for one in names.local for run in _runs(one)):
            return True
        if any(one.match(name) for one in self.expressions for name in names.full):
            return True
        if words is None:
            return False
        parts = [part for part in self.parts if part not in words and part not in WHOLE_WORDS]
        return any(part in name for part in parts for name in names.local)


def module_list(patterns: Iterable[str]) -> ModuleList:
    """The list. Raises ``UnsupportedShapeError`` for what is no regular expression."""
    plain: set[str] = set()
    expressions = []
    for pattern in patterns:
        if pattern.startswith(REGEX):
            expressions.append(expression(pattern.removeprefix(REGEX)))
        elif "*" in pattern or "?" in pattern:
            expressions.append(_shell(pattern))
        else:
            plain.add(local_name(pattern.strip(".")))
    parts = tuple(sorted(one for one in plain if "." not in one and one))
    return ModuleList(frozenset(plain - {""}), parts, tuple(expressions))


@lru_cache(maxsize=4096)
def expression(text: str) -> re.Pattern[str]:
    """A checkpoint's regular expression. Raises ``UnsupportedShapeError``."""
    try:
        return re.compile(text)
    except re.error as error:
        msg = f"quantization_config names modules by {text!r:.200}, which is no regular expression"
        raise UnsupportedShapeError(msg) from error


@lru_cache(maxsize=4096)
def _shell(pattern: str) -> re.Pattern[str]:
    """A shell pattern over a full or local name, or over whole components of its beginning.

    ``module*`` is the tree below the module (ModelOpt): ``layers.1*`` is not ``layers.10``.
    """
    body = re.escape(local_name(pattern.strip("."))).replace(r"\*", ".*").replace(r"\?", ".")
    if re.search(r"\d\.\*$", body):
        body = body.removesuffix(".*")
    return re.compile(rf"(?:.*\.)?{body}(?:\..*)?$")


def _runs(name: str) -> Iterable[str]:
    """All runs of whole components of a name."""
    components = name.split(".")
    for start in range(len(components)):
        for end in range(start + 1, len(components) + 1):
            yield ".".join(components[start:end])
