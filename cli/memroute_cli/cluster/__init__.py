"""What is where in a cluster, and why: ``memroute top`` and ``memroute explain``."""
