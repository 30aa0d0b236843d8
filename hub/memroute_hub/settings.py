"""Which hub, with whose token, for how long: read once, from options and the environment."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.constants import _HF_DEFAULT_ENDPOINT

from memroute_hub.errors import HubError, HubReason

# Seconds that all requests about one model may take together, chosen by hand: six small files
# take one second from afar; a person waits for it.
TIMEOUT_SECONDS = 30.0
# Bytes of a file with a token; a real one has 37.
MAX_TOKEN_BYTES = 4096


class SettingsError(ValueError):
    """An endpoint that cannot be one; the message is for whoever typed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Where a token comes from: read anew at each use, because Secrets are rotated."""

    value: str | None = None
    file: Path | None = None
    """Read instead of ``value``."""
    is_file_needed: bool = True
    """False for a file that may be absent: that of `hf auth login`."""
    hint: str | None = None
    """Where it is, for a person; None: where the program's own are."""

    def read(self) -> str | None:
        """The token; None without one. Raises ``HubError`` when its file cannot be read."""
        text = self.value
        if self.file is not None:
            try:
                with self.file.open("rb") as file:
                    text = file.read(MAX_TOKEN_BYTES).decode("ascii")
            except FileNotFoundError as error:
                if not self.is_file_needed:
                    return None
                raise _unreadable(self.file, "there is no such file") from error
            except OSError as error:
                raise _unreadable(self.file, str(error.strerror)) from error
            except UnicodeDecodeError as error:
                raise _unreadable(self.file, "it is no text") from error
        token = (text or "").strip()
        if any(not "!" <= character <= "~" for character in token):
            where = "the token" if self.file is None else str(self.file)
            message = f"{where} has spaces or control characters in it: it must hold a token alone"
            raise HubError(HubReason.TOKEN_INVALID, message)
        return token or None


def _unreadable(file: Path, why: str) -> HubError:
    return HubError(HubReason.TOKEN_INVALID, f"the hub's token cannot be read from {file}: {why}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """How a program asks a hub."""

    endpoint: str
    """URL without a slash at its end."""
    token: Token
    is_offline: bool = False
    """Ask nothing of any hub: what is cached, or a refusal."""
    cache_folder: Path | None = None
    """Where facts are kept by commit; None keeps none."""
    timeout_seconds: float = TIMEOUT_SECONDS
    token_hint: str = "HF_TOKEN or --hub-token-file"  # noqa: S105 - words, no token
    """How a person gives this program a token."""


def checked_endpoint(text: str | None) -> str:
    """The endpoint that is asked for, else that of ``HF_ENDPOINT``, else huggingface_hub's own.

    Raises ``SettingsError`` unless it is an http or https URL without credentials.
    """
    endpoint = (text or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    try:
        parts = urlsplit(endpoint)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or any(not "!" <= character <= "~" for character in endpoint):
        message = f"{endpoint!r:.120} is no URL of a hub: it has to begin with https:// or http://"
        raise SettingsError(message)
    if parts.username is not None or parts.query or parts.fragment:
        message = "the URL of a hub has neither a user nor a question mark: give a token instead"
        raise SettingsError(message)
    return endpoint


def usual_endpoint() -> str:
    """The hub that a program asks which was told of none."""
    return _HF_DEFAULT_ENDPOINT


def is_offline_by_environment() -> bool:
    """Whether ``HF_HUB_OFFLINE`` (or transformers' variable) says so."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.upper() in {"1", "ON", "YES", "TRUE"} for value in values)


def personal_token() -> Token:
    """The token of whoever runs this: ``HF_TOKEN``, else what ``hf auth login`` has saved."""
    value = os.environ.get("HF_TOKEN")
    if value:
        return Token(value=value)
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return Token()
    return Token(file=Path(constants.HF_TOKEN_PATH), is_file_needed=False)


def personal_cache() -> Path:
    """``~/.cache/memroute/hub``, or under ``XDG_CACHE_HOME``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "memroute" / "hub"
