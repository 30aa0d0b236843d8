"""``memroute-fetch`` and stores that speak S3: signatures, lists, checksums, refusals."""

from datetime import UTC, datetime

import pytest

import fake_s3
from fake_hub import SHARDS, FakeHub, Repository, tiny_files
from fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3, Stored
from fetching import Fetching, without_waits
from memroute_fetch.checksums import CheckKind
from memroute_fetch.failures import ExitCode
from memroute_fetch.remotes.s3_answers import NoListError, checks_of, page_of
from memroute_fetch.remotes.sigv4 import Credentials, query_of, signed_headers

FILES = tiny_files()
SOURCE = "s3://models/llama/8b@v1"
KEYS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_REGION": "eu-test-1",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    without_waits(monkeypatch)


@pytest.fixture
def store():
    stored = {f"llama/8b/{path}": Stored(data) for path, data in FILES.items()}
    stored |= {"llama/8b/": Stored(b""), "llama/80b/config.json": Stored(b"{}")}
    with FakeS3({"models": stored}) as running:
        yield running


@pytest.fixture
def fetching(store, tmp_path):
    return Fetching(tmp_path / "cache", store.url, environment=dict(KEYS))


AMAZONS = Credentials(
    access_key="AKIAIOSFODNN7EXAMPLE",
    secret_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",  # noqa: S106 - of the documentation
    region="us-east-1",
)


@pytest.mark.parametrize(
    ("path", "query", "headers", "signature"),
    [
        (
            "/test.txt", "", {"range": "bytes=0-9"},
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "/", query_of({"prefix": "J", "max-keys": "2"}), {},
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
        (
            "/", query_of({"lifecycle": ""}), {},
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
    ],
)  # fmt: skip
def test_signatures_are_those_of_amazons_examples(path, query, headers, signature):
    """Amazon S3 API Reference, "Examples: Signature Calculations": three of its requests."""
    host = "examplebucket.s3.amazonaws.com"
    found = signed_headers(
        "GET", host, path, query, headers, AMAZONS, datetime(2013, 5, 24, tzinfo=UTC)
    )
    assert found["authorization"].endswith(f"Signature={signature}")


def test_a_prefix_is_fetched_once(store, fetching):
    """Below the prefix alone: `llama/80b` begins with the same letters."""
    assert fetching.run(SOURCE) == ExitCode.COMPLETE
    assert fetching.files(SOURCE) == FILES
    sent, asked = store.bytes_sent, len(store.requests)
    assert fetching.run(SOURCE) == ExitCode.COMPLETE
    assert (store.bytes_sent, len(store.requests)) == (sent, asked)
    assert fetching.summary["files_checked_by_size_alone"] == 0


def test_lists_of_several_pages_are_read_to_the_end(store, fetching):
    store.page_size = 2
    assert fetching.run(SOURCE) == ExitCode.COMPLETE
    assert fetching.files(SOURCE) == FILES


def test_keys_with_odd_characters_are_signed_and_asked_for(store, fetching):
    """A blank, a plus and letters of elsewhere: encoded once, and the same way in both places."""
    odd = "a folder/tücke+1 (2).json"
    store.buckets["models"][f"llama/8b/{odd}"] = Stored(b"{}")
    assert fetching.run(SOURCE) == ExitCode.COMPLETE
    assert fetching.files(SOURCE) == FILES | {odd: b"{}"}


def test_one_object_is_a_model_too(store, fetching):
    """A GGUF file needs no folder."""
    store.buckets["models"]["gguf/tiny-Q8_0.gguf"] = Stored(b"GGUF" * 500)
    source = "s3://models/gguf/tiny-Q8_0.gguf"
    assert fetching.run(source) == ExitCode.COMPLETE
    assert fetching.files(source) == {"tiny-Q8_0.gguf": b"GGUF" * 500}


def test_anonymous_requests_carry_no_signature(store, fetching):
    store.is_public = True
    fetching.environment = {}
    assert fetching.run(SOURCE) == ExitCode.COMPLETE


def test_temporary_credentials_are_sent_and_signed(store, fetching):
    store.session_token = "a+long/token=="  # noqa: S105 - of this store
    assert fetching.run(SOURCE) == ExitCode.DENIED
    assert "does not accept the credentials of AWS_ACCESS_KEY_ID (403 InvalidToken" in fetching.said
    fetching.environment["AWS_SESSION_TOKEN"] = store.session_token
    assert fetching.run(SOURCE) == ExitCode.COMPLETE


@pytest.mark.parametrize(
    ("change", "source", "code", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "other"}, SOURCE, ExitCode.DENIED, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "other"}, SOURCE, ExitCode.DENIED, "InvalidAccessKeyId"),
        ({"AWS_ACCESS_KEY_ID": ""}, SOURCE, ExitCode.USAGE, "one is missing"),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            SOURCE, ExitCode.DENIED, "no credentials were found: AWS_ACCESS_KEY_ID",
        ),
        ({}, "s3://absent/llama", ExitCode.NOT_FOUND, "NoSuchBucket"),
        ({}, "s3://models/absent", ExitCode.NOT_FOUND, "has nothing below s3://models/absent"),
    ],
)  # fmt: skip
def test_what_a_store_refuses_is_told(fetching, change, source, code, words):
    fetching.environment |= change
    assert fetching.run(source) == code
    assert words in fetching.said


def test_a_bucket_of_another_region_names_it(store, fetching):
    store.faults["list"] = [fake_s3.answer(301, x_amz_bucket_region="eu-central-1")]
    assert fetching.run(SOURCE) == ExitCode.NOT_FOUND
    assert "set AWS_REGION" in fetching.said
    assert "eu-central-1" in fetching.said


def test_a_store_in_trouble_is_asked_again(store, fetching):
    store.faults["list"] = [fake_s3.answer(503)]
    store.faults[f"models/llama/8b/{SHARDS[0]}"] = [
        fake_s3.answer(500),
        fake_s3.cut(10_000),
        fake_s3.answer(503, b"<Error><Code>SlowDown</Code></Error>"),
    ]
    assert fetching.run(SOURCE) == ExitCode.COMPLETE
    assert fetching.files(SOURCE) == FILES
    ranges = [one[2] for one in store.requests if one[0] == "GET" and SHARDS[0] in one[1]]
    assert ranges[-1].startswith("bytes=10000-")


def test_wrong_bytes_are_noticed_where_the_store_has_a_checksum(store, fetching):
    """Single-part objects: the ETag is their MD5."""
    key = f"models/llama/8b/{SHARDS[0]}"
    flipped = bytes([FILES[SHARDS[0]][0] ^ 1]) + FILES[SHARDS[0]][1:]

    def wrong(handler, code, _data, headers):
        handler.send(code, flipped, headers)

    store.faults[key] = [wrong, wrong]
    assert fetching.run(SOURCE) == ExitCode.CHECKSUM
    assert "its md5 is" in fetching.said
    assert not fetching.is_whole(SOURCE)


def test_objects_uploaded_in_parts_are_told_to_be_checked_by_size_alone(store, fetching):
    """Their ETag is no hash of the object; nobody may believe that it was compared."""
    for path in SHARDS:
        store.buckets["models"][f"llama/8b/{path}"].num_parts = 3
    assert fetching.run(SOURCE) == ExitCode.COMPLETE
    assert fetching.summary["files_checked_by_size_alone"] == 2


def test_an_object_that_is_replaced_meanwhile_is_never_mixed(store, fetching):
    """The first half of one upload and the second half of another are no model."""
    path = f"llama/8b/{SHARDS[0]}"

    def replaced(handler, code, data, headers):
        store.buckets["models"][path] = Stored(FILES[SHARDS[0]][::-1], num_parts=2)
        fake_s3.cut(10_000)(handler, code, data, headers)

    store.buckets["models"][path].num_parts = 2
    store.faults[f"models/{path}"] = [replaced]
    assert fetching.run(SOURCE) == ExitCode.CHECKSUM
    assert "was replaced while it was fetched" in fetching.said
    assert fetching.run(SOURCE) == ExitCode.COMPLETE
    assert fetching.files(SOURCE)[SHARDS[0]] == FILES[SHARDS[0]][::-1]


@pytest.mark.parametrize(
    ("stored", "kinds"),
    [
        (Stored(b"a"), [CheckKind.MD5]),
        (Stored(b"a", num_parts=2), []),
        (Stored(b"a", encryption="aws:kms"), []),
        (Stored(b"a", algorithm="sha256"), [CheckKind.SHA256, CheckKind.MD5]),
        (Stored(b"a", num_parts=2, algorithm="sha256", is_composite=True), []),
        (Stored(b"a", num_parts=2, algorithm="crc32"), [CheckKind.CRC32]),
        (Stored(b"a", num_parts=2, metadata={"sha256": "ab" * 32}), [CheckKind.SHA256]),
    ],
)
def test_checksums_are_taken_only_where_they_are_of_the_whole_object(stored, kinds):
    """ETags of parts, of encrypted objects, and checksums of checksums compare nothing."""
    headers = {"etag": f'"{stored.etag}"'} | stored.headers
    assert [one.kind for one in checks_of(headers, has_md5_etags=True)] == kinds


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html><body>log in</body></html>", b"{}",
        b'<!DOCTYPE a [<!ENTITY b "c">]><ListBucketResult/>',
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key><Size>-1</Size></Contents></ListBucketResult>",
    ],
)  # fmt: skip
def test_what_is_no_list_is_refused(body):
    with pytest.raises(NoListError):
        page_of(body)


def test_an_adapter_of_a_bucket_beside_a_model_of_a_hub(store, fetching):
    """Each source has its own endpoint: --endpoint is the model's."""
    import fake_hub

    store.buckets["models"] |= {
        "lora/adapter_config.json": Stored(b"{}"),
        "lora/adapter_model.safetensors": Stored(b"weights"),
    }
    fetching.environment["AWS_ENDPOINT_URL"] = store.url
    with fake_hub.loopback_sessions(), FakeHub({"org/tiny": Repository(FILES)}) as hub:
        fetching.endpoint = hub.url
        source = f"hf://org/tiny@{hub.repositories['org/tiny'].commit}"
        assert fetching.run(source, "--adapter", "sql=s3://models/lora") == ExitCode.COMPLETE
    assert (fetching.cache / fetching.summary["adapters"]["sql"] / "adapter_config.json").exists()
