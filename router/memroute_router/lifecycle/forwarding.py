"""How a request is told to an engine."""

from memroute_router.http.exchange import Exchange


def forwarded_head(
    exchange: Exchange,
    authority: bytes,
    request_id: bytes,
    lines: bytes,
    is_believed: bool,
) -> bytes:
    """The head of a request. ``authority``: of the engine; ``lines``: the client's, and ours.

    ``is_believed``: whether whoever sends it is a proxy that may say for whom. Whoever else says so
    only says what it likes.
    """
    peer, scheme = exchange.peer, exchange.scheme
    fields = exchange.fields
    host = fields.get(b"host", b"")
    if is_believed:
        came_through = fields.get(b"x-forwarded-for")
        if came_through:
            peer = came_through + b", " + peer
        scheme = fields.get(b"x-forwarded-proto") or scheme
        host = fields.get(b"x-forwarded-host") or host
    return (
        b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n"
        b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nx-forwarded-host: %b\r\n%b\r\n"
    ) % (
        exchange.target,
        authority,
        len(exchange.body),
        request_id,
        peer,
        scheme,
        host,
        lines,
    )
