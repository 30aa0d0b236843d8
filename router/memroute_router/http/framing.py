"""Where a request ends must be beyond doubt: what leaves two readings is refused."""

from typing import Final
from urllib.parse import urlsplit

from memroute_router.http.fields import Head

_NOT_IN_HOSTS: Final = b" ,/@\\\t"


def check_head(
    read: dict[bytes, bytes], version: str, max_body_bytes: int
) -> tuple[int, str] | None:
    """Status and words of the refusal; None when the head is sound.

    ``read``: the fields that concern us, by lower-case name. llhttp has refused what no reading
    allows; these are the rest.
    """
    if version not in {"1.1", "1.0"}:
        return 505, "HTTP/1.0 and HTTP/1.1 are spoken here"
    host = read.get(b"host")
    if version == "1.1" and host is None:
        return 400, "the Host field is missing"
    if host is not None and not _is_host(host):
        return 400, "malformed Host"
    expectation = read.get(b"expect")
    if expectation is not None and expectation.lower() != b"100-continue":
        return 417, "the only expectation is 100-continue"
    coding = read.get(b"transfer-encoding")
    if coding is not None:
        return _check_coding(coding.lower(), version, has_length=b"content-length" in read)
    return _check_length(read.get(b"content-length", b"0"), max_body_bytes)


def origin_form(target: bytes) -> tuple[bytes, bytes] | None:
    """Host and path of a target in absolute form (RFC 9112, 3.2.2); None when it is none."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return None
    if parts.scheme not in {b"http", b"https"} or not _is_host(parts.netloc) or not parts.netloc:
        return None
    path = parts.path or b"/"
    return parts.netloc, path + b"?" + parts.query if parts.query else path


def without_offer(method: bytes, target: bytes, head: Head) -> bytes:
    """The head of a request that offers HTTP/2 (h2c), without the offer; empty for other offers.

    A server may decline (RFC 9110, 7.8). JDK clients offer it with every first request.
    """
    if method == b"CONNECT" or head.read.get(b"upgrade", b"").lower() != b"h2c":
        return b""
    kept = b"".join(
        b"%b: %b\r\n" % field
        for field in head.ended()
        if field[0] not in {b"connection", b"upgrade"}
    )
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, head.lines(), kept)


def _check_coding(coding: bytes, version: str, *, has_length: bool) -> tuple[int, str] | None:
    if version == "1.0":
        return 400, "HTTP/1.0 has no Transfer-Encoding"
    if has_length:
        return 400, "both Content-Length and Transfer-Encoding"
    if coding != b"chunked":
        return 501, "the only Transfer-Encoding is chunked"
    return None


def _check_length(length: bytes, max_body_bytes: int) -> tuple[int, str] | None:
    if not length.isdigit():
        return 400, "malformed Content-Length"
    if int(length) > max_body_bytes:
        return 413, f"the body is larger than {max_body_bytes} bytes"
    return None


def _is_host(host: bytes) -> bool:
    return len(host.translate(None, _NOT_IN_HOSTS)) == len(host)
