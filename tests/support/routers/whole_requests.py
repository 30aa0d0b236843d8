"""Requests drawn from the whole API, sound and odd: bytes of a connection, from a seed alone."""

import base64
import json
import struct
import zlib
from dataclasses import dataclass

from http_corpus import cases

MODELS = ("m",) * 14 + ("n", "n", "sql", "nobody")
"""Two models, an adapter, and one that nobody serves."""
ALICE = "mr-alice-0123456789abcdefghij"
BOB = "mr-bob-0123456789abcdefghijklm"
KEYS = (*[ALICE] * 7, *[BOB] * 4, "mr-eve-0123456789abcdefghijklm", "x", "")
ODD = (
    None, True, False, 0, -1, 1, 2, 3, 17, 4096, 4097, 10**9, 2**63, 10**30, 1.5, -0.0, 1e308,
    "", "8", "x" * 500, "²", "\u0000", "\U0001f600", [], [[]], [None], {}, {"a": {}}, [1, None],
)  # fmt: skip
FIELDS = (
    "model", "messages", "prompt", "input", "max_tokens", "max_completion_tokens",
    "max_output_tokens", "min_tokens", "n", "best_of", "stream", "stream_options", "user", "stop",
    "tools", "response_format", "logprobs", "prompt_cache_key", "echo", "query", "documents",
    "system", "metadata", "conversation", "previous_response_id", "content", "ignore_eos",
    "cache_salt", "mm_processor_kwargs", "truncate_prompt_tokens", "instructions", "priority",
)  # fmt: skip
PATHS = (
    "/v1/chat/completions", "/v1/chat/completions", "/v1/chat/completions", "/v1/completions",
    "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens",
    "/v1/embeddings", "/v1/rerank", "/score", "/pooling", "/classify", "/tokenize", "/detokenize",
    "/v1/audio/transcriptions", "/v1/audio/speech",
)  # fmt: skip
OTHERS = (
    ("GET", "/v1/models"), ("GET", "/v1/models/m"), ("GET", "/v1/models/%ff%00"),
    ("HEAD", "/v1/models"), ("GET", "/openapi.json"), ("GET", "/health"), ("GET", "/ready"),
    ("GET", "/nothing"), ("OPTIONS", "/v1/chat/completions"), ("DELETE", "/v1/completions"),
    ("POST", "/sleep"), ("POST", "/v1/load_lora_adapter"), ("GET", "/metrics"), ("POST", "/health"),
)  # fmt: skip
CORPUS = cases()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One request as bytes, and what is known of it."""

    data: bytes
    request_id: str
    """Also its ``x-request-id``; empty: it has none."""
    is_sound: bool
    """Whether its HTTP can be read in one way only, and is whole."""
    is_head: bool = False
    """Whether its answer has no body."""


def png(rng):
    """An image of some size, whose pixels are not there."""
    width, height = (rng.choice((0, 1, 28, 640, 4000, 2**31 - 1, 2**32 - 1)) for _ in range(2))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + head))
    data = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + head + crc
    return data[: rng.choice((len(data), 8, 20))]


def text(rng):
    return rng.choice(
        ("hi", "tok " * rng.choice((1, 10, 100, 600)), "é\u0000", "", "\U0001f600" * 9)
    )


def part(rng):
    """One part of a message's content."""
    url = "data:image/png;base64," + base64.b64encode(png(rng)).decode()
    return rng.choice((
        {"type": "text", "text": text(rng)},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}},
        {"type": "input_image", "image_url": url},
        {"type": "image", "source": {"type": "base64", "data": url[22:]}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
        {"type": "file", "file": {"file_data": "AAAA"}},
        rng.choice(({"type": rng.choice(ODD)}, rng.choice(ODD))),
    ))  # fmt: skip


def message(rng):
    content = text(rng) if rng.random() < 0.6 else [part(rng) for _ in range(rng.randrange(4))]
    return {"role": rng.choice(("user", "assistant", "system", "tool", "x")), "content": content}


def prompt(rng):
    """A prompt of a completion: a text, ids, or a list of either."""
    ids = [rng.randrange(-1, 50_000) for _ in range(rng.randrange(40))]
    return rng.choice((
        text(rng), text(rng), ids, [text(rng) for _ in range(rng.randrange(9))], [ids, ids[:3]],
        [text(rng)] * rng.choice((2, 2, 64, 64, 5000)),
        rng.choice(([ids, "text"], "", [], [[]], None)),
    ))  # fmt: skip


def asked(rng, path):
    """What a path asks about, in its own words."""
    match path:
        case "/v1/chat/completions" | "/v1/messages" | "/v1/messages/count_tokens":
            return {"messages": [message(rng) for _ in range(rng.randrange(1, 4))]}
        case "/v1/responses":
            return {"input": text(rng) if rng.random() < 0.5 else [message(rng)]}
        case "/v1/completions":
            return {"prompt": prompt(rng)}
        case "/v1/rerank":
            return {"query": "q", "documents": [text(rng) for _ in range(rng.randrange(5))]}
        case "/score":
            return {"text_1": text(rng), "text_2": [text(rng)]}
    return dict.fromkeys(("input", "prompt"), prompt(rng))


def document(rng, path):
    """A body as a document; mostly a sound one."""
    found = {"model": rng.choice(MODELS)} | asked(rng, path)
    most = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    for chance, name, values in (
        (0.8, most, (0, 1, 8, 8, 50, 300, 2_000, 20_000)),
        (0.5, "stream", (True,)),
        (0.25, "stream_options", ({"include_usage": True}, {"include_usage": False})),
        (0.2, "n", (1, 2, 8, 128)),
        (0.1, "best_of", (1, 2, 8, 10**9)),
        (0.3, "prompt_cache_key", ("s1", "s2", "s3")),
    ):
        if rng.random() < chance:
            found[name] = rng.choice(values)
    while rng.random() < 0.1:
        found[rng.choice(FIELDS)] = rng.choice(ODD)
    return found


def form(rng):
    """A recording as a form."""
    edge = rng.choice((b"edge", b"edge", b"other"))
    pieces = [
        b'Content-Disposition: form-data; name="model"\r\n\r\n' + rng.choice(MODELS).encode(),
        b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF' + bytes(200),
        b'Content-Disposition: form-data; name="stream"\r\n\r\ntrue',
    ]
    rng.shuffle(pieces)
    body = b"".join(b"--%b\r\n%b\r\n" % (edge, piece) for piece in pieces) + b"--%b--\r\n" % edge
    return body[: rng.choice((len(body), len(body), 30))], b"multipart/form-data; boundary=edge"


def body_of(rng, path):
    """The body of a request, and its type."""
    if path.startswith("/v1/audio/tr"):
        return form(rng)
    kind = b"application/json"
    dice = rng.random()
    if dice < 0.93:
        return json.dumps(document(rng, path), ensure_ascii=rng.random() < 0.5).encode(), kind
    sound = json.dumps(document(rng, path)).encode()
    depth = rng.choice((10, 500, 4_000))
    return rng.choice((
        b"", b"null", b"[]", b"{", b"\xef\xbb\xbf{}", b'{"model":"\xff"}', b'{"model":"\\ud800"}',
        sound[: rng.randrange(len(sound))],
        sound[:-1] + b',"model":"n"}',
        sound[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}",
        sound[:-1] + b',"messages":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}",
        sound[:-1] + b',"max_tokens":NaN}',
        sound[:-1] + b',"max_tokens":1e999}',
        sound + b" " * rng.choice((1, 9_000, 40_000)),
        bytes(rng.randrange(256) for _ in range(40)),
    )), kind  # fmt: skip


def chunked(rng, body):
    """The body in chunks of drawn lengths."""
    found, at = b"", 0
    while at < len(body):
        size = rng.choice((1, 7, 100, 5_000, 60_000))
        piece = body[at : at + size]
        found += b"%x\r\n%b\r\n" % (len(piece), piece)
        at += size
    return found + b"0\r\n" + rng.choice((b"", b"", b"x-trailer: 1\r\n")) + b"\r\n"


def field_lines(rng, *, has_keys, is_last):
    """Fields beside those of the framing. Only the last of a connection says that it is."""
    lines = b""
    if rng.random() < (0.96 if has_keys else 0.4):
        key = rng.choice(KEYS).encode()
        lines += rng.choice((b"authorization: Bearer %b\r\n",) * 4 + (b"x-api-key: %b\r\n",)) % key
    for chance, name, values in (
        (0.3, b"x-memroute-tenant", (b"a", b"b", b"c", b"\xff", b"x" * 200)),
        (0.2, b"x-memroute-priority", (b"5", b"-5", b"1e9", b"", b"99999999999")),
        (0.2, b"x-memroute-ttft-ms", (b"1", b"200", b"0", b"-3", b"x")),
        (0.2, b"x-memroute-explain", (b"1",)),
        (0.2, b"x-session-id", (b"s1", b"s2", b"\xfe" * 300)),
        (0.1, b"traceparent", (b"00-%b-%b-01" % (b"a" * 32, b"b" * 16), b"x")),
        (0.1, b"x-forwarded-for", (b"1.2.3.4", b"x")),
        (0.05, b"expect", (b"100-continue",) * 5 + (b"x",)),
        (0.02, b"content-encoding", (b"gzip", b"identity")),
        (0.1, b"connection", (b"keep-alive", b"x-session-id", *[b"close"] * is_last)),
        (0.1, b"accept-encoding", (b"gzip",)),
    ):
        if rng.random() < chance:
            lines += b"%b: %b\r\n" % (name, rng.choice(values))
    return lines


def draw_request(rng, request_id, *, has_keys, is_last):
    """One request; ``is_last``: of its connection."""
    dice = rng.random()
    if dice < 0.04:
        return Drawn(data=rng.choice(CORPUS).data, request_id="", is_sound=False)
    lines = b"host: x\r\nx-request-id: %b\r\n" % request_id.encode()
    lines += field_lines(rng, has_keys=has_keys, is_last=is_last)
    if dice < 0.09:
        method, path = rng.choice(OTHERS)
        head = f"{method} {path} HTTP/1.1\r\n".encode() + lines
        return Drawn(
            data=head + (b"content-length: 0\r\n\r\n" if method == "POST" else b"\r\n"),
            request_id=request_id,
            is_sound=True,
            is_head=method == "HEAD",
        )
    path = rng.choice(PATHS)
    body, kind = body_of(rng, path)
    head = f"POST {path} HTTP/1.1\r\n".encode() + lines + b"content-type: %b\r\n" % kind
    if rng.random() < 0.15:
        data = head + b"transfer-encoding: chunked\r\n\r\n" + chunked(rng, body)
        return Drawn(data=data, request_id=request_id, is_sound=True)
    lie = rng.choice((0,) * 30 + (-1, 1, 100))
    length = max(0, len(body) + lie)
    data = head + b"content-length: %d\r\n\r\n" % length + body
    return Drawn(data=data, request_id=request_id, is_sound=length == len(body))
