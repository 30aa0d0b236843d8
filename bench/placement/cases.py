"""The clusters and what is wanted of them: drawn at random, and made to mislead."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise

from bench.placement.instance import (
    UNIT_BYTES,
    USABLE_UNITS,
    Instance,
    ModelSize,
    deployment,
    footprint_of_units,
    node,
)
from memroute.footprint import Quantization
from memroute.placement import Inventory, Node, PlacementMode, WantedReplica

SHARED, EXCLUSIVE = PlacementMode.SHARED, PlacementMode.EXCLUSIVE
DEMAND = 1.4
# Of the cluster's bytes: more than any placement holds, so that the whole of it never fits and
# its oldest part that does can be cut out.
TINY = ModelSize(model="Qwen/Qwen3-0.6B", max_context_tokens=2048, concurrency=1)
# What the made-up needs of adversarial cases are counted as: its KV cache is set to make them.

MODELS = (
    ModelSize(model="Qwen/Qwen3-0.6B"),
    ModelSize(model="meta-llama/Llama-3.2-1B"),
    ModelSize(model="google/gemma-3-4b-it"),
    ModelSize(model="Qwen/Qwen3-4B"),
    ModelSize(model="Qwen/Qwen3-8B"),
    ModelSize(model="Qwen/Qwen3-8B-FP8"),
    ModelSize(model="meta-llama/Llama-3.1-8B-Instruct"),
    ModelSize(model="Qwen/Qwen3-14B"),
    ModelSize(model="microsoft/phi-4", quantization=Quantization.FP8),
    ModelSize(model="openai/gpt-oss-20b"),
    ModelSize(model="mistralai/Mistral-Small-24B-Instruct-2501"),
    ModelSize(model="Qwen/Qwen3-32B-FP8"),
    ModelSize(model="Qwen/Qwen3-30B-A3B"),
    ModelSize(model="openai/gpt-oss-120b"),
)
GROUPS = (
    ModelSize(model="Qwen/Qwen3-32B", tensor_parallel_size=2),
    ModelSize(model="Qwen/Qwen3-14B", tensor_parallel_size=2),
    ModelSize(model="openai/gpt-oss-120b", tensor_parallel_size=2),
    ModelSize(model="meta-llama/Llama-3.1-70B-Instruct", tensor_parallel_size=4),
    ModelSize(model="Qwen/Qwen2.5-72B-Instruct", tensor_parallel_size=4),
    ModelSize(model="Qwen/Qwen2.5-72B-Instruct", tensor_parallel_size=8),
)
CONTEXTS = (4096, 8192, 16384, 32768)
CONCURRENCIES = (2, 4, 8, 16)

Build = Callable[[random.Random], tuple[list[Node], list[WantedReplica]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A kind of instance, drawn by seed."""

    name: str
    about: str
    build: Build
    is_planted: bool = False
    """Whether all that is wanted fits by construction; else it is more than fits."""

    def instance(self, seed: int) -> Instance:
        """The instance of that seed: the same for ever."""
        rng = random.Random(f"{self.name}/{seed}")  # noqa: S311 - reproducible, no secret
        nodes, wanted = self.build(rng)
        inventory = Inventory(nodes=tuple(nodes))
        return Instance(case=self.name, seed=seed, inventory=inventory, wanted=tuple(wanted))


def _nodes(*kinds: tuple[int, tuple[str, ...]], mode: PlacementMode = SHARED) -> list[Node]:
    """``kinds``: how many nodes, and the products of each."""
    names = (f"n{number:02}" for number in count())
    return [
        node(next(names), products, mode=mode, labels={"zone": f"z{number % 3}"})
        for many, products in kinds
        for number in range(many)
    ]


def _with_foreign(rng: random.Random, nodes: list[Node], ratio: float) -> list[Node]:
    """Processes of others on ``ratio`` of the devices: a quarter or a half of each."""
    return [
        replace(
            one,
            devices=tuple(
                replace(
                    device,
                    live_free_bytes=device.usable_bytes
                    - device.usable_bytes // UNIT_BYTES * rng.choice((1, 2)) // 4 * UNIT_BYTES,
                )
                if rng.random() < ratio
                else device
                for device in one.devices
            ),
        )
        for one in nodes
    ]


def _sizes(rng: random.Random, pool: Sequence[ModelSize], num: int) -> list[ModelSize]:
    return [
        replace(
            rng.choice(pool),
            max_context_tokens=rng.choice(CONTEXTS),
            concurrency=rng.choice(CONCURRENCIES),
        )
        for _ in range(num)
    ]


def _capacity_bytes(nodes: Sequence[Node], mode: PlacementMode) -> int:
    return sum(
        device.live_free_bytes or 0 for one in nodes if one.mode is mode for device in one.devices
    )


def _fits_somewhere(nodes: Sequence[Node], replica: WantedReplica) -> bool:
    need, num = replica.footprint.total_bytes, replica.footprint.num_devices
    return any(
        one.mode is replica.mode
        and all(one.labels.get(k) == v for k, v in replica.node_selector.items())
        and any(
            sum(d.product == product and (d.live_free_bytes or 0) >= need for d in one.devices)
            >= num
            for product in {device.product for device in one.devices}
        )
        for one in nodes
    )


def _demand(
    rng: random.Random,
    nodes: Sequence[Node],
    sizes: Sequence[ModelSize],
    *,
    mode: PlacementMode = SHARED,
    selectors: Sequence[dict[str, str] | None] = (None,),
    first_number: int = 0,
) -> list[WantedReplica]:
    """Deployments of 1 to 6 replicas, until they want more than the devices of the mode have."""
    capacity = _capacity_bytes(nodes, mode) * DEMAND
    wanted: list[WantedReplica] = []
    size_bytes = 0
    for number in range(first_number, first_number + 10_000):
        replicas = deployment(
            number, rng.choice(sizes), rng.randint(1, 6), mode=mode, selector=rng.choice(selectors)
        )
        if not _fits_somewhere(nodes, replicas[0]):
            continue
        wanted += replicas
        one = replicas[0].footprint
        each = (
            one.total_bytes
            if mode is SHARED
            else _capacity_bytes(nodes, mode)
            // sum(len(n.devices) for n in nodes if n.mode is mode)
        )
        size_bytes += each * one.num_devices * len(replicas)
        if size_bytes >= capacity:
            break
    return wanted


FLEET = (
    (4, ("L4",) * 4),
    (4, ("L40S",) * 8),
    (5, ("A100-80",) * 8),
    (8, ("H100",) * 8),
    (3, ("H200",) * 8),
)
"""176 devices of five products: what a fleet looks like after three years of buying."""


def _one_product(rng: random.Random) -> tuple[list[Node], list[WantedReplica]]:
    nodes = _nodes((25, ("H100",) * 8))
    return nodes, _demand(rng, nodes, _sizes(rng, MODELS, 10))


def _mixed(rng: random.Random) -> tuple[list[Node], list[WantedReplica]]:
    nodes = _nodes(*FLEET)
    return nodes, _demand(rng, nodes, _sizes(rng, MODELS, 8) + _sizes(rng, GROUPS, 2))


def _mixed_nodes(rng: random.Random) -> tuple[list[Node], list[WantedReplica]]:
    nodes = _nodes(
        (8, ("H100",) * 4 + ("L40S",) * 4), (8, ("A100-80",) * 2 + ("L4",) * 4), (4, ("H200",) * 8)
    )
    return nodes, _demand(rng, nodes, _sizes(rng, MODELS, 8) + _sizes(rng, GROUPS[:4], 2))


def _groups(rng: random.Random) -> tuple[list[Node], list[WantedReplica]]:
    nodes = _nodes((13, ("H100",) * 8), (12, ("A100-80",) * 8))
    return nodes, _demand(rng, nodes, _sizes(rng, MODELS, 4) + _sizes(rng, GROUPS, 6))


def _foreign(rng: random.Random) -> tuple[list[Node], list[WantedReplica]]:
    nodes = _with_foreign(rng, _nodes(*FLEET), 0.4)
    return nodes, _demand(rng, nodes, _sizes(rng, MODELS, 6) + _sizes(rng, GROUPS[:3], 2))


def _selectors(rng: random.Random) -> tuple[list[Node], list[WantedReplica]]:
    nodes = _nodes(*FLEET)
    selectors: list[dict[str, str] | None] = [None, None, {"zone": "z0"}, {"zone": "z1"}]
    sizes = _sizes(rng, MODELS, 6)
    return nodes, _demand(rng, nodes, sizes, selectors=selectors)


def _exclusive(rng: random.Random) -> tuple[list[Node], list[WantedReplica]]:
    nodes = _nodes(*FLEET, mode=EXCLUSIVE)
    nodes = [
        node(
            one.name,
            tuple(device.product or "" for device in one.devices),
            mode=EXCLUSIVE,
            labels=dict(one.labels),
            num_foreign_devices=rng.choice((0, 0, 0, 1, 2)),
        )
        for one in nodes
    ]
    return nodes, _demand(
        rng, nodes, _sizes(rng, MODELS, 6) + _sizes(rng, GROUPS, 6), mode=EXCLUSIVE
    )


def _both_modes(rng: random.Random) -> tuple[list[Node], list[WantedReplica]]:
    shared = _nodes((10, ("H100",) * 8), (4, ("L40S",) * 8))
    whole = [
        replace(one, name=f"x{one.name}", devices=tuple(
            replace(device, node=f"x{one.name}", uuid=f"x{device.uuid}") for device in one.devices
        ))
        for one in _nodes((10, ("H100",) * 8), mode=EXCLUSIVE)
    ]  # fmt: skip
    small = _demand(rng, shared, _sizes(rng, MODELS, 8))
    large = _demand(rng, whole, _sizes(rng, GROUPS, 4), mode=EXCLUSIVE, first_number=5000)
    # Interleaved, as they would come.
    by_name: dict[str, list[WantedReplica]] = {}
    for replica in small + large:
        by_name.setdefault(replica.key.name, []).append(replica)
    names = list(by_name)
    rng.shuffle(names)
    return shared + whole, [replica for name in names for replica in by_name[name]]


def _thirds(_: random.Random) -> tuple[list[Node], list[WantedReplica]]:
    """Just over 1/7, 1/3 and 1/2 of a device, smallest first: the textbook's worst for best fit."""
    nodes = _nodes((24, ("H100",) * 8))
    units, devices = USABLE_UNITS["H100"], 192
    wanted: list[WantedReplica] = []
    for number, part in enumerate((7, 3, 2)):
        wanted += deployment(number, TINY, devices, units=units // part + 1)
    return nodes, wanted


def _exact_cuts(rng: random.Random) -> tuple[list[Node], list[WantedReplica]]:
    """Each device cut into two to four replicas without a byte left, in any order."""
    nodes = _nodes(*FLEET)
    pieces = []
    for one in nodes:
        for device in one.devices:
            units = device.usable_bytes // UNIT_BYTES
            least = footprint_of_units(TINY).total_bytes // UNIT_BYTES
            num = rng.randint(2, min(4, units // least // 2))
            cuts = sorted(rng.sample(range(1, units - num * least), num - 1))
            bounds = [0, *cuts, units - num * least]
            pieces += [b - a + least for a, b in pairwise(bounds)]
    rng.shuffle(pieces)
    return nodes, [
        replica for number, units in enumerate(pieces)
        for replica in deployment(number, TINY, 1, units=units)
    ]  # fmt: skip


def _small_first(rng: random.Random) -> tuple[list[Node], list[WantedReplica]]:
    """The smallest come first and would fit anywhere; the last fit the largest devices alone."""
    nodes = _nodes((10, ("L40S",) * 8), (10, ("H100",) * 8), (5, ("H200",) * 8))
    pieces = []
    for product, num in (("L40S", 80), ("H100", 80), ("H200", 40)):
        units = USABLE_UNITS[product]
        share = rng.choice((0.50, 0.6, 0.7))
        first = int(units * share)
        pieces += [first] * num + [units - first] * num
    return nodes, [
        replica for number, units in enumerate(sorted(pieces))
        for replica in deployment(number, TINY, 1, units=units)
    ]  # fmt: skip


def _groups_last(rng: random.Random) -> tuple[list[Node], list[WantedReplica]]:
    """Groups of 8, 4 and 2 devices come after single devices, which could break every node."""
    nodes = _nodes((24, ("H100",) * 8))
    units = USABLE_UNITS["H100"]
    wanted: list[WantedReplica] = []
    for number, (size, num) in enumerate(((1, 48), (2, 24), (4, 12), (8, 6))):
        # A half of each device that they share is left to them by the one before.
        half = rng.choice((units // 2, units // 3))
        wanted += deployment(2 * number, TINY, num, units=half, num_devices=size)
        wanted += deployment(2 * number + 1, TINY, num, units=units - half, num_devices=size)
    return nodes, wanted


def _picky_last(rng: random.Random) -> tuple[list[Node], list[WantedReplica]]:
    """Those that may go anywhere come first; the rest may go to one zone, and need all of it."""
    nodes = _nodes((24, ("H100",) * 8))
    units = USABLE_UNITS["H100"]
    third = rng.choice((units // 2, units // 3))
    wanted: list[WantedReplica] = []
    for number in range(2):
        wanted += deployment(number, TINY, 128, units=third if number else units - third)
    for number in range(2, 4):
        wanted += deployment(
            number, TINY, 64, units=third if number == 2 else units - third,  # noqa: PLR2004
            selector={"zone": "z0"},
        )  # fmt: skip
    return nodes, wanted


CASES = {
    case.name: case
    for case in (
        Case(name="one-product", about="200 x H100, shared, models of one device",
             build=_one_product),
        Case(name="mixed-products", about="L4 to H200, shared, some tensor-parallel",
             build=_mixed),
        Case(name="mixed-nodes", about="two products on a node, shared", build=_mixed_nodes),
        Case(name="tensor-parallel", about="H100 and A100, shared, most in groups of 2 to 8",
             build=_groups),
        Case(name="foreign-use", about="mixed-products, processes of others on 40 % of the devices",
             build=_foreign),
        Case(name="selectors", about="mixed-products, half of the models with a zone of their own",
             build=_selectors),
        Case(name="exclusive", about="whole devices, five products, groups of 1 to 8",
             build=_exclusive),
        Case(name="both-modes", about="shared and exclusive nodes in one cluster",
             build=_both_modes),
        Case(name="thirds", about=_thirds.__doc__ or "", build=_thirds, is_planted=True),
        Case(name="exact-cuts", about=_exact_cuts.__doc__ or "", build=_exact_cuts,
             is_planted=True),
        Case(name="small-first", about=_small_first.__doc__ or "", build=_small_first,
             is_planted=True),
        Case(name="groups-last", about=_groups_last.__doc__ or "", build=_groups_last,
             is_planted=True),
        Case(name="picky-last", about=_picky_last.__doc__ or "", build=_picky_last,
             is_planted=True),
    )
}  # fmt: skip
