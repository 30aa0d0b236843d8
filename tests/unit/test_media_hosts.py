"""From where engines may be told to fetch: an engine's pod reaches what no client may."""

import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from access_rig import ALICE, BOB, EVE, ask, keyed_rig, tenant, write_keys
from memroute_router.access.keyfile import KeysError, read_keys
from memroute_router.access.media_hosts import MAX_NODES, MediaHosts, parse_media_hosts
from memroute_router.requests import BadRequestError
from memroute_router.settings import parse_settings
from memroute_router.surface import ROUTES
from router_rig import Rig, body, exchange, raw, whole
from sizes import tries

HOSTS = MediaHosts(
    ["cdn.example.com", "*.img.example.com", "10.0.0.7:8080", "[fd00::1]", "bücher.example"]
)
METADATA = "http://169.254.169.254/latest/meta-data/iam"
GOOD = "https://cdn.example.com/a.png"
DATA = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    "address",
    [
        GOOD,
        DATA,
        "data:,",
        "http://cdn.example.com",
        "HTTPS://CDN.Example.COM./x?y=z@w#f",
        "https://cdn.example.com:443/x",
        "http://cdn.example.com:80/x",
        "https://a.img.example.com/x",
        "https://a.b.img.example.com/x",
        "http://10.0.0.7:8080/x",
        "http://[FD00:0:0::1]/x",
        "https://xn--bcher-kva.example/x",
        "https://cdn.example.com/größe.png",
        "https://cdn.example.com//evil.example/x",
        "https://cdn.example.com/http://169.254.169.254/",
    ],
)
def test_what_is_on_the_list_may_be_fetched(address):
    assert HOSTS.refusal(address) is None


@pytest.mark.parametrize(
    "address",
    [
        METADATA,
        "https://evil.example/x",
        # Ports that nobody has allowed.
        "https://cdn.example.com:8443/x",
        "http://cdn.example.com:443/x",
        "http://10.0.0.7/x",
        "http://10.0.0.7:80/x",
        "https://cdn.example.com:0443/x",
        "https://cdn.example.com:/x",
        "https://cdn.example.com:99999/x",
        "https://cdn.example.com:443:443/x",
        # Names that only look like one.
        "https://img.example.com/x",
        "https://evilimg.example.com/x",
        "https://cdn.example.com.evil.example/x",
        "https://cdn.example.com..evil.example/x",
        "https://cdn.example.com../x",
        "https://.cdn.example.com/x",
        "https://-.img.example.com/x",
        "https://.img.example.com/x",
        f"https://{'a' * 64}.img.example.com/x",
        f"https://{'a.' * 120}img.example.com/x",
        # User names, and where a parser may see one.
        "https://cdn.example.com@evil.example/x",
        "https://user:pass@cdn.example.com/x",
        "https://evil.example\\@cdn.example.com/x",
        "https://cdn.example.com\\@evil.example/x",
        "https://cdn.example.com/\\@evil.example/x",
        "https://evil.example#@cdn.example.com/",
        "https://evil.example?@cdn.example.com/",
        "https://cdn.example.com#@evil.example/",
        "https://cdn.example.com?@evil.example/",
        "https://cdn.example.com%2f@evil.example/",
        # White space and control characters, which parsers remove or stop at.
        " https://cdn.example.com/x",
        "https://cdn.example.com/x ",
        "https://cdn.example.com /x",
        "https://cdn.example.com\t.evil.example/x",
        "https://cdn.example.com/\n@evil.example",
        "ht\ntps://cdn.example.com/x",
        "https://cdn.example.com/x\x00",
        "https://cdn.example.com/\x85",
        # Other spellings of a host.
        "https://c%64n.example.com/x",
        "https://\uff43dn.example.com/x",
        "https://cdn\u3002example.com/x",
        "https://bücher.example/x",
        "https://cdn.example.com\u200b/x",
        "https://cdn.example.com\uff0fx",
        "http://2130706433/x",
        "http://0x7f.0.0.1/x",
        "http://0177.0.0.1/x",
        "http://127.1/x",
        "http://[::ffff:10.0.0.7]:8080/x",
        "http://[fd00::1%25eth0]/x",
        "http://[fd00::1/x",
        "http://fd00::1/x",
        "http://[]/x",
        "http://[v1.fe]/x",
        # Other schemes, and none.
        "file:///etc/passwd",
        "ftp://cdn.example.com/x",
        "gopher://cdn.example.com/x",
        "jar:https://cdn.example.com/x",
        "DATA:image/png;base64,AA==",
        " data:,x",
        "blob:https://cdn.example.com/x",
        "https:cdn.example.com/x",
        "https:/cdn.example.com/x",
        "https:///cdn.example.com/x",
        "//cdn.example.com/x",
        "http\u017f://cdn.example.com/x",
        "/etc/passwd.png",
        "s3://bucket/x",
        "",
        "https://",
    ],
)
def test_what_is_not_on_the_list_or_reads_in_two_ways_is_refused(address):
    why = HOSTS.refusal(address)
    assert why
    assert len(why) < 300


NASTY = st.text(
    alphabet=st.one_of(
        st.sampled_from("@:/\\?#%[]. \t\n\r\0x0-_;,"),
        st.characters(codec="utf-8"),
        st.sampled_from(string.ascii_letters),
    ),
    max_size=30,
)


@pytest.mark.slow
@given(before=NASTY, between=NASTY, after=NASTY)
@settings(max_examples=tries(50, 200))
def test_no_reader_finds_another_host_in_what_is_allowed(before, between, after):
    """Readers differ: those of the RFC split at the first / ? #, browsers' and curl's otherwise."""
    from urllib.parse import urlsplit

    address = f"http{before}://cdn.example.com{between}evil.example{after}"
    if HOSTS.refusal(address) is None:
        assert urlsplit(address).hostname.rstrip(".") == "cdn.example.com"
        plain = address.replace("\t", "").replace("\n", "").replace("\r", "").replace("\\", "/")
        assert plain.partition("://")[2].split("/")[0].lower().rstrip(".").split(":")[0] == (
            "cdn.example.com"
        )


@pytest.mark.parametrize(
    "entry",
    ["", "https://cdn.example.com", "a/b", "user@host", "*", "a.*.b", "**.b", "a b", "1.2.3",
     "[::g]", "host:0", "host:70000", "host:", "-x.example", "a..b", "*.*", ".example.com"],
)  # fmt: skip
def test_an_entry_that_is_no_host_is_told_when_the_router_starts(entry):
    """A misspelt entry would allow less than was meant, or more."""
    if entry == "*":
        assert MediaHosts([entry]).refusal(METADATA) is None
        assert MediaHosts([entry]).refusal("file:///etc/passwd")
        return
    with pytest.raises(ValueError, match="is no host"):
        MediaHosts(["good.example", entry])
    with pytest.raises(SystemExit):
        parse_settings(["--media-hosts", f"good.example,{entry}"])


def test_none_is_only_data():
    hosts = parse_media_hosts("none")
    assert hosts.refusal(DATA) is None
    assert hosts.refusal(GOOD)
    assert parse_settings([]).media_hosts is None


def user(*parts):
    return {"messages": [{"role": "user", "content": list(parts)}]}


IMAGE = {"type": "image_url", "image_url": {"url": "BAD"}}
SOURCE = {"type": "image", "source": {"type": "url", "url": "BAD"}}
# Each has BAD where an engine would fetch it from.
FETCHED = [
    user(IMAGE),
    user({"type": "image_url", "image_url": "BAD"}),
    user({"type": "video_url", "video_url": {"url": "BAD"}}),
    user({"type": "audio_url", "audio_url": {"url": "BAD"}}),
    user({"type": "input_audio", "input_audio": {"data": "BAD", "format": "wav"}}),
    user({"type": "input_image", "image_url": "BAD"}),
    user({"image_url": "BAD"}),
    user({"type": "image", "url": "BAD"}),
    user({"type": "image", "source": "BAD"}),
    user({"type": "document", "source": "BAD"}),
    {"multi_modal_data": {"image": ["BAD"]}},
    user({"type": "file", "file": {"file_data": "BAD"}}),
    user({"type": "image", "image": "BAD"}),
    user({"type": "video", "video": ["BAD"]}),
    user({"type": "text", "text": "x", "image_url": {"url": "BAD"}}),
    {"messages": [{"role": "tool", "content": [IMAGE]}]},
    {"messages": [{"role": "assistant", "tool_calls": [],
                   "content": [{"type": "image_url", "image_url": "BAD"}]}]},
    user(SOURCE),
    user({"type": "image", "source": {"type": "base64", "data": "BAD"}}),
    user({"type": "document", "source": {"type": "url", "url": "BAD"}}),
    user({"type": "document", "source": {"type": "content", "content": [
        SOURCE]}}),
    user({"type": "tool_result", "content": [SOURCE]}),
    user({"type": "tool_result", "content": [{"type": "tool_result", "content": [
        IMAGE]}]}),
    {"system": [SOURCE], "messages": []},
    {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "BAD"}]}]},
    {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "BAD"}]}]},
    {"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "BAD"}]}]},
    {"input": [{"type": "function_call_output",
                "output": [{"type": "input_image", "image_url": "BAD"}]}]},
    {"input": [{"type": "computer_call_output",
                "output": {"type": "computer_screenshot", "image_url": "BAD"}}]},
    {"input": [[{"role": "user", "content": [IMAGE]}]]},
    {"input": [{"text": "x", "image": "BAD"}]},
    {"input": {"content": [IMAGE]}},
    {"input": [{"content": [IMAGE]}], "type": "tool_use"},
    {"input": [{"content": [IMAGE]}], "text": {}},
    {"query": "x", "documents": [{"content": [IMAGE]}], "messages": []},
    {"query": "x", "documents": [{"image": "BAD"}]},
    {"query": {"content": [IMAGE]}, "documents": ["a"]},
    {"data_1": "x", "data_2": {"content": [{"type": "video_url", "video_url": {"url": "BAD"}}]}},
    {"input": "say this", "ref_audio": "BAD"},
    {"input": "x", "tools": [{"type": "mcp", "server_label": "x", "server_url": "BAD"}]},
    {"new_field": {"deep": [[{"picture_url": "BAD"}]]}},
]  # fmt: skip


@pytest.mark.parametrize("document", FETCHED, ids=map(str, range(len(FETCHED))))
@pytest.mark.parametrize("address", [METADATA, "file:///etc/passwd"])
def test_an_address_is_found_wherever_an_engine_would_fetch_it(document, address):
    """In every dialect, in what tools have answered, at any depth."""
    HOSTS.check(json.loads(json.dumps(document).replace("BAD", DATA)))
    with pytest.raises(BadRequestError) as refused:
        HOSTS.check(json.loads(json.dumps(document).replace("BAD", address)))
    assert refused.value.reason == "media-host"
    assert refused.value.parameter
    assert "meta-data" not in refused.value.message


@pytest.mark.parametrize(
    "document",
    [
        user({"type": "text", "text": f"what is at {METADATA}?"}),
        {"messages": [{"role": "user", "content": METADATA}]},
        {"prompt": METADATA},
        {"input": [METADATA]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [
            {"function": {"name": "get", "arguments": {"image_url": METADATA}}}]}]},
        user({"type": "tool_use", "name": "get", "input": {"image_url": METADATA}}),
        user({"type": "document", "source": {"type": "text", "data": f"see {METADATA}"}}),
        user({"type": "search_result", "source": METADATA, "content": [{"text": "x"}]}),
        {"input": [{"type": "web_search_call", "action": {"type": "open", "url": METADATA}}]},
        {"input": [{"type": "message", "content": [{"text": "x", "annotations": [
            {"type": "url_citation", "url": METADATA}]}]}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {
            "properties": {"image_url": {"type": "string", "default": METADATA}}}}}]},
        {"response_format": {"json_schema": {"schema": {"image_url": {"default": METADATA}}}}},
        {"text": {"format": {"schema": {"properties": {"image_url": {"default": METADATA}}}}}},
        {"metadata": {"image_url": METADATA}},
        {"documents": [{"title": "t", "text": "x", "url": METADATA}], "messages": []},
        user({"type": "url_citation", "url": METADATA}),
        {"messages": [], "audio": {"voice": "alloy", "format": "wav"}, "modalities": ["audio"]},
        user({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}),
        user({"type": "file", "file": {"file_id": "file-1", "filename": "a:b.pdf"}}),
        {"image_url": None, "file": 5, "messages": [None, 7, "x"]},
    ],
)  # fmt: skip
def test_what_no_engine_fetches_is_left_alone(document):
    """Agents speak of addresses all day."""
    HOSTS.check(document)


@pytest.mark.parametrize(
    "document",
    [
        {"kv_transfer_params": {"do_remote_prefill": True, "remote_host": "10.0.0.1"}},
        {"bootstrap_host": "10.0.0.1"},
        {"bootstrap_host": ["10.0.0.1"]},
    ],
)
def test_a_client_does_not_tell_an_engine_whose_cache_to_read(document):
    """The fields by which engines hand each other their KV caches are addresses, too."""
    with pytest.raises(BadRequestError):
        HOSTS.check(document)


@pytest.mark.slow
def test_no_body_costs_more_than_its_parts():
    """Nested as deep as JSON goes, or with more parts than any conversation."""
    deep = {"image_url": METADATA}
    for _ in range(400):
        deep = {"content": [deep]}
    with pytest.raises(BadRequestError) as refused:
        HOSTS.check({"messages": [deep]})
    assert len(refused.value.parameter) < 400
    with pytest.raises(BadRequestError, match="lists and objects"):
        HOSTS.check({"messages": [{}] * (MAX_NODES + 1)})
    HOSTS.check({"prompt": [1] * 1_000_000, "model": "m"})


async def test_the_refusal_is_in_the_words_of_the_clients_api(engine_factory):
    """The engine never sees it, the log has the host and not the whole address."""
    rig = Rig("--media-hosts", "cdn.example.com")
    await rig.start()
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    bad = body(**user({"type": "image_url", "image_url": {"url": METADATA + "?token=secret"}}))
    status, headers, content = await exchange(rig.port, raw(bad))
    error = json.loads(content)["error"]
    assert (status, headers["x-memroute-reason"]) == (400, "media-host")
    assert error["code"] == "invalid_image_url"
    assert error["type"] == "invalid_request_error"
    assert error["param"] == "messages[0].content[0].image_url.url"
    assert "169.254.169.254" in error["message"]
    source = {"type": "image", "source": {"type": "url", "url": METADATA}}
    status, _, content = await exchange(rig.port, raw(body(**user(source)), b"/v1/messages"))
    assert (status, json.loads(content)["error"]["type"]) == (400, "invalid_request_error")
    assert not engine.requests
    for good in (GOOD, DATA):
        data = body(**user({"type": "image_url", "image_url": {"url": good}}))
        assert (await exchange(rig.port, raw(data)))[0] == 200
    rig.router.journal.flush()
    log = "".join(rig.lines)
    assert log.count("outcome=bad-request status=400 cause=media-host") == 2
    assert "secret" not in log
    await rig.stop()


async def test_every_path_with_a_json_body_is_looked_at(engine_factory):
    """Counting tokens of a conversation with an image fetches it, too."""
    rig = Rig("--media-hosts", "none")
    await rig.start()
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    document = user({"type": "image_url", "image_url": {"url": GOOD}})
    for path, route in ROUTES.items():
        if route.parse_document is not None:
            data = body(**document, input="x", query="x", documents=["y"])
            assert (await exchange(rig.port, raw(data, path)))[0] == 400, path
    assert not engine.requests
    await rig.stop()


async def test_a_keys_own_list_counts_instead_of_its_tenants(tmp_path, engine_factory):
    keys = [
        {"id": "one", "key": ALICE, "mediaHosts": ["one.example"]},
        {"id": "two", "key": BOB},
        {"id": "none", "key": EVE, "mediaHosts": []},
    ]
    rig = await keyed_rig(tmp_path, tenant("t", *keys, mediaHosts=["tenant.example"]))
    rig.add("a", (await engine_factory(whole())).port)
    for key, host in ((ALICE, "one"), (BOB, "tenant"), (EVE, "no")):
        for named in ("one", "tenant"):
            part = {"type": "image_url", "image_url": {"url": f"https://{named}.example/x"}}
            status = (await ask(rig, key, body(**user(part))))[0]
            assert status == (200 if named == host else 400)
        assert (await ask(rig, key, body(**user({"image_url": DATA}))))[0] == 200
    await rig.stop()


async def test_a_tenants_own_list_counts_instead_of_the_routers(tmp_path, engine_factory):
    rig = await keyed_rig(
        tmp_path,
        tenant("alice", ALICE, mediaHosts=["alice.example"]),
        tenant("bob", BOB),
        flags=["--media-hosts", "cdn.example.com"],
    )
    rig.add("a", (await engine_factory(whole())).port)
    for key, host, status in (
        (ALICE, "alice.example", 200),
        (ALICE, "cdn.example.com", 400),
        (BOB, "alice.example", 400),
        (BOB, "cdn.example.com", 200),
    ):
        part = {"type": "image_url", "image_url": {"url": f"https://{host}/x"}}
        assert (await ask(rig, key, body(**user(part))))[0] == status
    await rig.stop()


@pytest.mark.parametrize("hosts", ["cdn.example.com", [1], [None], ["a b"], [["x"]], {"a": 1}])
def test_a_file_of_keys_with_a_list_that_is_none_is_refused_as_a_whole(tmp_path, hosts):
    write_keys(tmp_path / "k", tenant("alice", ALICE, mediaHosts=hosts))
    with pytest.raises(KeysError, match="mediaHosts"):
        read_keys((tmp_path / "k").read_text())
