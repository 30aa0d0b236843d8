"""What is said of a node's accelerators: each fact with its source.

Sources contradict each other, so they have an order, the same for every fact: what names one
device beats what speaks of the whole node, and what a program measures beats what a person
wrote. ``Source`` is in that order.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Source(StrEnum):
    """Who says it, the most believed first; the value is in messages and metrics."""

    RESOURCE_SLICE = "resource-slice"
    """A DRA driver's ResourceSlice: per device, from the driver of the hardware."""
    EXPORTER = "dcgm"
    """A metrics exporter: per device, and alive."""
    LABEL = "label"
    """GPU feature discovery or AMD's node labeller: one statement for all devices of a node."""
    PROVIDER = "provider-label"
    """A cloud's own labels, or its instance type: what was rented."""
    ANNOTATION = "annotation"
    """What a person has written on the node."""


@dataclass(frozen=True, slots=True)
class Fact(Generic[T]):
    """A value, and who says so."""

    value: T
    source: Source


def first_fact(facts: Iterable[Fact[T] | None]) -> Fact[T] | None:
    """The first that is known; None when none is."""
    return next((fact for fact in facts if fact is not None), None)


class Sharing(StrEnum):
    """How a device plugin hands one device to several pods at once."""

    NONE = "none"
    TIME_SLICING = "time-slicing"
    MPS = "mps"


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceFacts:
    """The MIG slices of one profile on a node."""

    profile: str
    """As in the resource's name: ``3g.40gb``, ``1g.10gb.me``."""
    count: int | None = None
    memory_bytes: Fact[int] | None = None
    product: Fact[str] | None = None

    @property
    def resource(self) -> str:
        """The resource of strategy "mixed"."""
        return f"nvidia.com/mig-{self.profile}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What one source says of all devices of a node; None for what it does not say."""

    count: Fact[int] | None = None
    """Physical devices; slices where ``slice_profile`` is set."""
    product: Fact[str] | None = None
    memory_bytes: Fact[int] | None = None
    """Of one device, as its driver reports it."""
    sharing: Sharing | None = None
    slice_profile: str | None = None
    """All devices are slices of this profile (MIG strategy "single")."""
    slices: tuple[SliceFacts, ...] = ()
    """MIG strategy "mixed": profiles that are there beside whole devices."""
    problem: str | None = None
    """Why this source's facts cannot be used, and what cures that."""

    def or_else(self, other: "NodeFacts") -> "NodeFacts":
        """These facts, and those of a less believed source where there are none."""
        return NodeFacts(
            count=first_fact((self.count, other.count)),
            product=first_fact((self.product, other.product)),
            memory_bytes=first_fact((self.memory_bytes, other.memory_bytes)),
            sharing=self.sharing if self.sharing is not None else other.sharing,
            slice_profile=self.slice_profile or other.slice_profile,
            slices=self.slices or other.slices,
            problem=self.problem or other.problem,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What is known of one device or slice."""

    index: int
    uuid: str | None = None
    """None where nobody names it, and for slices, whose UUID no exporter gives."""
    product: Fact[str] | None = None
    memory_bytes: Fact[int] | None = None
    reserved_bytes: int | None = None
    """What the driver keeps for itself, of ``memory_bytes``."""
    free_bytes: int | None = None
    assigned_pod: str | None = None
    slice_profile: str | None = None
    problem: str | None = None
    """Why no new replica may use it, as a CamelCase word."""
