"""Ranges of files over HTTP, alike for hubs and S3 stores."""

import re
from collections.abc import Iterator

import httpx2

from memroute_fetch.remotes.remote import Body

# Seconds to connect, and without a byte: chosen by hand, twice what a loaded CDN pauses.
CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
# Bytes that are handed on at once: four reads of the socket. Past it nothing gets faster, and what
# a killed program has in hand is lost.
PIECE_BYTES = 256 * 2**10
PARTIAL, PAST_THE_END = 206, 416
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def new_client() -> httpx2.Client:
    """A client that uses the environment's proxies and certificates; for any number of threads.

    A redirection to another host is followed without the token.
    """
    timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, pool=None)
    return httpx2.Client(follow_redirects=True, timeout=timeout)


def range_header(start: int, end: int, size_bytes: int) -> dict[str, str]:
    """``Range``, unless it is the whole file that is asked for."""
    is_whole = start == 0 and end >= size_bytes
    return {} if is_whole else {"range": f"bytes={start}-{end - 1}"}


def is_past_the_end(response: httpx2.Response) -> bool:
    """Whether the source has no byte at the offset that was asked for."""
    return response.status_code == PAST_THE_END


def body_of(response: httpx2.Response) -> Body:
    """The bytes that a successful answer brings, and where they belong."""
    chunks = _pieces(response)
    if response.status_code != PARTIAL:
        length = response.headers.get("content-length", "")
        return Body(0, int(length) if length.isdecimal() else None, chunks)
    found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
    if found is None:
        # It says that it is a part, and not of what: as good as a connection that broke.
        message = "a part of a file came without Content-Range"
        raise httpx2.RemoteProtocolError(message)
    total = None if found[3] == "*" else int(found[3])
    return Body(int(found[1]), total, chunks)


def _pieces(response: httpx2.Response) -> Iterator[bytes]:
    """The body. What came before a connection broke comes out before the error does."""
    gathered = bytearray()
    try:
        for piece in response.iter_raw():
            gathered += piece
            if len(gathered) >= PIECE_BYTES:
                yield bytes(gathered)
                gathered.clear()
    except httpx2.HTTPError:
        if gathered:
            yield bytes(gathered)
        raise
    if gathered:
        yield bytes(gathered)
