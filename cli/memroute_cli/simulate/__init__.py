"""``memroute simulate``: a fleet and a workload in, latencies and pressure out."""
