"""A hub on loopback, as huggingface_hub 2.4 speaks with one: lists, files, gates, and faults.

```python
with FakeHub({"org/tiny": Repository(tiny_files())}) as hub:
    hub.url                                   # the endpoint
    hub.faults["config.json"] = [status(429, Retry_After="7")]   # one fault per request, in order
    hub.requests                              # what was asked, with which token, where
```

Large files answer 302 to a CDN: another port, where no token must ever arrive. What the public
hub does that no part of memroute meets (Xet, buckets, datasets) is left out.
"""

import contextlib
import hashlib
import json
import socket
import ssl
import struct
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import httpx2
from huggingface_hub import set_async_client_factory
from huggingface_hub.utils._http import default_async_client_factory

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextlib.contextmanager
def loopback_sessions() -> Iterator[None]:
    """Sessions of huggingface_hub that use no proxy, and spare a tenth of a second each.

    What takes it is reading the machine's certificates, which nobody needs on loopback.
    """
    set_async_client_factory(
        lambda: httpx2.AsyncClient(verify=TLS, trust_env=False, follow_redirects=True)
    )
    yield
    set_async_client_factory(default_async_client_factory)


GOOD_TOKEN = "hf_good"  # noqa: S105 - opens nothing but this hub
# A token that the hub knows, of an account that may read nothing gated or private.
POOR_TOKEN = "hf_poor"  # noqa: S105
# Between two bytes of a file that drips: fetchers wait 30 s for one.
DRIP_SECONDS = 5.0
LARGE = (".safetensors", ".gguf", ".bin", ".pt")


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def is_large(path: str) -> bool:
    """Whether it is stored apart (LFS), and so served by the CDN."""
    return path.endswith(LARGE)


def etag(path: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if is_large(path) else git_sha1(data)


@dataclass
class Repository:
    """One repository. A push is an assignment to ``files`` and ``commit``."""

    files: dict[str, bytes]
    is_gated: bool = False
    is_private: bool = False
    is_disabled: bool = False
    commit: str = ""
    branches: tuple[str, ...] = ("main",)
    older: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files of earlier commits, tags and pull requests, by revision."""
    has_sizes: bool = True
    """Whether the short list has sizes; some mirrors' has none."""

    def __post_init__(self) -> None:
        self.commit = self.commit or commit_of(self.files)

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and the files of a revision."""
        if revision in (*self.branches, self.commit):
            return self.commit, self.files
        for name, files in self.older.items():
            if revision in (name, commit_of(files)):
                return commit_of(files), files
        return None


def commit_of(files: dict[str, bytes]) -> str:
    text = repr(sorted((path, etag(path, data)) for path, data in files.items()))
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def safetensors(tensors: dict[str, tuple[str, list[int], int]]) -> bytes:
    """A file of those tensors: name → dtype, shape, bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + (bytes(range(251)) * (offset // 251 + 1))[:offset]


TINY_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 512, "max_position_embeddings": 2048,
}  # fmt: skip
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def tiny_files(**config: Any) -> dict[str, bytes]:
    """A Llama of 64 values a token, in two parts; ``config`` changes its config.json."""
    first = safetensors({"a": ("BF16", [64, 512], 65536)})
    second = safetensors({"b": ("BF16", [32, 512], 32768)})
    index = {
        "metadata": {"total_size": 65536 + 32768},
        "weight_map": {"a": SHARDS[0], "b": SHARDS[1]},
    }
    return {
        "config.json": json.dumps(TINY_CONFIG | config).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
        SHARDS[0]: first,
        SHARDS[1]: second,
        "tokenizer_config.json": b'{"model_max_length": 1000000000000000019884624838656}',
        "generation_config.json": b'{"max_new_tokens": 256}',
    }


def adapter_files(rank: int = 8, base: str = "Qwen/Qwen3-0.6B") -> dict[str, bytes]:
    """A LoRA adapter as PEFT writes it."""
    config = {"peft_type": "LORA", "r": rank, "base_model_name_or_path": base}
    tensors = {"base_model.model.q_proj.lora_A.weight": ("BF16", [rank, 64], rank * 128)}
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": safetensors(tensors),
        "README.md": b"# words",
    }


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    token: str | None
    is_cdn: bool
    byte_range: str | None = None


Fault = Callable[["_Handler", int, bytes, dict[str, str]], None]
"""Answers in place of the hub: what it would have sent is given."""


def status(code: int, **headers: str) -> Fault:
    """An error of the hub itself; underscores in names are dashes."""

    def answer(handler: "_Handler", _code: int, _body: bytes, _headers: dict[str, str]) -> None:
        handler.send(code, b"", {k.replace("_", "-"): v for k, v in headers.items()})

    return answer


def body(data: bytes, kind: str = "application/json") -> Fault:
    """Other bytes."""

    def answer(handler: "_Handler", _code: int, _body: bytes, _headers: dict[str, str]) -> None:
        handler.send(200, data, {"Content-Type": kind})

    return answer


def redirect(url: str) -> Fault:
    """Somewhere else."""
    return status(302, Location=url)


def cut(after_bytes: int) -> Fault:
    """The connection is reset in the middle of the body."""

    def answer(handler: "_Handler", code: int, data: bytes, headers: dict[str, str]) -> None:
        handler.head(code, headers | {"Content-Length": str(len(data))})
        handler.write(data[:after_bytes])
        handler.reset()

    return answer


def wrong(at_byte: int) -> Fault:
    """As many bytes as there should be, one of them another one."""

    def answer(handler: "_Handler", code: int, data: bytes, headers: dict[str, str]) -> None:
        flipped = bytes([data[at_byte] ^ 255])
        handler.send(code, data[:at_byte] + flipped + data[at_byte + 1 :], headers)

    return answer


def without_ranges(handler: "_Handler", _code: int, _data: bytes, headers: dict[str, str]) -> None:
    """The whole file, whatever part was asked for, as some proxies answer."""
    headers = {k: v for k, v in headers.items() if k not in {"Content-Range", "Accept-Ranges"}}
    handler.send(200, handler.whole, headers)


def held(after_bytes: int, until: threading.Event) -> Fault:
    """The rest comes when the event is set."""

    def answer(handler: "_Handler", code: int, data: bytes, headers: dict[str, str]) -> None:
        handler.head(code, headers | {"Content-Length": str(len(data))})
        handler.write(data[:after_bytes])
        handler.wfile.flush()
        until.wait(60)
        handler.write(data[after_bytes:])

    return answer


def dripping(after_bytes: int, until: threading.Event) -> Fault:
    """The rest comes when the event is set: until then so little that it is not taken for dead."""

    def answer(handler: "_Handler", code: int, data: bytes, headers: dict[str, str]) -> None:
        handler.head(code, headers | {"Content-Length": str(len(data))})
        handler.write(data[:after_bytes])
        handler.wfile.flush()
        sent = after_bytes
        while not until.wait(DRIP_SECONDS):
            handler.write(data[sent : sent + 1])
            handler.wfile.flush()
            sent += 1
        handler.write(data[sent:])

    return answer


def stall(after_bytes: int | None = None) -> Fault:
    """Nothing more comes, until the hub is closed. None: not even a head."""

    def answer(handler: "_Handler", code: int, data: bytes, headers: dict[str, str]) -> None:
        if after_bytes is not None:
            handler.head(code, headers | {"Content-Length": str(len(data))})
            handler.write(data[:after_bytes])
            handler.wfile.flush()
        handler.hub.closing.wait(60)
        handler.reset()

    return answer


def endless(handler: "_Handler", _code: int, _body: bytes, headers: dict[str, str]) -> None:
    """A body without an end: one who reads all of it never comes back."""
    headers.pop("Content-Length", None)
    handler.head(200, headers | {"Connection": "close"})
    block = b'{"a": "' + b" " * 65536
    while not handler.hub.closing.is_set():
        handler.wfile.write(block)


class FakeHub:
    """Two servers on loopback: the hub and its CDN. Owns what was asked and what goes wrong."""

    def __init__(self, repositories: dict[str, Repository]) -> None:
        self.repositories = repositories
        self.faults: dict[str, list[Fault]] = {}
        """By file, or ``api`` and ``tree`` for the lists: taken one after the other."""
        self.requests: list[Request] = []
        self.page_size = 1000
        """Entries of one page of the list by folders."""
        self.bytes_sent: dict[str, int] = {}
        """Of each file's content, by path; parts of it included."""
        self.closing = threading.Event()
        self._hub = _Server(self, is_cdn=False)
        self._cdn = _Server(self, is_cdn=True)
        self.url = f"http://127.0.0.1:{self._hub.server_port}"
        self.cdn_url = f"http://127.0.0.1:{self._cdn.server_port}"
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for server in (self._hub, self._cdn):
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Listen no more; what hangs ends."""
        self.closing.set()
        for server in (self._hub, self._cdn):
            server.shutdown()
        for thread in self._threads:
            thread.join()
        for server in (self._hub, self._cdn):
            server.server_close()

    @property
    def paths(self) -> list[str]:
        """What was asked for, without the questions' parameters."""
        return [request.path.partition("?")[0] for request in self.requests]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True

    def __init__(self, hub: FakeHub, *, is_cdn: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.is_cdn = is_cdn

    def handle_error(self, *_: object) -> None:
        """Clients that leave are what tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 5.0
    server: _Server
    whole = b""
    """The file that is asked for, all of it."""
    counted: str | None = None
    """Its path: bytes that are sent count as its own."""

    @property
    def hub(self) -> FakeHub:
        return self.server.hub

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
            self.write(data)

    def write(self, data: bytes) -> None:
        """Bytes of a body: those of a file are counted as its own."""
        if self.counted is not None:
            sent = self.hub.bytes_sent
            sent[self.counted] = sent.get(self.counted, 0) + len(data)
        self.wfile.write(data)

    def reset(self) -> None:
        """End the connection with a reset, not with an end."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def error(self, code: int, name: str, message: str) -> None:
        self.send(code, b"{}", {"X-Error-Code": name, "X-Error-Message": message})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.counted = None
        url = urllib.parse.urlsplit(self.path)
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.requests.append(
            Request(self.command, self.path, token, self.server.is_cdn, self.headers.get("Range"))
        )
        if self.server.is_cdn:
            self._file("/".join(parts[:2]), parts[2], "/".join(parts[3:]))
        elif parts[0] == "api":
            self._api(parts, token, dict(urllib.parse.parse_qsl(url.query)))
        else:
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), token)

    def _repository(self, name: str, token: str | None) -> Repository | None:
        """The repository that this token may know of; has answered when None."""
        found = self.hub.repositories.get(name)
        if token not in (None, GOOD_TOKEN, POOR_TOKEN):
            self.send(
                401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"}
            )
        elif found is None or (found.is_private and token != GOOD_TOKEN):
            self.error(404 if token else 401, "RepoNotFound", "Repository not found")
        elif found.is_disabled:
            self.send(403, b"{}", {"X-Error-Message": "Access to this resource is disabled."})
        else:
            return found
        return None

    def _answer(self, key: str, code: int, data: bytes, headers: dict[str, str]) -> None:
        """As the hub would, or by the next fault."""
        faults = self.hub.faults.get(key)
        if faults:
            with contextlib.suppress(OSError):
                faults.pop(0)(self, code, data, headers)
            return
        self.send(code, data, headers)

    def _api(self, parts: list[str], token: str | None, query: dict[str, str]) -> None:
        name, what = "/".join(parts[2:4]), parts[4] if len(parts) > 4 else "revision"
        repository = self._repository(name, token)
        if repository is None:
            return
        revision = parts[5] if len(parts) > 5 else "main"
        found = repository.at(revision)
        if found is None:
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        commit, files = found
        if what == "tree":
            self._tree(files, int(query.get("cursor", "0")))
            return
        siblings = [
            {"rfilename": path}
            | (_sizes(path, data) if repository.has_sizes and "blobs" in query else {})
            for path, data in files.items()
        ]
        info = {
            "id": name, "sha": commit, "private": repository.is_private,
            "gated": "manual" if repository.is_gated else False, "siblings": siblings,
        }  # fmt: skip
        headers = {"Content-Type": "application/json"}
        self._answer("api", 200, json.dumps(info).encode(), headers)

    def _tree(self, files: dict[str, bytes], start: int) -> None:
        entries = [
            {"type": "file", "path": path, "oid": git_sha1(data)} | _sizes(path, data)
            for path, data in files.items()
        ]
        end = start + self.hub.page_size
        headers = {"Content-Type": "application/json"}
        if end < len(entries):
            here = self.path.partition("&cursor")[0]
            headers["Link"] = f'<{self.hub.url}{here}&cursor={end}>; rel="next"'
        self._answer("tree", 200, json.dumps(entries[start:end]).encode(), headers)

    def _resolve(self, name: str, revision: str, path: str, token: str | None) -> None:
        repository = self._repository(name, token)
        if repository is None:
            return
        if repository.is_gated and token != GOOD_TOKEN:
            # The lists of a gated repository are open, its files are not.
            message = f"Access to model {name} is restricted"
            self.error(403 if token else 401, "GatedRepo", message)
            return
        found = repository.at(revision)
        if found is None:
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        commit, files = found
        if path not in files:
            self.error(404, "EntryNotFound", "Entry not found")
            return
        if is_large(path):
            data = files[path]
            headers = {
                "Location": f"{self.hub.cdn_url}/{name}/{commit}/{urllib.parse.quote(path)}",
                "X-Repo-Commit": commit,
                "ETag": f'"{etag(path, data)}"',
                "X-Linked-Etag": f'"{etag(path, data)}"',
                "X-Linked-Size": str(len(data)),
            }
            self.send(302, b"", headers)
            return
        self._file(name, commit, path)

    def _file(self, name: str, commit: str, path: str) -> None:
        found = self.hub.repositories[name].at(commit)
        assert found is not None
        self.whole = data = found[1][path]
        self.counted = path
        headers = {
            "X-Repo-Commit": commit, "ETag": f'"{etag(path, data)}"', "Accept-Ranges": "bytes",
            "Content-Type": "text/plain",
        }  # fmt: skip
        code, asked = 200, self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
            if start >= len(data):
                self.send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            code, data = 206, data[start : end + 1]
        self._answer(path, code, data, headers)


def _sizes(path: str, data: bytes) -> dict[str, Any]:
    sizes: dict[str, Any] = {"size": len(data), "blobId": git_sha1(data)}
    if is_large(path):
        sizes["lfs"] = {
            "sha256": etag(path, data), "oid": etag(path, data), "size": len(data),
            "pointerSize": 134,
        }  # fmt: skip
    return sizes
