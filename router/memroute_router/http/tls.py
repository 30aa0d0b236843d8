"""TLS: certificates, and what is made of them; made anew when a file changes (``watched.py``)."""

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from memroute_router.watched import WatchedFiles

# Between two looks at the files. Unit: seconds. Source: chosen by hand; a rotated certificate is
# valid for hours beside the new one.
LOOK_SECONDS: Final = 1.0


class TLSFiles:
    """A context made of files. Owns the context, and when the files were looked at."""

    def __init__(self, make: Callable[[], ssl.SSLContext], paths: tuple[str, ...]) -> None:
        """Raises ``OSError`` (``ssl.SSLError`` is one) where they cannot be used."""
        self.context: ssl.SSLContext
        self._files = WatchedFiles(
            "certificates",
            map(Path, paths),
            make,
            self._apply,
            errors=(OSError, ValueError),
        )
        self._looked_at = time.monotonic()
        self._files.load()

    def refresh(self) -> bool:
        """Look at the files; True where the context is a new one."""
        self._looked_at = time.monotonic()
        before = self.context
        return self._files.look() and self.context is not before

    def latest(self) -> ssl.SSLContext:
        """The context, of files that were looked at within the last second."""
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self.refresh()
        return self.context

    def _apply(self, context: ssl.SSLContext) -> tuple[Path, ...]:
        self.context = context
        return ()


class EngineTLS:
    """How engines are spoken to over TLS. A value: equal where the same files are named.

    A new certificate in the same file is no new engine: its connections and its ledger stay.
    """

    __slots__ = ("_files", "_named", "server_name")

    def __init__(
        self,
        *,
        ca: str | None = None,
        certificate: str | None = None,
        key: str | None = None,
        server_name: str | None = None,
    ) -> None:
        """``ca``: who signs engines' certificates; None: whom the system trusts.

        ``certificate``, ``key``: the router's own, for engines that ask for one; the key is in the
        certificate's file where it has none of its own. ``server_name``: the name in engines'
        certificates; None: the host of their URL. Raises ``OSError`` or ``TypeError``.
        """
        self._named = ca, certificate, key, server_name
        self.server_name = server_name

        def make() -> ssl.SSLContext:
            context = ssl.create_default_context(cafile=ca)
            if certificate is not None:
                context.load_cert_chain(certificate, key)
            return context

        self._files = TLSFiles(make, tuple(path for path in (ca, certificate, key) if path))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EngineTLS) and self._named == other._named

    def __hash__(self) -> int:
        return hash(self._named)

    def latest(self) -> ssl.SSLContext:
        """The context for the next connection."""
        return self._files.latest()


def server_files(
    certificate: str, key: str | None, client_ca: str | None, *, speaks: str = "http/1.1"
) -> TLSFiles:
    """A listener's. ``client_ca``: who signs clients' certificates; None: clients need none.

    ``speaks``: the protocol, by its name in ALPN. Raises ``OSError``.
    """

    def make() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols([speaks])
        if client_ca is not None:
            context.load_verify_locations(cafile=client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    return TLSFiles(make, tuple(path for path in (certificate, key, client_ca) if path))
