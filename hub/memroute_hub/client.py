"""Facts of a model from a hub: a list of files and a few small ones, never weights.

Addresses, headers, sessions and the meaning of errors are huggingface_hub's. Its own downloads
are not used: they bound neither bytes nor the whole time, and sleep as long as a 429 asks. Here
everything about one model has one time limit, and each file has a size that it may have.

A commit cannot change: what is cached of it is not asked again. A branch or a tag is asked each
time, with one request when its commit is known.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx2
from huggingface_hub import get_async_session, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from memroute_hub import failures
from memroute_hub.cache import DiskCache
from memroute_hub.documents import UnreadableDocumentError, parse_object, read_object
from memroute_hub.errors import HubError, HubReason
from memroute_hub.facts import (
    WEIGHT_SUFFIXES,
    FactsSource,
    HubModel,
    RepositoryFile,
    index_facts,
    is_index_needed,
    size_or_none,
    tokens_or_none,
    weight_files,
    with_quantization,
    without_config,
)
from memroute_hub.failures import Asked
from memroute_hub.names import ModelName, is_commit
from memroute_hub.settings import HubSettings

MIB = 1024 * 1024
CONFIG, QUANTIZATION = "config.json", "hf_quant_config.json"
GENERATION, TOKENIZER = "generation_config.json", "tokenizer_config.json"
INDEX = "model.safetensors.index.json"
# The most that a file of that name may have, in bytes. Chosen by hand, several times the largest
# published ones: a config.json with a list of 20,000 modules has 1 MiB, the index of a model of
# 384 experts some 20 MiB.
MAX_BYTES = {
    CONFIG: 8 * MIB,
    QUANTIZATION: 8 * MIB,
    GENERATION: MIB,
    TOKENIZER: 16 * MIB,
    INDEX: 64 * MIB,
}
# Bytes of an index that is read for its own total alone, chosen by hand: ten times that of a dense
# model of 70B. That of a large mixture of experts has 20 MiB.
SMALL_INDEX_BYTES = MIB
# Bytes of the list of files: 300 a file, of which some repositories have thousands.
MAX_LIST_BYTES = 16 * MIB
MAX_LISTED_FILES = 50_000
# Pages of the list by folders (1,000 files each).
MAX_TREE_PAGES = 50
# Of an error's body nothing is needed: huggingface_hub reads its headers.
MAX_ERROR_BYTES = 64 * 1024
# Seconds without a byte, and to connect: huggingface_hub's own.
READ_SECONDS = 10.0
# Waits before another try of what may pass (a reset, a 502), in seconds: chosen by hand, because
# a person waits. A 429 is not tried again: it says when. Nor is a host that nobody listens on.
RETRY_SECONDS = (0.5, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    body: bytes
    headers: httpx2.Headers


@asynccontextmanager
async def open_hub(
    settings: HubSettings, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncIterator["Hub"]:
    """A hub whose connections close with the context. Proxies of the environment are used.

    ``pause``: what waits between tries, given seconds.
    """
    session = get_async_session()
    # huggingface_hub reads bodies of errors whole, and unpacks them: ours are bounded.
    session.event_hooks = {"request": session.event_hooks.get("request", [])}
    async with session:
        yield Hub(settings, session, pause)


class Hub:
    """Reads facts. Owns the session and what is on disk; make it with ``open_hub``."""

    def __init__(
        self,
        settings: HubSettings,
        session: httpx2.AsyncClient,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._session = session
        self._pause = pause
        folder = settings.cache_folder
        self._cache = None if folder is None else DiskCache(folder, settings.endpoint)

    async def resolve(self, name: ModelName) -> HubModel:
        """The facts of a model. Raises ``HubError``.

        Where the hub cannot be asked what a branch or tag is now, its last known commit serves,
        and says so (``stale_because``).
        """
        settings = self._settings
        asked = Asked(
            name=name,
            endpoint=settings.endpoint,
            has_token=False,
            token_hint=settings.token_hint,
            timeout_seconds=settings.timeout_seconds,
        )
        commit = None if self._cache is None else self._cache.commit_of(name)
        known = self._known(name, commit)
        if settings.is_offline:
            if known is None:
                raise failures.offline(asked)
            return known if is_commit(name.wanted_revision) else _stale(known, "this is offline")
        if known is not None and is_commit(name.wanted_revision):
            return known
        token = settings.token.read()
        reading = _Reading(self, replace(asked, has_token=token is not None), token)
        try:
            async with asyncio.timeout(settings.timeout_seconds):
                model = await reading.model()
        except TimeoutError as error:
            failure = failures.unanswered(error, asked)
        except HubError as error:
            failure = error
        else:
            if self._cache is not None:
                self._cache.keep(name, model)
            return model
        if failure.is_transient and known is not None:
            return _stale(known, failure.message)
        raise failure

    def _known(self, name: ModelName, commit: str | None) -> HubModel | None:
        if self._cache is None or commit is None:
            return None
        return self._cache.model(name, commit)


def _stale(model: HubModel, why: str) -> HubModel:
    return replace(model, stale_because=why)


class _Reading:
    """One model, from the first request to the last."""

    def __init__(self, hub: Hub, asked: Asked, token: str | None) -> None:
        self._hub = hub
        self._asked = asked
        self._headers = build_hf_headers(
            token=token or False,
            library_name="memroute",
            headers={"accept-encoding": "identity"},
        )

    async def model(self) -> HubModel:
        """The facts. Raises ``HubError``."""
        asked = self._asked
        name = asked.name
        info = await self._info()
        commit = info.get("sha")
        listed = info.get("siblings")
        if not isinstance(commit, str) or not is_commit(commit) or not isinstance(listed, list):
            raise failures.no_hub(asked, "it names neither a commit nor files")
        known = self._hub._known(name, commit)  # noqa: SLF001 - a part of the hub
        if known is not None:
            # The hub has just said that this is the commit, which cannot have changed.
            return replace(known, source=FactsSource.HUB)
        files = {one.path: one for one in map(_sibling, listed[:MAX_LISTED_FILES]) if one}
        if CONFIG not in files:
            message = f"{name} has no {CONFIG}: {without_config(files.values())}"
            raise HubError(HubReason.CONFIG_MISSING, message)
        if any(f.size_bytes is None and f.path.endswith(WEIGHT_SUFFIXES) for f in files.values()):
            files |= await self._tree(commit)
        config = await self._needed(CONFIG, commit, files)
        quantization = await self._optional(QUANTIZATION, commit, files)
        index_total, indexed = index_facts(await self._index(commit, files))
        tokenizer = await self._unneeded(TOKENIZER, commit, files) or {}
        generation = await self._unneeded(GENERATION, commit, files) or {}
        return HubModel(
            endpoint=asked.endpoint,
            repository=name.repository,
            revision=name.wanted_revision,
            commit=commit,
            config=with_quantization(config, quantization),
            weight_files=weight_files(files.values(), indexed),
            index_total_bytes=index_total,
            tokenizer_max_tokens=tokens_or_none(tokenizer.get("model_max_length")),
            generation_max_tokens=tokens_or_none(generation.get("max_new_tokens")),
            is_gated=bool(info.get("gated")),
        )

    async def _info(self) -> dict[str, Any]:
        name = self._asked.name
        revision = quote(name.wanted_revision, safe="")
        path = f"{self._asked.endpoint}/api/models/{name.repository}/revision/{revision}"
        answer = await self._get(f"{path}?{urlencode({'blobs': 'true'})}", MAX_LIST_BYTES)
        if answer is None:
            raise failures.no_hub(self._asked, "it has no list of files")
        return self._json(answer)

    async def _tree(self, commit: str) -> dict[str, RepositoryFile]:
        """The list with sizes, for hubs whose short one has none."""
        base = f"{self._asked.endpoint}/api/models/{self._asked.name.repository}/tree/{commit}"
        url: str | None = f"{base}?{urlencode({'recursive': 'true', 'expand': 'false'})}"
        found: dict[str, RepositoryFile] = {}
        for _ in range(MAX_TREE_PAGES):
            answer = None if url is None else await self._get(url, MAX_LIST_BYTES)
            if answer is None:
                break
            # An array: wrapped, so that it is read like everything else.
            page = self._json(replace(answer, body=b'{"files":' + answer.body + b"}"))["files"]
            for entry in page if isinstance(page, list) else ():
                one = _sibling(entry)
                if one is not None and entry.get("type") == "file":
                    found[one.path] = one
            url = self._next_page(answer.headers)
        return found

    def _next_page(self, headers: httpx2.Headers) -> str | None:
        """Where the list goes on; None at its end, and for an address of another host."""
        links = httpx2.Response(200, headers={"link": headers.get("link", "")}).links
        url = links.get("next", {}).get("url")
        try:
            is_own = url is not None and urlsplit(url)[:2] == urlsplit(self._asked.endpoint)[:2]
        except ValueError:
            return None
        return url if is_own else None

    async def _index(self, commit: str, files: dict[str, RepositoryFile]) -> dict[str, Any]:
        """The index where it is small, or says what the list does not; else nothing."""
        listed = files.get(INDEX)
        size = None if listed is None else listed.size_bytes
        if size is not None and size > SMALL_INDEX_BYTES and not is_index_needed(files):
            return {}
        return await self._unneeded(INDEX, commit, files) or {}

    async def _needed(
        self, file: str, commit: str, files: dict[str, RepositoryFile]
    ) -> dict[str, Any]:
        document = await self._optional(file, commit, files)
        if document is None:
            raise failures.no_hub(self._asked, f"it lists {file}, and does not have it")
        return document

    async def _unneeded(
        self, file: str, commit: str, files: dict[str, RepositoryFile]
    ) -> dict[str, Any] | None:
        """As ``_optional``; None as well where the file cannot be read as JSON."""
        try:
            return await self._optional(file, commit, files)
        except HubError as error:
            if error.reason is HubReason.CONFIG_UNREADABLE:
                return None
            raise

    async def _optional(
        self, file: str, commit: str, files: dict[str, RepositoryFile]
    ) -> dict[str, Any] | None:
        """A file as an object; None when the repository has none. Raises ``HubError``."""
        listed, limit = files.get(file), MAX_BYTES[file]
        if listed is None:
            return None
        if listed.size_bytes is not None and listed.size_bytes > limit:
            raise failures.too_large(file, limit, self._asked)
        repository, endpoint = self._asked.name.repository, self._asked.endpoint
        url = hf_hub_url(repository, file, revision=commit, endpoint=endpoint)
        answer = await self._get(url, limit, file)
        if answer is None:
            return None
        self._refuse_html(answer)
        return read_object(answer.body, f"{file} of {self._asked.name}")

    def _json(self, answer: _Answer) -> dict[str, Any]:
        """An answer of the API. Raises ``HubError`` when it is none."""
        self._refuse_html(answer)
        try:
            return parse_object(answer.body)
        except UnreadableDocumentError as error:
            raise failures.no_hub(self._asked, f"its list of files {error}") from error

    def _refuse_html(self, answer: _Answer) -> None:
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in {"text/html", "application/xhtml+xml"}:
            raise failures.no_hub(self._asked, "it sends a web page")

    async def _get(
        self, url: str, max_bytes: int, what: str = "the list of files"
    ) -> _Answer | None:
        """What is there; None where a repository has no such file. Raises ``HubError``."""
        for wait in RETRY_SECONDS:
            try:
                return await self._get_once(url, max_bytes, what)
            except HubError as error:
                is_passing = error.reason in {HubReason.HUB_UNREACHABLE, HubReason.HUB_FAILING}
                is_unknown = isinstance(error.__cause__, httpx2.ConnectError)
                if not is_passing or is_unknown or error.retry_after_seconds is not None:
                    raise
            await self._hub._pause(wait)  # noqa: SLF001 - a part of the hub
        return await self._get_once(url, max_bytes, what)

    async def _get_once(self, url: str, max_bytes: int, what: str) -> _Answer | None:
        asked = self._asked
        try:
            response = await self._stream(url, max_bytes, what)
        except OfflineModeIsEnabled as error:
            raise failures.offline(asked) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise failures.unanswered(error, asked) from error
        try:
            hf_raise_for_status(response)
        except HfHubHTTPError as error:
            if failures.is_absent_file(error):
                return None
            raise failures.refused(error, asked, datetime.now(UTC)) from error
        if not response.is_success:
            raise failures.no_hub(asked, f"it answers {response.status_code}")
        return _Answer(body=response.content, headers=response.headers)

    async def _stream(self, url: str, max_bytes: int, what: str) -> httpx2.Response:
        """A whole response of bounded size, apart from its connection."""
        timeout = min(READ_SECONDS, self._asked.timeout_seconds)
        async with self._hub._session.stream(  # noqa: SLF001 - a part of the hub
            "GET", url, headers=self._headers, timeout=timeout
        ) as response:
            limit = max_bytes if response.is_success else MAX_ERROR_BYTES
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > limit:
                    if response.is_success:
                        raise failures.too_large(what, max_bytes, self._asked)
                    break
            about_the_body = {"content-encoding", "content-length", "transfer-encoding"}
            headers = [
                pair for pair in response.headers.multi_items() if pair[0] not in about_the_body
            ]
            return httpx2.Response(
                response.status_code,
                headers=headers,
                content=bytes(body) if response.is_success else b"",
                request=response.request,
            )


def _sibling(entry: object) -> RepositoryFile | None:
    """A file of either list; None for what is none."""
    if not isinstance(entry, dict):
        return None
    path = entry.get("rfilename", entry.get("path"))
    if not isinstance(path, str) or not path:
        return None
    lfs = entry.get("lfs")
    size = lfs.get("size") if isinstance(lfs, dict) else None
    return RepositoryFile(
        path=path, size_bytes=size_or_none(entry.get("size") if size is None else size)
    )
