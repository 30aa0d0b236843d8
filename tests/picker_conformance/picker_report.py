"""The suite's report: each rule, where it comes from, and what became of it."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from picker_rules import RULES, Level

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "picker-rules.md"
HEAD = """\
What `make picker-conformance` tests of an [endpoint picker](../how-to/behind-a-gateway-picker.md),
with a real Envoy before it and by playing the gateway itself, in two minutes. GAIE is
`kubernetes-sigs/gateway-api-inference-extension`. *trivial* is the least that picks
(`tests/support/gateways/trivial_picker.py`, 100 lines, round robin): what it breaks is what a
picker has to take care of.

**Your own picker**: start it on this machine, without TLS, with 127.0.0.11:8801, 127.0.0.12:8801
and 127.0.0.13:8801 as its pool and `conformance-model` as a model's name. The suite serves engines
there, which answer who they are and have no metrics. Then:

```sh
make picker-conformance ARGS="--picker 127.0.0.1:9002 --claims test-selection,served-reported"
```

`--endpoints` and `--model` name others, `--claims` the optional rules (MAY) that yours is to keep.
The run ends with what is broken, by level, and with exit status 1 where anything is, a SHOULD too;
each rule is in `.venv-picker/report.md`. `ARGS="--start trivial"` shows how that looks.
`overload-429` is tested of memroute's picker alone: no other's pool can be made so small from here.

This page is made by `python tests/picker_conformance/picker_report.py REPORT.json …`.
""".splitlines()
_SIGNS = {"passed": "yes", "failed": "NO", "skipped": "not tested"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a rule."""

    outcome: str
    """``passed``, ``failed`` or ``skipped``."""
    why: str


def summary(verdicts: dict[str, Verdict]) -> list[str]:
    """How many rules are kept, and which are broken, by their level."""
    outcomes = {name: verdicts.get(name, Verdict("skipped", "")).outcome for name in RULES}
    kept, broken, untested = (
        [name for name, outcome in outcomes.items() if outcome == which]
        for which in ("passed", "failed", "skipped")
    )
    lines = [
        f"of {len(RULES)} rules {len(kept)} kept, {len(broken)} broken, {len(untested)} not tested"
    ]
    by_level = {level: [name for name in broken if RULES[name].level is level] for level in Level}
    lines += [f"{level} broken: {', '.join(names)}" for level, names in by_level.items() if names]
    if untested:
        lines.append(f"not tested: {', '.join(untested)}")
    return lines


def written(path: Path, subject: str, verdicts: dict[str, Verdict]) -> None:
    """Write ``path``.json and ``path``.md."""
    rows = [
        {"rule": name, **asdict(rule), **asdict(verdicts.get(name, Verdict("skipped", "")))}
        for name, rule in RULES.items()
    ]
    counts = {
        outcome: sum(row["outcome"] == outcome for row in rows)
        for outcome in ("passed", "failed", "skipped")
    }
    document = {"picker": subject, "counts": counts, "rules": rows}
    path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    lines = [
        f"# Endpoint picker conformance: {subject}",
        "",
        (
            f"{counts['passed']} rules kept, {counts['failed']} broken, "
            f"{counts['skipped']} not tested."
        ),
        "",
        "| rule | level | kept | text | source |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['rule']} | {row['level']} | {_SIGNS[row['outcome']]} | {row['text']} "
        f"| {row['source']} |"
        for row in rows
    ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def page(reports: list[dict]) -> str:
    """The page of the rules: each, where it comes from, and what has become of it where."""
    names = [report["picker"] for report in reports]
    kept = [{row["rule"]: row["outcome"] for row in report["rules"]} for report in reports]
    head = "".join(f" {name} |" for name in names)
    lines = [
        "# Rules of the endpoint picker protocol",
        "",
        *HEAD,
        "",
        f"| rule | level | text | source |{head}",
        "| --- | --- | --- | --- |" + " --- |" * len(names),
    ]
    for name, rule in RULES.items():
        cells = "".join(f" {_SIGNS[each.get(name, 'skipped')]} |" for each in kept)
        lines.append(f"| `{name}` | {rule.level} | {rule.text} | {rule.source} |{cells}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    reports = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    PAGE.write_text(page(reports))
