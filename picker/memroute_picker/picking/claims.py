"""What others call the claims that memroute reads: one name for each from here on."""

from typing import Final

from memroute_picker.pools.objectives import Objectives
from memroute_picker.protocol.names import FAIRNESS, MODEL_REWRITE, OBJECTIVE, TPOT, TTFT
from memroute_router.http.fields import EXPLAIN, PRIORITY, TENANT, TTFT_MILLISECONDS

MODEL_FIELD: Final = MODEL_REWRITE[0]
"""What the model is called that the engine will be asked for, where the gateway renames it."""
CONTROL_FIELDS: Final[tuple[bytes, ...]] = (
    *FAIRNESS, *OBJECTIVE, *MODEL_REWRITE, *TTFT, *TPOT, TENANT, PRIORITY, TTFT_MILLISECONDS,
    EXPLAIN,
)  # fmt: skip
"""Fields that are for the picker, and end here."""
_NAMED: Final[tuple[tuple[tuple[bytes, ...], bytes], ...]] = (
    (FAIRNESS, TENANT),
    (TTFT, TTFT_MILLISECONDS),
    (MODEL_REWRITE[1:], MODEL_FIELD),
)


def renamed(
    fields: dict[bytes, bytes], objectives: Objectives, namespace: str | None = None
) -> None:
    """Give claims the names by which they are read; memroute's own name goes before others'.

    ``namespace``: of the pool that the request is for, where objectives are looked up; None: the
    gateway does not say. Latency targets of each token are the pool's
    (``tpotTargetMilliseconds``): what a request asks of them is not read.
    """
    for names, ours in _NAMED:
        if ours not in fields:
            for name in names:
                value = fields.get(name)
                if value is not None:
                    fields[ours] = value
                    break
    if PRIORITY not in fields:
        for name in OBJECTIVE:
            value = fields.get(name)
            priority = None if value is None else objectives.of(value, namespace)
            if priority is not None:
                fields[PRIORITY] = b"%d" % priority
                break
