"""Who is told how a request ended: what its pool learns of it, metrics, the journal, its trace."""

from memroute.traffic.lengths import PromptParts
from memroute.traffic.request import RequestProfile
from memroute_router.log.journal import Record
from memroute_router.replicas.pool import Pool
from memroute_router.services import Services
from memroute_router.tracing.trace import Trace


def learn_prompt(
    pool: Pool,
    parts: PromptParts,
    profile: RequestProfile,
    *,
    prompt_tokens: int,
    now_seconds: float,
) -> None:
    """An estimated prompt was counted by its engine: ``prompt_tokens``. Only of served requests.

    ``parts``: what it was taken to hold; ``profile``: what was made of that.
    """
    pool.prompts.observe(parts, actual_tokens=prompt_tokens, asked=profile)
    pool.dispatcher.predictions.prompt(
        expected=profile.num_prompt_tokens, actual=prompt_tokens, now_seconds=now_seconds
    )


def report(services: Services, record: Record, pool: Pool | None) -> None:
    """Count the request in the metrics of its pool, and write its line. ``pool``: None: unknown."""
    limits = None if pool is None else pool.dispatcher.settings.limits
    services.metrics.of(pool).ended(record, limits)
    services.journal.add(record)


def end_trace(
    services: Services,
    trace: Trace,
    record: Record,
    *,
    begun_at: float,
    first_byte_at: float | None,
) -> None:
    """Export its trace; a failure is counted. Both times are on the monotonic clock."""
    tracer = services.tracer
    if tracer is None:
        return
    try:
        tracer.ended(trace, record, begun_at=begun_at, first_byte_at=first_byte_at)
    except Exception as error:  # noqa: BLE001 - the request is answered and accounted for
        services.on_fault("trace", error)
