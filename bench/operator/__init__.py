"""What the operator costs: ``python -m bench.operator NAME``."""
