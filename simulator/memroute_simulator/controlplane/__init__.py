"""A real Kubernetes control plane as plain processes on loopback.

Every process of one cluster carries ``MEMROUTE_CLUSTER=<id>`` in its environment, and a small
guardian process owns what must not outlive the launcher: the loopback network, the directory,
and the duty to end whatever carries the tag once the launcher is gone, however it went.
"""

from memroute_simulator.controlplane.binaries import find_binaries
from memroute_simulator.controlplane.binary_cache import BinaryError
from memroute_simulator.controlplane.cluster import ControlPlane, ControlPlaneError

__all__ = ["BinaryError", "ControlPlane", "ControlPlaneError", "find_binaries"]
