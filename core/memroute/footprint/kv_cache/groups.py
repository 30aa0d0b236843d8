"""Which layers share a block table, and what a block is then: vLLM 0.32's ``kv_cache_utils``.

All groups draw equal blocks from one pool, so their pages must be equal:

* one kind of cell: one group, one table;
* kinds that need the same tokens (latent and indexer, heads of different sizes): one group too;
* a state beside attention: the attention block is raised until its page holds the state, and
  the state is padded up to it;
* otherwise smaller pages get longer blocks, and each kind is cut into groups of as many layers
  as the smallest kind has (as the largest, if that is under 1.5 times the smallest).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memroute.errors import UnsupportedShapeError
from memroute.footprint.kv_cache.cells import Cell, CellKind
from memroute.units import ceil_div

MAX_SPREAD = 1.5
# Above it, padding every kind to the largest would waste more than cutting does.


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A cell in blocks: what one block of one layer takes."""

    layer: int
    cell: Cell
    block_size_tokens: int
    page_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KVGroup:
    """Layers that share one block table."""

    kind: CellKind
    block_size_tokens: int
    reach_tokens: int | None
    pages: tuple[Page, ...]

    @property
    def num_layers(self) -> int:
        """Cells in the group (a sparse latent layer has two)."""
        return len(self.pages)

    @property
    def page_bytes(self) -> int:
        """Bytes of one block over the group's layers."""
        return sum(page.page_bytes for page in self.pages)

    @property
    def token_bytes(self) -> int:
        """Bytes of one more token over the group's layers; 0 for states."""
        return sum(page.cell.token_bytes for page in self.pages)

    def blocks_for(
        self,
        num_tokens: int,
        *,
        in_flight_tokens: int,
        num_state_blocks: int,
        caches_prefixes: bool,
    ) -> int:
        """The most blocks that one sequence of ``num_tokens`` can hold in this group.

        A window also holds what is scheduled and not yet settled, and may start within a
        block; a state is one block, and more where prefixes are cached.
        """
        if num_tokens <= 0:
            return 0
        size, reach = self.block_size_tokens, self.reach_tokens or 0
        match self.kind:
            case CellKind.FULL | CellKind.LATENT:
                return ceil_div(num_tokens, size)
            case CellKind.SLIDING:
                return ceil_div(min(reach - 1 + in_flight_tokens, num_tokens), size) + 1
            case CellKind.CHUNKED:
                return ceil_div(min(reach + in_flight_tokens, num_tokens), size)
            case CellKind.STATE:
                checkpoints = self.pages[0].cell.num_checkpoints if caches_prefixes else 0
                return num_state_blocks + checkpoints


def align_block_to_state(
    cells: Sequence[tuple[int, Cell]], *, block_size_tokens: int, block_alignment_tokens: int
) -> int:
    """The attention block of a hybrid: raised until its page holds the largest state."""
    states = [cell.state_bytes for _, cell in cells if cell.kind is CellKind.STATE]
    tokens = [cell.token_bytes for _, cell in cells if cell.kind is not CellKind.STATE]
    if not states or not tokens:
        return block_size_tokens
    alignment = max(block_alignment_tokens, block_size_tokens)
    needed = alignment * ceil_div(max(states), alignment * tokens[0])
    return max(block_size_tokens, needed)


def group_cells(
    cells: Sequence[tuple[int, Cell]], *, block_size_tokens: int, block_alignment_tokens: int
) -> tuple[KVGroup, ...]:
    """The groups of a model's cells, given as (layer, cell) in the order of the layers.

    Raises ``UnsupportedShapeError`` when pages cannot be made equal.
    """
    if not cells:
        return ()
    block = align_block_to_state(
        cells, block_size_tokens=block_size_tokens, block_alignment_tokens=block_alignment_tokens
    )
    pages = _pages(cells, block)
    if _is_one_type(pages):
        return (_group(pages),)
    return _cut(_unified(pages))


def _pages(cells: Sequence[tuple[int, Cell]], block: int) -> list[Page]:
    attention = [cell.token_bytes for _, cell in cells if cell.kind is not CellKind.STATE]
    padded = attention[0] * block if attention else 0
    return [
        Page(
            layer=layer,
            cell=cell,
            block_size_tokens=block,
            page_bytes=(
                max(cell.state_bytes, padded)
                if cell.kind is CellKind.STATE
                else cell.token_bytes * block
            ),
        )
        for layer, cell in cells
    ]


def _is_one_type(pages: Sequence[Page]) -> bool:
    """Whether all layers need the same tokens, whatever bytes each takes of them."""
    first = pages[0].cell
    if first.kind in {CellKind.FULL, CellKind.LATENT}:
        return all(page.cell.kind in {CellKind.FULL, CellKind.LATENT} for page in pages)
    if first.kind is CellKind.STATE:
        return len({(page.cell.kind, page.page_bytes) for page in pages}) == 1
    return len({(page.cell.kind, page.cell.reach_tokens) for page in pages}) == 1


def _unified(pages: Sequence[Page]) -> list[Page]:
    """Pages of equal bytes: longer blocks where they divide, padding where they do not."""
    largest = max(page.page_bytes for page in pages)
    unified = []
    for page in pages:
        if page.page_bytes == largest:
            unified.append(page)
        elif page.cell.kind is not CellKind.STATE and largest % page.page_bytes == 0:
            ratio = largest // page.page_bytes
            unified.append(
                replace(
                    page,
                    block_size_tokens=page.block_size_tokens * ratio,
                    page_bytes=largest,
                )
            )
        elif page.cell.kind is CellKind.LATENT:
            msg = (
                f"a latent page of {page.page_bytes} bytes cannot be made equal to one of "
                f"{largest} bytes"
            )
            raise UnsupportedShapeError(msg)
        else:
            unified.append(replace(page, page_bytes=largest))
    return unified


def _cut(pages: Sequence[Page]) -> tuple[KVGroup, ...]:
    buckets: dict[tuple[Cell, int], list[Page]] = {}
    for page in pages:
        buckets.setdefault((page.cell, page.block_size_tokens), []).append(page)
    sizes = [len(bucket) for bucket in buckets.values()]
    group_size = max(sizes) if max(sizes) < min(sizes) * MAX_SPREAD else min(sizes)
    groups = []
    for bucket in buckets.values():
        num_groups = ceil_div(len(bucket), group_size)
        # Every n-th layer: so that each pipeline stage has its share of each group.
        groups += [_group(bucket[start::num_groups]) for start in range(num_groups)]
    return tuple(groups)


def _group(pages: Sequence[Page]) -> KVGroup:
    first = pages[0]
    return KVGroup(
        kind=first.cell.kind,
        block_size_tokens=first.block_size_tokens,
        reach_tokens=first.cell.reach_tokens,
        pages=tuple(pages),
    )
