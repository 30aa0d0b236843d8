"""Findings for a terminal and for a program."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from memroute_cli.doctor.facts import Facts
from memroute_cli.doctor.finding import Finding, State

STYLES = {
    State.OK: "green", State.WARNING: "yellow", State.FAILED: "bold red", State.UNKNOWN: "cyan",
}  # fmt: skip
# Characters of the state and of the check's name: the longest of each.
STATE_WIDTH = max(map(len, State))
CHECK_WIDTH = 15


def told(findings: Sequence[Finding]) -> Iterator[RenderableType]:
    """A line or two for each, the sum last."""
    indent = STATE_WIDTH + CHECK_WIDTH + 4
    for one in findings:
        head = Text(f"{one.state.value:{STATE_WIDTH}}", style=STYLES[one.state])
        head.append(f"  {one.check:{CHECK_WIDTH}}  ", style="not bold default")
        yield _Hanging(head, one.sentence, indent)
        if one.next_step is not None:
            yield Padding(Text(f"next: {one.next_step}"), (0, 0, 0, indent), expand=False)
    counts = Counter(one.state for one in findings)
    words = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
    yield Text(f"\n{len(findings)} checks: {words}", style="bold")


class _Hanging:
    """A head, and a sentence that is folded beside it."""

    def __init__(self, head: Text, sentence: str, indent: int) -> None:
        self.head, self.sentence, self.indent = head, sentence, indent

    def __rich_console__(self, console: Any, options: Any) -> Iterator[RenderableType]:
        width = max(20, options.max_width - self.indent)
        first, *more = Text(self.sentence).wrap(console, width) or [Text("")]
        yield self.head.copy().append_text(first)
        for line in more:
            yield Padding(line, (0, 0, 0, self.indent), expand=False)


def document(facts: Facts, findings: Sequence[Finding]) -> dict[str, Any]:
    """The same for a program."""
    return {
        "programVersion": facts.program_version,
        "namespace": facts.namespace,
        "works": works(findings),
        "checks": [
            {
                "check": one.check, "state": one.state.value, "sentence": one.sentence,
                "nextStep": one.next_step,
            }
            for one in findings
        ],
    }  # fmt: skip


def works(findings: Sequence[Finding]) -> bool:
    """Whether nothing has failed."""
    return all(one.state is not State.FAILED for one in findings)
