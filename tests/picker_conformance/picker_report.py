"""The suite's report: each rule, where it comes from, and what became of it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from picker_rules import RULES

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
