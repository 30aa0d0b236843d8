"""Facts of a model from a hub: a list of files and a few small ones, never weights.

Everything about one model has one time limit (``settings``), and each file has a size that it
may have (``reading``). Addresses, headers, sessions and the meaning of errors are
huggingface_hub's (``transport``, ``failures``).

A commit cannot change: what is cached of it is not asked again. A branch or a tag is asked each
time, with one request when its commit is known.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx2
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import build_hf_headers, validate_repo_id

from memroute_hub import failures
from memroute_hub.cache import DiskCache
from memroute_hub.documents import printable
from memroute_hub.errors import HubError, HubReason
from memroute_hub.facts import HubModel
from memroute_hub.failures import Asked
from memroute_hub.names import ModelName, is_commit
from memroute_hub.reading import Reading
from memroute_hub.settings import HubSettings, Token
from memroute_hub.transport import Transport, new_session


@asynccontextmanager
async def open_hub(
    settings: HubSettings, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncIterator["Hub"]:
    """A hub whose connections close with the context. Proxies of the environment are used.

    ``pause``: what waits between tries, given seconds.
    """
    async with new_session() as session:
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

    async def resolve(self, name: ModelName, token: Token | None = None) -> HubModel:
        """The facts of a model. Raises ``HubError``.

        ``token``: instead of the program's own; then nothing is taken from the cache or kept.

        Where the hub cannot be asked what a branch or tag is now, its last known commit serves,
        and says so (``stale_because``).
        """
        settings = self._settings
        asked = Asked(
            name=name,
            endpoint=settings.endpoint,
            has_token=False,
            token_hint=settings.token_hint if token is None else token.hint or settings.token_hint,
            timeout_seconds=settings.timeout_seconds,
        )
        # What another token may read is not for who has this one.
        cache = self._cache if token is None else None
        commit = None if cache is None else cache.commit_of(name)
        known = _known(cache, name, commit)
        if settings.is_offline:
            if known is None:
                raise failures.offline(asked)
            return known if is_commit(name.wanted_revision) else _stale(known, "this is offline")
        if known is not None and is_commit(name.wanted_revision):
            return known
        try:
            validate_repo_id(name.repository)
        except HFValidationError as error:
            message = f"no hub has a model of that name: {printable(str(error))}"
            raise HubError(HubReason.MODEL_NAME_INVALID, message) from error
        secret = (token or settings.token).read()
        asked = replace(asked, has_token=secret is not None)
        headers = build_hf_headers(
            token=secret or False,
            library_name="memroute",
            headers={"accept-encoding": "identity"},
        )
        transport = Transport(self._session, self._pause, headers=headers, asked=asked)
        reading = Reading(transport, asked, lambda commit: _known(cache, name, commit))
        try:
            async with asyncio.timeout(settings.timeout_seconds):
                model = await reading.model()
        except TimeoutError as error:
            failure = failures.unanswered(error, asked)
        except HubError as error:
            failure = error
        else:
            if cache is not None:
                cache.keep(name, model)
            return model
        if failure.is_transient and known is not None:
            return _stale(known, failure.message)
        raise failure


def _known(cache: DiskCache | None, name: ModelName, commit: str | None) -> HubModel | None:
    return None if cache is None or commit is None else cache.model(name, commit)


def _stale(model: HubModel, why: str) -> HubModel:
    return replace(model, stale_because=why)
