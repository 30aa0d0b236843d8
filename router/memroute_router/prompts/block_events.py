"""What KV events say of blocks: read from the wire, and told to the index of a pool.

A batch is msgpack ``[time, [events], rank]``. Events are arrays up to vLLM 0.22 and maps since
0.25; both are read, what is unknown is passed over.

Events of other media than the device's tell what its host has, and storage (``prefixes.tiers``). A
medium that nobody knows counts as storage. ``AllBlocksCleared`` clears the device; vLLM sends it
with and without ``reset_connector`` and does not say which, so that what the host had is doubted.
"""

from collections.abc import Sequence
from typing import Any

import msgpack

from memroute.traffic.prefixes import BlockIndex, Tier, chain_root, tier_of

_STORED_FIELDS = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id",
                  "medium", "lora_name", "extra_keys", "group_idx")  # fmt: skip
_REMOVED_FIELDS = ("block_hashes", "medium", "group_idx")
# How names of blocks begin that are not of the first rank; hashes of 32 bytes do not.
_RANK = b"rank "


def unpacked(payload: bytes) -> list[Any]:
    """One batch: its time first, then its events. Raises ``ValueError``, and what msgpack does."""
    batch = msgpack.unpackb(payload, strict_map_key=False)
    if not isinstance(batch, list) or len(batch) < 2 or not isinstance(batch[1], list):  # noqa: PLR2004
        msg = "no batch of KV events"
        raise ValueError(msg)
    return batch


def apply_events(index: BlockIndex, replica: str, events: Sequence[Any], *, rank: int) -> int:
    """Take one batch of events; how many of them said something."""
    num_applied = 0
    for event in events:
        kind, told = _named(event)
        if told.get("group_idx") not in {None, 0}:
            continue  # of several groups the first is whole
        names = [_name(rank, value) for value in told.get("block_hashes") or ()]
        tier = tier_of(told.get("medium"), told.get("locality"))
        if kind == "BlockStored":
            _stored(index, replica, tier, names, told, rank=rank)
        elif kind == "BlockRemoved":
            index.removed(replica, names, tier)
        elif kind == "AllBlocksCleared":
            names = _names_of(index, replica, rank)
            index.emptied(replica, names, None if told.get("medium") is None else tier)
        else:
            continue
        num_applied += 1
    return num_applied


def _stored(
    index: BlockIndex,
    replica: str,
    tier: Tier,
    names: list[int | bytes],
    told: dict[str, Any],
    *,
    rank: int,
) -> None:
    adapter = told.get("lora_name")
    parent = told.get("parent_block_hash")
    parent_name = None if parent is None else _name(rank, parent)
    token_ids = told.get("token_ids") or ()
    block_tokens = int(told.get("block_size") or 0)
    # An adapter's name stands there too.
    salts = () if adapter else told.get("extra_keys") or ()
    root = chain_root(adapter) if isinstance(adapter, str) else 0
    if tier is Tier.DEVICE:
        index.stored(
            replica, names, parent=parent_name, token_ids=token_ids, block_tokens=block_tokens,
            salts=salts, root=root,
        )  # fmt: skip
    else:
        index.offloaded_to(
            replica, tier, names, parent=parent_name, token_ids=token_ids,
            block_tokens=block_tokens, salts=salts, root=root,
        )  # fmt: skip


def forget_rank(index: BlockIndex, replica: str, rank: int) -> None:
    """The cache of one rank is empty, on its host too; the others' are not."""
    index.dropped(replica, _names_of(index, replica, rank))


def _names_of(index: BlockIndex, replica: str, rank: int) -> list[int | bytes]:
    return [name for name in index.names(replica) if _rank_of(name) == rank]


def _named(event: Any) -> tuple[str, dict[str, Any]]:
    """An event of either form, by its fields' names."""
    if isinstance(event, dict):
        return str(event.get("type")), event
    if not isinstance(event, list) or not event:
        return "", {}
    kind = str(event[0])
    fields = _STORED_FIELDS if kind == "BlockStored" else _REMOVED_FIELDS
    return kind, dict(zip(fields, event[1:], strict=False))


def _name(rank: int, value: int | bytes) -> int | bytes:
    """Ranks name the same block alike and cache it apart."""
    if not rank:
        return value
    return b"%b%d/%b" % (_RANK, rank, value if isinstance(value, bytes) else b"%d" % value)


def _rank_of(name: int | bytes) -> int:
    if isinstance(name, int) or not name.startswith(_RANK):
        return 0
    return int(name[len(_RANK) : name.index(b"/")])
