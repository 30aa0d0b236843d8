"""Which models a client may know of.

Without keys everybody may know every name; with keys those that the key may use. Error messages,
``/v1/models`` and ``/openapi.json`` all ask one ``NamesFor`` (in ``app.py``).
"""

from collections.abc import Callable, Sequence
from typing import Final

# Names in an error message. Unit: names. Source: chosen by hand; a list that people read.
MAX_LISTED: Final = 20

NamesFor = Callable[[dict[bytes, bytes]], Sequence[str] | None]
"""The names that whoever sends these header fields (by lower-case name) may know of.

None: nobody knows who asks, so none is told."""


def unknown_model(name: str, names: Sequence[str] | None) -> str:
    """The message of a 404. ``name`` is the client's, of a bounded length."""
    if names is None:
        return f"the model {name!r} does not exist, or you may not use it"
    known = ", ".join(names[:MAX_LISTED]) or "none"
    if len(names) > MAX_LISTED:
        known += f" and {len(names) - MAX_LISTED} more (GET /v1/models)"
    return f"the model {name!r} does not exist; models: {known}"
