"""What a fleet file says of one emulated node: its machine, and how it is set up.

Real nodes differ less in their hardware than in what is installed on them. These fields are what
a platform team chooses; faults, which come and go, are annotations (see ``agent``).
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from memroute.catalog.accelerators import mig_slice
from memroute_simulator.nodes.machines import MACHINES, Machine

# dcgm-exporter's default: its option -c, 30,000 ms.
EXPORTER_SECONDS = 30.0
LABELLINGS = ("discovery", "none", "gke", "instance-type")
SHARINGS = ("none", "time-slicing", "mps")
MIG_STRATEGIES = ("none", "single", "mixed")
IP_FAMILIES = ("ipv4", "ipv6")
# A device is cut into seven slices at most, and time-sliced as often as somebody likes.
MAX_SLICES = 7
MAX_REPLICAS_PER_GPU = 1000


class FleetFileError(ValueError):
    """The fleet file cannot be used; the message says which entry and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One entry of the fleet file. ``HELP`` says what each field means."""

    name: str
    machine: str
    is_shared: bool = False
    labels: str = "discovery"
    sharing: str = "none"
    replicas_per_gpu: int = 1
    mig_strategy: str = "none"
    mig_slices: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Profile → slices of each device."""
    exporter_seconds: float = EXPORTER_SECONDS
    image_pull_seconds: float = 0.0
    ip_family: str = "ipv4"
    pod_network: ipaddress.IPv4Network | None = None
    """The addresses of its pods; None: loopback ones of its own."""

    @property
    def kind(self) -> Machine:
        """The machine itself."""
        return MACHINES[self.machine]

    @classmethod
    def parse(cls, entry: dict[str, Any]) -> Self:
        """Read one entry. Raises ``FleetFileError``."""
        name = entry.get("name")
        unknown = set(entry) - set(HELP)
        if unknown:
            msg = f"node {name!r}: unknown field(s) {', '.join(sorted(unknown))}"
            raise FleetFileError(msg)
        machine = _one_of(entry, "machine", tuple(sorted(MACHINES)), None)
        shared = _one_of(entry, "gpuSharing", ("none", "shared"), "none") == "shared"
        strategy = _one_of(entry, "migStrategy", MIG_STRATEGIES, "none")
        slices = _slices(entry, strategy, MACHINES[machine])
        sharing = _one_of(entry, "deviceSharing", SHARINGS, "none")
        replicas = entry.get("replicasPerGpu", 1 if sharing == "none" else 4)
        if not isinstance(replicas, int) or not 1 <= replicas <= MAX_REPLICAS_PER_GPU:
            msg = f"node {name!r}: replicasPerGpu is {replicas!r}, not 1 to {MAX_REPLICAS_PER_GPU}"
            raise FleetFileError(msg)
        if sharing == "none" and replicas > 1:
            msg = f"node {name!r}: replicasPerGpu needs deviceSharing: time-slicing or mps"
            raise FleetFileError(msg)
        if shared and (sharing != "none" or strategy != "none"):
            msg = f"node {name!r}: gpuSharing: shared has no device plugin that slices"
            raise FleetFileError(msg)
        return cls(
            name=str(name),
            machine=machine,
            is_shared=shared,
            labels=_one_of(entry, "labels", LABELLINGS, "discovery"),
            sharing=sharing,
            replicas_per_gpu=replicas,
            mig_strategy=strategy,
            mig_slices=slices,
            exporter_seconds=_seconds(entry, "exporterSeconds", EXPORTER_SECONDS),
            image_pull_seconds=_seconds(entry, "imagePullSeconds", 0.0),
            ip_family=_one_of(entry, "ipFamily", IP_FAMILIES, "ipv4"),
            pod_network=_pod_network(entry),
        )


HELP = {
    "name": "the node's name",
    "machine": f"its machine: {', '.join(sorted(MACHINES))}",
    "gpuSharing": "`shared`: memroute hands out its devices by bytes, and no device plugin runs",
    "labels": "`discovery` (default; GPU feature discovery, AMD's labeller), `none`, `gke` or "
    "`instance-type` (what the cloud says, and no exporter)",
    "deviceSharing": "`time-slicing` or `mps`: the device plugin hands each device out "
    "`replicasPerGpu` times",
    "replicasPerGpu": "how often (4)",
    "migStrategy": "`single` (slices go by the name nvidia.com/gpu) or `mixed` (by their profile)",
    "migSlices": "profile → slices of each device: `{1g.10gb: 7}`",
    "exporterSeconds": f"how often its exporter collects ({EXPORTER_SECONDS:.0f}; "
    "its page is as old as that)",
    "imagePullSeconds": "how long the first pull of each image takes (0)",
    "ipFamily": "`ipv6`: its pods have the address ::1, all of them: one pod per port",
    "podNetwork": "`10.244.1.0/27`: the addresses of its pods, which this machine must have "
    "(loopback ones, which it has)",
}


def _one_of(entry: dict[str, Any], name: str, allowed: tuple[str, ...], default: str | None) -> str:
    value = entry.get(name, default)
    if value not in allowed:
        choices = ", ".join(allowed)
        msg = f"node {entry.get('name')!r}: {name} is {value!r}, none of {choices}"
        raise FleetFileError(msg)
    return str(value)


def _seconds(entry: dict[str, Any], name: str, default: float) -> float:
    value = entry.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        msg = f"node {entry.get('name')!r}: {name} is {value!r}, no number of seconds"
        raise FleetFileError(msg)
    return float(value)


def _pod_network(entry: dict[str, Any]) -> ipaddress.IPv4Network | None:
    name, text = entry.get("name"), entry.get("podNetwork")
    if text is None:
        return None
    if entry.get("ipFamily") == "ipv6":
        msg = f"node {name!r}: podNetwork is of IPv4, and ipFamily is ipv6"
        raise FleetFileError(msg)
    try:
        return ipaddress.IPv4Network(str(text))
    except ValueError as error:
        msg = f"node {name!r}: podNetwork is {text!r}, no network such as 10.244.1.0/27: {error}"
        raise FleetFileError(msg) from None


def _slices(entry: dict[str, Any], strategy: str, machine: Machine) -> dict[str, int]:
    name, slices = entry.get("name"), entry.get("migSlices", {})
    if (strategy == "none") != (not slices):
        msg = f"node {name!r}: migStrategy and migSlices belong together"
        raise FleetFileError(msg)
    if not isinstance(slices, dict) or (strategy == "single" and len(slices) != 1):
        msg = f"node {name!r}: migSlices is a mapping, of one profile for strategy single"
        raise FleetFileError(msg)
    for profile, count in slices.items():
        if not isinstance(count, int) or not 1 <= count <= MAX_SLICES:
            msg = f"node {name!r}: {count!r} slices of {profile}: 1 to {MAX_SLICES}"
            raise FleetFileError(msg)
        for gpu in machine.gpus:
            if mig_slice(gpu.accelerator, str(profile)) is None:
                msg = f"node {name!r}: {gpu.product} has no MIG profile {profile!r}"
                raise FleetFileError(msg)
    return {str(profile): count for profile, count in slices.items()}
