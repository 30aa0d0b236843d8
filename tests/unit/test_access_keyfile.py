"""The file of keys: what it says, and what is refused of it."""

import contextlib
import hashlib
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from access_rig import ALICE, BOB, tenant
from memroute_router.access.keyfile import KeysError, is_strong, read_keys
from memroute_router.access.rules import Limits, ModelNames
from memroute_router.access.verdicts import authenticate, presented_key
from memroute_router.access.words import EXPIRED_KEY, NO_KEY, SHORT_KEY, UNKNOWN_KEY
from sizes import tries


def keys(*tenants, **more):
    return json.dumps({"tenants": list(tenants)} | more)


def sha256(key):
    return hashlib.sha256(key.encode()).hexdigest()


def test_the_example_of_the_how_to_can_be_read(repository):
    """What people copy has to work."""
    page = (repository / "docs" / "how-to" / "give-out-keys.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    ring = read_keys(example)
    assert set(ring.tenants) == {"search", "batch"}
    search = ring.tenants["search"]
    assert search.limits == Limits(
        requests_per_minute=600, tokens_per_minute=200_000, max_requests=100
    )
    assert (search.share_weight, search.max_kv_share_ratio) == (2.0, 0.25)
    assert search.service.max_priority == 10
    assert len(ring.by_digest) == 3


def test_a_key_is_known_by_its_hash_alone():
    ring = read_keys(keys(tenant("a", {"id": "one", "sha256": sha256(ALICE)}), tenant("b", BOB)))
    assert authenticate(ALICE.encode(), ring, unix_seconds=0.0).tenant.name == "a"
    assert authenticate(BOB.encode(), ring, unix_seconds=0.0).key_id == "b-0"
    assert authenticate(sha256(ALICE).encode(), ring, unix_seconds=0.0) is UNKNOWN_KEY
    assert authenticate(b"", ring, unix_seconds=0.0) is NO_KEY
    assert BOB not in repr(ring)


def test_a_short_key_is_refused_even_where_its_hash_is_in_the_file():
    """A fast digest protects only what cannot be guessed: short keys could be tried out."""
    ring = read_keys(keys(tenant("a", {"id": "one", "sha256": sha256("secret-123")})))
    assert authenticate(b"secret-123", ring, unix_seconds=0.0) is SHORT_KEY


def test_a_key_expires():
    key = {"id": "one", "key": ALICE, "expires": "2027-01-31T00:00:00Z"}
    ring = read_keys(keys(tenant("a", key)))
    at = 1_801_353_600.0  # 2027-01-31, by `date -ud 2027-01-31 +%s`
    assert authenticate(ALICE.encode(), ring, unix_seconds=at - 1).key_id == "one"
    assert authenticate(ALICE.encode(), ring, unix_seconds=at) is EXPIRED_KEY


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({b"authorization": b"Bearer k"}, b"k"),
        ({b"authorization": b"bearer  k "}, b"k"),
        ({b"x-api-key": b"k"}, b"k"),
        ({b"authorization": b"Bearer k", b"x-api-key": b"other"}, b"k"),
        ({b"authorization": b"Basic k", b"x-api-key": b"other"}, b"other"),
        ({b"authorization": b"Bearer "}, b""),
        ({b"authorization": b"k"}, b""),
        ({}, b""),
    ],
)
def test_where_a_key_stands(fields, key):
    assert presented_key(fields) == key


@pytest.mark.parametrize(
    "bad", ["short", "a" * 40, "with white space in it, long", "schlüssel" * 4]
)
def test_plain_keys_that_can_be_guessed_are_refused(bad):
    assert not is_strong(bad)
    with pytest.raises(KeysError, match="random text of 22 characters") as error:
        read_keys(keys(tenant("a", bad)))
    assert bad not in str(error.value)


def test_random_keys_are_strong():
    rng = random.Random(1)
    for digits in ("0123456789abcdef", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789-_"):
        assert all(is_strong("".join(rng.choices(digits, k=32))) for _ in range(500))


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (tenant("a", ALICE, models=()), None),
        ({"name": "a", "keys": [{"id": "k", "key": ALICE}]}, "models must list"),
        (tenant("a", ALICE, weight=0), "weight must be above 0"),
        (tenant("a", ALICE, weight=True), "weight must be above 0"),
        (tenant("a", ALICE, maxKVShareRatio=1.5), "maxKVShareRatio must be"),
        (tenant("a", ALICE, tokensPerMinute=-1), "tokensPerMinute must be"),
        (tenant("a", ALICE, tokensPerMinute=1.5), "tokensPerMinute must be"),
        (tenant("a", ALICE, priority=5, maxPriority=1), "must not be below"),
        (tenant("a", ALICE, priority=10**9), "priority must be from"),
        (tenant("a", ALICE, cacheSalt="short"), "at least 16"),
        (tenant("a", ALICE, tokenPerMinute=1), "tokenPerMinute is unknown"),
        (tenant("a\nb", ALICE), "name must be a text of letters"),
        (tenant("x" * 65, ALICE), "name must be a text of letters"),
        (tenant("a", {"id": "k"}), "one of sha256 and key"),
        (tenant("a", {"id": "k", "sha256": "abc"}), "64 hexadecimal digits"),
        (tenant("a", {"id": "k", "sha256": 7}), "64 hexadecimal digits"),
        (tenant("a", {"id": "k", "key": ALICE, "expires": "soon"}), "must be a time"),
        (tenant("a", ALICE, ALICE), "the key of 'a-0' as well"),
        (tenant("a"), "neither keys nor issuers"),
        (tenant("a", ALICE, keys=7), "keys must be a list"),
        ("a", "must be a mapping"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_the_reason(document, told):
    """An allow-list of nothing is one; everything else is a mistake that would let in too much."""
    if told is None:
        assert not next(iter(read_keys(keys(document)).by_digest.values())).allows("m")
        return
    with pytest.raises(KeysError, match=told) as error:
        read_keys(keys(document))
    assert ALICE not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["key: " + ALICE + ": x: [", "{" + ALICE, "\t" + ALICE, "[" * 9000]
)
def test_no_reason_quotes_the_file(text):
    """Errors are logged; a key that stands on the wrong line must not be."""
    with pytest.raises(KeysError) as error:
        read_keys(text)
    assert ALICE not in str(error.value)


@pytest.mark.slow
@settings(max_examples=tries(30, 60))
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "tenants",
                        "jwt",
                        "name",
                        "keys",
                        "id",
                        "sha256",
                        "key",
                        "models",
                        "weight",
                        "expires",
                        "priority",
                        "issuer",
                    ]
                )
                | st.text(),
                inner,
            )
        ),
        max_leaves=20,
    )
)
def test_whatever_the_file_says_it_is_read_or_refused(document):
    whole = document if isinstance(document, dict) else {"tenants": [document]}
    with contextlib.suppress(KeysError):
        read_keys(json.dumps(whole))


def test_patterns_of_models():
    names = ModelNames(["llama-*", "qwen-3-8b", "phi-[34]"])
    allowed = [
        n
        for n in (
            "llama-3",
            "llama-",
            "xllama-3",
            "qwen-3-8b",
            "qwen-3-8b2",
            "phi-4",
            "phi-5",
            "llama-3\nx",
            "LLAMA-3",
            "",
        )
        if names.allow(n)
    ]
    assert allowed == ["llama-3", "llama-", "qwen-3-8b", "phi-4", "llama-3\nx"]
    assert not ModelNames(["*"]).allow("x" * 10_000)
    assert not ModelNames([]).allow("m")


@pytest.mark.slow
def test_a_hundred_thousand_keys_are_read():
    """A fleet whose users have keys of their own: as JSON that is half a second of a core."""
    listed = [
        {"id": f"k{n}", "sha256": hashlib.sha256(b"%d" % n).hexdigest()} for n in range(100_000)
    ]
    assert len(read_keys(keys(tenant("a", *listed))).by_digest) == 100_000
