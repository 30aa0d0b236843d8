"""What a node has: devices, their memory, and where each fact comes from."""

from memroute_operator.nodes.node import read_node

__all__ = ["read_node"]
