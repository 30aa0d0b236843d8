"""``docs/reference/conditions.md``, made of what the operator writes in each situation."""

import asyncio
import re
import sys
from pathlib import Path

if __name__ == "__main__":  # what tests have by pyproject.toml
    sys.path += [str(folder) for folder in Path(__file__).parents[1].glob("*/")]

from memroute_operator.adapters.events import (
    ADAPTER_FAILED,
    ADAPTER_LOADED,
    ADAPTER_REMOVED,
)
from memroute_operator.sleeping.telling import FELL_ASLEEP, WOKEN
from memroute_operator.status.served_names import NAME_SHARED
from memroute_operator.status.status_writer import TOLD_KINDS
from memroute_operator.status.step_events import AHEAD, LOST, PLACED, REMOVED
from situation_rows import rows
from situations import Row

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "conditions.md"
# How much of a message is shown, in characters: lists of nodes and of models go on.
MAX_SHOWN = 420
# The lines of the page are as long as those of all others there.
# ruff: noqa: E501
TOLD = ", ".join(f"`{kind}`" for kind in TOLD_KINDS)
HEAD = f"""\
# Conditions, situation by situation

What a user of a ModelDeployment is told, in {{number}} situations: the state of the replica (`status.placements`), the
reason of the condition (`Ready`, unless another is named), the Events that are written, the sentence, and the part of it
that says what helps. Each row is made to happen on a cluster (objects changed as kubelet, kube-scheduler and the API server
change them) and read from what the operator has written; a test compares this page with it
(`tests/simulation/test_situations.py`), and tries suggestions of placement by following them
(`tests/unit/test_top_and_explain.py`). All signatures of failures are in [failures](failures.md).

What each condition means, and how often what fails is tried again: [settings](settings.md#conditions-of-a-modeldeployment).

Events, on the ModelDeployment, each once for a change: the reason of `Ready` when that changes (Warning where somebody
should look); {TOLD} when they become true, under their own reason;
`{PLACED}`, `{REMOVED}`, `{LOST}` and `ReplicaFailed` for what was done to replicas, one Event for all of a step;
`{AHEAD}` when a pod goes ahead of a rollout; `{FELL_ASLEEP}` and `{WOKEN}` when an engine has confirmed that; `{NAME_SHARED}` when another ModelDeployment serves the same name;
`{ADAPTER_LOADED}`, `{ADAPTER_FAILED}` and `{ADAPTER_REMOVED}` when the state of an adapter changes
([serve adapters](../how-to/serve-adapters.md#when-one-does-not-come)).
What waits is told as it began; what is told again and again by others (a failing probe, a pull that is retried) is no
Event of ours.
"""


def page(found: dict[str, list[Row]]) -> str:
    """The whole page."""
    number = sum(map(len, found.values()))
    parts = [HEAD.replace("{{number}}", str(number)).replace("{number}", str(number))]
    for group, several in found.items():
        parts.append(
            f"\n## {group}\n\n| situation | state | reason | Events | what is told | what helps |\n"
            "| --- | --- | --- | --- | --- | --- |\n" + "\n".join(map(_line, several)) + "\n"
        )
    return "".join(parts)


def _line(row: Row) -> str:
    kind = "" if row.kind == "Ready" else f"{row.kind}: "
    events = ", ".join(f"{one.partition(' ')[0]} `{one.partition(' ')[2]}`" for one in row.events)
    cells = (
        row.title, row.state, f"{kind}`{row.reason}`", events or "-", _told(row), row.helps or "-",
    )  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _told(row: Row) -> str:
    """The message, cut, without what a run makes of it."""
    text = re.sub(r"\bm\d\d\b", "m", re.sub(r"\bn\d\d\b", "NODE", row.message))
    text = re.sub(r"\bm(?:\d\d)?-[0-9a-f]{5}-[a-z0-9]{4}\b", "m-3f9a1-k7wd", text)
    text = re.sub(r"own=m\b", "own=x", text)
    # How many others there are is how many situations there are.
    text = re.sub(
        r"\b\d+(?= (?:nodes may|Cordoned|SelectorMismatch|NotExclusive|NotReady))", "N", text
    )
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


if __name__ == "__main__":
    PAGE.write_text(page(asyncio.run(rows())))
