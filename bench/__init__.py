"""Measurements of memroute, beside those of others: run from the root, ``python -m bench.NAME``."""
