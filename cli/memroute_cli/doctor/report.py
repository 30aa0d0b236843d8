"""Findings for a terminal and for a program."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from memroute_cli.doctor.facts import Facts
from memroute_cli.doctor.finding import Finding, State

STYLES = {
    State.OK: "green", State.WARNING: "yellow", State.FAILED: "bold red", State.UNKNOWN: "cyan",
}  # fmt: skip
# Characters of the state and of the check's name: the longest of each.
STATE_WIDTH = max(map(len, State))
CHECK_WIDTH = 15
INDENT = STATE_WIDTH + CHECK_WIDTH + 4
# Of a sentence, characters: in a terminal of 40 lines become longer than it.
LEAST_WIDTH = 20


def told(findings: Sequence[Finding]) -> Iterator[RenderableType]:
    """A line or two for each, the sum last."""
    for one in findings:
        head = Text(f"{one.state.value:{STATE_WIDTH}}", style=STYLES[one.state])
        head.append(f"  {one.check:{CHECK_WIDTH}}  ", style="not bold default")
        yield _Hanging(head, one.sentence)
        if one.next_step is not None:
            yield _Hanging(Text(" " * INDENT), f"next: {one.next_step}")
    counts = Counter(one.state for one in findings)
    words = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
    yield Text(f"\n{len(findings)} checks: {words}", style="bold")


class _Hanging:
    """A head, and a sentence that is folded beside it."""

    def __init__(self, head: Text, sentence: str) -> None:
        self.head, self.sentence = head, sentence

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        width = max(LEAST_WIDTH, options.max_width - INDENT)
        first, *more = textwrap.wrap(
            self.sentence, width, break_on_hyphens=False, break_long_words=False
        ) or [""]
        head = self.head.copy()
        if len(first) > width:
            # A name is not broken: people copy it. It stands as far left as it must.
            more, first = [first, *more], ""
        yield head.append(first, style="not bold default")
        for line in more:
            indent = min(INDENT, max(0, options.max_width - len(line)))
            yield Text(" " * indent + line, no_wrap=True, overflow="ignore")


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
