"""Requests to a hub, each of bounded size, some of them tried again.

huggingface_hub makes the session and says what an error means. Its own downloads are not used:
they bound neither bytes nor the whole time, and sleep as long as a 429 asks.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx2
from huggingface_hub import get_async_session
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import hf_raise_for_status

from memroute_hub import failures
from memroute_hub.errors import HubError, HubReason
from memroute_hub.failures import Asked

# Seconds without a byte, and to connect: huggingface_hub's own.
READ_SECONDS = 10.0
# Waits before another try of what may pass (a reset, a 502), in seconds: chosen by hand, because
# a person waits. A 429 is not tried again: it says when. Nor is a host that nobody listens on.
RETRY_SECONDS = (0.5, 2.0)
OK, NO_SUCH_RANGE = 200, 416
"""The whole of a file (a part of it is 206), and a file that ends before the part begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A body, and the headers that it came with."""

    body: bytes
    headers: httpx2.Headers

    @property
    def is_html(self) -> bool:
        """Whether it is a page for people: no hub answers with one."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        return kind in {"text/html", "application/xhtml+xml"}


def new_session() -> httpx2.AsyncClient:
    """A session of huggingface_hub, which uses the environment's proxies and certificates."""
    session = get_async_session()
    # Its own hook reads bodies of errors, and unpacks them: here they are not read at all.
    session.event_hooks = {"request": session.event_hooks.get("request", [])}
    return session


class Transport:
    """Asks about one model. Owns nothing: the session is somebody else's."""

    def __init__(
        self,
        session: httpx2.AsyncClient,
        pause: Callable[[float], Awaitable[None]],
        *,
        headers: Mapping[str, str],
        asked: Asked,
    ) -> None:
        self._session = session
        self._pause = pause
        self._headers = headers
        self._asked = asked

    async def get(
        self, url: str, *, max_bytes: int, what: str, start: int | None = None
    ) -> Answer | None:
        """What is there; None where a repository has no such file. Raises ``HubError``.

        ``what``: its name in a sentence. ``start``: with it only the ``max_bytes`` from there on
        are read, of a file that goes on, whether or not the hub knows Range requests.
        """
        for wait in RETRY_SECONDS:
            try:
                return await self._get(url, max_bytes, what, start)
            except HubError as error:
                is_passing = error.reason in {HubReason.HUB_UNREACHABLE, HubReason.HUB_FAILING}
                is_unknown = isinstance(error.__cause__, httpx2.ConnectError)
                if not is_passing or is_unknown or error.retry_after_seconds is not None:
                    raise
            await self._pause(wait)
        return await self._get(url, max_bytes, what, start)

    async def _get(self, url: str, max_bytes: int, what: str, start: int | None) -> Answer | None:
        asked = self._asked
        try:
            if start is None:
                response = await self._read(url, max_bytes, what)
            else:
                response = await self._read_part(url, start, max_bytes)
        except OfflineModeIsEnabled as error:
            raise failures.offline(asked) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise failures.unanswered(error, asked) from error
        if start is not None and response.status_code == NO_SUCH_RANGE:
            return None
        try:
            hf_raise_for_status(response)
        except HfHubHTTPError as error:
            if failures.is_absent_file(error):
                return None
            raise failures.refused(error, asked, datetime.now(UTC)) from error
        if not response.is_success:
            raise failures.no_hub(asked, f"it answers {response.status_code}")
        return Answer(body=response.content, headers=response.headers)

    async def _read_part(self, url: str, start: int, num_bytes: int) -> httpx2.Response:
        """A part of a file, whose connection is closed where it ends."""
        asked_for = {"range": f"bytes={start}-{start + num_bytes - 1}"}
        body = bytearray()
        timeout = min(READ_SECONDS, self._asked.timeout_seconds)
        async with self._session.stream(
            "GET", url, headers={**self._headers, **asked_for}, timeout=timeout
        ) as response:
            skip = start if response.status_code == OK else 0
            if response.is_success:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) >= skip + num_bytes:
                        break
            return httpx2.Response(
                response.status_code,
                headers=_without_body(response),
                content=bytes(body[skip : skip + num_bytes]),
                request=response.request,
            )

    async def _read(self, url: str, max_bytes: int, what: str) -> httpx2.Response:
        """A whole response, apart from its connection; without the body of an error."""
        body = bytearray()
        timeout = min(READ_SECONDS, self._asked.timeout_seconds)
        async with self._session.stream(
            "GET", url, headers=self._headers, timeout=timeout
        ) as response:
            if response.is_success:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > max_bytes:
                        raise failures.too_large(what, max_bytes, self._asked)
            return httpx2.Response(
                response.status_code,
                headers=_without_body(response),
                content=bytes(body),
                request=response.request,
            )


def _without_body(response: httpx2.Response) -> list[tuple[str, str]]:
    """The headers that are not about the body, which has been unpacked."""
    about_the_body = {"content-encoding", "content-length", "transfer-encoding"}
    return [pair for pair in response.headers.multi_items() if pair[0] not in about_the_body]
