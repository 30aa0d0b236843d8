"""Where other routers of the same replicas listen, as people write it."""

from typing import Final

# The port of the peers. Source: the next that is free after the API's.
DEFAULT_PEER_PORT: Final = 8001
Address = tuple[str, int]


def parse_peer(text: str, default_port: int = DEFAULT_PEER_PORT) -> Address:
    """``host``, ``host:port`` or ``[address]:port``. Raises ``ValueError``."""
    host, port = text, default_port
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        if rest:
            port = int(rest.removeprefix(":"))
    elif text.count(":") == 1:
        host, _, digits = text.partition(":")
        port = int(digits)
    if not host or not 0 < port < 1 << 16:
        msg = f"{text!r} is not HOST or HOST:PORT"
        raise ValueError(msg)
    return host, port
