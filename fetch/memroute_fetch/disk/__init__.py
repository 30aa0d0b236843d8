"""The cache on a node's disk: what lies in it, who holds what, what leaves to make room."""
