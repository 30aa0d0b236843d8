"""Metrics pages over HTTP: many at once, each bounded in time and bytes, each failing alone.

A page comes from a process that memroute does not control. Whatever that process answers, or
does not answer, is a value here (``PageFailure``) and concerns that page alone.
"""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import aiohttp

# Pages of one kind that are read at the same time, chosen by hand: 1,500 pages of a quiet server
# then take about a second, and the file descriptors stay few.
MAX_CONCURRENT_READS = 64
# From the connection to the last byte, in seconds, chosen by hand: a healthy exporter answers
# in milliseconds, and a page that is later than the next round is of no use.
TIMEOUT_SECONDS = 3.0
# Bytes of one page, chosen by hand: an exporter of 16 devices sends 0.1 MB, a router of 4,000
# replicas about 10 MB. A larger page is not parsed: it would hold up the event loop.
MAX_PAGE_BYTES = 16 * 1024 * 1024
IPV6 = 6
_CHUNK_BYTES = 64 * 1024
_HTTP_OK = 200

Target = TypeVar("Target")


class PageFailureReason(StrEnum):
    """Why there is no page; the value is a metric label."""

    NO_ADDRESS = "no-address"
    NO_CONNECTION = "no-connection"
    TIMEOUT = "timeout"
    STATUS = "status"
    TOO_LARGE = "too-large"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFailure:
    """Why a page could not be read, in words."""

    reason: PageFailureReason
    message: str


def page_url(address: str, port: int, path: str = "/metrics") -> str | None:
    """The URL of a page; None when ``address`` is no IP address. IPv6 in brackets."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    if parsed.version == IPV6:
        return f"http://[{parsed}]:{port}{path}"
    return f"http://{parsed}:{port}{path}"


class PageReader:
    """Reads pages. Owns the HTTP session; make it with ``open_page_reader``."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_READS)

    def lane(self) -> "PageReader":
        """A reader over the same session that waits for nobody else's pages."""
        return PageReader(self._session)

    async def read(
        self,
        address: str | None,
        port: int,
        *,
        path: str = "/metrics",
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> str | PageFailure:
        """The text of that page at that address, or why there is none. Never raises."""
        url = page_url(address or "", port, path)
        if url is None:
            return PageFailure(
                reason=PageFailureReason.NO_ADDRESS, message=f"{address!r} is no IP address"
            )
        async with self._slots:
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    return await self._get(url, max_bytes)
            except TimeoutError:
                message = f"{url} did not answer within {TIMEOUT_SECONDS:.0f} s"
                return PageFailure(reason=PageFailureReason.TIMEOUT, message=message)
            except aiohttp.ClientConnectorError as error:
                message = f"{url}: {error}"
                return PageFailure(reason=PageFailureReason.NO_CONNECTION, message=message)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                # ValueError: what answers is no HTTP, or no URL can be made of the address.
                message = f"{url}: {type(error).__name__}: {error}"
                return PageFailure(reason=PageFailureReason.UNREADABLE, message=message)

    async def _get(self, url: str, max_bytes: int) -> str | PageFailure:
        async with self._session.get(url, allow_redirects=False) as response:
            if response.status != _HTTP_OK:
                message = f"{url} answered {response.status}"
                return PageFailure(reason=PageFailureReason.STATUS, message=message)
            if encoding := response.headers.get("Content-Encoding"):
                # Not asked for: a few bytes could unpack to gigabytes.
                message = f"{url} answered in {encoding!r}, which was not asked for"
                return PageFailure(reason=PageFailureReason.UNREADABLE, message=message[:200])
            page = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                page += chunk
                if len(page) > max_bytes:
                    message = f"{url} sends more than {max_bytes} bytes"
                    return PageFailure(reason=PageFailureReason.TOO_LARGE, message=message)
            return page.decode("utf-8", errors="replace")


@asynccontextmanager
async def open_page_reader() -> AsyncIterator[PageReader]:
    """A reader whose session closes with the context. No proxy, no redirects, no cookies."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity", "User-Agent": "memroute-operator"},
        auto_decompress=False,
        trust_env=False,
    ) as session:
        yield PageReader(session)


async def read_spread(
    targets: Sequence[Target],
    read: Callable[[Target], Awaitable[None]],
    *,
    over_seconds: float,
) -> None:
    """Read each target once, the starts spread evenly over ``over_seconds`` (0: all at once).

    Spread, 500 pages every five seconds are a page every ten milliseconds; all at once, they are
    a stall of the event loop every five seconds.
    """
    pause_seconds = over_seconds / len(targets) if targets else 0.0
    async with asyncio.TaskGroup() as group:
        for index, target in enumerate(targets):
            if pause_seconds and index:
                await asyncio.sleep(pause_seconds)
            group.create_task(_call(read, target))


async def _call(read: Callable[[Target], Awaitable[None]], target: Target) -> None:
    await read(target)
