"""What replicas tell of blocks behind their devices, and what a router knows of a prompt by it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.traffic.prefixes import BlockIndex, CachedPrompts, Tier, block_keys, tier_of
from memroute.traffic.prefixes.host_prefixes import STORAGE_FETCH_RATIO, UNKNOWN_WORTH_RATIO
from memroute.traffic.replica import Backend, HostCache, ReplicaLedger
from memroute.traffic.request import RequestProfile
from memroute_router.prompts.block_events import apply_events

BLOCK = 4
PROMPT = list(range(32))
KEYS = block_keys(PROMPT, BLOCK)
NAMES = [101, 102, 103, 104, 105, 106, 107, 108]


def stored(first, last, medium="GPU", **facts):
    """A payload with tokens: blocks ``first`` up to, not including, ``last`` of the prompt."""
    return {
        "type": "BlockStored", "block_hashes": NAMES[first:last],
        "parent_block_hash": NAMES[first - 1] if first else None,
        "token_ids": PROMPT[first * BLOCK : last * BLOCK], "block_size": BLOCK, "lora_id": None,
        "medium": medium, "lora_name": None, "group_idx": 0,
    } | facts  # fmt: skip


def placeholder(block, medium="CPU", **facts):
    """The payload of a chunk, unless vLLM is asked to describe it."""
    return {
        "type": "BlockStored", "block_hashes": [NAMES[block]], "parent_block_hash": None,
        "token_ids": [], "block_size": 0, "lora_id": None, "medium": medium, "lora_name": None,
        "group_idx": 0,
    } | facts  # fmt: skip


def removed(*blocks, medium="GPU"):
    names = [NAMES[block] for block in blocks]
    return {"type": "BlockRemoved", "block_hashes": names, "medium": medium, "group_idx": 0}


CLEARED = {"type": "AllBlocksCleared"}


def heard(*events, rank=0):
    index = BlockIndex()
    index.follow("a")
    apply_events(index, "a", events, rank=rank)
    return index


def tiers(index, keys=KEYS):
    """Blocks of the prompt on the device, behind it on the host, and in storage."""
    on_device = index.match(keys)
    return on_device.get("a", 0), *index.behind(keys, on_device).get("a", (0, 0))


@pytest.mark.parametrize(
    ("medium", "tier"),
    [
        (None, Tier.DEVICE), ("GPU", Tier.DEVICE), ("gpu", Tier.DEVICE),
        ("device(type='cuda', index=0)", Tier.DEVICE), ("cuda:1", Tier.DEVICE),
        ("CPU", Tier.HOST), ("cpu", Tier.HOST), ("CPU_PINNED", Tier.HOST),
        ("device(type='cpu')", Tier.HOST), ("STORAGE", Tier.STORAGE), ("disk", Tier.STORAGE),
        ("a medium of next year", Tier.STORAGE), ("", Tier.STORAGE), (7, Tier.STORAGE),
        ("device()", Tier.STORAGE),
    ],
)  # fmt: skip
def test_a_medium_is_a_tier_whatever_its_case(medium, tier):
    """What nobody knows is as far away as anything that is known."""
    assert tier_of(medium) is tier


def test_memory_of_another_host_is_as_far_as_storage():
    assert tier_of("CPU", "REMOTE") is Tier.STORAGE
    assert tier_of("cpu", "LOCAL") is Tier.HOST


def test_a_placeholder_is_the_block_that_the_device_has_named_so():
    """No tokens, no parent, a block size of 0: the hash is all that is told."""
    index = heard(stored(0, 3), placeholder(0), placeholder(1), placeholder(2))
    assert tiers(index) == (3, 0, 0)
    apply_events(index, "a", [removed(2, 1)], rank=0)
    assert tiers(index) == (1, 2, 0)
    assert index.num_blocks("a", Tier.HOST) == 3


def test_a_block_that_the_device_has_lost_is_on_the_host_until_that_loses_it():
    """Prefixes are not gone because a device evicted them."""
    index = heard(stored(0, 2), placeholder(0), placeholder(1), removed(1, 0))
    assert tiers(index) == (0, 2, 0)
    apply_events(index, "a", [removed(1, medium="CPU")], rank=0)
    assert tiers(index) == (0, 1, 0)
    apply_events(index, "a", [removed(0, medium="cpu")], rank=0)
    assert tiers(index) == (0, 0, 0)
    assert index.names("a") == []


def test_a_copy_that_ends_after_the_device_has_let_go_is_known_all_the_same():
    """Stores are told when their copies have ended."""
    assert tiers(heard(stored(0, 1), removed(0), placeholder(0))) == (0, 1, 0)


def test_a_name_that_nobody_has_told_waits_for_an_event_that_does():
    """A router that came late hears of the host what it cannot place, until it is loaded."""
    index = heard(placeholder(0), placeholder(1))
    assert tiers(index) == (0, 0, 0)
    assert index.num_blocks("a", Tier.HOST) == 0
    apply_events(index, "a", [stored(0, 2), removed(1, 0)], rank=0)
    assert tiers(index) == (0, 2, 0)


def test_a_child_of_a_block_that_only_the_host_has_is_keyed():
    """The device computes on behind what it has let go since."""
    index = heard(stored(0, 1), placeholder(0), removed(0), stored(1, 2))
    assert index.num_orphans == 0
    assert index.num_blocks("a") == 1


def test_a_payload_with_tokens_needs_no_event_of_the_device():
    index = heard(stored(0, 2, "CPU"), stored(2, 4, "CPU"))
    assert tiers(index) == (0, 4, 0)


@pytest.mark.parametrize("told", ["placeholder", "tokens"])
def test_chunks_of_several_blocks_count_whole(told):
    """A chunk of two blocks: three blocks on the device leave the half of one to be fetched."""
    index = heard(stored(0, 6))
    for first in (0, 2, 4):
        event = placeholder(first + 1) if told == "placeholder" else stored(first, first + 2, "CPU")
        apply_events(index, "a", [event], rank=0)
    apply_events(index, "a", [removed(5, 4, 3)], rank=0)
    assert tiers(index) == (3, 3, 0)
    # A prompt that ends inside a chunk cannot use it.
    assert tiers(index, KEYS[:5]) == (3, 1, 0)


def test_blocks_that_two_chunks_share_are_counted():
    """Prompts that part inside a chunk: the shared blocks are told twice, and removed twice."""
    fork = {
        "type": "BlockStored", "block_hashes": [NAMES[0], 999], "parent_block_hash": None,
        "token_ids": [*PROMPT[:4], 77, 77, 77, 77], "block_size": 4, "medium": "CPU",
        "group_idx": 0,
    }  # fmt: skip
    index = heard(stored(0, 2, "CPU"), fork)
    assert tiers(index) == (0, 2, 0)
    gone = {"type": "BlockRemoved", "block_hashes": [NAMES[0], 999], "medium": "CPU"}
    apply_events(index, "a", [gone], rank=0)
    assert tiers(index) == (0, 2, 0)
    apply_events(index, "a", [removed(0, 1, medium="CPU")], rank=0)
    assert index.names("a") == []


def test_storage_counts_behind_and_between_what_the_host_has():
    index = heard(
        stored(0, 4), placeholder(0), placeholder(1, "STORAGE"), placeholder(2),
        placeholder(3, "p2p"), removed(3, 2, 1, 0),
    )  # fmt: skip
    assert tiers(index) == (0, 2, 2)


def test_a_cache_that_is_cleared_leaves_the_host_until_it_is_seen_to_be_empty():
    """``/reset_prefix_cache`` keeps the host's chunks, a sleep does not, and both say the same."""
    index = heard(stored(0, 3), placeholder(0), placeholder(1), placeholder(2), CLEARED)
    assert tiers(index) == (0, 3, 0)
    # It stores what it should have: so it had nothing.
    apply_events(index, "a", [stored(0, 1), placeholder(0)], rank=0)
    assert tiers(index) == (1, 0, 0)
    apply_events(index, "a", [removed(0)], rank=0)
    assert tiers(index) == (0, 1, 0)
    apply_events(index, "a", [removed(0, medium="CPU")], rank=0)
    assert tiers(index) == (0, 0, 0)


def test_a_chunk_that_left_and_came_back_after_a_clear_proves_nothing():
    index = heard(
        stored(0, 2), placeholder(0), placeholder(1), CLEARED, removed(1, medium="CPU"),
        stored(0, 2), placeholder(1), removed(1, 0),
    )  # fmt: skip
    assert tiers(index) == (0, 2, 0)


def test_a_clear_that_names_the_host_leaves_the_device():
    index = heard(stored(0, 2), placeholder(0), placeholder(1), CLEARED | {"medium": "CPU"})
    assert tiers(index) == (2, 0, 0)
    apply_events(index, "a", [removed(0, 1)], rank=0)
    assert tiers(index) == (0, 0, 0)


def test_ranks_have_hosts_of_their_own():
    index = heard(stored(0, 1), placeholder(0), removed(0))
    apply_events(index, "a", [stored(0, 1), placeholder(0), removed(0)], rank=1)
    apply_events(index, "a", [removed(0, medium="CPU")], rank=0)
    assert tiers(index) == (0, 1, 0)
    apply_events(index, "a", [removed(0, medium="CPU")], rank=1)
    assert tiers(index) == (0, 0, 0)


def test_greater_blocks_of_another_program_are_some_of_the_devices():
    """LMCache names 256 tokens where the engine names 16: here 8 and 4."""
    big = {
        "type": "BlockStored", "block_hashes": [b"x", b"y"], "parent_block_hash": None,
        "token_ids": PROMPT[:16], "block_size": 8, "medium": "cpu",
    }  # fmt: skip
    assert tiers(heard(stored(0, 1), big)) == (1, 3, 0)
    # Blocks that are no multiple of the device's say nothing of it.
    odd = big | {"block_size": 6, "token_ids": PROMPT[:12]}
    assert tiers(heard(stored(0, 1), odd)) == (1, 0, 0)


def test_groups_but_the_first_are_passed_over():
    index = heard(stored(0, 1), placeholder(0, group_idx=1), removed(0))
    assert tiers(index) == (0, 0, 0)


def test_two_replicas_are_walked_together_each_from_its_own_place():
    index = heard(stored(0, 4), *(placeholder(block) for block in range(4)), removed(3))
    index.follow("b")
    apply_events(
        index, "b",
        [stored(0, 4, "CPU_PINNED"), placeholder(0), removed(3, medium="CPU_PINNED")], rank=0,
    )  # fmt: skip
    on_device = index.match(KEYS)
    assert index.behind(KEYS, on_device) == {"a": (1, 0), "b": (3, 0)}
    assert index.behind(KEYS, {"b": 3}) == {"a": (4, 0)}
    index.forget("a")
    assert index.behind(KEYS, {}) == {"b": (3, 0)}


CHUNKS = st.lists(st.integers(0, 1), min_size=0, max_size=12)


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.sampled_from(["device", "host", "gone", "evict"]), CHUNKS), max_size=40),
    CHUNKS,
    st.sampled_from([1, 2, 3]),
)
def test_it_says_what_the_tiers_hold(steps, asked, size):
    """Against a device and a host that are sets of whole beginnings, in chunks of ``size``."""
    index = BlockIndex()
    index.follow("a")
    device, host = set(), set()
    known = False

    def name(chain):
        return hash(("engine", chain)) & (2**64 - 1)

    for kind, tokens in steps:
        chains = [tuple(tokens[:end]) for end in range(1, len(tokens) + 1)]
        if kind == "device" and chains:
            index.stored(
                "a", [name(c) for c in chains], parent=None, token_ids=tokens, block_tokens=1
            )
            device.update(chains)
        elif kind == "host":
            # Write-through: what the host stores the device has, from the beginning on.
            for end in range(size, len(tokens) + 1, size):
                chain = tuple(tokens[:end])
                if chain in host or not device.issuperset(chains[:end]):
                    continue
                index.offloaded_to("a", Tier.HOST, [name(chain)])
                host.add(chain)
                known = True
        elif kind == "evict" and chains:
            gone = [chain for chain in device if chain[: len(chains[-1])] == chains[-1]]
            index.removed("a", [name(chain) for chain in gone])
            device -= set(gone)
        elif kind == "gone":
            gone = [chain for chain in host if chain[: len(tokens)] == tuple(tokens)]
            index.removed("a", [name(chain) for chain in gone], Tier.HOST)
            host -= set(gone)
    keys = block_keys(asked, 1)
    on_device = index.match(keys).get("a", 0)
    end = on_device // size * size
    while end + size <= len(asked) and tuple(asked[: end + size]) in host:
        end += size
    expected = {"a": (end - on_device, 0)} if end > on_device else {}
    assert known or not expected
    assert index.behind(keys, {"a": on_device}) == expected
    assert index.num_blocks("a", Tier.HOST) == len(host)


# What it is worth.


def profile(num_blocks=8):
    return RequestProfile(
        num_prompt_tokens=BLOCK * num_blocks, min_prompt_tokens=BLOCK * num_blocks,
        max_output_tokens=1, assumed_output_tokens=1, prefix=KEYS[:num_blocks],
        tokens_per_block=BLOCK, blocks=KEYS[:num_blocks],
    )  # fmt: skip


def pool(*events, fetch=None, host=1000):
    """A replica with a host of that many tokens (None: nobody told), and what was heard of it."""
    ledger = ReplicaLedger("a", promised_capacity_tokens=1000)
    if host is not None:
        seconds = None if fetch is None else fetch * ledger.speed.token_seconds
        ledger.host = HostCache(host, seconds)
    cached = CachedPrompts()
    cached.added("a")
    cached.blocks.follow("a")
    apply_events(cached.blocks, "a", events, rank=0)
    return cached, Backend(ledger)


def test_what_is_told_of_a_host_counts_and_what_was_guessed_does_not():
    """The host has lost half of what was sent; the guess still has all of it."""
    cached, one = pool(
        stored(0, 8), *(placeholder(block) for block in range(8)), removed(*range(8)),
        removed(7, 6, 5, 4, medium="CPU"),
    )  # fmt: skip
    cached.sent(one.ledger, profile())
    cached.ended("a", profile(), num_tokens=0, is_complete=True)
    assert cached.hits(profile(), [one]) == {"a": int(16 * UNKNOWN_WORTH_RATIO)}


def test_a_host_that_tells_nothing_is_guessed_and_one_with_lost_events_at_least_that():
    cached, one = pool(stored(0, 1), removed(0))
    cached.sent(one.ledger, profile())
    cached.ended("a", profile(), num_tokens=0, is_complete=True)
    assert cached.hits(profile(), [one]) == {"a": int(32 * UNKNOWN_WORTH_RATIO)}
    apply_events(cached.blocks, "a", [placeholder(0)], rank=0)
    assert cached.hits(profile(), [one]) == {"a": int(4 * UNKNOWN_WORTH_RATIO)}
    cached.blocks.missed("a", 0)
    assert cached.hits(profile(), [one]) == {"a": int(32 * UNKNOWN_WORTH_RATIO)}
    cached.blocks.began("a", 0)
    assert cached.hits(profile(), [one]) == {"a": int(4 * UNKNOWN_WORTH_RATIO)}


def test_tokens_on_the_host_and_in_storage_count_at_what_fetching_saves():
    """A tenth of computing from the host is 0.9 of a token; half of it from storage is half."""
    cached, one = pool(
        stored(0, 8), placeholder(1), placeholder(3), placeholder(5, "STORAGE"),
        removed(*range(1, 8)), fetch=0.1,
    )  # fmt: skip
    behind = 3 * BLOCK * 0.9 + 2 * BLOCK * (1 - STORAGE_FETCH_RATIO * 0.1)
    assert cached.hits(profile(), [one]) == {"a": BLOCK + int(behind)}


def test_a_host_that_only_its_events_tell_of_counts_half():
    """No annotation, as with a tier that somebody else has set up."""
    cached, one = pool(stored(0, 2), placeholder(0), placeholder(1), removed(0, 1), host=None)
    assert cached.hits(profile(), [one]) == {"a": int(8 * UNKNOWN_WORTH_RATIO)}


DOINGS = st.lists(
    st.tuples(
        st.sampled_from(["store", "store", "remove", "clear"]), st.integers(1, 6), st.integers(0, 1)
    ),
    max_size=40,
)


@given(doings=DOINGS)
def test_what_is_doubted_is_what_each_event_doubted(doings):
    """Kept once for each name, it says what a set of all names for each event would."""
    index = heard()
    kept, doubted = {}, []

    def gone(names):
        for name in names:
            kept.pop(name, None)
            for one in doubted:
                one.discard(name)

    for kind, number, rank in doings:
        name = (rank, number)
        event = {"type": "BlockStored", "block_hashes": [number], "medium": "CPU"}
        if kind == "store":
            first = next((one for one in doubted if name in one), None)
            if name in kept and first is not None:
                gone(list(first))
            kept[name] = kept.get(name, 0) + 1
        elif kind == "remove":
            event["type"] = "BlockRemoved"
            if name in kept:
                kept[name] -= 1
                if not kept[name]:
                    gone([name])
        else:
            event = CLEARED
            doubted.append({other for other in kept if other[0] == rank})
        apply_events(index, "a", [event], rank=rank)
        one = index.offloaded._replicas.get("a")
        found = {} if one is None else {name: b.on_host for name, b in one.blocks.items()}
        assert found == {
            number if rank == 0 else b"rank %d/%d" % (rank, number): count
            for (rank, number), count in kept.items()
        }


def test_a_cache_that_is_cleared_again_and_again_takes_no_more_for_it():
    """Trainers clear it after each step; the host keeps what it has, and its names are doubted."""
    index = heard(*(placeholder(block) for block in range(8)))
    one = index.offloaded._replicas["a"]
    for number in range(100):
        event = {"type": "BlockStored", "block_hashes": [1000 + number], "medium": "CPU"}
        apply_events(index, "a", [CLEARED, event], rank=0)
        if number > 3:
            event = {"type": "BlockRemoved", "block_hashes": [1000 + number - 3], "medium": "CPU"}
            apply_events(index, "a", [event], rank=0)
    doubts = {id(block.doubt): block.doubt for block in one.blocks.values() if block.doubt}
    assert sum(len(doubt.names) for doubt in doubts.values()) <= len(one.blocks)
    longest, each = 0, max(doubts.values(), key=lambda doubt: doubt.number)
    while each is not None:
        longest, each = longest + 1, each.before
    assert longest <= len(one.blocks)
