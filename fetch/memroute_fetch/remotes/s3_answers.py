"""What an S3 store answers: lists, checksums in headers, errors. Pure."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from memroute_fetch.checksums import Check, CheckKind
from memroute_fetch.failures import ExitCode, FetchError, TransientError
from memroute_fetch.sources import S3Source
from memroute_hub.documents import printable
from memroute_hub.facts import size_or_none

UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CHANGED = 401, 403, 404, 412
TIMEOUT, TOO_MANY, SERVER_ERROR = 408, 429, 500
SHA256_BYTES, CRC32_BYTES = 32, 4
_MD5 = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Codes that mean that the store does not take the credentials, whatever the key may do.
BAD_CREDENTIALS = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
    "TokenRefreshRequired", "RequestTimeTooSkewed", "AuthorizationHeaderMalformed",
}  # fmt: skip


ENDED = frozenset({"ExpiredToken", "TokenRefreshRequired"})
"""Codes of credentials that were right once."""


class NoListError(ValueError):
    """The body is no list of a bucket."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a list."""

    key: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list."""

    objects: list[Listed]
    next_token: str | None


def page_of(body: bytes) -> Page:
    """A page of ``ListObjectsV2``. Raises ``NoListError``."""
    root = _xml(body)
    if root is None or _name(root) != "ListBucketResult":
        problem = "it is no ListBucketResult"
        raise NoListError(problem)
    texts = {_name(child): child.text or "" for child in root}
    is_encoded = texts.get("EncodingType") == "url"
    objects = []
    for child in root:
        if _name(child) != "Contents":
            continue
        fields = {_name(one): one.text or "" for one in child}
        text = fields.get("Size", "")
        size = size_or_none(int(text)) if text.isdecimal() else None
        key = fields.get("Key", "")
        if size is None or not key:
            problem = "an object has no key or no size"
            raise NoListError(problem)
        etag = fields.get("ETag", "").strip('"')
        # Encoded as in a form: a blank is a plus.
        key = unquote(key.replace("+", " ")) if is_encoded else key
        objects.append(Listed(key, size, etag))
    is_cut = texts.get("IsTruncated", "").strip().lower() == "true"
    token = texts.get("NextContinuationToken") or None
    if is_cut and token is None:
        problem = "it goes on, and does not say where"
        raise NoListError(problem)
    return Page(objects, token if is_cut else None)


def checks_of(headers: Mapping[str, str], *, has_md5_etags: bool) -> tuple[Check, ...]:
    """What an object's bytes hash to, by the headers of ``HEAD``: names in lower case.

    An ETag is no hash of an object that was uploaded in parts, or encrypted with a key of
    somebody's; nor is a checksum of the parts' checksums (COMPOSITE, or with a dash).
    ``has_md5_etags``: False for stores whose ETags are something else.
    """
    checks = []
    etag = headers.get("etag", "").strip('"').lower()
    kind = headers.get("x-amz-checksum-type", "").upper()
    is_whole = kind == "FULL_OBJECT" or (not kind and "-" not in etag)
    own = headers.get("x-amz-meta-sha256", "").strip().lower()
    sha256 = _decoded(headers.get("x-amz-checksum-sha256"), SHA256_BYTES) if is_whole else None
    crc32 = _decoded(headers.get("x-amz-checksum-crc32"), CRC32_BYTES) if is_whole else None
    if sha256 is not None:
        checks.append(Check(CheckKind.SHA256, sha256))
    elif _SHA256.fullmatch(own):
        checks.append(Check(CheckKind.SHA256, own))
    encryption = headers.get("x-amz-server-side-encryption", "AES256")
    has_customer_key = "x-amz-server-side-encryption-customer-algorithm" in headers
    is_md5 = has_md5_etags and encryption == "AES256" and not has_customer_key
    if is_md5 and _MD5.fullmatch(etag):
        checks.append(Check(CheckKind.MD5, etag))
    if crc32 is not None:
        checks.append(Check(CheckKind.CRC32, crc32))
    return tuple(checks)


def refusal(
    source: S3Source,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    what: str,
    endpoint: str,
    is_signed: bool,
    identity: str,
    renews: Callable[[], bool],
) -> Exception:
    """What an answer with another status than success means. ``what``: which object or list.

    ``identity``: whose credentials were sent, or what was looked for. ``renews``: told that they
    have ended; whether others can be had.
    """
    root = _xml(body)
    fields = {} if root is None else {_name(child): child.text or "" for child in root}
    code = printable(fields.get("Code", ""), 60)
    said = f"{status} {code}".strip()
    words = printable(fields.get("Message", ""), 160)
    quoted = f"{said}: {words}" if words else said
    region = printable(headers.get("x-amz-bucket-region", "") or fields.get("Region", ""), 40)
    if status in {TIMEOUT, TOO_MANY} or status >= SERVER_ERROR or code == "SlowDown":
        message = f"{endpoint} has trouble of its own ({quoted}) when asked for {what}"
        after = headers.get("retry-after", "")
        failure = FetchError(ExitCode.NO_NETWORK, message)
        return TransientError(failure, float(after) if after.isdecimal() else None)
    if region:
        message = f"the bucket {source.bucket} is in the region {region}: set AWS_REGION to it"
        return FetchError(ExitCode.NOT_FOUND, message)
    if code in BAD_CREDENTIALS:
        message = (
            f"{endpoint} does not accept the credentials of {identity} ({quoted}): see "
            f"AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and the node's clock"
        )
        denied = FetchError(ExitCode.DENIED, message)
        return TransientError(denied) if code in ENDED and renews() else denied
    return _refused(status, quoted, what, endpoint, identity, is_signed=is_signed)


def sts_answer(body: bytes) -> dict[str, str]:
    """The texts of an answer of STS, by the name of their element; empty for what is none."""
    root = _xml(body)
    return {} if root is None else {_name(one): (one.text or "").strip() for one in root.iter()}


def _refused(
    status: int, quoted: str, what: str, endpoint: str, identity: str, *, is_signed: bool
) -> FetchError:
    """By the status alone."""
    if status in {UNAUTHORIZED, FORBIDDEN}:
        hint = (
            f"{identity} may lack s3:ListBucket or s3:GetObject, and a store that may not be "
            f"listed says the same of what is not there"
            if is_signed
            else identity
        )
        return FetchError(ExitCode.DENIED, f"{endpoint} refuses {what} ({quoted}): {hint}")
    if status == NOT_FOUND:
        return FetchError(ExitCode.NOT_FOUND, f"{endpoint} has no {what} ({quoted})")
    if status == CHANGED:
        message = (
            f"{what} was replaced while it was fetched: the next start takes what is there then"
        )
        return FetchError(ExitCode.CHECKSUM, message)
    message = (
        f"{endpoint} answered {quoted} when asked for {what}: check AWS_ENDPOINT_URL, and whether "
        f"a proxy stands in between"
    )
    return FetchError(ExitCode.NO_NETWORK, message)


def _decoded(text: str | None, num_bytes: int) -> str | None:
    """A checksum in base64 as hexadecimal digits; None for what is none."""
    try:
        data = base64.b64decode(text or "", validate=True)
    except (binascii.Error, ValueError):
        return None
    return data.hex() if len(data) == num_bytes else None


def _xml(body: bytes) -> ET.Element | None:
    """A document without entities of its own; None for anything else."""
    if b"<!" in body:
        return None
    try:
        return ET.fromstring(body)  # noqa: S314 - bounded, and without declarations: see above
    except ET.ParseError:
        return None


def _name(element: ET.Element) -> str:
    """Without its namespace, which some stores leave out."""
    return element.tag.rpartition("}")[2]
