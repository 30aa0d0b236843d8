"""The work of ``memroute decisions``: why a router sent, held or refused the last requests."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
from rich.console import RenderableType
from rich.text import Text

from memroute_cli.terminal.addresses import base_address
from memroute_cli.terminal.console import open_console, text_width
from memroute_cli.terminal.errors import UserError, tell
from memroute_cli.terminal.output import Output, write
from memroute_cli.terminal.table import Column, Table, shortened

TIMEOUT_SECONDS = 5.0
UNKNOWN = "-"
# Characters of a sentence in a table of one line per request, at the least.
LEAST_WHY = 10
# What sentences of the policy that nobody has to choose begin with: no news in a short line.
DEFAULT_POLICY = "memroute: "


def run(
    router: str,
    request_id: str | None,
    *,
    only_refused: bool,
    limit: int,
    output: Output,
    is_wide: bool,
) -> bool:
    """Tell it; whether the request is remembered. Raises ``UserError``."""
    found = _fetch(router, "/debug/decisions")
    replicas = _fetch(router, "/debug/replicas")
    waiting = _fetch(router, "/debug/queue")
    if request_id is not None:
        found = [one for one in found if one.get("request_id") == request_id]
        if not found:
            tell(
                f"memroute decisions: the router at {router} remembers no request {request_id!r} "
                "(another router, or more than 256 of its kind ago)"
            )
            return False
    if only_refused:
        found = [one for one in found if one.get("outcome") != "served"]
    found = found[:limit]
    if output is not Output.TABLE:
        write({"decisions": found, "queue": waiting, "replicas": replicas}, output)
        return True
    console = open_console(is_wide=is_wide)
    if request_id is not None:
        for decision in found:
            console.print(_whole(decision))
        return True
    console.print(*_told(found, waiting[:limit], len(waiting), replicas, is_wide=is_wide), sep="\n")
    return True


def _told(
    found: Sequence[dict[str, Any]],
    waiting: Sequence[dict[str, Any]],
    num_waiting: int,
    replicas: Sequence[dict[str, Any]],
    *,
    is_wide: bool,
) -> Iterator[RenderableType]:
    if found:
        yield _decisions(found, is_wide=is_wide)
        if not is_wide:
            yield Text(
                "memroute decisions REQUEST tells all of one; --wide all of each", style="dim"
            )
    else:
        yield "no request is remembered"
    if waiting:
        yield Text(f"\n{num_waiting} request(s) wait now, the longest first")
        yield _queue(waiting, is_wide=is_wide)
    yield ""
    yield _replicas(replicas, is_wide=is_wide) if replicas else "it knows no replica"


def _fetch(router: str, path: str) -> list[dict[str, Any]]:
    url = base_address(router) + path
    try:
        answer = httpx.get(url, timeout=TIMEOUT_SECONDS, trust_env=False)
        answer.raise_for_status()
        rows = answer.json()
    except httpx.HTTPStatusError as error:
        msg = f"{url}: it answers {error.response.status_code}: is it a router's operations port?"
        raise UserError(msg) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        msg = (
            f"{url} does not answer ({_why(error)}); kubectl -n memroute-system port-forward "
            "deploy/memroute-router 8002 (or deploy/memroute-picker) brings it here, --router "
            "names another"
        )
        raise UserError(msg) from error
    except ValueError as error:
        msg = f"{url} is no memroute router: it does not answer in JSON"
        raise UserError(msg) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        msg = f"{url} is no memroute router"
        raise UserError(msg)
    return rows


def _why(error: Exception) -> str:
    """The reason, without the number that the kernel gives it."""
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__


def _decisions(rows: Sequence[dict[str, Any]], *, is_wide: bool) -> Table:
    """One line for each."""
    cells = [
        (
            _text(row, "request_id"), _text(row, "model"),
            f"{_text(row, 'status')} {_text(row, 'outcome')}",
            _text(row, "replica") if is_wide else _text(row, "replica").rpartition("/")[2],
            _seconds(row.get("queue_seconds")), _count(row, "expected_tokens"),
            _text(row, "why") if is_wide else _text(row, "why").removeprefix(DEFAULT_POLICY),
        )
        for row in rows
    ]  # fmt: skip
    has_waited = any(row.get("queue_seconds") for row in rows)
    columns = (
        Column(name="REQUEST", least=10),
        Column(name="MODEL", least=8),
        Column(name="OUTCOME", least=10),
        Column(name="REPLICA", least=8),
        Column(name="WAITED", is_number=True, is_wide=not has_waited),
        Column(name="RESERVED", is_number=True, is_wide=True),
        Column(name="WHY", is_sentence=is_wide),
    )
    return _one_line_each(columns, cells, is_wide=is_wide)


def _queue(rows: Sequence[dict[str, Any]], *, is_wide: bool) -> Table:
    cells = [
        (
            _text(row, "request_id"), _text(row, "model"), _text(row, "tenant"),
            _seconds(row.get("waited_seconds")), _count(row, "expected_tokens"),
            _text(row, "why"),
        )
        for row in sorted(rows, key=lambda row: -(row.get("waited_seconds") or 0.0))
    ]  # fmt: skip
    columns = (
        Column(name="REQUEST", least=10),
        Column(name="MODEL", least=8),
        Column(name="TENANT", least=8),
        Column(name="WAITED", is_number=True),
        Column(name="RESERVED", is_number=True, is_wide=True),
        Column(name="WHY", is_sentence=is_wide),
    )
    return _one_line_each(columns, cells, is_wide=is_wide)


def _one_line_each(
    columns: tuple[Column, ...], cells: Sequence[tuple[str, ...]], *, is_wide: bool
) -> Table:
    """The last column, a sentence, in what the others leave of the line."""
    if is_wide:
        return Table(columns, tuple(cells), is_wide)
    width = text_width()
    # First without the sentence: the names give way until it has its least.
    heads = Table(columns, tuple((*row[:-1], "x" * LEAST_WHY) for row in cells)).lines(width)
    left = max(LEAST_WHY, width - max(map(len, heads)) + LEAST_WHY)
    return Table(columns, tuple((*row[:-1], shortened(row[-1], left)) for row in cells))


REPLICA_FIELDS = (
    ("IN FLIGHT", "num_in_flight"), ("HELD", "held_tokens"), ("PROJECTED", "projected_tokens"),
    ("CAPACITY", "capacity_tokens"), ("PROMPT WAITING", "pending_tokens"),
    ("PREFILL/S", "prefill_tokens_per_second"), ("S/TOKEN", "step_seconds"),
    ("AGE S", "reading_age_seconds"),
)  # fmt: skip
# Told with --wide alone.
WIDE_FIELDS = frozenset({"HELD", "PROMPT WAITING", "PREFILL/S", "S/TOKEN"})


def _replicas(rows: Sequence[dict[str, Any]], *, is_wide: bool) -> Table:
    cells = []
    for row in rows:
        state = "out" if row.get("is_out") else "ready" if row.get("is_routable") else "not ready"
        state = _text(row, "sleep").replace("-", " ") if row.get("sleep") else state
        numbers = (_number(row.get(name)) for _, name in REPLICA_FIELDS)
        cells.append((_text(row, "replica"), _text(row, "model"), state, *numbers))
    columns = (
        Column(name="REPLICA", least=10),
        Column(name="MODEL", least=8),
        Column(name="STATE"),
        *(
            Column(name=name, is_number=True, is_wide=name in WIDE_FIELDS)
            for name, _ in REPLICA_FIELDS
        ),
    )
    return Table(columns, tuple(cells), is_wide)


def _whole(row: dict[str, Any]) -> Table:
    """All that is known of one request, a line each; a sentence is folded below itself."""
    cells = tuple(
        (name.replace("_", " "), UNKNOWN if value is None else str(value))
        for name, value in row.items()
    )
    return Table((Column(name="FIELD"), Column(name="VALUE", is_sentence=True)), cells)


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    return UNKNOWN if value is None or value == "" else str(value)


def _count(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    return f"{value:,}" if isinstance(value, int) else UNKNOWN


def _number(value: object) -> str:
    """Whole as it is, else with three digits that count."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.3g}" if isinstance(value, float) else UNKNOWN


def _seconds(value: object) -> str:
    return f"{value:.3f}s" if isinstance(value, int | float) else UNKNOWN
