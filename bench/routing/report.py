"""What is printed of each study."""

from rich.table import Table

from bench.routing.constants.page import constants_table
from bench.routing.tables.capacity import answers_tables, capacity_tables
from bench.routing.tables.cells import Rows
from bench.routing.tables.http import http_tables
from bench.routing.tables.loads import objectives_tables, overload_tables, scrape_tables
from bench.routing.tables.routers import routers_tables
from bench.routing.tables.trouble import fairness_tables, faults_tables, slow_tables


def tables_of(study: str, rows: Rows) -> list[Table | str]:
    """What is printed of a study."""
    return _TABLES[study](rows)


def deciding_tables(rows: Rows) -> list[Table | str]:
    """What one decision costs."""
    table = Table(title="one decision: prompts of 32k tokens, 20 answers per replica")
    columns = ("replicas", "median, us", "p99, us", "reference loop, ms", "reference hash, ms")
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row["num_replicas"]),
            f"{row['median_microseconds']:.0f}",
            f"{row['p99_microseconds']:.0f}",
            f"{row['loop_milliseconds']:.1f}",
            f"{row['hash_milliseconds']:.1f}",
        )
    return [table]


def constants_tables(_rows: Rows) -> list[Table | str]:
    """What each constant does, halved and doubled: as docs/reference/constants.md has it."""
    table = Table(title="points of attainment, plain / real, where a constant is scaled")
    for name in ("constant", "value", "0.5 x", "2 x", "verdict"):
        table.add_column(name)
    for cells in constants_table():
        table.add_row(*cells)
    return [table]


_TABLES = {
    "capacity": capacity_tables,
    "answers": answers_tables,
    "scrape": scrape_tables,
    "overload": overload_tables,
    "objectives": objectives_tables,
    "faults": faults_tables,
    "fairness": fairness_tables,
    "routers": routers_tables,
    "slow": slow_tables,
    "http": http_tables,
    "deciding": deciding_tables,
    "constants": constants_tables,
}
