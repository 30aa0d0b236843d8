"""Failures in a user's language: what is seen of a replica → what happened, and what helps.

``signature`` is one way to fail; ``kubernetes`` and ``log_lines`` are the tables; ``reading`` looks
at a pod; ``quoting`` is what may be quoted of a log. ``docs/reference/failures.md`` is written from
the tables, and a test compares it.
"""

from memroute_operator.failures.quoting import last_words, without_secrets
from memroute_operator.failures.reading import (
    ALL,
    event_meaning,
    failure_of,
    last_end_of,
    refusal_of,
    scheduling_of,
)
from memroute_operator.failures.signature import Diagnosis, Signature, Where

__all__ = [
    "ALL",
    "Diagnosis",
    "Signature",
    "Where",
    "event_meaning",
    "failure_of",
    "last_end_of",
    "last_words",
    "refusal_of",
    "scheduling_of",
    "without_secrets",
]
