"""A cluster in virtual time: replicas, routers with their own clocks, clients, faults."""
