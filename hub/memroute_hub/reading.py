"""One model, from the first request to the last: the list of files, then the few small ones.

The list is that of one commit, and the files are asked for at that commit: a branch that moves
meanwhile mixes nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx2
from huggingface_hub import hf_hub_url

from memroute_hub import failures
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
from memroute_hub.names import is_commit
from memroute_hub.transport import Answer, Transport

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


class Reading:
    """One model, from the first request to the last."""

    def __init__(
        self, transport: Transport, asked: Asked, known: Callable[[str], HubModel | None]
    ) -> None:
        """``known``: what is kept of a commit."""
        self._transport = transport
        self._asked = asked
        self._known = known

    async def model(self) -> HubModel:
        """The facts. Raises ``HubError``."""
        asked = self._asked
        name = asked.name
        info = await self._info()
        commit = info.get("sha")
        listed = info.get("siblings")
        if not isinstance(commit, str) or not is_commit(commit) or not isinstance(listed, list):
            raise failures.no_hub(asked, "it names neither a commit nor files")
        known = self._known(commit)
        if known is not None:
            # The hub has just said that this is the commit, which cannot have changed.
            return replace(known, source=FactsSource.HUB)
        files = {one.path: one for one in map(_sibling, listed[:MAX_LISTED_FILES]) if one}
        if CONFIG not in files:
            message = f"{name} has no {CONFIG}: {without_config(files.values())}"
            raise HubError(HubReason.CONFIG_MISSING, message)
        if any(f.size_bytes is None and f.path.endswith(WEIGHT_SUFFIXES) for f in files.values()):
            files |= await self._sizes(commit)
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
        answer = await self._list(f"{path}?{urlencode({'blobs': 'true'})}")
        if answer is None:
            raise failures.no_hub(self._asked, "it has no list of files")
        return self._json(answer)

    async def _list(self, url: str) -> Answer | None:
        what = "the list of files"
        return await self._transport.get(url, max_bytes=MAX_LIST_BYTES, what=what)

    async def _sizes(self, commit: str) -> dict[str, RepositoryFile]:
        """The list with sizes, for hubs whose short one has none; nothing where there is none."""
        try:
            return await self._tree(commit)
        except HubError as error:
            if error.is_transient:
                raise
            return {}

    async def _tree(self, commit: str) -> dict[str, RepositoryFile]:
        base = f"{self._asked.endpoint}/api/models/{self._asked.name.repository}/tree/{commit}"
        url: str | None = f"{base}?{urlencode({'recursive': 'true', 'expand': 'false'})}"
        found: dict[str, RepositoryFile] = {}
        for _ in range(MAX_TREE_PAGES):
            answer = None if url is None else await self._list(url)
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
        answer = await self._transport.get(url, max_bytes=limit, what=file)
        if answer is None:
            return None
        self._refuse_html(answer)
        return read_object(answer.body, f"{file} of {self._asked.name}")

    def _json(self, answer: Answer) -> dict[str, Any]:
        """An answer of the API. Raises ``HubError`` when it is none."""
        self._refuse_html(answer)
        try:
            return parse_object(answer.body)
        except UnreadableDocumentError as error:
            raise failures.no_hub(self._asked, f"its list of files {error}") from error

    def _refuse_html(self, answer: Answer) -> None:
        if answer.is_html:
            raise failures.no_hub(self._asked, "it sends a web page")


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
