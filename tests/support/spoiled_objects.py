"""Objects of which one to four places hold something else, or nothing: for property tests."""

import copy

from hypothesis import strategies as st

RESERVATION = (
    '{"v":1,"mode":"shared","node":"a","count":1,"bytesPerDevice":1000,"devices":{"GPU-a-0":1000}}'
)
ODD_TEXTS = [
    "", "abc", "1", "-1", "1e9", "1k", "٣", "१२", "\x00", "a/b", "true", "null", "[]", "{",
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9" * 5000, "1e400", "NaN", "-Inf",
    "Infinity", "Failed", "Running", "shared", "exclusive", "pack", "🙂",
    RESERVATION, RESERVATION.replace('"v":1', '"v":2'), RESERVATION.replace("1000", "-1000"),
    RESERVATION.replace("1000", "1e300"), '{"v":1,"devices":[]}',
]  # fmt: skip
ODD = st.one_of(
    st.none(), st.booleans(), st.sampled_from(ODD_TEXTS), st.text(max_size=4),
    st.sampled_from([0, -1, 1, 2, 2**31, 2**63, 10**40, -(10**40), 0.5, 1e308, -1e308]),
    st.floats(), st.just([]), st.just({}), st.just([{}]), st.just([None]), st.just({"a": None}),
    st.just({"a": {"b": [1]}}),
)  # fmt: skip


def places(value, path=()):
    """Every path into an object: what is there may be anything, or missing."""
    yield path
    if not isinstance(value, dict | list):
        return
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        yield from places(child, (*path, key))


def spoiled(whole, *, keep=()):
    """Objects of that kind in which one to four places hold something else, or nothing."""
    paths = [p for p in places(whole()) if p and p not in keep]
    spoil = st.tuples(st.sampled_from(paths), st.one_of(ODD, st.just(places)))

    def build(spoils):
        obj = whole()
        for path, value in spoils:
            holder = obj
            try:
                for key in path[:-1]:
                    holder = holder[key]
                if value is places:
                    del holder[path[-1]]
                else:
                    holder[path[-1]] = copy.deepcopy(value)
            except (KeyError, IndexError, TypeError):
                continue  # an earlier one has taken that place away
        return obj

    return st.lists(spoil, min_size=1, max_size=4).map(build)
