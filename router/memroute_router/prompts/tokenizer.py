"""Prompts to token ids, as engines make them: a tokenizer and a chat template from a folder.

A folder is what a model's repository holds: ``tokenizer.json``, and for conversations a template
in ``chat_template.jinja`` or in ``tokenizer_config.json``. Tokenizing happens beside the event
loop, in threads; what it cannot do (a template that fails, an image, too many at once) is estimated
as without it, and never a reason to refuse.
"""

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from tokenizers import Tokenizer

from memroute_router.requests import MediaFamily, media_family

LOGGER = logging.getLogger(__name__)
NUM_THREADS = 2
MAX_WAITING = 64
# More prompts than that at once are estimated: the router would fall behind.
# Of a name of a file, on every file system that there is. Unit: bytes.
MAX_NAME_BYTES = 255
AGAIN_SECONDS = 30.0
# Before a folder that cannot be used is read again: it may be on its way. Chosen by hand.
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


class TokenizerError(Exception):
    """The folder holds no tokenizer that can be used; the message says why."""


class PromptTokenizer:
    """One model's. Never changed; used from several threads."""

    def __init__(
        self, tokenizer: Tokenizer, template: jinja2.Template | None, special: dict[str, str]
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._special = special
        """Texts of special tokens by their names, which templates use."""

    @classmethod
    def load(cls, folder: Path) -> "PromptTokenizer":
        """Read a folder. Raises ``TokenizerError``."""
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing narrower
            msg = f"{folder / 'tokenizer.json'}: {error}"
            raise TokenizerError(msg) from error
        path = folder / "tokenizer_config.json"
        try:
            config = json.loads(path.read_text()) if path.exists() else {}
            beside = folder / "chat_template.jinja"
            source = beside.read_text() if beside.exists() else _template_of(config)
            template = None if source is None else _environment().from_string(source)
        except (OSError, ValueError, jinja2.TemplateError) as error:
            msg = f"{folder}: {error}"
            raise TokenizerError(msg) from error
        special = {
            name: text
            for name in ("bos_token", "eos_token", "unk_token", "pad_token")
            if (text := _text_of(config.get(name))) is not None
        }
        return cls(tokenizer, template, special)

    def encode(self, document: dict[str, Any]) -> list[int] | None:
        """Ids of a request's prompt; None when they cannot be known here."""
        prompt = document.get("prompt")
        if isinstance(prompt, str):
            return list(self._tokenizer.encode(prompt).ids)
        messages = document.get("messages")
        if not isinstance(messages, list) or self._template is None:
            return None
        text = self._rendered(document, messages)
        if text is None:
            return None
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _rendered(self, document: dict[str, Any], messages: list[Any]) -> str | None:
        plain = [_plain(message) for message in messages]
        if self._template is None or any(message is None for message in plain):
            return None
        own = document.get("chat_template_kwargs")
        try:
            return self._template.render(
                {
                    **self._special,
                    "messages": plain,
                    "tools": document.get("tools") or None,
                    "documents": document.get("documents"),
                    "add_generation_prompt": document.get("add_generation_prompt", True),
                    **(own if isinstance(own, dict) else {}),
                }
            )
        except Exception as error:  # noqa: BLE001 - a template may fail in any way; the engine says so
            LOGGER.debug("chat template failed error=%s", error)
            return None


class Tokenizers:
    """All models' tokenizers, and the threads that use them. Owns both."""

    def __init__(self, folder: Path | None) -> None:
        """``folder``: holds a folder for each model, named as clients name it."""
        self.folder = folder
        self._loaded: dict[Path, PromptTokenizer] = {}
        self._again_at_seconds: dict[Path, float] = {}
        """When folders without a usable tokenizer are read again; never while one is being read."""
        self._media: dict[tuple[str, str | None], MediaFamily] = {}
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="tokenizer")
        # Of their own: a disk that hangs does not stop those that are read already.
        self._readers = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="tokenizer-read")
        self._told: dict[Path, str] = {}
        self._num_waiting = 0

    def of(self, model: str, own_folder: str | None) -> PromptTokenizer | None:
        """A model's; None where it has none, or none yet: it is read in a thread.

        A folder that cannot be used is read again after a while; what is wrong with it is said each
        time that it is something else.
        """
        path = self._path(model, own_folder)
        if path is None:
            return None
        found = self._loaded.get(path)
        if found is None and time.monotonic() >= self._again_at_seconds.get(path, 0.0):
            self._read_soon(path, is_named=own_folder is not None)
        return found

    def media(self, model: str, own_folder: str | None) -> MediaFamily:
        """How a model counts images: by the ``config.json`` of its folder, else by its name."""
        key = model, own_folder
        family = self._media.get(key)
        if family is None:
            family = self._media[key] = media_family(model, self._config(model, own_folder))
        return family

    def encode(
        self,
        tokenizer: PromptTokenizer,
        document: dict[str, Any],
        on_done: Callable[[list[int] | None], None],
    ) -> bool:
        """Tokenize in a thread; ``on_done`` hears of it in the loop. False: too many at once."""
        if self._num_waiting >= MAX_WAITING:
            return False
        self._num_waiting += 1
        loop = asyncio.get_running_loop()

        def told(future: "Future[list[int] | None]") -> None:
            error = future.exception()
            if error is not None:
                LOGGER.warning("tokenizing failed error=%s", error)
            ids = None if error is not None else future.result()
            loop.call_soon_threadsafe(self._done, on_done, ids)

        self._threads.submit(tokenizer.encode, document).add_done_callback(told)
        return True

    def close(self) -> None:
        """End the threads; nobody waits for what they do."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _read_soon(self, path: Path, *, is_named: bool) -> None:
        """Read a folder of 10 to 20 MB beside the event loop."""
        self._again_at_seconds[path] = math.inf
        loop = asyncio.get_running_loop()

        def read(future: "Future[PromptTokenizer | None]") -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is not None:
                LOGGER.error("tokenizer not read folder=%s error=%r", path, error)
            found = None if error is not None else future.result()
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._was_read, path, found)

        self._readers.submit(self._load, path, is_named=is_named).add_done_callback(read)

    def _was_read(self, path: Path, tokenizer: PromptTokenizer | None) -> None:
        if tokenizer is None:
            self._again_at_seconds[path] = time.monotonic() + AGAIN_SECONDS
        else:
            self._loaded[path] = tokenizer
            self._told.pop(path, None)

    def _done(self, on_done: Callable[[list[int] | None], None], ids: list[int] | None) -> None:
        self._num_waiting -= 1
        on_done(ids)

    def _load(self, path: Path, *, is_named: bool) -> PromptTokenizer | None:
        if not is_named and not (path.is_dir() and self._is_inside(path)):
            return None
        try:
            tokenizer = PromptTokenizer.load(path)
        except TokenizerError as error:
            if self._told.get(path) != str(error):
                self._told[path] = str(error)
                LOGGER.error("no tokenizer, prompts are estimated error=%s", error)  # noqa: TRY400 - the message says it all
            return None
        LOGGER.info("tokenizer loaded folder=%s", path)
        return tokenizer

    def _config(self, model: str, own_folder: str | None) -> dict[str, Any] | None:
        path = self._path(model, own_folder)
        if path is None or (own_folder is None and not self._is_inside(path)):
            return None
        try:
            config = json.loads((path / "config.json").read_text())
        except (OSError, ValueError):
            return None
        return config if isinstance(config, dict) else None

    def _path(self, model: str, own_folder: str | None) -> Path | None:
        """Where a model's tokenizer should be; None: nowhere."""
        if own_folder is not None:
            return Path(own_folder)
        if self.folder is None or not is_folder_name(model):
            return None
        return self.folder / model

    def _is_inside(self, path: Path) -> bool:
        """Whether it is in the folder, whatever links lead to."""
        return self.folder is not None and path.resolve().is_relative_to(self.folder.resolve())


def is_folder_name(model: str) -> bool:
    """Whether a model's name may name a folder below another one, as ``org/model``.

    Whoever may create a ModelDeployment chooses it: ``..``, ``/`` at its beginning, a NUL.
    """
    try:
        num_bytes = len(model.encode())
    except UnicodeEncodeError:
        return False
    return (
        0 < num_bytes <= MAX_NAME_BYTES
        and model.isprintable()
        and not {"", ".", ".."}.intersection(model.split("/"))
    )


def _template_of(config: dict[str, Any]) -> str | None:
    """The default one, where there are several."""
    given = config.get("chat_template")
    if isinstance(given, list):
        named = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}
        given = named.get("default")
    return given if isinstance(given, str) else None


def _text_of(token: object) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _plain(message: object) -> dict[str, Any] | None:
    """A message as templates take it; None when it holds more than text."""
    if not isinstance(message, dict):
        return None
    content = message.get("content")
    if not isinstance(content, list):
        return message
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in _TEXT_PARTS:
            return None
        texts.append(str(part.get("text", "")))
    return {**message, "content": "\n".join(texts)}


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """What templates are written for (transformers' ``apply_chat_template``)."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
    return environment


def _tojson(value: object, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
