import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memroute.traffic.prefixes import PrefixIndex
from memroute_router.requests import parse_chat, parse_completion


def test_each_replica_is_told_how_far_it_matches():
    index = PrefixIndex()
    index.insert("a", (1, 2, 3), max_tokens=100)
    index.insert("b", (1, 2, 9), max_tokens=100)
    assert index.match((1, 2, 3, 4)) == {"a": 3, "b": 2}
    assert index.match((7, 2, 3)) == {}
    assert index.match(()) == {}


def test_a_replica_forgets_what_was_used_longest_ago_and_ends_before_beginnings():
    """Four blocks fit: of 1, 2, 3 and then 8, 9 the first prompt's end has to go."""
    index = PrefixIndex()
    index.insert("a", (1, 2, 3), max_tokens=4)
    index.insert("a", (8, 9), max_tokens=4)
    assert index.match((1, 2, 3)) == {"a": 2}
    index.insert("a", (1,), max_tokens=4)
    index.insert("a", (5, 6), max_tokens=4)
    assert index.match((1, 2)) == {"a": 1}


def test_a_replica_that_is_gone_has_nothing():
    index = PrefixIndex()
    index.insert("a", (1, 2), max_tokens=9)
    index.insert("b", (1,), max_tokens=9)
    index.forget("a")
    index.forget("a")
    assert index.match((1, 2)) == {"b": 1}
    index.insert("c", (1, 2), max_tokens=9)
    assert index.match((1, 2)) == {"b": 1, "c": 2}
    index.forget("b")
    index.forget("c")
    assert index.num_blocks == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 5), max_size=5)), max_size=20
    ),
    st.lists(st.integers(0, 5), max_size=6),
)
def test_without_eviction_it_says_what_was_sent(prompts, asked):
    """Against the definition: the longest common beginning with what the replica was sent."""

    def chain(ids):
        return tuple(hash(tuple(ids[: end + 1])) for end in range(len(ids)))

    index = PrefixIndex()
    for replica, ids in prompts:
        index.insert(replica, chain(ids), max_tokens=10_000)
    told = index.match(chain(asked))
    for replica in "abc":
        common = 0
        for name, ids in prompts:
            if name == replica:
                same = 0
                while same < min(len(ids), len(asked)) and ids[same] == asked[same]:
                    same += 1
                common = max(common, same)
        assert told.get(replica, 0) == common


def test_what_one_replica_forgets_the_others_keep():
    """A full replica forgets a prompt that both were sent; the other one still has it."""
    index = PrefixIndex()
    index.insert("a", (1, 2, 3), max_tokens=4)
    index.insert("b", (1, 2, 3), max_tokens=4)
    index.insert("a", (8, 9), max_tokens=4)
    assert index.match((1, 2, 3)) == {"b": 3}
    assert index.match((8, 9)) == {"a": 2}


def test_what_was_never_computed_is_taken_back_there_alone():
    """Of 1, 2, 3, 4 the first two were there before; the rest was on its way to two replicas."""
    index = PrefixIndex()
    index.insert("a", (1, 2), max_tokens=9)
    index.insert("b", (1, 2, 3, 4), max_tokens=9)
    assert index.insert("a", (1, 2, 3, 4), max_tokens=9) == 2
    index.take_back("a", (3, 4))
    assert index.match((1, 2, 3, 4)) == {"a": 2, "b": 4}


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.lists(st.integers(0, 2), min_size=1, max_size=6),
            st.sampled_from(("insert", "insert", "insert", "take back", "forget")),
        ),
        max_size=40,
    ),
    st.integers(1, 12),
)
def test_it_never_says_more_than_was_sent_and_remembers_what_fits(steps, max_tokens):
    """However prompts part, shrink and go: what is new and what is known add up to the prompt."""

    def chain(ids):
        return tuple(hash(tuple(ids[: end + 1])) for end in range(len(ids)))

    index = PrefixIndex()
    sent = {replica: set() for replica in "abc"}
    for replica, ids, step in steps:
        keys = chain(ids)
        if step == "forget":
            index.forget(replica)
            sent[replica] = set()
            assert replica not in index.match(keys)
            continue
        known = index.match(keys).get(replica, 0)
        num_new = index.insert(replica, keys, max_tokens=max_tokens)
        sent[replica] |= set(keys)
        assert num_new >= len(keys) - known
        if len(keys) <= max_tokens:
            assert index.match(keys)[replica] == len(keys)
        if step == "take back" and num_new:
            index.take_back(replica, keys[-num_new:])
            assert index.match(keys).get(replica, 0) <= len(keys) - num_new
        for name, depth in index.match(keys).items():
            assert set(keys[:depth]) <= sent[name]
    for replica in "abc":
        index.forget(replica)
    assert index.num_blocks == 0


def chat(*texts, **fields):
    messages = [
        {"role": "user" if index % 2 == 0 else "assistant", "content": text}
        for index, text in enumerate(texts)
    ]
    return parse_chat({"model": "m", "messages": messages} | fields)


def test_the_next_turn_of_a_conversation_begins_as_the_last_did():
    """The first prompt ends where a message of the second does: so does its last block."""
    first = chat("x" * 5000).prefix
    second = chat("x" * 5000, "an answer", "and on " * 20).prefix
    assert len(first) == 8 + 1, "eight blocks of 512 bytes, and 910 bytes more"
    assert second[: len(first)] == first
    assert len(second) > len(first)


def test_what_engines_keep_apart_is_kept_apart():
    """Tools are in the prompt, before or behind instructions; vLLM's cache_salt is for tenants."""
    plain = chat("x" * 3000).prefix
    assert plain != chat("x" * 3000, tools=[{"type": "function"}]).prefix
    assert plain[0] != chat("x" * 3000, cache_salt="tenant").prefix[0]
    assert plain[0] != parse_chat({"model": "n", "messages": [{"content": "x" * 3000}]}).prefix[0]


def test_token_ids_have_prefixes_too():
    one = parse_completion({"model": "m", "prompt": list(range(1000))}).prefix
    two = parse_completion({"model": "m", "prompt": [*range(600), *range(5000, 5400)]}).prefix
    assert (len(one), len(two)) == (3, 3)
    assert one[:2] == two[:2]
    assert one[2] != two[2]


def test_blocks_of_a_size_of_their_own_fill_a_replica_by_their_tokens():
    """A picture of 1,500 tokens takes the place of fifteen blocks of 100, not of one."""
    index = PrefixIndex()
    index.insert("a", tuple(range(20)), max_tokens=2000, tokens_per_block=100)
    index.insert("a", (99,), max_tokens=2000, ends=(1500,))
    assert index.match(tuple(range(20))) == {"a": 5}
    assert index.match((99,)) == {"a": 1}


_REPLICAS = st.sampled_from("ab")
_PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@pytest.mark.slow
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), _REPLICAS, _PROMPTS, st.integers(0, 5)),
            st.tuples(st.just("take back"), _REPLICAS, _PROMPTS, st.integers(0, 5)),
            st.tuples(st.just("forget"), _REPLICAS, st.just([0]), st.just(0)),
        ),
        max_size=30,
    ),
    st.integers(1, 8),
)
@example([("send", "a", [0, 1], 1), ("send", "a", [0, 1, 2], 0), ("send", "a", [0, 2], 0)], 8)
def test_ends_of_prompts_may_come_before_their_beginnings_and_go_after_them(steps, max_tokens):
    """Peers tell a newcomer the ends of prompts first, and take back what was never computed.

    A block that lay in two runs ended the router with a KeyError, once one of the two was gone.
    """

    def chain(ids):
        return tuple(hash(tuple(ids[: end + 1])) for end in range(len(ids)))

    index = PrefixIndex()
    for step, replica, ids, start in steps:
        keys = chain(ids)[min(start, len(ids) - 1) :]
        if step == "send":
            index.insert(replica, keys, max_tokens=max_tokens)
        elif step == "take back":
            index.take_back(replica, keys)
        else:
            index.forget(replica)
        for name in "ab":
            held = index.stretches(name)
            assert sum(len(keys) for keys, _ in held) == sum(tokens for _, tokens in held)
            assert sum(tokens for _, tokens in held) <= max_tokens
    whole = chain([0, 1, 2])
    index.insert("a", whole, max_tokens=max(3, max_tokens))
    assert index.match(whole)["a"] == len(whole)
    for replica in "ab":
        index.forget(replica)
    assert index.num_blocks == 0
