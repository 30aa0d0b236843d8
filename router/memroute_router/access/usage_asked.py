"""Engines are asked for the usage of a stream, and clients that did not ask do not see it.

A stream of OpenAI's API says how many tokens it had only where ``stream_options.include_usage``
asks for it. Quotas are settled by that number. So the router asks: in the body that goes to the
engine, and takes the event with the usage, which has no choices, out of the answer again.

The same place asks engines to keep a tenant's cached prompts apart (``cache_salt``).
"""

import re
from typing import Any, Final

import orjson

# Streams whose usage has to be asked for; others bring it with their last event.
USAGE_PATHS: Final = frozenset({b"/v1/chat/completions", b"/v1/completions"})
# Bodies that vLLM and SGLang read a salt of.
SALT_PATHS: Final = frozenset({b"/v1/chat/completions", b"/v1/completions", b"/v1/responses"})
_OPTIONS: Final = b'"stream_options"'
_SALT: Final = b'"cache_salt"'
_ASKED: Final = b',"stream_options":{"include_usage":true}'
# An event whose list of choices is empty and that carries a usage. Inside a JSON string every
# quotation mark is escaped: no text of a model can look like it.
_NO_CHOICES: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
# An event with the empty line that ends it, however lines end.
_EVENT: Final = re.compile(rb".+?(?:\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n)", re.DOTALL)


class Edited:
    """A body for an engine; ``hides_usage``: whether the client did not ask for the usage."""

    __slots__ = ("body", "hides_usage")

    def __init__(self, body: bytes, *, hides_usage: bool) -> None:
        self.body = body
        self.hides_usage = hides_usage


def edit(body: bytes, path: bytes, *, asks_usage: bool, cache_salt: str) -> Edited:
    """The body with what the router asks of the engine.

    ``asks_usage``: it is a stream whose tokens count. ``cache_salt``: empty: none is set. What the
    client has asked for stays. A body that could not be parsed comes back as it is.
    """
    asks_usage = asks_usage and path in USAGE_PATHS
    salts = bool(cache_salt) and path in SALT_PATHS
    if not asks_usage and not salts:
        return Edited(body, hides_usage=False)
    if (asks_usage and _OPTIONS in body) or (salts and _SALT in body):
        return _rewrite(body, asks_usage=asks_usage, cache_salt=cache_salt if salts else "")
    # Behind the client's fields, of which there is one at least: the model. Of a name that is there
    # twice the last one counts, and a client's may be written with escapes ("stream\u005foptions").
    end = body.rfind(b"}")
    if end < 0:
        return Edited(body, hides_usage=False)
    added = _ASKED if asks_usage else b""
    if salts:
        added += b',"cache_salt":%b' % orjson.dumps(cache_salt)
    return Edited(body[:end] + added + body[end:], hides_usage=asks_usage)


def _rewrite(body: bytes, *, asks_usage: bool, cache_salt: str) -> Edited:
    """The client has set one of the fields (or its text speaks of them): read, and write anew."""
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Edited(body, hides_usage=False)
    if not isinstance(document, dict):
        return Edited(body, hides_usage=False)
    hides_usage = False
    if asks_usage:
        options = document.get("stream_options")
        if options is None:
            options = {}
        if isinstance(options, dict) and not options.get("include_usage"):
            document["stream_options"] = {**options, "include_usage": True}
            hides_usage = True
    if cache_salt:
        theirs = document.get("cache_salt")
        own = isinstance(theirs, str) and theirs != ""
        document["cache_salt"] = f"{cache_salt}/{theirs}" if own else cache_salt
    return Edited(orjson.dumps(document), hides_usage=hides_usage)


def without_usage(events: bytes) -> bytes:
    """Whole events, without those that carry nothing but the usage."""
    if _NO_CHOICES.search(events) is None:
        return events
    kept: list[bytes] = []
    at = 0
    for found in _EVENT.finditer(events):
        event = found[0]
        at = found.end()
        if _NO_CHOICES.search(event) is None or _USAGE.search(event) is None:
            kept.append(event)
    rest = events[at:]
    if rest and (_NO_CHOICES.search(rest) is None or _USAGE.search(rest) is None):
        kept.append(rest)
    return b"".join(kept)
