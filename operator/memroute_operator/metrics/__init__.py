"""What the operator exports: ``exported.py`` is the whole of it, ``fleet.py`` what a step shows."""

from memroute_operator.metrics.exported import OperatorMetrics

__all__ = ["OperatorMetrics"]
