"""``docs/reference/failures.md``, written from the tables: ``python -m
memroute_operator.failures.page``.
"""  # noqa: D205 - a name and its command

import re
from pathlib import Path
from typing import Final

from memroute_operator.failures.reading import ALL
from memroute_operator.failures.signature import Signature, Where

PAGE: Final = Path(__file__).parents[3] / "docs" / "reference" / "failures.md"
_TITLES: Final = {
    Where.POD: ("The pod has failed", "`status.reason` of the pod"),
    Where.DISRUPTION: ("The pod was ended by somebody", "its condition `DisruptionTarget`"),
    Where.SCHEDULER: ("The pod is not scheduled", "kube-scheduler's words, in `PodScheduled`"),
    Where.FETCH: ("Weights are not fetched", "how the init container `memroute-fetch` has ended"),
    Where.INIT: ("An init container fails", "its status"),
    Where.WAITING: ("The container does not start", "why it waits"),
    Where.ENDED: ("The container was ended", "the word of the container runtime"),
    Where.LOG: ("The engine says why", "its last lines"),
    Where.EXIT: ("The engine says nothing that is known", "its exit code"),
    Where.EVENT: ("Events on the pod", "their reason and message"),
    Where.REFUSED: ("The pod is not created", "the API server's answer"),
}
# The lines of the page are as long as those of all others there.
# ruff: noqa: E501
_HEAD = """\
# Failures

Why a replica does not serve, as its ModelDeployment tells it: the name is the `reason` of the conditions `Ready` and
`Available` and of the Event, the sentence and the next step are in the message, with the last words of the engine in
brackets (at most three lines; what looks like a secret is cut). They are looked for in the order of this page; within a
table the first that matches counts. What nobody has words for is `EngineFailing` with its exit code.

memroute needs no right to read logs for this: engines' containers have `terminationMessagePolicy:
FallbackToLogsOnError`, so kubelet keeps the last 2 KiB of a log in the pod's status. What stands further above is in
`kubectl logs --previous`. Of a pod that is not ready for ten seconds the operator reads the Events too, where it may
list them: they say why a container is not there yet, and who has ended one.

This page is written from the program's tables (`operator/memroute_operator/failures/`); a test compares them, and each
row is tried by a process or a status that ends so (`tests/unit/test_failures.py`). What helps is followed, where an edit of
the ModelDeployment can (`tests/unit/test_suggestions.py`); why the others cannot be stands in
`tests/support/situations/followed_suggestions.py`.
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for where, (title, place) in _TITLES.items():
        rows = [_row(one) for one in ALL if one.where is where]
        parts.append(
            f"\n## {title}\n\nSeen in {place}.\n\n"
            "| name | seen as | what happened | what helps |\n| --- | --- | --- | --- |\n"
            + "\n".join(rows)
            + "\n"
        )
    return "".join(parts)


def _row(one: Signature) -> str:
    engines = ", ".join(sorted(engine.spelled for engine in one.engines))
    seen_as = f"{engines}: {one.seen_as}" if engines else one.seen_as
    cells = (f"`{one.name}`", seen_as, _plain(one.sentence), _plain(one.next_step))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(template: str) -> str:
    """A template as a reader takes it: fields in capitals, what may be left out in parentheses."""
    named = re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), template)
    return named.replace("[[", "(").replace("]]", ")")


if __name__ == "__main__":
    PAGE.write_text(page())
