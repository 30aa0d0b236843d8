"""What a node has: devices, their memory, and where each fact comes from."""

from memroute_operator.nodes.node import main_pool, read_node

__all__ = ["main_pool", "read_node"]
