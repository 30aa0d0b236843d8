"""Requests that are malformed, ambiguous, cut off or too large, and what must become of each.

A case is the bytes of one connection and the statuses that come back, in order. ``stays_open``: the
connection serves another request afterwards. (Where Envoy answers otherwise is recorded by
``tests/robustness/test_differential.py``.)
"""

from collections.abc import Iterator
from dataclasses import dataclass

MAX_BODY_BYTES = 10_000
CHAT = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":8}'
LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"Host: x\r\n"
TYPE = b"Content-Type: application/json\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One connection."""

    name: str
    pieces: tuple[bytes, ...]
    """Sent one after another, ``pause_seconds`` apart."""
    statuses: tuple[int, ...] = (400,)
    stays_open: bool = False
    ends: bool = False
    """The client closes its side once it has sent everything."""
    pause_seconds: float = 0.02
    num_forwarded: int = 0
    """Requests that an engine sees."""
    is_slow: bool = False

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


def post(
    fields: bytes = b"", body: bytes = CHAT, *, line: bytes = LINE, host: bytes = HOST
) -> bytes:
    """A request with the length of its body."""
    return line + host + TYPE + fields + b"Content-Length: %d\r\n\r\n" % len(body) + body


def framed(fields: bytes, body: bytes, *, line: bytes = LINE) -> bytes:
    """A request that says what it likes of its body."""
    return line + HOST + TYPE + fields + b"\r\n" + body


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


CHUNKED = b"Transfer-Encoding: chunked\r\n"
WHOLE_CHUNKED = chunk(CHAT) + b"0\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(CHAT)


def cases() -> list[Case]:
    """All of them; their names are different."""
    found = [
        *_request_lines(),
        *_targets(),
        *_field_lines(),
        *_hosts(),
        *_lengths(),
        *_codings(),
        *_chunks(),
        *_smuggling(),
        *_pipelines(),
        *_too_large(),
        *_cut_off(),
        *_slow(),
        *_hop_by_hop(),
        *_bodies(),
    ]
    names = [case.name for case in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        msg = f"twice: {twice}"
        raise ValueError(msg)
    return found


def refused(name: str, data: bytes, status: int = 400) -> Case:
    """One answer, and the connection is closed."""
    return Case(name=name, pieces=(data,), statuses=(status,))


def served(name: str, data: bytes, *, num: int = 1) -> Case:
    """Forwarded and answered; the connection lives on."""
    return Case(
        name=name, pieces=(data,), statuses=(200,) * num, stays_open=True, num_forwarded=num
    )


def answered(name: str, data: bytes, status: int) -> Case:
    """Answered without an engine; the connection lives on."""
    return Case(name=name, pieces=(data,), statuses=(status,), stays_open=True)


def _request_lines() -> Iterator[Case]:
    rest = b"Host: x\r\n\r\n"
    for name, line in {
        "no such method": b"FOO /health HTTP/1.1\r\n",
        "a method in lower case": b"get /health HTTP/1.1\r\n",
        "an empty method": b" /health HTTP/1.1\r\n",
        "a method with a colon": b"GE:T /health HTTP/1.1\r\n",
        "a method with a NUL": b"GE\x00T /health HTTP/1.1\r\n",
        "a tab after the method": b"GET\t/health HTTP/1.1\r\n",
        "no target": b"GET HTTP/1.1\r\n",
        "an empty line of spaces": b"   \r\n",
        "a carriage return in the line": b"GET /health\r HTTP/1.1\r\n",
        "a version in lower case": b"GET /health http/1.1\r\n",
        "a version without a number": b"GET /health HTTP/\r\n",
        "a version with a space": b"GET /health HTTP/ 1.1\r\n",
        "a version of two digits": b"GET /health HTTP/1.10\r\n",
        "a version without a dot": b"GET /health HTTP/11\r\n",
        "a version with a sign": b"GET /health HTTP/+1.1\r\n",
        "HTTP/1.2": b"GET /health HTTP/1.2\r\n",
        "another protocol": b"GET /health ICE/1.1\r\n",
        "words after the version": b"GET /health HTTP/1.1 now\r\n",
        "a space after the version": b"GET /health HTTP/1.1 \r\n",
        "a line that ends in LF alone": b"GET /health HTTP/1.1\n",
        "a line that ends in CR alone": b"GET /health HTTP/1.1\r",
        "a line that ends in CR CR LF": b"GET /health HTTP/1.1\r\r\n",
        "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\r\n",
        "an answer instead of a request": b"HTTP/1.1 200 OK\r\n",
        "bytes of no protocol": bytes(range(1, 32)) + b"\r\n",
    }.items():
        yield refused(name, line + rest)
    yield refused("HTTP/0.9 without a version", b"GET /health\r\n\r\n", 505)
    yield refused("HTTP/0.9", b"GET /health HTTP/0.9\r\nHost: x\r\n\r\n", 505)
    yield refused("HTTP/2.0 in words", b"GET /health HTTP/2.0\r\nHost: x\r\n\r\n", 505)
    yield refused("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    yield answered("empty lines before a request", b"\r\n\r\nGET /health HTTP/1.1\r\n" + rest, 200)
    yield Case(
        name="HTTP/1.0 closes",
        pieces=(b"GET /health HTTP/1.0\r\n\r\n",),
        statuses=(200,),
    )
    yield Case(
        name="HTTP/1.0 can be kept alive",
        pieces=(b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",),
        statuses=(200,),
        stays_open=True,
    )


def _targets() -> Iterator[Case]:
    def get(target: bytes, method: bytes = b"GET") -> bytes:
        return b"%b %b HTTP/1.1\r\nHost: x\r\n\r\n" % (method, target)

    yield answered("a target in absolute form", get(b"http://x/health"), 200)
    yield served(
        "a POST in absolute form",
        post(
            line=b"POST http://x/v1/completions HTTP/1.1\r\n", body=b'{"model":"m","prompt":"hi"}'
        ),
    )
    yield refused("an absolute form of another scheme", get(b"ftp://x/health"))
    yield refused("an absolute form without a host", get(b"http:///health"))
    yield refused("a target without a slash", get(b"health"))
    yield refused("an asterisk", get(b"*", b"OPTIONS"))
    yield refused("a NUL in the target", get(b"/hea\x00lth"))
    yield refused("a space in the target", get(b"/hea lth"))
    yield refused("a tab in the target", get(b"/hea\tlth"))
    yield refused("a DEL in the target", get(b"/hea\x7flth"))
    yield refused("bytes above ASCII in the target", get("/hé".encode()))
    yield answered("dots in the path are not followed", get(b"/v1/../health"), 404)
    yield answered("escaped slashes are not followed", get(b"/v1%2f..%2fhealth"), 404)
    yield answered("an escaped NUL is no path", get(b"/health%00"), 404)
    yield answered("two slashes are another path", get(b"//health"), 404)
    yield answered("a query is no part of the path", get(b"/health?x=1"), 200)
    yield answered("a model with a slash in its name", get(b"/v1/models/a%2Fb"), 404)
    yield answered("an engine's administration", get(b"/sleep", b"POST"), 404)
    yield answered("loading an adapter", get(b"/v1/load_lora_adapter", b"POST"), 404)
    yield answered("another method", get(b"/v1/chat/completions"), 405)
    yield answered("a trace", get(b"/health", b"TRACE"), 405)
    yield answered("a delete", get(b"/v1/models", b"DELETE"), 405)
    yield answered("a head", get(b"/health", b"HEAD"), 200)


def _field_lines() -> Iterator[Case]:
    for name, line in {
        "a space before the colon": b"X-A : 1\r\n",
        "a tab before the colon": b"X-A\t: 1\r\n",
        "a space in a name": b"X A: 1\r\n",
        "an empty name": b": 1\r\n",
        "no colon": b"X-A\r\n",
        "a name in brackets": b"X[A]: 1\r\n",
        "a name with an at": b"X@A: 1\r\n",
        "a name with a quote": b'X"A: 1\r\n',
        "a name with a NUL": b"X\x00A: 1\r\n",
        "a name above ASCII": b"X\xc3\xa9A: 1\r\n",
        "a name with a DEL": b"X\x7fA: 1\r\n",
        "a value with a NUL": b"X-A: 1\x002\r\n",
        "a value with a bare CR": b"X-A: 1\r2\r\n",
        "a value with a bell": b"X-A: 1\x072\r\n",
        "a value with a DEL": b"X-A: 1\x7f2\r\n",
        "a value that goes on in the next line": b"X-A: 1\r\n 2\r\n",
        "a value that goes on after a tab": b"X-A: 1\r\n\t2\r\n",
        "a field that ends in LF alone": b"X-A: 1\n",
        "a field that ends in CR CR LF": b"X-A: 1\r\r\n",
    }.items():
        yield refused(name, post(line))
    yield refused("the first field begins with a space", LINE + b" " + HOST + b"\r\n")
    yield refused("the head ends in LF alone", LINE + HOST + LENGTH + b"\n" + CHAT)
    yield refused("two lengths", framed(LENGTH + LENGTH, CHAT))
    yield refused("two content codings", post(b"Content-Encoding: identity\r\n" * 2))
    yield refused("two expectations", post(b"Expect: 100-continue\r\n" * 2))
    yield served("a value of bytes above ASCII", post(b"X-A: \xe9\r\n"))
    yield served("an empty value", post(b"X-A:\r\n"))
    yield served("a name with an underscore", post(b"X_A: 1\r\n"))
    yield served("spaces around a value", post(b"X-A: \t 1 \t\r\n"))
    yield refused("an unknown expectation", post(b"Expect: the-unexpected\r\n"), 417)


def _hosts() -> Iterator[Case]:
    yield refused("no Host", LINE + LENGTH + b"\r\n" + CHAT)
    for name, host in {
        "two Hosts": b"Host: x\r\nHost: y\r\n",
        "the same Host twice": b"Host: x\r\nHost: x\r\n",
        "a Host with a user": b"Host: a@x\r\n",
        "a Host with a path": b"Host: x/y\r\n",
        "a Host with a space": b"Host: x y\r\n",
        "a list of Hosts": b"Host: x,y\r\n",
        "a Host with a backslash": b"Host: x\\y\r\n",
    }.items():
        yield refused(name, post(host=host))
    yield served("a Host with a port", post(host=b"Host: x:8000\r\n"))
    yield served("a Host that is an IPv6 address", post(host=b"Host: [::1]:8000\r\n"))


def _lengths() -> Iterator[Case]:
    for name, value in {
        "a negative length": b"-1",
        "a length with a sign": b"+%d" % len(CHAT),
        "a length in hexadecimal": b"0x10",
        "a length with a fraction": b"16.0",
        "a length with an exponent": b"1e2",
        "a length with a space inside": b"1 6",
        "a list of equal lengths": b"%d, %d" % (len(CHAT), len(CHAT)),
        "a list of lengths": b"5, %d" % len(CHAT),
        "a length in words": b"ten",
        "a length with a letter behind": b"%dx" % len(CHAT),
        "a length above 64 bits": b"18446744073709551617",
        "a length of a thousand digits": b"9" * 1000,
        "a length in other digits": "١٢".encode(),
        "a length with a NUL": b"16\x00",
    }.items():
        yield refused(name, framed(b"Content-Length: %b\r\n" % value, CHAT))
    yield refused("an empty length", framed(b"Content-Length:\r\n", CHAT))
    yield refused("lengths that differ", framed(b"Content-Length: 5\r\n" + LENGTH, CHAT))
    yield served(
        "a length with zeros before it", framed(b"Content-Length: 000%d\r\n" % len(CHAT), CHAT)
    )
    yield answered("no length is no body", LINE + HOST + b"\r\n", 400)
    yield Case(
        name="a body after a length of none is another request",
        pieces=(framed(b"Content-Length: 0\r\n", CHAT),),
        statuses=(400, 400),
    )


def _codings() -> Iterator[Case]:
    for name, value in {
        "chunked twice": b"chunked, chunked",
        "chunked is not the last": b"chunked, identity",
        "a coding after a vertical tab": b"\x0bchunked",
        "an empty coding": b"",
    }.items():
        yield refused(name, framed(b"Transfer-Encoding: %b\r\n" % value, WHOLE_CHUNKED))
    for name, value in {
        "a coding like chunked": b"xchunked",
        "a coding that begins like chunked": b"chunkedx",
        "a quoted coding": b'"chunked"',
        "a coding with a parameter": b"chunked;q=1",
        "a coding after a comma": b",chunked",
        "the coding identity": b"identity",
        "the coding gzip": b"gzip",
        "a compressed and chunked body": b"gzip, chunked",
        "a named identity before chunked": b"identity, chunked",
    }.items():
        yield refused(name, framed(b"Transfer-Encoding: %b\r\n" % value, WHOLE_CHUNKED), 501)
    yield refused("two codings in two fields", framed(CHUNKED + CHUNKED, WHOLE_CHUNKED))
    yield refused("a coding and then a length", framed(CHUNKED + LENGTH, WHOLE_CHUNKED))
    yield refused("a length and then a coding", framed(LENGTH + CHUNKED, WHOLE_CHUNKED))
    yield refused(
        "a coding and a length of none", framed(CHUNKED + b"Content-Length: 0\r\n", WHOLE_CHUNKED)
    )
    yield refused(
        "a coding with a space before its colon",
        framed(b"Transfer-Encoding : chunked\r\n", WHOLE_CHUNKED),
    )
    yield refused(
        "a coding on the next line", framed(b"Transfer-Encoding:\r\n chunked\r\n", WHOLE_CHUNKED)
    )
    yield refused(
        "a coding in HTTP/1.0",
        framed(CHUNKED, WHOLE_CHUNKED, line=b"POST /v1/chat/completions HTTP/1.0\r\n"),
    )
    yield served("a coding in upper case", framed(b"Transfer-Encoding: CHUNKED\r\n", WHOLE_CHUNKED))
    yield served(
        "a coding with spaces around", framed(b"Transfer-Encoding:  chunked \r\n", WHOLE_CHUNKED)
    )


def _chunks() -> Iterator[Case]:
    end = b"0\r\n\r\n"
    size = b"%x" % len(CHAT)
    for name, body in {
        "a chunk size that is no number": b"zz\r\n" + CHAT + b"\r\n" + end,
        "a negative chunk size": b"-5\r\nhello\r\n" + end,
        "a chunk size with a sign": b"+5\r\nhello\r\n" + end,
        "a chunk size with 0x": b"0x5\r\nhello\r\n" + end,
        "an empty chunk size": b"\r\n" + CHAT + b"\r\n" + end,
        "a space before a chunk size": b" " + chunk(CHAT) + end,
        "a space after a chunk size": size + b" \r\n" + CHAT + b"\r\n" + end,
        "a chunk size above 64 bits": b"10000000000000005\r\nhello\r\n" + end,
        "a chunk size that ends in LF alone": size + b"\n" + CHAT + b"\r\n" + end,
        "a chunk size that ends in CR alone": size + b"\r" + CHAT + b"\r\n" + end,
        "a chunk that ends in LF alone": size + b"\r\n" + CHAT + b"\n" + end,
        "a chunk without an end": size + b"\r\n" + CHAT + end,
        "a chunk longer than its size": b"5\r\nhello!\r\n" + end,
        "a chunk shorter than its size": b"9\r\nhello\r\n0\r\n\r\n\r\n" + end,
        "a NUL in an extension": chunk(CHAT, b";a=\x00") + end,
        "a bare LF in an extension": chunk(CHAT, b";a=\nb") + end,
        "a bare CR in an extension": chunk(CHAT, b";a=\rb") + end,
        "an extension without a semicolon": chunk(CHAT, b" a") + end,
        "a trailer without a colon": chunk(CHAT) + b"0\r\nX-A\r\n\r\n",
        "a trailer with a space before its colon": chunk(CHAT) + b"0\r\nX-A : 1\r\n\r\n",
        "a trailer with a bare CR": chunk(CHAT) + b"0\r\nX-A: 1\r2\r\n\r\n",
        "a trailer that goes on in the next line": chunk(CHAT) + b"0\r\nX-A: 1\r\n 2\r\n\r\n",
        "the last chunk ends in LF alone": chunk(CHAT) + b"0\n\n",
    }.items():
        yield refused(name, framed(CHUNKED, body))
    yield refused(
        "a trailer that names a length",
        framed(CHUNKED, chunk(CHAT) + b"0\r\nContent-Length: 5\r\n\r\n"),
    )
    yield refused(
        "a trailer that names a coding",
        framed(CHUNKED, chunk(CHAT) + b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    )
    yield served(
        "a chunk of each byte", framed(CHUNKED, b"".join(chunk(b"%c" % b) for b in CHAT) + end)
    )
    yield served("an extension", framed(CHUNKED, chunk(CHAT, b";a=b") + end))
    yield served("an extension in quotes", framed(CHUNKED, chunk(CHAT, b';a="b;c"') + end))
    yield served("zeros before a chunk size", framed(CHUNKED, b"000" + chunk(CHAT) + end))
    yield served("a trailer", framed(CHUNKED, chunk(CHAT) + b"0\r\nX-A: 1\r\n\r\n"))


def _smuggling() -> Iterator[Case]:
    """Where another reading would find a second request: one answer, and nothing after it."""
    hidden = b"0\r\n\r\n" + SMUGGLED
    yield refused("CL.TE", framed(b"Content-Length: %d\r\n" % len(hidden) + CHUNKED, hidden))
    yield refused(
        "TE.CL", framed(CHUNKED + b"Content-Length: 4\r\n", chunk(SMUGGLED) + b"0\r\n\r\n")
    )
    for name, field in {
        "TE.TE with a case that hides": b"Transfer-Encoding: xchunked\r\n",
        "TE.TE with a tab": b"Transfer-Encoding\t: chunked\r\n",
        "TE.TE with a leading space": b" Transfer-Encoding: chunked\r\n",
        "TE.TE with a second value": CHUNKED + b"Transfer-Encoding: x\r\n",
        "TE.TE behind a bare LF": b"X: y\nTransfer-Encoding: chunked\r\n",
        "TE.TE behind a bare CR": b"X: y\rTransfer-Encoding: chunked\r\n",
    }.items():
        yield refused(name, framed(b"Content-Length: %d\r\n" % len(hidden) + field, hidden))
    yield refused(
        "CL.CL", framed(b"Content-Length: 0\r\nContent-Length: %d\r\n" % len(SMUGGLED), SMUGGLED)
    )
    yield refused(
        "a request in a chunk's missing end",
        framed(CHUNKED, b"5\r\nhello" + SMUGGLED + b"0\r\n\r\n"),
    )
    yield Case(
        name="CL.0: what follows is a request of its own",
        pieces=(framed(b"Content-Length: 0\r\n", SMUGGLED),),
        statuses=(400, 404),
        stays_open=True,
    )
    yield Case(
        name="GET with a body: the body is not a request",
        pieces=(
            b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
            + SMUGGLED,
        ),
        statuses=(200,),
        stays_open=True,
    )
    yield refused(
        "a field injected by an escaped line end",
        b"GET /health%0d%0aX: HTTP/1.1\r\n HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    yield Case(
        name="what follows a close is not heard",
        pieces=(post(b"Connection: close\r\n") + SMUGGLED,),
        statuses=(200,),
        num_forwarded=1,
    )
    yield refused(
        "a websocket with a request behind it",
        b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"\r\n" + SMUGGLED,
    )
    yield refused("a tunnel", b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n" + SMUGGLED)
    yield Case(
        name="an offer of h2c is declined, its body is read",
        pieces=(
            post(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n")
            + SMUGGLED,
        ),
        statuses=(200, 404),
        stays_open=True,
        num_forwarded=1,
    )


def _pipelines() -> Iterator[Case]:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    yield served("six hundred offers of h2c at once", post(offer) * 600, num=600)
    named = (
        b"Authorization: Bearer k\r\nX-Session-Id: s\r\n"
        b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"
    )
    yield served("an offer of h2c with a key, a session and a trace", post(offer + named))
    yield served("two requests at once", post() * 2, num=2)
    yield served("forty requests at once", post() * 40, num=40)
    yield Case(
        name="answers come in order, refusals too",
        pieces=(post() + post(body=b"{") + SMUGGLED + post(),),
        statuses=(200, 400, 404, 200),
        stays_open=True,
        num_forwarded=2,
    )
    yield Case(
        name="nonsense after a request is answered after it",
        pieces=(post() + b"nonsense\r\n\r\n" + SMUGGLED,),
        statuses=(200, 400),
        num_forwarded=1,
    )
    yield Case(
        name="a byte at a time",
        pieces=tuple(b"%c" % byte for byte in post()),
        statuses=(200,),
        stays_open=True,
        num_forwarded=1,
        pause_seconds=0.0005,
    )
    yield Case(
        name="an expectation is met before the body",
        pieces=(LINE + HOST + LENGTH + b"Expect: 100-continue\r\n\r\n", CHAT),
        statuses=(100, 200),
        stays_open=True,
        num_forwarded=1,
    )
    yield refused(
        "an expectation of a body that is too large",
        LINE + HOST + b"Expect: 100-continue\r\nContent-Length: 999999\r\n\r\n",
        413,
    )


def _too_large() -> Iterator[Case]:
    yield refused("a long target", b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 9000), 414)
    yield refused("a target without an end", b"GET /" + b"a" * 100_000, 414)
    yield refused("a method without an end", b"A" * 100_000)
    yield refused("a hundred and one fields", post(b"X-A: 1\r\n" * 101), 431)
    yield refused("a large field", post(b"X-A: %b\r\n" % (b"a" * 70_000)), 431)
    yield refused("a field without an end", LINE + HOST + b"X-A: " + b"a" * 100_000, 431)
    yield refused("a name without an end", LINE + HOST + b"a" * 100_000, 431)
    yield refused("fields that are large together", post(b"X-A: %b\r\n" % (b"a" * 1000) * 70), 431)
    yield refused("a body that says it is too large", post(body=b" " * 20_000), 413)
    yield refused("a body that turns out too large", framed(CHUNKED, chunk(b" " * 9000) * 2), 413)
    yield refused(
        "a body of a chunk that is too large", framed(CHUNKED, b"fffffff\r\n" + b" " * 20_000), 413
    )
    yield refused(
        "trailers without an end",
        framed(CHUNKED, chunk(CHAT) + b"0\r\n" + b"X-A: 1\r\n" * 20_000),
        413,
    )
    yield refused("an extension without an end", framed(CHUNKED, b"5;" + b"a" * 200_000), 413)
    yield refused(
        "many extensions",
        framed(CHUNKED, b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n \r\n" * 5000),
        413,
    )


def _cut_off() -> Iterator[Case]:
    """The client ends in the middle: nobody is left to be told, and nothing is forwarded."""
    for name, data in {
        "nothing": b"",
        "half a method": b"PO",
        "half a target": b"POST /v1/ch",
        "half a line": b"POST /v1/chat/completions HT",
        "half a field": LINE + b"Host: x\r\nConte",
        "a head without its blank line": LINE + HOST + LENGTH,
        "no body": LINE + HOST + LENGTH + b"\r\n",
        "half a body": LINE + HOST + LENGTH + b"\r\n" + CHAT[:20],
        "a body short of one byte": LINE + HOST + LENGTH + b"\r\n" + CHAT[:-1],
        "half a chunk size": framed(CHUNKED, b"4"),
        "half a chunk": framed(CHUNKED, chunk(CHAT)[:30]),
        "no last chunk": framed(CHUNKED, chunk(CHAT)),
        "half a last chunk": framed(CHUNKED, chunk(CHAT) + b"0\r\n"),
        "half a trailer": framed(CHUNKED, chunk(CHAT) + b"0\r\nX-A"),
    }.items():
        yield Case(name=f"cut off: {name}", pieces=(data,), statuses=(), ends=True)
    yield Case(
        name="cut off: the second request",
        pieces=(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea",),
        statuses=(200,),
        ends=True,
    )


def _slow() -> Iterator[Case]:
    """Slower than the limits (0.3 s each in the test): told, and closed."""

    def drip(name: str, first: bytes, byte: bytes) -> Case:
        return Case(
            name=name,
            pieces=(first, *[byte] * 20),
            statuses=(408,),
            pause_seconds=0.1,
            is_slow=True,
        )

    yield drip("a slow method", b"P", b"")
    yield drip("a slow target", b"GET /", b"a")
    yield drip("slow fields", LINE + HOST, b"X-A: 1\r\n")
    yield drip("a slow value", LINE + HOST + b"X-A: ", b"a")
    yield drip("a slow body", LINE + HOST + b"Content-Length: 1000\r\n\r\n", b"a")
    yield drip("slow chunks", framed(CHUNKED, b""), b"1\r\na\r\n")
    yield drip("a slow chunk size", framed(CHUNKED, b""), b"0")
    yield drip("slow trailers", framed(CHUNKED, b"0\r\n"), b"X-A: 1\r\n")
    yield Case(
        name="slow empty lines",
        pieces=(b"\r\n",) * 12,
        statuses=(),
        pause_seconds=0.1,
        is_slow=True,
    )
    yield Case(name="silence", pieces=(b"",), statuses=(), pause_seconds=0.8, is_slow=True)
    yield Case(
        name="silence after an answer",
        pieces=(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b""),
        statuses=(200,),
        pause_seconds=0.8,
        is_slow=True,
    )


def _hop_by_hop() -> Iterator[Case]:
    yield served("a proxy's connection", post(b"Proxy-Connection: keep-alive\r\n"))
    yield served("fields of this hop", post(b"TE: trailers\r\nKeep-Alive: timeout=5\r\n"))
    yield served("a field that Connection names", post(b"Connection: X-Secret\r\nX-Secret: 1\r\n"))
    yield served("an upgrade that nobody asked for", post(b"Upgrade: websocket\r\n"))
    yield refused("an upgrade to websocket", post(b"Connection: Upgrade\r\nUpgrade: websocket\r\n"))
    yield refused("an upgrade to anything", post(b"Connection: Upgrade\r\nUpgrade: x/1\r\n"))
    yield Case(
        name="close is honoured",
        pieces=(post(b"Connection: close\r\n"),),
        statuses=(200,),
        num_forwarded=1,
    )
    yield Case(
        name="close among others is honoured",
        pieces=(post(b"Connection: x, close\r\n"),),
        statuses=(200,),
        num_forwarded=1,
    )


def _bodies() -> Iterator[Case]:
    """Sound HTTP around a body that no engine needs to see."""
    for name, body in {
        "an empty body": b"",
        "no JSON": b"model=m",
        "half of a JSON": CHAT[:-2],
        "two JSONs": CHAT + CHAT,
        "a list": b"[1]",
        "a text": b'"m"',
        "null": b"null",
        "not a number": b'{"model":"m","messages":[{"role":"user","content":NaN}]}',
        "bytes that are no UTF-8": b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}',
        "half of a surrogate pair": rb'{"model":"m","messages":[{"role":"user","content":"\ud800"}]}',
        "a byte order mark": b"\xef\xbb\xbf" + CHAT,
        "a NUL after the body": CHAT + b"\x00",
        "no model": b'{"messages":[{"role":"user","content":"hi"}]}',
        "a model that is a number": b'{"model":1,"messages":[{"role":"user","content":"hi"}]}',
        "an empty model": b'{"model":"","messages":[{"role":"user","content":"hi"}]}',
        "no messages": b'{"model":"m"}',
        "empty messages": b'{"model":"m","messages":[]}',
        "messages that are a text": b'{"model":"m","messages":"hi"}',
        "a message that is a text": b'{"model":"m","messages":["hi"]}',
        "a negative limit": b'{"model":"m","messages":[{"content":"hi"}],"max_tokens":-1}',
        "a limit that is a text": b'{"model":"m","messages":[{"content":"hi"}],"max_tokens":"8"}',
        "a limit that is a fraction": b'{"model":"m","messages":[{"content":"hi"}],"max_tokens":1.5}',
        "a limit that is true": b'{"model":"m","messages":[{"content":"hi"}],"max_tokens":true}',
        "a limit above 64 bits": b'{"model":"m","messages":[{"content":"hi"}],"max_tokens":99999999999999999999}',
        "a number of answers that is a text": b'{"model":"m","messages":[{"content":"hi"}],"n":"2"}',
        "brackets without an end": b"[" * 9000,
        "brackets too deep": b"[" * 4000 + b"]" * 4000,
    }.items():
        yield answered(f"body: {name}", post(body=body), 400)
    yield answered(
        "body: a model that nobody serves",
        post(body=b'{"model":"x","messages":[{"content":"hi"}]}'),
        404,
    )
    yield answered("body: compressed", post(b"Content-Encoding: gzip\r\n", b"\x1f\x8b\x08"), 415)
    yield answered(
        "body: a limit beyond every replica",
        post(body=b'{"model":"m","messages":[{"content":"hi"}],"max_tokens":9999999}'),
        400,
    )
    yield served(
        "body: the last of two keys counts",
        post(body=b'{"model":"x","model":"m","messages":[{"content":"hi"}]}'),
    )
    yield served(
        "body: content that is a list",
        post(body=b'{"model":"m","messages":[{"content":[{"type":"text","text":"hi"}]}]}'),
    )
    yield served(
        "body: content that is null", post(body=b'{"model":"m","messages":[{"content":null}]}')
    )
    yield served(
        "body: escapes in the model", post(body=rb'{"model":"\u006d","messages":[{"content":""}]}')
    )
