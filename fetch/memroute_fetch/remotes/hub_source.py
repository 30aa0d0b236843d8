"""A commit of a hub's repository: its list of files, and their bytes by plain HTTP.

huggingface_hub makes addresses and headers, and says what an error means. Its downloads are not
used: they compare sizes alone, leave orphans when they are killed, and begin anew each time.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2
from huggingface_hub import hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from memroute_fetch.checksums import Check, CheckKind
from memroute_fetch.failures import ExitCode, FetchError, TransientError, from_hub
from memroute_fetch.remotes.http import READ_SECONDS, body_of, is_past_the_end, range_header
from memroute_fetch.remotes.remote import Body, RemoteFile, RemoteSizeError, checked_path
from memroute_fetch.sources import HubSource
from memroute_hub import failures
from memroute_hub.errors import HubError
from memroute_hub.facts import size_or_none
from memroute_hub.failures import Asked
from memroute_hub.settings import SettingsError, Token, checked_endpoint
from memroute_hub.transport import Transport, new_session
from memroute_hub.tree import tree_entries

# Seconds for all pages of the list: chosen by hand, ten times what the largest repositories take.
LIST_SECONDS = 60.0
# What a person who reads a pod's status can change.
TOKEN_HINT = "HF_TOKEN, a Secret of model.source"  # noqa: S105 - words, no token
SHA256_DIGITS, SHA1_DIGITS = 64, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """One commit. Owns nothing: the client is somebody else's."""

    source: HubSource
    client: httpx2.Client
    asked: Asked
    headers: dict[str, str]

    @property
    def commit(self) -> str:
        """The commit that is fetched."""
        return self.source.commit

    def files(self) -> list[RemoteFile]:
        """All files. Raises ``FetchError`` and ``TransientError``."""
        try:
            entries = asyncio.run(self._entries())
        except HubError as error:
            raise _told(error) from error
        if not entries:
            raise from_hub(failures.no_hub(self.asked, "it has no list of files"))
        return [self._file(entry) for entry in entries]

    def described(self, file: RemoteFile) -> RemoteFile:
        """The same: the list has all checksums."""
        return file

    @contextmanager
    def open(self, file: RemoteFile, start: int, end: int) -> Iterator[Body]:
        """Bytes of a file. Each request asks the hub anew: addresses of CDNs expire."""
        asked = self.asked
        repository, commit = self.source.repository, self.source.commit
        url = hf_hub_url(repository, file.path, revision=commit, endpoint=asked.endpoint)
        headers = self.headers | range_header(start, end, file.size_bytes)
        try:
            with self.client.stream("GET", url, headers=headers) as response:
                if is_past_the_end(response):
                    problem = f"it ends at or before byte {start:,} of {file.size_bytes:,}"
                    raise RemoteSizeError(problem)
                self._refuse(response, file)
                yield body_of(response)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise _told(failures.unanswered(error, asked)) from error

    async def _entries(self) -> list[dict[str, Any]]:
        async with new_session() as session:
            transport = Transport(session, asyncio.sleep, headers=self.headers, asked=self.asked)
            try:
                async with asyncio.timeout(LIST_SECONDS):
                    return await tree_entries(transport, self.asked, self.source.commit)
            except TimeoutError as error:
                raise failures.unanswered(error, self.asked) from error

    def _file(self, entry: dict[str, Any]) -> RemoteFile:
        path, lfs = entry.get("path"), entry.get("lfs")
        lfs = lfs if isinstance(lfs, dict) else {}
        size = size_or_none(lfs.get("size", entry.get("size")))
        if not isinstance(path, str) or size is None:
            error = failures.no_hub(self.asked, "its list has a file without a name or a size")
            raise from_hub(error)
        # Hubs of all ages: either name is in use.
        sha256, sha1 = lfs.get("oid", lfs.get("sha256")), entry.get("oid", entry.get("blobId"))
        checks: tuple[Check, ...] = ()
        if _is_hex(sha256, SHA256_DIGITS):
            checks = (Check(CheckKind.SHA256, str(sha256).lower()),)
        elif not lfs and _is_hex(sha1, SHA1_DIGITS):
            checks = (Check(CheckKind.GIT_SHA1, str(sha1).lower()),)
        identity = checks[0].value if checks else f"{self.source.commit}:{size}"
        return RemoteFile(
            path=checked_path(path), size_bytes=size, checks=checks, identity=identity
        )

    def _refuse(self, response: httpx2.Response, file: RemoteFile) -> None:
        """Raises what a status other than success means."""
        try:
            # Without its body, which nobody has read.
            bare = httpx2.Response(
                response.status_code, headers=_bare(response.headers), request=response.request
            )
            hf_raise_for_status(bare)
        except HfHubHTTPError as error:
            if failures.is_absent_file(error):
                message = f"{self.asked.name} lists {file.path}, and does not have it"
                raise FetchError(ExitCode.NOT_FOUND, message) from error
            raise _told(failures.refused(error, self.asked, datetime.now(UTC))) from error
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        is_page = kind == "text/html" and not file.path.endswith((".html", ".htm"))
        if not response.is_success or is_page:
            what = "it sends a web page" if is_page else f"it answers {response.status_code}"
            raise from_hub(failures.no_hub(self.asked, what))


def open_hub(source: HubSource, client: httpx2.Client, endpoint: str | None, token: Token) -> Hub:
    """The repository at its commit. Raises ``FetchError``."""
    try:
        address = checked_endpoint(endpoint)
        secret = token.read()
    except SettingsError as error:
        raise FetchError(ExitCode.USAGE, str(error)) from error
    except HubError as error:
        raise from_hub(error) from error
    asked = Asked(
        name=source.name,
        endpoint=address,
        has_token=secret is not None,
        token_hint=TOKEN_HINT,
        timeout_seconds=READ_SECONDS,
    )
    headers = build_hf_headers(
        token=secret or False, library_name="memroute", headers={"accept-encoding": "identity"}
    )
    return Hub(source=source, client=client, asked=asked, headers=headers)


def _told(error: HubError) -> Exception:
    failure = from_hub(error)
    if error.is_transient:
        return TransientError(failure, error.retry_after_seconds)
    return failure


def _is_hex(value: object, num_digits: int) -> bool:
    return (
        isinstance(value, str)
        and len(value) == num_digits
        and all(digit in "0123456789abcdefABCDEF" for digit in value)
    )


def _bare(headers: httpx2.Headers) -> list[tuple[str, str]]:
    about_the_body = {"content-encoding", "content-length", "transfer-encoding"}
    return [pair for pair in headers.multi_items() if pair[0].lower() not in about_the_body]
