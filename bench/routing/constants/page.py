"""``python -m bench.routing.constants.page``: writes docs/reference/constants.md.

The page is made of the source (name, value, unit, source of each constant) and of what the study
has measured; a test checks that it is up to date.
"""

import math
from dataclasses import dataclass

from bench.routing.constants import bandwidth
from bench.routing.constants.roles import FROM_ONE, KEPT, REMOVED, why_unmeasured
from bench.routing.constants.source import ROOT, Constant, find_constants
from bench.routing.constants.study import FACTORS, NEUTRAL, Row, changed, read_results
from bench.routing.statistics import mean

# When the results in the file were taken: to be changed with them.
MEASURED_ON = "28 November 2026, before safe mode and overload objectives"
PAGE = ROOT / "docs/reference/constants.md"
# Standard deviations of the noise above which a difference is one: of the mean of a group of
# scenarios, and of a single one (there are hundreds, of which some differ by chance).
GROUP_SIGMAS = 3.0
SCENARIO_SIGMAS = 5.0
# Points of attainment below which a difference does not matter, whatever the noise.
LEAST_POINTS = 0.3
LEAST_SCENARIO_POINTS = 1.0
_HEAD = """\
# Constants

Every number in `core/memroute/traffic` that admission, routing and dispatch are tuned by, module by
module. The comment above each constant in the source says what it is. This page is written by
`python -m bench.routing.constants.page` from the source and from what
`python -m bench.routing constants` has measured; a test fails when the two differ.

**Effects** are points of attainment (percentage points of requests in time) that are won or
lost when a constant is halved and when it is doubled, one at a time: over the unchanged run or
the mean of its repetitions, whichever is nearer. The first two numbers are means over
{num_cases} cases of the suite, in the plain mix and in the real one, at loads where 87 to 96 %
of the requests are in time. Scenarios that a constant is meant for follow by name. The scenario
that moves most is in brackets, where it moves by more than noise. Where the value says "from
1", the constant's distance from 1 is what is halved and doubled.

**Noise**: {repetitions} runs that differ in ties alone have a standard deviation of {noise}. A
constant matters if the mean of a group moves by more than {group} of those and by {least}
points, or one scenario by more than {scenario} of its own and by {least_scenario} point. Runs
are short and of one seed, so "within noise" means an effect below that, not none; and a
constant can matter to traffic that the suite does not have. "No run differs" means equal
outcomes, to the fourth digit of every scenario. "Kept" means no effect beyond noise, and why the
constant is there all the same. Measured on {measured_on}; the unchanged runs are of the same
source.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the study knows: where runs are, and how far they differ by chance."""

    base: dict[str, float]
    """Attainment of each scenario with nothing changed, a ratio."""
    noise: dict[str, float]
    """Its standard deviation."""
    plain_run: dict[str, list[float]]
    """With nothing changed, by scenario and seed: runs that a constant does not touch are equal."""
    by_change: dict[tuple[str, float], Row]
    """By constant and factor."""

    def group_noise(self, group: str) -> float:
        """Of the mean over a group's scenarios, a ratio."""
        own = [noise for key, noise in self.noise.items() if _group(key) == group]
        return math.sqrt(sum(noise**2 for noise in own)) / len(own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One change: points of attainment over the unchanged run."""

    by_group: dict[str, float]
    by_scenario: dict[str, float]
    """Those beyond the noise alone."""
    moves: bool
    """Whether any of it is more than noise."""
    differs: bool = True
    """Whether any run is another than the unchanged one at all."""
    error: str | None = None

    def cell(self) -> str:
        """For the table."""
        if self.error is not None:
            return "fails"
        if not self.differs:
            return "no run differs"
        suite = [self.by_group[name] for name in ("plain", "real") if name in self.by_group]
        told = " / ".join(map(_points, suite)) if suite else "-"
        for name, points in self.by_group.items():
            if name not in {"plain", "real"}:
                told += f"; {name} {_points(points)}"
        if self.by_scenario:
            key = max(self.by_scenario, key=lambda key: abs(self.by_scenario[key]))
            told += f" ({key.replace('/', ' ')} {_points(self.by_scenario[key])})"
        return told


def measured() -> Measured:
    """What the file of results says."""
    by_change = {(row["constant"], row["factor"]): row for row in read_results()}
    neutral = [
        row["attained"]
        for (constant, factor), row in by_change.items()
        if constant == NEUTRAL and factor not in FACTORS
    ]
    base: dict[str, float] = {}
    noise: dict[str, float] = {}
    for key in neutral[0] if neutral else ():
        values = [mean(row[key]) for row in neutral if key in row]
        base[key] = mean(values)
        spread = sum((value - base[key]) ** 2 for value in values) / max(1, len(values) - 1)
        noise[key] = math.sqrt(spread)
    plain_run = by_change[NEUTRAL, 1.0]["attained"] if neutral else {}
    return Measured(base=base, noise=noise, plain_run=plain_run, by_change=by_change)


def effect(known: Measured, constant: Constant, factor: float) -> Effect | None:
    """What the change did; None where it was not measured."""
    row = known.by_change.get((constant.path, factor))
    if row is None or row["value"] != changed(constant, factor):
        # Of another value than it has now.
        return None
    if "error" in row:
        return Effect(by_group={}, by_scenario={}, moves=True, error=row["error"])
    points = {
        key: 100 * _beyond(mean(values), known.base[key], mean(known.plain_run[key]))
        for key, values in row["attained"].items()
        if key in known.base
    }
    by_group = {
        group: mean([value for key, value in points.items() if _group(key) == group])
        for group in dict.fromkeys(map(_group, points))
    }
    by_scenario = {
        key: value
        for key, value in points.items()
        if abs(value) > max(LEAST_SCENARIO_POINTS, 100 * SCENARIO_SIGMAS * known.noise[key])
    }
    moves = bool(by_scenario) or any(
        abs(value) > max(LEAST_POINTS, 100 * GROUP_SIGMAS * known.group_noise(group))
        for group, value in by_group.items()
    )
    differs = any(values != known.plain_run[key] for key, values in row["attained"].items())
    return Effect(
        by_group=by_group, by_scenario=by_scenario, moves=moves and differs, differs=differs
    )


def verdict(constant: Constant, effects: list[Effect | None]) -> str:
    """What follows: it matters, or why it is there all the same."""
    unmeasured = why_unmeasured(constant.path)
    if unmeasured is not None:
        return unmeasured
    if not any(effects):
        return "not measured yet"
    if any(one is not None and one.moves for one in effects):
        return "matters"
    return f"kept: {KEPT[constant.path]}" if constant.path in KEPT else "within noise"


def constants_table() -> list[tuple[str, str, str, str, str]]:
    """Name, value, effect of the half and of the double, verdict, of each."""
    known = measured()
    return [_cells(known, constant) for constant in find_constants()]


def _cells(known: Measured, constant: Constant) -> tuple[str, str, str, str, str]:
    effects = [effect(known, constant, factor) for factor in FACTORS]
    half, double = ("-" if one is None else one.cell() for one in effects)
    value = constant.expression + (", from 1" if constant.path in FROM_ONE else "")
    return constant.path, value, half, double, verdict(constant, effects)


def page() -> str:
    """The whole page."""
    known = measured()
    groups = dict.fromkeys(map(_group, known.base))
    told = ", ".join(f"{100 * known.group_noise(group):.2f} points ({group})" for group in groups)
    num_cases = sum(_group(key) == "plain" for key in known.base)
    repetitions = sum(
        constant == NEUTRAL and factor not in FACTORS for constant, factor in known.by_change
    )
    parts = [
        _HEAD.format(
            num_cases=num_cases, repetitions=repetitions, noise=told or "not measured",
            group=f"{GROUP_SIGMAS:g}", least=LEAST_POINTS, scenario=f"{SCENARIO_SIGMAS:g}",
            least_scenario=f"{LEAST_SCENARIO_POINTS:g}", measured_on=MEASURED_ON,
        )
    ]  # fmt: skip
    module = ""
    for constant in find_constants():
        if constant.module != module:
            module = constant.module
            parts.append(
                f"\n## {module}\n\n"
                "| constant | value | unit | source | 0.5 x | 2 x | verdict |\n"
                "| --- | --- | --- | --- | --- | --- | --- |\n"
            )
        _, value, half, double, said = _cells(known, constant)
        parts.append(
            f"| `{constant.name}` | {value} | {constant.unit} | {constant.source} | "
            f"{half} | {double} | {said} |\n"
        )
    parts.append("\n## Removed\n\n")
    parts += [f"* `{path}`: {why}\n" for path, why in REMOVED.items()]
    return "".join(parts) + bandwidth.section()


def _beyond(value: float, first: float, second: float) -> float:
    """How far it is from the nearer of two others; 0 between them."""
    low, high = min(first, second), max(first, second)
    return value - high if value > high else min(0.0, value - low)


def _group(key: str) -> str:
    return key.partition("/")[0]


def _points(value: float) -> str:
    """``+0.3``, a minus sign for a hyphen, 0 for what rounds to it."""
    told = f"{value:+.1f}"
    return "0" if told in {"+0.0", "-0.0"} else told.replace("-", "\N{MINUS SIGN}")


if __name__ == "__main__":
    PAGE.write_text(page())
