"""How ranks talk: what an all-reduce costs on one node, and how sure that is.

The card does not say: the same two cards differ four- to fivefold between machines. With peer
access a card writes into its neighbour's memory; on a slow host the same path shares root
ports; without peer access everything goes through host memory. So a link is a fact of the
*node*, and one of these:

* **measured**: microseconds of a small all-reduce and GB/s of a large one (``17.4us-15GBps``);
* **named**: a class of the table below (``pcie5-peer``, ``host``, ``nvlink4``);
* **unknown**: NVLink where the card has it, else the slower of the hosts that were measured with
  peer access. The range then spans from the faster host to half more than the slower.

One all-reduce of ``bytes`` over n ranks takes ``latency + bytes / rate``. Engines send messages
beyond 8 MiB (any chunk of a prompt) by NCCL, at a rate of its own. Outside CUDA graphs
a call takes no less than its launch.

Sources: measured tables of aiconfigurator-core 0.12.0 (ai-dynamo, Apache-2.0) for RTX PRO 6000
(vLLM 0.24.0: one host; vLLM 0.19.0: another), L40S (vLLM 0.22.0 and SGLang 0.5.12: two hosts),
H100, H200, A100; without peer access sglang#39605. Rows marked "estimated" are none of these.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from memroute.catalog import Accelerator
from memroute.errors import UnknownLinkError

# Above it engines leave their own all-reduce for NCCL: vLLM's custom_all_reduce.py takes no more.
LARGE_MESSAGE_BYTES = 8 * 1024**2
# What a call outside a CUDA graph takes at least, its launch: RTX PRO 6000, vLLM 0.24 eager, any
# message below 512 KiB. Larger ones hide it.
EAGER_CALL_SECONDS = 21e-6
# Cards whose link is no faster than PCIe 5 have no NVLink.
PCIE_BYTES_PER_SECOND = 64e9
PCIE_4_BYTES_PER_SECOND = 32e9
# Of the all-reduce's rate, below and above 8 MiB. Two RTX PRO 6000 with peer access, NCCL 2.29,
# all-gather of 256 KiB, 1 MiB and 16 MiB from each rank: 24, 47 and 540 us; by this law 15, 48
# and 540.
NCCL_RATIO, NCCL_LARGE_RATIO = 0.6, 0.87
# Of the data sheet: what is left of the database's tensor-parallel rows once their matrices are
# paid: 264 and 295 of 450 GB/s on H100, 291 on H200, 190 of 300 on A100.
NVLINK_RATIO = 0.62
NVLINK_SECONDS = 4e-6
# Nothing measured: AMD's cards by the share of their link that PCIe reaches.
XGMI_RATIO, XGMI_SECONDS = 0.60, 26e-6
# A measurement of one message size, used for others.
MEASURED_ERROR_RATIO = 0.15
# Two hosts of one class: half the distance of the measured hosts within it.
NAMED_ERROR_RATIO = 0.30
# How much slower than the slower measured host an unknown one may be; chosen by hand. A host
# without peer access is slower still, and has to be named.
UNKNOWN_SLOWER_RATIO = 1.5


class LinkSource(StrEnum):
    """How a link is known."""

    MEASURED = "measured"
    NAMED = "named"
    CARD = "card"
    """The card's own: NVLink, xGMI."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LinkRate:
    """An all-reduce of one number of ranks."""

    latency_seconds: float
    bytes_per_second: float
    """Of the message (not of the bus)."""
    large_bytes_per_second: float | None = None
    """Of messages beyond 8 MiB; None: the same."""

    def all_reduce_seconds(self, message_bytes: float) -> float:
        """One all-reduce of a message."""
        rate = self.bytes_per_second
        if message_bytes > LARGE_MESSAGE_BYTES and self.large_bytes_per_second is not None:
            rate = self.large_bytes_per_second
        return self.latency_seconds + message_bytes / rate

    def gather_seconds(self, shard_bytes: float, num_ranks: int) -> float:
        """One all-gather or reduce-scatter in which each rank gives (or keeps) so many bytes.

        A ring all-reduce is both, on shards of 1/n of the message: half its bytes each. NCCL
        carries them, slower than an engine's own all-reduce.
        """
        half = shard_bytes * num_ranks / 2
        rate = self.bytes_per_second * NCCL_RATIO
        if half > LARGE_MESSAGE_BYTES:
            rate = (self.large_bytes_per_second or self.bytes_per_second) * NCCL_LARGE_RATIO
        return self.latency_seconds + half / rate

    def longer(self, ratio: float) -> "LinkRate":
        """The same with every call so many times as long."""
        large = self.large_bytes_per_second
        return LinkRate(
            self.latency_seconds * ratio,
            self.bytes_per_second / ratio,
            None if large is None else large / ratio,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What joins the cards of a node."""

    name: str
    source: LinkSource
    rates: Mapping[int, LinkRate]
    """By the number of ranks: at least for 2."""
    fast_ratio: float
    """The least that a call may take, of what is predicted."""
    slow_ratio: float
    """The most, likewise."""

    def rate(self, num_ranks: int) -> LinkRate:
        """For so many ranks: the measured number at or below it, by the ring beyond it."""
        known = max((n for n in self.rates if n <= num_ranks), default=min(self.rates))
        rate = self.rates[known]
        if known == num_ranks or num_ranks < known:
            return rate
        # A ring moves 2 (n - 1) / n of the message over each link, in n - 1 hops and back.
        ring = (known - 1) / known * num_ranks / (num_ranks - 1)
        large = rate.large_bytes_per_second
        return LinkRate(
            rate.latency_seconds * (num_ranks - 1) / (known - 1),
            rate.bytes_per_second * ring,
            None if large is None else large * ring,
        )


def _rates(**rows: tuple[float, ...]) -> Mapping[int, LinkRate]:
    """``two=(microseconds, GB/s[, GB/s beyond 8 MiB])`` and so on."""
    numbers = {"two": 2, "four": 4, "eight": 8}
    return MappingProxyType(
        {
            numbers[word]: LinkRate(
                row[0] * 1e-6, row[1] * 1e9, row[2] * 1e9 if len(row) > 2 else None  # noqa: PLR2004
            )
            for word, row in rows.items()
        }
    )  # fmt: skip


LINK_CLASSES: Mapping[str, Mapping[int, LinkRate]] = MappingProxyType(
    {
        # Fitted to 128 KiB, 1 MiB, 2 MiB and 16 MiB; from there on NCCL.
        "pcie5-peer": _rates(two=(4.2, 40, 36), four=(12.6, 15, 19), eight=(24, 10.5, 13)),
        # Two ranks: as fitted; four and eight estimated: slower as the two are.
        "pcie5-slow": _rates(two=(17.4, 15), four=(52, 6, 7), eight=(99, 4, 5)),
        "pcie4-peer": _rates(two=(5.3, 19), four=(13, 11), eight=(25, 8.5)),
        # Two ranks: estimated, half of the faster host; four and eight: as fitted.
        "pcie4-slow": _rates(two=(17.4, 9.5), four=(13, 2.5), eight=(25, 1.1)),
        # Through host memory, without peer access: NCCL's SHM on two RTX 5070 Ti reaches 1.9
        # GB/s, 12.5 with NCCL_SHM_USE_CUDA_MEMCPY=1; the middle of the two.
        "host": _rates(two=(39, 4.9)),
    }
)
# From 1.9 to 12.5 GB/s: a factor of 2.6 either way of the middle.
HOST_ERROR_RATIO = 0.6
# Generations, bytes per second and direction of each card: A100, H100 and H200, Blackwell.
NVLINKS: Mapping[str, float] = MappingProxyType({"nvlink3": 300e9, "nvlink4": 450e9,
                                                 "nvlink5": 900e9})  # fmt: skip
# NVIDIA's driver gives GeForce cards none.
NO_PEER_ACCESS = ("RTX-4090", "RTX-5090")
_MEASURED = re.compile(
    r"(?P<micros>\d+(?:\.\d+)?)us[-_/](?P<gigabytes>\d+(?:\.\d+)?)gb(?:ps|/s)?", re.IGNORECASE
)


def link_names() -> tuple[str, ...]:
    """The names that ``link_of`` takes."""
    return (*LINK_CLASSES, *NVLINKS)


def is_link(text: str) -> bool:
    """Whether that names a link, or is a measurement of one."""
    word = text.strip().casefold()
    match = _MEASURED.fullmatch(word)
    return word in link_names() or (match is not None and float(match["gigabytes"]) > 0)


def link_of(text: str | None, accelerator: Accelerator) -> Link:
    """The link that a person, a label or an annotation names; the card's usual for None.

    Raises ``UnknownLinkError`` for what is neither a name nor a measurement.
    """
    word = (text or "").strip().casefold()
    if word in ("", "unknown", "auto"):
        return usual_link(accelerator)
    if word in NVLINKS:
        return _nvlink(word, NVLINKS[word], LinkSource.NAMED)
    if word in LINK_CLASSES:
        error = HOST_ERROR_RATIO if word == "host" else NAMED_ERROR_RATIO
        return Link(
            name=word, source=LinkSource.NAMED, rates=LINK_CLASSES[word],
            fast_ratio=1 - error, slow_ratio=1 / (1 - error),
        )  # fmt: skip
    match = _MEASURED.fullmatch(word)
    if match is None or not is_link(word):
        raise UnknownLinkError(text or "", link_names())
    rate = LinkRate(float(match["micros"]) * 1e-6, float(match["gigabytes"]) * 1e9)
    return Link(
        name=word, source=LinkSource.MEASURED, rates=MappingProxyType({2: rate, 4: rate, 8: rate}),
        fast_ratio=1 - MEASURED_ERROR_RATIO, slow_ratio=1 + MEASURED_ERROR_RATIO,
    )  # fmt: skip


def usual_link(accelerator: Accelerator) -> Link:
    """What joins such cards where nobody says: their own, or the slower of what was measured."""
    speed = accelerator.link_bytes_per_second
    if accelerator.vendor == "amd":
        bus = speed * XGMI_RATIO
        return Link(
            name="xgmi", source=LinkSource.CARD, rates=_ring(XGMI_SECONDS, bus),
            fast_ratio=0.6, slow_ratio=1.4,
        )  # fmt: skip
    if speed > PCIE_BYTES_PER_SECOND:
        return _nvlink("nvlink", speed, LinkSource.CARD)
    generation = "pcie4" if speed <= PCIE_4_BYTES_PER_SECOND else "pcie5"
    fast, slow = LINK_CLASSES[f"{generation}-peer"], LINK_CLASSES[f"{generation}-slow"]
    if accelerator.name in NO_PEER_ACCESS:
        host = link_of("host", accelerator)
        return replace(host, source=LinkSource.CARD)
    return Link(
        name=f"{generation}-slow", source=LinkSource.UNKNOWN, rates=slow,
        fast_ratio=slow[2].bytes_per_second / fast[2].bytes_per_second,
        slow_ratio=UNKNOWN_SLOWER_RATIO,
    )  # fmt: skip


def _nvlink(name: str, speed: float, source: LinkSource) -> Link:
    return Link(
        name=name, source=source, rates=_ring(NVLINK_SECONDS, speed * NVLINK_RATIO),
        fast_ratio=0.6, slow_ratio=1.4,
    )  # fmt: skip


def _ring(latency_seconds: float, bus_bytes_per_second: float) -> Mapping[int, LinkRate]:
    """A ring at a bus rate: one latency however many ranks, as NVLink's switches make it."""
    return MappingProxyType(
        {
            n: LinkRate(latency_seconds, bus_bytes_per_second * n / (2 * (n - 1)))
            for n in (2, 4, 8, 16)
        }
    )
