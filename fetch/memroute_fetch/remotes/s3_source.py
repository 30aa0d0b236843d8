"""Everything below a prefix of a bucket, in any store that speaks S3."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx2

from memroute_fetch.failures import ExitCode, FetchError, TransientError
from memroute_fetch.remotes.aws_identity import Identity, identity_of
from memroute_fetch.remotes.http import READ_SECONDS, body_of, is_past_the_end, range_header
from memroute_fetch.remotes.remote import Body, RemoteFile, RemoteSizeError, checked_path
from memroute_fetch.remotes.s3_answers import Listed, NoListError, checks_of, page_of, refusal
from memroute_fetch.remotes.sigv4 import Credentials, encoded, query_of, signed_headers
from memroute_fetch.settings import S3Settings
from memroute_fetch.sources import S3Source
from memroute_hub.documents import printable

# Bytes of one page of a list (1,000 objects), and of an error's body.
MAX_PAGE_BYTES = 8 * 2**20
MAX_ERROR_BYTES = 64 * 2**10
# Pages of a list: a prefix with more objects is no model's.
MAX_PAGES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class S3:
    """One prefix of one bucket. Owns nothing: the client is somebody else's."""

    source: S3Source
    client: httpx2.Client
    endpoint: str
    """URL without a slash at its end, with the bucket where it is part of the host's name."""
    bucket_path: str
    """``/bucket`` where the bucket is part of the path; else empty."""
    identity: Identity

    @property
    def commit(self) -> str | None:
        """None: buckets have none."""
        return None

    def files(self) -> list[RemoteFile]:
        """All objects below the prefix; or the one that is called like it."""
        prefix = self.source.prefix
        folder = f"{prefix}/" if prefix else ""
        listed = self._list(folder)
        if not listed and prefix:
            listed = [one for one in self._list(prefix) if one.key == prefix]
            folder = prefix[: prefix.rfind("/") + 1]
        if not listed:
            message = f"{self.endpoint} has nothing below {self.source}: see the bucket and prefix"
            raise FetchError(ExitCode.NOT_FOUND, message)
        return [
            RemoteFile(
                path=checked_path(one.key.removeprefix(folder)),
                key=one.key,
                size_bytes=one.size_bytes,
                identity=one.etag,
            )
            for one in listed
        ]

    def described(self, file: RemoteFile) -> RemoteFile:
        """The file with the checksums that its store keeps of it, at its present version."""
        what = f"{self.source.bucket}/{file.key}"
        headers = {"x-amz-checksum-mode": "ENABLED"}
        with self._asked("HEAD", self._path(file.key), "", headers, what) as response:
            length = response.headers.get("content-length", "")
            etag = response.headers.get("etag", "").strip('"')
            has_md5_etags = "s3express" not in self.endpoint
            checks = checks_of(dict(response.headers), has_md5_etags=has_md5_etags)
        size = int(length) if length.isdecimal() else file.size_bytes
        return replace(file, size_bytes=size, identity=etag or file.identity, checks=checks)

    @contextmanager
    def open(self, file: RemoteFile, start: int, end: int) -> Iterator[Body]:
        """Bytes of an object, of the version that was described alone."""
        headers = range_header(start, end, file.size_bytes)
        if file.identity:
            headers["if-match"] = f'"{file.identity}"'
        what = f"{self.source.bucket}/{file.key}"
        with self._asked("GET", self._path(file.key), "", headers, what) as response:
            if is_past_the_end(response):
                problem = f"it ends at or before byte {start:,} of {file.size_bytes:,}"
                raise RemoteSizeError(problem)
            yield body_of(response)

    def _list(self, prefix: str) -> list[Listed]:
        found: list[Listed] = []
        token: str | None = None
        what = f"list of {self.source.bucket}/{prefix}"
        for _ in range(MAX_PAGES):
            parameters = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
            if token is not None:
                parameters["continuation-token"] = token
            path = self._path("")
            with self._asked("GET", path, query_of(parameters), {}, what) as response:
                body = _bounded(response, MAX_PAGE_BYTES)
            try:
                page = page_of(body)
            except NoListError as error:
                message = f"{self.endpoint} does not answer as an S3 store does: {error}"
                raise FetchError(ExitCode.NO_NETWORK, message) from error
            # Consoles make "folders": empty objects whose names end in a slash.
            found += [one for one in page.objects if not one.key.endswith("/")]
            token = page.next_token
            if token is None:
                return found
        message = f"{self.source} has more than {MAX_PAGES * 1000:,} objects: that is no model"
        raise FetchError(ExitCode.USAGE, message)

    @contextmanager
    def _asked(
        self, method: str, path: str, query: str, headers: dict[str, str], what: str
    ) -> Iterator[httpx2.Response]:
        """A successful answer, or one that says that the object ends earlier."""
        host = httpx2.URL(self.endpoint).netloc.decode()
        sent = headers | {"accept-encoding": "identity"}
        credentials = self.identity.credentials()
        if credentials is not None:
            now = datetime.now(UTC)
            sent = sent | signed_headers(method, host, path, query, headers, credentials, now)
        url = f"{self.endpoint}{path}" + (f"?{query}" if query else "")
        request = self.client.build_request(method, url, headers=sent)
        try:
            response = self.client.send(request, stream=True, follow_redirects=False)
            try:
                if not response.is_success and not is_past_the_end(response):
                    body = _bounded(response, MAX_ERROR_BYTES)
                    raise refusal(
                        self.source,
                        response.status_code,
                        response.headers,
                        body,
                        what=what,
                        endpoint=self.endpoint,
                        is_signed=credentials is not None,
                        identity=self.identity.told,
                        renews=self.identity.refused,
                    )
                yield response
            finally:
                response.close()
        except httpx2.TimeoutException as error:
            message = (
                f"{self.endpoint} sent nothing for {READ_SECONDS:g} s when asked for {what}: it is "
                f"slow, or a firewall drops what goes there"
            )
            raise TransientError(FetchError(ExitCode.NO_NETWORK, message)) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            cause = printable(str(error) or type(error).__name__, 160)
            message = (
                f"{self.endpoint} cannot be reached for {what} ({cause}): see to the network "
                f"(HTTPS_PROXY is honoured) and to AWS_ENDPOINT_URL"
            )
            raise TransientError(FetchError(ExitCode.NO_NETWORK, message)) from error

    def _path(self, key: str) -> str:
        return encoded(f"{self.bucket_path}/{key}", is_path=True)


def open_s3(
    source: S3Source, client: httpx2.Client, endpoint: str | None, settings: S3Settings
) -> S3:
    """The prefix, with the store's address and the credentials. Raises ``FetchError``."""
    address = (endpoint or settings.endpoint or "").rstrip("/")
    bucket_path = f"/{source.bucket}"
    if not address:
        # Amazon's own: the bucket in the host's name, unless a dot in it breaks the certificate.
        host = f"s3.{settings.region}.amazonaws.com"
        is_in_host = "." not in source.bucket and source.bucket == source.bucket.lower()
        address = f"https://{source.bucket}.{host}" if is_in_host else f"https://{host}"
        bucket_path = "" if is_in_host else bucket_path
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.path:
        message = f"{address!r:.120} is no URL of an S3 store: give scheme, host and port alone"
        raise FetchError(ExitCode.USAGE, message)
    if (settings.access_key is None) != (settings.secret_key is None):
        message = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together: one is missing"
        raise FetchError(ExitCode.USAGE, message)
    credentials = None
    if settings.access_key is not None and settings.secret_key is not None:
        credentials = Credentials(
            access_key=settings.access_key,
            secret_key=settings.secret_key,
            session_token=settings.session_token,
            region=settings.region,
        )
    return S3(
        source=source,
        client=client,
        endpoint=address,
        bucket_path=bucket_path,
        identity=identity_of(credentials, settings.roles, client, settings.region),
    )


def _bounded(response: httpx2.Response, max_bytes: int) -> bytes:
    """A body, or as much of it as it may have."""
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > max_bytes:
            break
    return bytes(body[:max_bytes])
