"""What is written on a pod: the room that it was promised, and the claim of its successor.

Both are JSON in an annotation, so that the ledger can be rebuilt from the API server alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from memroute.placement import Home, Placed, PlacementMode, Reservation, SleepHold

RESERVATION_VERSION = 1
# A bound on what is believed: no accelerator has a pebibyte, no node a thousand accelerators.
MAX_DEVICE_BYTES = 2**50
MAX_DEVICES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """Room on one node."""

    mode: PlacementMode
    node: str
    device_bytes: Mapping[str, int]
    """Bytes by device UUID; empty for an exclusive replica."""
    num_devices: int
    bytes_per_device: int
    resource: str | None = None
    """What an exclusive replica asks the device plugin for; None where it does not say."""
    rest_bytes: int | None = None
    """Of each device, what it keeps while it sleeps; None for one that never sleeps."""
    host_bytes: int = 0
    """Of its node's memory, what it was promised; 0 where it pins nothing, or does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The room that is kept for the successor of a replica."""

    promise: Promise
    revision: str
    """The revision of the successor: for another one, another room is claimed."""

    def reservation(self, predecessor: str, deployment: str) -> Reservation:
        """What the ledger counts while the predecessor is there."""
        promise = self.promise
        shared = promise.mode is PlacementMode.SHARED
        return Reservation(
            owner=f"{predecessor} (its successor)",
            deployment=deployment,
            node=promise.node,
            device_bytes=promise.device_bytes,
            num_exclusive_devices=0 if shared else promise.num_devices,
            exclusive_bytes=0 if shared else promise.bytes_per_device,
            resource=promise.resource,
            replaces=predecessor,
            sleep=None if promise.rest_bytes is None else SleepHold(rest_bytes=promise.rest_bytes),
            host_bytes=promise.host_bytes,
        )

    def home(self) -> Home:
        """Where the successor goes once its predecessor has left."""
        return Home(
            node=self.promise.node,
            device_uuids=tuple(sorted(self.promise.device_bytes)),
            resource=self.promise.resource,
            claimed_bytes=self.promise.bytes_per_device,
        )


def _document(placed: Placed) -> dict[str, object]:
    document: dict[str, object] = {
        "v": RESERVATION_VERSION,
        "mode": placed.mode.value,
        "node": placed.node,
        "count": placed.num_devices,
        "bytesPerDevice": placed.bytes_per_device,
    }
    if placed.device_uuids:
        document["devices"] = dict.fromkeys(placed.device_uuids, placed.bytes_per_device)
    else:
        document["resource"] = placed.resource
    if placed.rest_bytes is not None:
        document["restBytes"] = placed.rest_bytes
    if placed.host_bytes:
        document["hostBytes"] = placed.host_bytes
    return document


def encode_reservation(placed: Placed, *, generation: int) -> str:
    """The annotation that makes a pod a reservation."""
    return json.dumps(_document(placed) | {"generation": generation}, separators=(",", ":"))


def encode_claim(placed: Placed, *, revision: str) -> str:
    """The annotation that keeps the room of a successor."""
    return json.dumps(_document(placed) | {"revision": revision}, separators=(",", ":"))


def read_promise(text: str | None) -> Promise | None:
    """The room that an annotation speaks of; None when it is not one that we wrote."""
    document = _loads(text)
    return None if document is None else _promise(document)


def read_claim(text: str | None) -> Claim | None:
    """The claim that an annotation speaks of; None when it is not one that we wrote."""
    document = _loads(text)
    promise = None if document is None else _promise(document)
    revision = None if document is None else document.get("revision")
    if promise is None or not isinstance(revision, str):
        return None
    return Claim(promise=promise, revision=revision)


def _loads(text: object) -> dict[str, object] | None:
    if not isinstance(text, str):
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _is_known_version(document: dict[str, object]) -> bool:
    """Whether a promise means to us what its writer meant.

    A newer one that still does says so: ``minReader`` is the oldest version that may read it.
    """
    oldest = _whole(document.get("minReader", document.get("v")), at_most=RESERVATION_VERSION)
    return oldest is not None and oldest >= 1


def _promise(document: dict[str, object]) -> Promise | None:
    mode, node = document.get("mode"), document.get("node")
    count = _whole(document.get("count"), at_most=MAX_DEVICES)
    size = _whole(document.get("bytesPerDevice"), at_most=MAX_DEVICE_BYTES)
    device_bytes = _device_bytes(document.get("devices", {}))
    resource = document.get("resource")
    if (
        not _is_known_version(document)
        or not isinstance(mode, str)
        or mode not in tuple(PlacementMode)
        or not isinstance(node, str)
        or not count
        or size is None
        or device_bytes is None
        or (mode == PlacementMode.SHARED) != bool(device_bytes)
        or not isinstance(resource, str | None)
    ):
        return None
    return Promise(
        mode=PlacementMode(mode),
        node=node,
        device_bytes=device_bytes,
        num_devices=count,
        bytes_per_device=size,
        resource=resource,
        rest_bytes=_whole(document.get("restBytes"), at_most=MAX_DEVICE_BYTES),
        host_bytes=_whole(document.get("hostBytes"), at_most=MAX_DEVICE_BYTES) or 0,
    )


def _device_bytes(devices: object) -> dict[str, int] | None:
    """Bytes by device; None unless all of them are bytes that a device can have."""
    if not isinstance(devices, dict):
        return None
    found = {uuid: _whole(value, at_most=MAX_DEVICE_BYTES) for uuid, value in devices.items()}
    known = {uuid: size for uuid, size in found.items() if size is not None}
    return known if len(known) == len(found) else None


def _whole(value: object, *, at_most: int) -> int | None:
    """A whole number from 0 on; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= at_most else None
