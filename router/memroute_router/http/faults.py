"""Exceptions that are bugs of ours, at the boundaries where they end one thing alone.

Whoever calls into one request, replica, timer or event from a loop catches what it raises, says so
here with the place, and goes on with the others. ``except Exception`` stands at these places only.
"""

import logging
from collections.abc import Callable
from typing import Final

LOGGER = logging.getLogger(__name__)

OnFault = Callable[[str, Exception], None]
"""Told the place (a label of ``memroute_router_internal_errors_total``) and what was raised."""


def log_fault(place: str, error: Exception) -> None:
    """What is done where nobody counts: the log has it."""
    LOGGER.error("internal error place=%s", place, exc_info=error)


# Places in the HTTP part, as label values.
DEADLINE: Final = "deadline"
WRITE: Final = "write"
CLIENT: Final = "client"
OPERATIONS: Final = "operations"
