"""The router's data path beside its peers': requests, chunks, latency and CPU on one full core."""
