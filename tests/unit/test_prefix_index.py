from hypothesis import given
from hypothesis import strategies as st

from memroute.traffic.prefixes import PrefixIndex
from memroute_router.requests import parse_chat, parse_completion


def test_each_replica_is_told_how_far_it_matches():
    index = PrefixIndex()
    index.insert("a", [1, 2, 3], max_blocks=100)
    index.insert("b", [1, 2, 9], max_blocks=100)
    assert index.match([1, 2, 3, 4]) == {"a": 3, "b": 2}
    assert index.match([7, 2, 3]) == {}
    assert index.match([]) == {}


def test_a_replica_forgets_what_was_used_longest_ago_and_ends_before_beginnings():
    """Four blocks fit: of 1, 2, 3 and then 8, 9 the first prompt's end has to go."""
    index = PrefixIndex()
    index.insert("a", [1, 2, 3], max_blocks=4)
    index.insert("a", [8, 9], max_blocks=4)
    assert index.match([1, 2, 3]) == {"a": 2}
    index.insert("a", [1], max_blocks=4)
    index.insert("a", [5, 6], max_blocks=4)
    assert index.match([1, 2]) == {"a": 1}


def test_a_replica_that_is_gone_has_nothing():
    index = PrefixIndex()
    index.insert("a", [1, 2], max_blocks=9)
    index.insert("b", [1], max_blocks=9)
    index.forget("a")
    index.forget("a")
    assert index.match([1, 2]) == {"b": 1}
    index.insert("c", [1, 2], max_blocks=9)
    assert index.match([1, 2]) == {"b": 1, "c": 2}
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
        return [hash(tuple(ids[: end + 1])) for end in range(len(ids))]

    index = PrefixIndex()
    for replica, ids in prompts:
        index.insert(replica, chain(ids), max_blocks=10_000)
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
    index.insert("a", list(range(20)), max_blocks=2000, weights=[100] * 20)
    index.insert("a", [99], max_blocks=2000, weights=[1500])
    assert index.match(list(range(20))) == {"a": 5}
    assert index.match([99]) == {"a": 1}
