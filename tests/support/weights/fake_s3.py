"""A store on loopback that speaks S3: lists, objects, checksums, and signatures that it checks.

```python
with FakeS3({"models": {"llama/config.json": Stored(b"{}")}}) as store:
    store.url                                   # the endpoint; buckets are parts of the path
    store.faults["models/llama/config.json"] = [answer(503)]     # one per GET, in order
    store.requests                              # method, path and query, Range
```

It works the signature out by itself, from the request as it came, with code that shares nothing
with memroute's.
"""

import base64
import hashlib
import hmac
import re
import threading
import urllib.parse
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

ACCESS_KEY = "AKIDEXAMPLE"
SECRET_KEY = "secret/example"  # noqa: S105 - opens nothing but this store


@dataclass
class Stored:
    """One object, and which checksums the store keeps of it."""

    data: bytes
    num_parts: int = 1
    """More than one: uploaded in parts, so that its ETag is no MD5."""
    algorithm: str | None = None
    """``sha256``, ``crc32``, or None."""
    is_composite: bool = False
    """The checksum is one of the parts' checksums."""
    encryption: str = "AES256"
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def etag(self) -> str:
        digest = hashlib.md5(self.data, usedforsecurity=False).hexdigest()
        return digest if self.num_parts == 1 else f"{digest[::-1]}-{self.num_parts}"

    @property
    def headers(self) -> dict[str, str]:
        """Of HEAD with x-amz-checksum-mode."""
        found = {"x-amz-server-side-encryption": self.encryption}
        found |= {f"x-amz-meta-{name}": value for name, value in self.metadata.items()}
        if self.algorithm is None:
            return found
        raw = (
            hashlib.sha256(self.data).digest()
            if self.algorithm == "sha256"
            else zlib.crc32(self.data).to_bytes(4, "big")
        )
        if self.is_composite:
            raw = bytes(byte ^ 255 for byte in raw)
        text = base64.b64encode(raw).decode() + (f"-{self.num_parts}" if self.is_composite else "")
        kind = "COMPOSITE" if self.is_composite else "FULL_OBJECT"
        return found | {
            f"x-amz-checksum-{self.algorithm}": text,
            "x-amz-checksum-type": kind,
        }


Fault = Callable[["_Handler", int, bytes, dict[str, str]], None]


def answer(code: int, body: bytes = b"", **headers: str) -> Fault:
    """Another answer; underscores in names are dashes."""

    def fault(handler: "_Handler", _code: int, _body: bytes, _headers: dict[str, str]) -> None:
        handler.send(code, body, {k.replace("_", "-"): v for k, v in headers.items()})

    return fault


def cut(after_bytes: int) -> Fault:
    """The connection ends in the middle of the body."""

    def fault(handler: "_Handler", code: int, data: bytes, headers: dict[str, str]) -> None:
        handler.head(code, headers | {"Content-Length": str(len(data))})
        handler.wfile.write(data[:after_bytes])
        handler.close_connection = True

    return fault


class FakeS3:
    """One store of several buckets. Anonymous requests are let in where ``is_public``."""

    def __init__(self, buckets: dict[str, dict[str, Stored]], *, is_public: bool = False) -> None:
        self.buckets = buckets
        self.is_public = is_public
        self.page_size = 1000
        self.region = "eu-test-1"
        self.session_token: str | None = None
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.bytes_sent = 0
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def takes(self, session_token: str | None) -> bool:
        """Whether a request's session is one that it knows."""
        return session_token == self.session_token

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, store: FakeS3) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = store

    def handle_error(self, *_: object) -> None:
        """Clients that leave are what tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 5.0
    server: _Server

    def log_message(self, *_: object) -> None:
        """Nothing: tests look at ``requests``."""

    def head(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, code: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.head(code, {"Content-Length": str(len(data))} | (headers or {}))
        if self.command != "HEAD":
            self.server.store.bytes_sent += len(data)
            self.wfile.write(data)

    def refuse(self, code: int, name: str, message: str, extra: str = "") -> None:
        text = f"<Error><Code>{name}</Code><Message>{message}</Message>{extra}</Error>"
        self.send(code, text.encode(), {"Content-Type": "application/xml"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        store = self.server.store
        store.requests.append((self.command, self.path, self.headers.get("Range")))
        problem = self._signature_problem()
        if problem is not None:
            self.refuse(403, problem, "as it says")
            return
        url = urllib.parse.urlsplit(self.path)
        bucket, _, key = urllib.parse.unquote(url.path[1:]).partition("/")
        objects = store.buckets.get(bucket)
        if objects is None:
            self.refuse(404, "NoSuchBucket", "The specified bucket does not exist")
        elif not key:
            self._list(objects, dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True)))
        elif key not in objects:
            self.refuse(404, "NoSuchKey", "The specified key does not exist.")
        else:
            self._object(f"{bucket}/{key}", objects[key])

    def _list(self, objects: dict[str, Stored], query: dict[str, str]) -> None:
        faults = self.server.store.faults.get("list")
        if faults:
            faults.pop(0)(self, 200, b"", {})
            return
        assert query["list-type"] == "2"
        keys = sorted(key for key in objects if key.startswith(query["prefix"]))
        start = int(query.get("continuation-token", "0"))
        end = start + self.server.store.page_size
        contents = "".join(
            f"<Contents><Key>{urllib.parse.quote_plus(key, safe='/')}</Key>"
            f"<Size>{len(objects[key].data)}</Size>"
            f"<ETag>&quot;{objects[key].etag}&quot;</ETag></Contents>"
            for key in keys[start:end]
        )
        is_cut = end < len(keys)
        token = f"<NextContinuationToken>{end}</NextContinuationToken>" if is_cut else ""
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<EncodingType>url</EncodingType><IsTruncated>{str(is_cut).lower()}</IsTruncated>"
            f"{token}{contents}</ListBucketResult>"
        )
        self.send(200, text.encode(), {"Content-Type": "application/xml"})

    def _object(self, name: str, stored: Stored) -> None:
        headers = {"ETag": f'"{stored.etag}"', "Accept-Ranges": "bytes"} | {
            k: v
            for k, v in stored.headers.items()
            if not k.startswith("x-amz-checksum") or "x-amz-checksum-mode" in self.headers
        }
        if self.headers.get("If-Match", f'"{stored.etag}"') != f'"{stored.etag}"':
            self.refuse(412, "PreconditionFailed", "the object is another one")
            return
        code, data, asked = 200, stored.data, self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
            if start >= len(data):
                self.refuse(416, "InvalidRange", "no such range")
                return
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            code, data = 206, data[start : end + 1]
        faults = self.server.store.faults.get(name)
        if faults and self.command == "GET":
            faults.pop(0)(self, code, data, headers)
            return
        self.send(code, data, headers)

    def _signature_problem(self) -> str | None:
        """The code of an error; None for a request that is let in."""
        store, given = self.server.store, self.headers.get("Authorization")
        if given is None:
            return None if store.is_public else "AccessDenied"
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request,"
            r"SignedHeaders=([a-z0-9;-]+),Signature=([0-9a-f]{64})",
            given,
        )
        if found is None:
            return "AuthorizationHeaderMalformed"
        key, day, region, names, signature = found.groups()
        if key != ACCESS_KEY:
            return "InvalidAccessKeyId"
        amazons = {name.lower() for name in self.headers if name.lower().startswith("x-amz-")}
        if region != store.region or not {"host", *amazons} <= set(names.split(";")):
            return "AuthorizationHeaderMalformed"
        if not store.takes(self.headers.get("x-amz-security-token")):
            return "InvalidToken"
        return None if signature == self._signature(day, region, names) else "SignatureDoesNotMatch"

    def _signature(self, day: str, region: str, names: str) -> str:
        path, _, query = self.path.partition("?")
        ordered = "&".join(sorted(query.split("&")))
        lines = [f"{name}:{(self.headers.get(name) or '').strip()}" for name in names.split(";")]
        payload = self.headers["x-amz-content-sha256"]
        request = "\n".join([self.command, path, ordered, *lines, "", names, payload])
        scope = f"{day}/{region}/s3/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self.headers['x-amz-date']}\n{scope}\n{digest}"
        key: Any = ("AWS4" + SECRET_KEY).encode()
        for part in (day, region, "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
