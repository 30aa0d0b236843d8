"""The suite's report: each rule, where it comes from, and what became of it."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from picker_rules import RULES

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "picker-rules.md"
_SIGNS = {"passed": "yes", "failed": "NO", "skipped": "not tested"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a rule."""

    outcome: str
    """``passed``, ``failed`` or ``skipped``."""
    why: str


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
        "What `make picker-conformance` tests of a picker, with a real Envoy and by playing one.",
        "Made by `python tests/picker_conformance/picker_report.py REPORT.json …`, from reports.",
        "GAIE is `kubernetes-sigs/gateway-api-inference-extension`.",
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
