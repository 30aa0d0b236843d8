"""From where engines may be told to fetch images, recordings, videos and files.

Whoever sends ``{"image_url": {"url": "http://169.254.169.254/…"}}`` makes the engine ask that
address: from inside the cluster, with what the engine's pod can reach. So a list of hosts can be
set, and what names another one is refused before an engine sees it. ``data:`` brings its data along
and is always allowed.

Addresses are hostile input: what two programs could read in two ways names no host. An address is
``http://`` or ``https://``, a name in plain ASCII (or an IP address as it is usually written), a
port perhaps, and a path. Everything else is refused: user names, white space, control characters,
backslashes, escapes in the host, Unicode in the host (its ASCII form, ``xn--…``, is fine), numbers
that stand for IPv4 addresses, a path that is no path.

What this cannot do: engines follow redirects, and look names up anew. A host on the list is
believed, with all that it points to. docs/how-to/bound-clients.md says what helps.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Any, Final

from memroute_router.lifecycle.refusal import MEDIA_HOST
from memroute_router.requests import BadRequestError

# Lists and objects of one body that are looked through. Source: as ``MAX_PARTS`` of messages.
MAX_NODES: Final = 100_000
# Of a name, and of each of its labels (RFC 1035). Unit: characters.
_MAX_NAME_CHARACTERS: Final = 253
_MAX_LABEL_CHARACTERS: Final = 63
_MAX_PORT: Final = 65_535
# Of a client's words in a message. Unit: characters. Source: chosen by hand.
_MAX_TOLD_CHARACTERS: Final = 80
_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([1-9][0-9]{0,4}))?"
_ADDRESS: Final = re.compile(
    rf"([Hh][Tt][Tt][Pp][Ss]?)://{_HOST}(?:/[^\x00-\x20\x7f-\xa0\\]*)?", re.ASCII
)
_ENTRY: Final = re.compile(rf"(\*\.)?{_HOST}", re.ASCII)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)

# Fields whose value engines take for an address, or for data, beside all that end in "url".
_MEDIA: Final = frozenset({
    "image", "images", "audio", "audios", "video", "videos", "file", "input_image", "input_audio",
    "input_video", "input_file", "ref_audio", "source",
})  # fmt: skip
# Where this one is a text, it says who is cited, unless the part is one of ``_KINDS``.
_SOURCE: Final = "source"
# Inside such a value: fields that hold base64, of which nothing is fetched.
_DATA: Final = frozenset({"data", "file_data", "b64_json", "base64"})
# What no engine takes media from, wherever it stands: schemas, and what a model has said to tools.
_UNSEEN: Final = frozenset({
    "action", "arguments", "chat_template_kwargs", "function_call", "functions", "guided_json",
    "logit_bias", "metadata", "response_format", "structured_outputs", "tool_calls", "tool_choice",
    "tools", "annotations",
})  # fmt: skip
_TOOL_USES: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_TEXT_SOURCES: Final = frozenset({"text", "content"})
# Names of addresses, inside such a value and in parts of the types below.
_ADDRESSES: Final = frozenset({"url", "uri", "path"})
# Types of parts whose own ``url`` is an address to fetch.
_KINDS: Final = frozenset({
    "url", "image", "audio", "video", "file", "image_url", "audio_url", "video_url",
    "input_image", "input_audio", "input_video", "input_file", "document",
})  # fmt: skip
# Fields by which one engine is told to connect to another one, for its KV cache.
_PEERS: Final = ("remote_host", "bootstrap_host")

Node = tuple[Any, "Node | None", str | int]
"""A list or an object, in which it stands, and under which name."""


class MediaHosts:
    """A list of hosts; never changed. Empty: only ``data:``."""

    __slots__ = ("_allows_all", "_exact", "_suffixes", "names")

    def __init__(self, names: Sequence[str]) -> None:
        """``names``: ``cdn.example.com``, ``*.example.com``, ``10.0.0.7:8080``, ``[fd00::1]``.

        ``*`` is every host. A name without a port allows the scheme's own, 80 or 443. Raises
        ``ValueError``.
        """
        self.names = tuple(names)
        self._allows_all = "*" in names
        self._exact: set[tuple[str, int | None]] = set()
        self._suffixes: set[tuple[str, int | None]] = set()
        for name in names:
            if name == "*":
                continue
            found = _ENTRY.fullmatch(_ascii(name)) if isinstance(name, str) else None
            host = None if found is None else _plain_host(found[2])
            port = None if found is None or found[3] is None else int(found[3])
            if found is None or host is None or (port is not None and port > _MAX_PORT):
                msg = f"{name!r} is no host, like cdn.example.com, *.example.com or 10.0.0.7:8080"
                raise ValueError(msg)
            (self._suffixes if found[1] else self._exact).add((host, port))

    def refusal(self, address: str) -> str | None:
        """Why engines may not be told to fetch it; None: they may."""
        if address.startswith("data:"):
            return None
        found = _ADDRESS.fullmatch(address)
        host = None if found is None else _plain_host(found[2])
        if found is None or host is None:
            return (
                "it is neither a data: URL nor a plain address like https://host/path (ASCII, no "
                "user name, no white space)"
            )
        default = _PORTS[found[1].lower()]
        port = int(found[3]) if found[3] else default
        if port > _MAX_PORT:
            return "its port is none"
        if self._allows_all or self._is_listed(host, None if port == default else port):
            return None
        return (
            f"{_told(host)}{'' if port == default else f':{port}'} is not on the list of hosts "
            "that may be fetched from; send it as a data: URL"
        )

    def check(self, document: dict[str, Any]) -> None:
        """Raises ``BadRequestError`` where a body names something that may not be fetched.

        Wherever it stands: in messages, items, documents to rank, results of tools, at any depth.
        """
        tools = document.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            if isinstance(tool, dict) and isinstance(tool.get("server_url"), str):
                self._check(tool["server_url"], "server_url", (tool, None, "tools"))
        transfer = document.get("kv_transfer_params")
        for where in (document, transfer if isinstance(transfer, dict) else {}):
            for name in _PEERS:
                if where.get(name) is not None:
                    msg = f"{name}: engines are not told by clients where to connect to"
                    raise BadRequestError(msg, name, reason=MEDIA_HOST, code="invalid_url")
        if isinstance(document.get("text"), dict):  # the schema of an answer (Responses)
            document = {name: value for name, value in document.items() if name != "text"}
        self._walk(document)

    def _walk(self, document: dict[str, Any]) -> None:
        stack: list[tuple[Node, bool]] = [((document, None, ""), False)]
        num_nodes = 0
        while stack:
            node, is_media = stack.pop()
            value = node[0]
            inner: list[tuple[Node, bool]] = []
            if isinstance(value, list):
                for index, item in enumerate(value):
                    if isinstance(item, dict | list):
                        inner.append(((item, node, index), is_media))
                    elif is_media and isinstance(item, str):
                        self._check(item, index, node)
            else:
                self._look(value, node, inner, is_media=is_media)
            num_nodes += len(inner)
            if num_nodes > MAX_NODES:
                msg = f"the body has more than {MAX_NODES} lists and objects"
                raise BadRequestError(msg)
            stack += inner

    def _look(
        self, part: dict[str, Any], node: Node, inner: list[tuple[Node, bool]], *, is_media: bool
    ) -> None:
        """The fields of an object; ``is_media``: of the value of a field that names media."""
        given = part.get("type")
        kind = given if isinstance(given, str) else ""
        # A body says no type: engines would read its input all the same.
        is_tool_use = node[1] is not None and kind in _TOOL_USES
        for name, value in part.items():
            if name in _UNSEEN or (is_tool_use and name == "input"):
                continue
            if isinstance(value, dict | list):
                is_inside = _names_media(name) or (is_media and name != "content")
                inner.append(((value, node, name), is_inside))
            elif not isinstance(value, str):
                continue
            elif name in _DATA and (is_media or name == "file_data"):
                # Base64 has no colon; a document of plain text may have.
                if ":" in value and kind not in _TEXT_SOURCES:
                    self._check(value, name, node)
            elif _is_address(name, kind, is_media=is_media):
                self._check(value, name, node)

    def _check(self, value: str, name: str | int, node: Node) -> None:
        why = self.refusal(value)
        if why is not None:
            where = _path(name, node)
            kind = next((word for word in ("image", "audio", "video") if word in where), "")
            msg = f"{where}: {why}"
            code = f"invalid_{kind}_url" if kind else "invalid_url"
            raise BadRequestError(msg, where, reason=MEDIA_HOST, code=code)

    def _is_listed(self, host: str, port: int | None) -> bool:
        if (host, port) in self._exact:
            return True
        if not self._suffixes or host.startswith("["):
            return False
        labels = host.split(".")
        return any((".".join(labels[at:]), port) in self._suffixes for at in range(1, len(labels)))


def parse_media_hosts(text: str) -> MediaHosts:
    """Hosts, separated by commas; ``none``: no host at all. Raises ``ValueError``."""
    words = [word.strip() for word in text.split(",")]
    return MediaHosts([] if words == ["none"] else words)


def _names_media(name: str) -> bool:
    return name in _MEDIA or name.endswith(("_url", "_uri"))


def _is_address(name: str, kind: str, *, is_media: bool) -> bool:
    """Whether engines take a text under this name, in a part of this type, for an address.

    ``is_media``: the part is itself the value of a field that names media.
    """
    if name == _SOURCE:
        return kind in _KINDS
    return _names_media(name) or (name in _ADDRESSES and (is_media or kind in _KINDS))


def _plain_host(host: str) -> str | None:
    """A host as it is compared: lower case, no dot at its end; None: it is none."""
    if host.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            return None
    name = host.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > _MAX_NAME_CHARACTERS or not all(
        len(label) <= _MAX_LABEL_CHARACTERS and _LABEL.fullmatch(label) for label in labels
    ):
        return None
    if _NUMBER.fullmatch(labels[-1]):
        # 127.1, 0177.0.0.1, 2130706433 and 0x7f.1 are 127.0.0.1 for some programs.
        try:
            return str(ipaddress.IPv4Address(name)) if not host.endswith(".") else None
        except ValueError:
            return None
    return name


def _ascii(name: str) -> str:
    """An entry as clients have to write it: who runs the router may write Unicode."""
    if name.isascii():
        return name
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        return name


def _told(host: str) -> str:
    return host if len(host) <= _MAX_TOLD_CHARACTERS else f"{host[:_MAX_TOLD_CHARACTERS]}…"


def _path(name: str | int, node: Node | None) -> str:
    """Where it stands, as ``messages[0].content[1].image_url.url``; cut at the front."""
    words: list[str] = []
    num_characters = 0
    while True:
        words.append(f"[{name}]" if isinstance(name, int) else f".{name[:_MAX_TOLD_CHARACTERS]}")
        num_characters += len(words[-1])
        if node is None or num_characters > _MAX_TOLD_CHARACTERS:
            break
        name, node = node[2], node[1]
    path = "".join(reversed(words)).lstrip(".")
    return path if path.isprintable() else "a field"
