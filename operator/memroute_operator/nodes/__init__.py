"""What a node has: devices, their memory, and where each fact comes from."""

from memroute_operator.nodes.node import planned, read_node

__all__ = ["planned", "read_node"]
