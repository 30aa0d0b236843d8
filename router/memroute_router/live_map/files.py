"""The page's files: what a browser loads, and the header fields that bound what the page may do."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

PREFIX: Final = b"/map/"
_INDEX: Final = "index.html"
_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Scripts and styles are files of this router and nothing else; the page asks this router alone, is
# in no frame of another, and makes no markup out of text.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
# ``no-cache``: another release's script must not read this one's documents. The files are small.
_GUARDS: Final = (
    f"content-security-policy: {_POLICY}\r\n"
    "x-content-type-options: nosniff\r\n"
    "referrer-policy: no-referrer\r\n"
    "cross-origin-resource-policy: same-origin\r\n"
    "cache-control: no-cache\r\n"
)
JSON_LINES: Final = (
    b"content-type: application/json\r\nx-content-type-options: nosniff\r\n"
    b"cross-origin-resource-policy: same-origin\r\ncache-control: no-store\r\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFile:
    """One file as it is sent."""

    body: bytes
    lines: bytes
    """Its header fields."""


def page_files() -> dict[bytes, PageFile]:
    """By path, all there are; ``/map/`` is the page itself."""
    found: dict[bytes, PageFile] = {}
    for entry in resources.files("memroute_router.live_map").joinpath("page").iterdir():
        kind = _TYPES.get("." + entry.name.rpartition(".")[2])
        if kind is None:
            continue
        name = "" if entry.name == _INDEX else entry.name
        found[PREFIX + name.encode()] = PageFile(
            body=entry.read_bytes(), lines=f"content-type: {kind}\r\n{_GUARDS}".encode()
        )
    return found
