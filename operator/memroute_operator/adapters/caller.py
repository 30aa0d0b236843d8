"""Calls to a replica's pod: the container that fetches adapters, and the engine's own.

What answers is a process that memroute does not control: each call is bounded in time and bytes,
and whatever comes of it is a value.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from memroute_operator.readings.pages import page_url

# From the connection to the last byte, in seconds: an engine reads an adapter of some hundred MB
# from a network disk, between two of its steps. Chosen by hand; nothing waits for it but the next
# call to the same replica.
LOAD_SECONDS = 120.0
ASK_SECONDS = 5.0
MAX_BYTES = 1024 * 1024
OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a call. ``status`` 0: nothing answered, and ``text`` says why."""

    status: int
    text: str

    @property
    def is_good(self) -> bool:
        """Whether it was done."""
        return self.status == OK


class Caller:
    """Calls pods. Owns the HTTP session; make it with ``open_caller``."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def call(
        self,
        method: str,
        address: str | None,
        port: int,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        seconds: float = ASK_SECONDS,
    ) -> Answer:
        """The answer of that address. Raises nothing."""
        url = page_url(address or "", port, path)
        if url is None:
            return Answer(status=0, text=f"{address!r} is no IP address")
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.request(method, url, json=body, allow_redirects=False) as response,
            ):
                data = await response.content.read(MAX_BYTES)
                while len(data) < MAX_BYTES and (more := await response.content.read(MAX_BYTES)):
                    data += more
                return Answer(status=response.status, text=data.decode("utf-8", "replace"))
        except TimeoutError:
            return Answer(status=0, text=f"{url} did not answer within {seconds:.0f} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(status=0, text=f"{url}: {type(error).__name__}: {error}")


@asynccontextmanager
async def open_caller() -> AsyncIterator[Caller]:
    """A caller whose session closes with the context. No proxy, no redirects, no cookies."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "memroute-operator"},
        trust_env=False,
    ) as session:
        yield Caller(session)
