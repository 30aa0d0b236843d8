"""Signatures of requests without a body, as S3 asks for them (AWS Signature Version 4). Pure.

Source: "Authenticating Requests (AWS Signature Version 4)", Amazon S3 API Reference; its examples
are the tests. Sixty lines in place of botocore, which is eighty times as much as this program.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote

ALGORITHM = "AWS4-HMAC-SHA256"
# SHA-256 of nothing: these requests have no body.
NO_BODY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Whose signature it is, and for which region's S3."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str


def encoded(text: str, *, is_path: bool = False) -> str:
    """Percent-encoded as AWS does: all but letters, digits, ``-._~`` (and slashes of a path)."""
    return quote(text, safe="-._~/" if is_path else "-._~")


def query_of(parameters: Mapping[str, str]) -> str:
    """A query whose order and encoding are those that are signed."""
    return "&".join(f"{encoded(k)}={encoded(v)}" for k, v in sorted(parameters.items()))


def signed_headers(
    method: str,
    host: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    credentials: Credentials,
    now: datetime,
) -> dict[str, str]:
    """The headers of the request, with the signature. ``path`` and ``query`` are encoded.

    ``headers``: those to be sent and signed besides; names in lower case. ``now``: in UTC.
    """
    time = now.strftime("%Y%m%dT%H%M%SZ")
    sent = {**headers, "x-amz-content-sha256": NO_BODY, "x-amz-date": time}
    if credentials.session_token:
        sent["x-amz-security-token"] = credentials.session_token
    signed = dict(sorted({**sent, "host": host}.items()))
    names = ";".join(signed)
    lines = [f"{name}:{' '.join(value.split())}\n" for name, value in signed.items()]
    request = "\n".join([method, path, query, "".join(lines), names, NO_BODY])
    scope = f"{time[:8]}/{credentials.region}/s3/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    to_sign = f"{ALGORITHM}\n{time}\n{scope}\n{digest}"
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    sent["authorization"] = (
        f"{ALGORITHM} Credential={credentials.access_key}/{scope},"
        f"SignedHeaders={names},Signature={signature}"
    )
    return sent
