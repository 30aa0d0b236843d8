"""One page of metrics, whoever wrote it."""

from memroute.traffic.replica import ReplicaReading
from memroute_router.engines.others import Report, dialect_of, parse_other_metrics
from memroute_router.engines.vllm import LineHints, is_vllm_page, parse_vllm_metrics


def is_worth_reading(page: bytes) -> bool:
    """Whether it holds families that some adapter knows: not every engine knows ``name[]``."""
    return is_vllm_page(page) or dialect_of(page) is not None


def read_metrics(
    page: bytes,
    *,
    taken_at_seconds: float,
    report_missing: Report | None = None,
    hints: LineHints | None = None,
) -> ReplicaReading:
    """The reading of a page. ``report_missing`` is called with each family that it should have.

    ``taken_at_seconds``: when it was asked for. Raises ``ValueError`` on a value that is none; a
    page of an engine that nobody here knows is a reading without values.
    """
    if not is_vllm_page(page):
        dialect = dialect_of(page)
        if dialect is not None:
            return parse_other_metrics(
                page, dialect, taken_at_seconds=taken_at_seconds, report_missing=report_missing
            )
    return parse_vllm_metrics(
        page, taken_at_seconds=taken_at_seconds, report_missing=report_missing, hints=hints
    )
