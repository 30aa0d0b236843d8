"""Which format each module of a checkpoint is stored in.

A format holds per module, not per checkpoint: attention in FP8 beside an MLP in NVFP4, single
layers at 8 bit, experts alone. The rules of a checkpoint are tried in order, and the first that
knows a module decides; what none knows is left at 16 bit. Norms, routers and convolutions always
are; embedding and output head are where no rule speaks of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from memroute.errors import UnknownFormatError
from memroute.footprint.architecture import ModelArchitecture
from memroute.footprint.weights.formats import SIXTEEN_BIT, WeightFormat
from memroute.footprint.weights.modules import Module, Split, modules_of
from memroute.footprint.weights.names import Names, Naming, local_name
from memroute.footprint.weights.patterns import MAX_COST, TOO_MANY, ModuleList, OneExpression
from memroute.units import ceil_div

OUTPUT_HEAD = "lm_head"
# What asking for single experts may take, of one checkpoint, in matches of one expression: some
# seconds.
MAX_ASKED = 1_000_000


class ModuleKind(StrEnum):
    """What a rule may be about."""

    LINEAR = "linear"
    HEAD = "head"
    EMBEDDING = "embedding"


LINEAR_ONLY = frozenset({ModuleKind.LINEAR})
LINEAR_AND_HEAD = frozenset({ModuleKind.LINEAR, ModuleKind.HEAD})
ANY_MATRIX = frozenset(ModuleKind)


def kinds_named(pattern: str) -> frozenset[ModuleKind]:
    """What a pattern of quantized modules is about: the tables only where it names them.

    ``re:.*`` means every linear layer, and no embedding.
    """
    head = {ModuleKind.HEAD} if OUTPUT_HEAD in pattern else set()
    table = {ModuleKind.EMBEDDING} if "embed" in pattern else set()
    return LINEAR_ONLY | head | table


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Modules, and how they are stored."""

    form: WeightFormat
    modules: ModuleList | Callable[[Names], bool] | None = None
    """None for all."""
    kinds: frozenset[ModuleKind] = LINEAR_ONLY
    is_exclusion: bool = False
    """Whether its words may be parts of a name: excluding too much is the safe side."""

    @property
    def cost(self) -> int:
        """What it takes to ask for one module, in matches of one expression."""
        return self.modules.cost if isinstance(self.modules, ModuleList | OneExpression) else 1


class StoredFormats:
    """The formats of one checkpoint. The same answer for the same module, worked out once."""

    def __init__(
        self,
        rules: Iterable[Rule],
        *,
        naming: Naming | None = None,
        words: frozenset[str] = frozenset(),
        tells_experts_apart: bool = False,
    ) -> None:
        """``words``: components of the model's names.

        ``tells_experts_apart``: whether single experts of a layer are named, which then have to be
        asked for one by one. Raises ``UnknownFormatError`` for rules that take too long.
        """
        self._rules = tuple(_with_parts(rule, words) for rule in rules)
        self._cost = sum(rule.cost for rule in self._rules)
        if self._cost > MAX_COST:
            raise UnknownFormatError(TOO_MANY)
        self._naming = naming or Naming()
        self._tells_experts_apart = tells_experts_apart
        self._known: dict[str, WeightFormat] = {}
        self._experts: dict[str, dict[WeightFormat, int]] = {}
        self._num_asked = 0

    @property
    def formats(self) -> tuple[WeightFormat, ...]:
        """All quantized formats that a module may be stored in, the narrowest first."""
        found = {rule.form: None for rule in self._rules if rule.form.is_quantized}
        return tuple(sorted(found, key=lambda form: form.bits_per_weight))

    @property
    def is_quantized(self) -> bool:
        """Whether any module may be narrower than 16 bit."""
        return bool(self.formats)

    @property
    def name(self) -> str:
        """What people call it: ``fp8``, ``nvfp4+fp8``; ``bf16`` where nothing is quantized."""
        names = tuple(dict.fromkeys(form.name for form in self.formats))
        return "+".join(names) or SIXTEEN_BIT.name

    def format_of(self, module: Module) -> WeightFormat:
        """How the module's matrix is stored; that of its first expert."""
        known = self._known.get(module.name)
        if known is None:
            known = self._format_of(module, 0)
            self._known[module.name] = known
        return known

    def covers(self, module: Module) -> bool:
        """Whether the module's matrix is quantized."""
        return self.format_of(module).is_quantized

    def matrix_bytes(self, module: Module, *, num_outputs: int, num_inputs: int) -> int:
        """Bytes of one copy of so much of the module's matrix, the mean of unequal experts."""
        total = 0
        counted = self._counted(module)
        for form, count in counted.items():
            if form.is_quantized:
                size = form.matrix_bytes(num_outputs=num_outputs, num_inputs=num_inputs)
            else:
                size = num_outputs * num_inputs * module.dtype_bytes
            total += count * size
        return ceil_div(total, sum(counted.values()))

    def _counted(self, module: Module) -> dict[WeightFormat, int]:
        """The formats of the module's copies, and how many have each."""
        if not self._tells_experts_apart or module.split is not Split.EXPERTS:
            return {self.format_of(module): 1}
        counted = self._experts.get(module.name)
        if counted is None:
            counted = self._count_experts(module)
            self._experts[module.name] = counted
        return counted

    def _count_experts(self, module: Module) -> dict[WeightFormat, int]:
        self._num_asked += module.num_copies * self._cost
        if self._num_asked > MAX_ASKED:
            # An upper bound rather than seconds of matching.
            return {self._widest(): 1}
        counted: dict[WeightFormat, int] = {}
        for expert in range(module.num_copies):
            form = self._format_of(module, expert)
            counted[form] = counted.get(form, 0) + 1
        return counted

    def _widest(self) -> WeightFormat:
        """The widest format that a linear layer may have by any rule."""
        forms = [rule.form for rule in self._rules]
        if all(rule.modules is not None for rule in self._rules):
            forms.append(SIXTEEN_BIT)
        return max(forms, key=lambda form: form.bits_per_weight)

    def _format_of(self, module: Module, expert: int) -> WeightFormat:
        kind = _kind(module)
        if kind is None:
            return SIXTEEN_BIT
        names = self._naming.names(module, expert)
        for rule in self._rules:
            if kind in rule.kinds and _is_meant(rule, names):
                return rule.form
        return SIXTEEN_BIT


def _with_parts(rule: Rule, words: frozenset[str]) -> Rule:
    if rule.is_exclusion and isinstance(rule.modules, ModuleList) and words:
        return replace(rule, modules=rule.modules.with_parts(words))
    return rule


def _is_meant(rule: Rule, names: Names) -> bool:
    if rule.modules is None:
        return True
    if isinstance(rule.modules, ModuleList):
        return rule.modules.matches(names)
    return rule.modules(names)


def uniform(form: WeightFormat, kinds: frozenset[ModuleKind] = LINEAR_ONLY) -> StoredFormats:
    """All linear layers in one format."""
    return StoredFormats([Rule(form=form, kinds=kinds)] if form.is_quantized else [])


UNQUANTIZED = StoredFormats(())
"""Everything at 16 bit."""


def naming_of(architecture: ModelArchitecture) -> Naming:
    """How the model calls its modules."""
    return Naming(family=architecture.family, is_wrapped=architecture.is_wrapped)


def words_of(architecture: ModelArchitecture) -> frozenset[str]:
    """The components of all names of the model's modules, by every name that they have."""
    naming = naming_of(architecture)
    return frozenset(
        word
        for module in modules_of(architecture)
        for name in naming.names(module).local
        for word in name.split(".")
    )


def _kind(module: Module) -> ModuleKind | None:
    if module.is_table:
        is_head = local_name(module.name) == OUTPUT_HEAD
        return ModuleKind.HEAD if is_head else ModuleKind.EMBEDDING
    return ModuleKind.LINEAR if module.is_linear else None
