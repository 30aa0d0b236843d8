"""What replicas tell of their blocks, and what a prompt's tokens say of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.traffic.prefixes import BlockIndex, block_keys, chain_root

BLOCK = 4


def names(tokens):
    """An engine's own: any function of the whole chain up to a block's end."""
    ends = range(BLOCK, len(tokens) + 1, BLOCK)
    return [hash(("engine", tuple(tokens[:end]))) & (2**64 - 1) for end in ends]


def store(index, replica, tokens, **facts):
    whole = len(tokens) // BLOCK * BLOCK
    index.stored(
        replica, names(tokens), parent=None, token_ids=tokens[:whole], block_tokens=BLOCK, **facts
    )


def test_a_prompt_is_found_as_far_as_its_blocks_were_told():
    index = BlockIndex()
    index.follow("a")
    store(index, "a", list(range(10)))
    assert index.match(block_keys(range(20), BLOCK)) == {"a": 2}
    assert index.match(block_keys([9, *range(19)], BLOCK)) == {}
    assert index.block_tokens == BLOCK


def test_a_block_that_follows_another_is_told_by_its_parent():
    index = BlockIndex()
    index.follow("a")
    tokens = list(range(12))
    first, second, third = names(tokens)
    index.stored("a", [first], parent=None, token_ids=tokens[:4], block_tokens=BLOCK)
    index.stored("a", [second, third], parent=first, token_ids=tokens[4:], block_tokens=BLOCK)
    assert index.match(block_keys(tokens, BLOCK)) == {"a": 3}
    index.removed("a", [second])
    assert index.match(block_keys(tokens, BLOCK)) == {"a": 1}


def test_what_follows_a_block_that_was_never_told_is_counted_and_not_guessed():
    index = BlockIndex()
    index.follow("a")
    index.stored("a", [7, 8], parent=6, token_ids=range(8), block_tokens=BLOCK)
    assert index.num_orphans == 2
    assert index.num_blocks("a") == 0


def test_two_that_an_engine_names_apart_are_one_to_a_prompt_until_both_are_gone():
    """Ranks, groups: the same tokens twice."""
    index = BlockIndex()
    index.follow("a")
    for name in (1, 2):
        index.stored("a", [name], parent=None, token_ids=range(4), block_tokens=BLOCK)
    index.removed("a", [1])
    assert index.match(block_keys(range(4), BLOCK)) == {"a": 1}
    index.removed("a", [2, 2, 99])
    assert index.match(block_keys(range(4), BLOCK)) == {}


def test_adapters_and_images_are_other_blocks():
    index = BlockIndex()
    index.follow("a")
    store(index, "a", list(range(4)), root=chain_root("sql"))
    index.stored(
        "a", [5], parent=None, token_ids=range(4, 8), block_tokens=BLOCK, salts=[("image", 0)]
    )
    assert index.match(block_keys(range(4), BLOCK)) == {}
    assert index.match(block_keys(range(4), BLOCK, chain_root("sql"))) == {"a": 1}
    assert index.match(block_keys(range(4, 8), BLOCK)) == {}


def test_who_is_not_followed_is_not_heard():
    index = BlockIndex()
    store(index, "a", list(range(8)))
    index.removed("a", names(list(range(8))))
    index.cleared("a")
    assert not index.follows("a")
    assert index.match(block_keys(range(8), BLOCK)) == {}


def test_a_cache_that_was_cleared_is_empty_and_heard_on():
    index = BlockIndex()
    for name in "ab":
        index.follow(name)
        store(index, name, list(range(8)))
    index.cleared("a")
    assert index.match(block_keys(range(8), BLOCK)) == {"b": 2}
    store(index, "a", list(range(4)))
    assert index.match(block_keys(range(8), BLOCK)) == {"a": 1, "b": 2}
    index.forget("b")
    index.follow("c")
    assert index.match(block_keys(range(8), BLOCK)) == {"a": 1}


def test_what_is_on_its_way_counts_until_all_of_it_has_arrived():
    index = BlockIndex()
    index.sent("a", [1, 2, 3])
    index.sent("a", [1, 2])
    index.ended("a", [1, 2, 3])
    assert index.match_sent([1, 2, 3]) == {"a": 2}
    index.ended("a", [1, 2])
    assert index.match_sent([1]) == {}
    index.ended("a", [1])


PROMPTS = st.lists(st.integers(0, 1), max_size=12)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["store", "remove", "clear"]), PROMPTS),
        max_size=30,
    ),
    PROMPTS,
)
def test_it_says_what_the_caches_hold(steps, asked):
    """Against caches that are sets of whole beginnings."""
    index = BlockIndex()
    caches = {"a": set(), "b": set()}
    for name in caches:
        index.follow(name)
    for name, kind, tokens in steps:
        chains = [tuple(tokens[:end]) for end in range(BLOCK, len(tokens) + 1, BLOCK)]
        cache = caches[name]
        if kind == "store":
            store(index, name, tokens)
            cache.update(chains)
        elif kind == "remove" and chains:
            # An engine evicts ends before beginnings; whatever follows the block goes with it.
            gone = {chain for chain in cache if chain[: len(chains[-1])] == chains[-1]}
            index.removed(name, [names(list(chain))[-1] for chain in gone])
            cache -= gone
        elif kind == "clear":
            index.cleared(name)
            cache.clear()
    told = index.match(block_keys(asked, BLOCK))
    for name, cache in caches.items():
        depth = 0
        for end in range(BLOCK, len(asked) + 1, BLOCK):
            if tuple(asked[:end]) not in cache:
                break
            depth += 1
        assert told.get(name, 0) == depth
        assert index.num_blocks(name) == len(cache)
