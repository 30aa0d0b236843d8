"""One model, from the first request to the last: the list of files, then the few small ones.

The list is that of one commit, and the files are asked for at that commit: a branch that moves
meanwhile mixes nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

from huggingface_hub import hf_hub_url

from memroute.footprint.gguf_facts import gguf_facts
from memroute.footprint.weights.beside import (
    QUANTIZATION_FILES,
    needs_layers,
    says_quantization,
    with_quantization,
)
from memroute_hub import failures
from memroute_hub.documents import read_object
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
    without_config,
)
from memroute_hub.failures import Asked
from memroute_hub.gguf_files import SUFFIX, choose_gguf, models_of, read_header, weight_bytes
from memroute_hub.names import is_commit
from memroute_hub.transport import Transport
from memroute_hub.tree import json_of, listed, refuse_html, tree_entries

MIB = 1024 * 1024
CONFIG = "config.json"
GENERATION, TOKENIZER = "generation_config.json", "tokenizer_config.json"
INDEX = "model.safetensors.index.json"
# The most that a file of that name may have, in bytes. Chosen by hand, several times the largest
# published ones: a config.json with a list of 20,000 modules has 1 MiB, the index of a model of
# 384 experts some 20 MiB.
MAX_BYTES = {
    CONFIG: 8 * MIB,
    **dict.fromkeys(QUANTIZATION_FILES, 8 * MIB),
    GENERATION: MIB,
    TOKENIZER: 16 * MIB,
    INDEX: 64 * MIB,
}
# Bytes of an index that is read for its own total alone, chosen by hand: ten times that of a dense
# model of 70B. That of a large mixture of experts has 20 MiB.
SMALL_INDEX_BYTES = MIB
MAX_LISTED_FILES = 50_000


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
        is_of_file = CONFIG not in files or name.file is not None
        if is_of_file and models_of(files.values()):
            return await self._gguf(commit, files, is_gated=bool(info.get("gated")))
        if CONFIG not in files:
            message = f"{name} has no {CONFIG}: {without_config(files.values())}"
            raise HubError(HubReason.CONFIG_MISSING, message)
        if any(f.size_bytes is None and f.path.endswith(WEIGHT_SUFFIXES) for f in files.values()):
            files |= await self._sizes(commit)
        config = await self._needed(CONFIG, commit, files)
        config = await self._with_quantization(config, commit, files)
        index_total, indexed = index_facts(await self._index(commit, files))
        tokenizer = await self._unneeded(TOKENIZER, commit, files) or {}
        generation = await self._unneeded(GENERATION, commit, files) or {}
        return HubModel(
            endpoint=asked.endpoint,
            repository=name.repository,
            revision=name.wanted_revision,
            commit=commit,
            config=config,
            weight_files=weight_files(files.values(), indexed),
            index_total_bytes=index_total,
            tokenizer_max_tokens=tokens_or_none(tokenizer.get("model_max_length")),
            generation_max_tokens=tokens_or_none(generation.get("max_new_tokens")),
            is_gated=bool(info.get("gated")),
        )

    async def _with_quantization(
        self, config: dict[str, Any], commit: str, files: dict[str, RepositoryFile]
    ) -> dict[str, Any]:
        """The configuration with what the first file beside it says of its quantization."""
        if says_quantization(config) and not needs_layers(config):
            return config
        file = next((name for name in QUANTIZATION_FILES if name in files), None)
        if file is None:
            return config
        return with_quantization(config, {file: await self._optional(file, commit, files)})

    async def _gguf(
        self, commit: str, files: dict[str, RepositoryFile], *, is_gated: bool
    ) -> HubModel:
        """The facts of one GGUF file, by its header."""
        asked = self._asked
        if any(f.size_bytes is None and f.path.endswith(SUFFIX) for f in files.values()):
            files |= await self._sizes(commit)
        chosen = choose_gguf(files, asked.name.file, asked)
        header = await read_header(self._transport, asked, commit, chosen.first)
        return HubModel(
            endpoint=asked.endpoint,
            repository=asked.name.repository,
            revision=asked.name.wanted_revision,
            commit=commit,
            config=gguf_facts(header),
            weight_files=chosen.parts,
            is_gated=is_gated,
            file=chosen.first.path,
            gguf_bytes=weight_bytes(header, chosen),
        )

    async def _info(self) -> dict[str, Any]:
        name = self._asked.name
        revision = quote(name.wanted_revision, safe="")
        path = f"{self._asked.endpoint}/api/models/{name.repository}/revision/{revision}"
        answer = await listed(self._transport, f"{path}?{urlencode({'blobs': 'true'})}")
        if answer is None:
            raise failures.no_hub(self._asked, "it has no list of files")
        return json_of(answer, self._asked)

    async def _sizes(self, commit: str) -> dict[str, RepositoryFile]:
        """The list with sizes, for hubs whose short one has none; nothing where there is none."""
        try:
            return await self._tree(commit)
        except HubError as error:
            if error.is_transient:
                raise
            return {}

    async def _tree(self, commit: str) -> dict[str, RepositoryFile]:
        entries = await tree_entries(self._transport, self._asked, commit)
        return {one.path: one for one in map(_sibling, entries) if one}

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
        refuse_html(answer, self._asked)
        return read_object(answer.body, f"{file} of {self._asked.name}")


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
