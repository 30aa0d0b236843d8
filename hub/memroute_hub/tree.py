"""The whole list of a commit's files, page by page: paths, sizes, and what their bytes hash to."""

from dataclasses import replace
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2

from memroute_hub import failures
from memroute_hub.documents import UnreadableDocumentError, parse_object
from memroute_hub.failures import Asked
from memroute_hub.transport import Answer, Transport

# Bytes of the list of files: 300 a file, of which some repositories have thousands.
MAX_LIST_BYTES = 16 * 1024 * 1024
# Pages of the list by folders (1,000 files each).
MAX_TREE_PAGES = 50


async def tree_entries(transport: Transport, asked: Asked, commit: str) -> list[dict[str, Any]]:
    """What the hub lists as files, as it lists them; nothing where it has no such list.

    Raises ``HubError``, also where the list goes on and cannot be read to its end: half of a list
    looks like a whole one.
    """
    base = f"{asked.endpoint}/api/models/{asked.name.repository}/tree/{commit}"
    url = f"{base}?{urlencode({'recursive': 'true', 'expand': 'false'})}"
    found: list[dict[str, Any]] = []
    for page_number in range(MAX_TREE_PAGES):
        answer = await listed(transport, url)
        if answer is None and page_number:
            raise failures.no_hub(asked, "its list of files breaks off")
        if answer is None:
            return []
        # An array: wrapped, so that it is read like everything else.
        page = json_of(replace(answer, body=b'{"files":' + answer.body + b"}"), asked)["files"]
        found.extend(
            entry
            for entry in (page if isinstance(page, list) else ())
            if isinstance(entry, dict) and entry.get("type") == "file"
        )
        query = _next_query(answer.headers, base, asked)
        if query is None:
            return found
        url = f"{base}?{query}"
    raise failures.no_hub(asked, f"its list of files has more than {MAX_TREE_PAGES} pages")


async def listed(transport: Transport, url: str) -> Answer | None:
    """A page of a list of files. Raises ``HubError``."""
    return await transport.get(url, max_bytes=MAX_LIST_BYTES, what="the list of files")


def json_of(answer: Answer, asked: Asked) -> dict[str, Any]:
    """An answer of the API. Raises ``HubError`` when it is none."""
    refuse_html(answer, asked)
    try:
        return parse_object(answer.body)
    except UnreadableDocumentError as error:
        raise failures.no_hub(asked, f"its list of files {error}") from error


def refuse_html(answer: Answer, asked: Asked) -> None:
    """Raises ``HubError`` for a page for people."""
    if answer.is_html:
        raise failures.no_hub(asked, "it sends a web page")


def _next_query(headers: httpx2.Headers, base: str, asked: Asked) -> str | None:
    """What to ask for the next page, with the same address; None at the end of the list.

    Mirrors hand on the addresses of the hub behind them: those are asked of the mirror. The token
    goes with each request, so nobody else is asked. Raises ``HubError``.
    """
    links = httpx2.Response(200, headers={"link": headers.get("link", "")}).links
    url = links.get("next", {}).get("url")
    if url is None:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if not parts.query or not urlsplit(base).path.endswith(parts.path) or not parts.path:
        raise failures.no_hub(asked, "its list of files goes on where it cannot be")
    return parts.query
