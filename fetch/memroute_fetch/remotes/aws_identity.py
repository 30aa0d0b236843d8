"""Who a pod is to an S3 store: keys that it was given, or a role that its service account has.

| what is set | whose it is | asked |
| --- | --- | --- |
| ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY`` | the Secret that a model names | nobody |
| ``AWS_ROLE_ARN``, ``AWS_WEB_IDENTITY_TOKEN_FILE`` | IRSA (webhook) | STS, with the pod's token |
| ``AWS_CONTAINER_CREDENTIALS_FULL_URI`` (``_RELATIVE_URI``) | EKS Pod Identity, ECS | the agent |

The first that is set, as Amazon's own programs have it. Credentials of a role end: they are asked
for again before that, by whichever thread needs them first; the file with the token is read anew
each time, because kubelet renews it.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2

from memroute_fetch.failures import ExitCode, FetchError, TransientError
from memroute_fetch.remotes.roles import RoleSettings
from memroute_fetch.remotes.s3_answers import SERVER_ERROR, TOO_MANY, sts_answer
from memroute_fetch.remotes.sigv4 import Credentials, query_of
from memroute_hub.documents import UnreadableDocumentError, parse_object, printable

# Before their end, in seconds, credentials are asked for again: botocore's ten minutes. Where they
# cannot be had then, those of before serve until they end.
RENEW_SECONDS = 600.0
# After a try that failed, in seconds, while those of before still serve: chosen by hand.
RETRY_SECONDS = 30.0
# Bytes of an answer, and of a file that holds a token: each has some 2 KiB. Chosen by hand.
MAX_ANSWER_BYTES = 64 * 1024
# Seconds without a byte: the agent is on the node, and STS answers in one.
TIMEOUT_SECONDS = 10.0
# Whom a token may be sent to without TLS, as Amazon's own programs have it: this pod, ECS, EKS.
PLAIN_HOSTS = frozenset({"localhost", "127.0.0.1", "::1", "169.254.170.2", "169.254.170.23",
                         "fd00:ec2::23"})  # fmt: skip
NOTHING_FOUND = (
    "no credentials were found: AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY are not set (a "
    "Secret, source.s3.secretName), nor AWS_ROLE_ARN with AWS_WEB_IDENTITY_TOKEN_FILE (IRSA), nor "
    "AWS_CONTAINER_CREDENTIALS_FULL_URI (EKS Pod Identity): name a Secret, or give the pod's "
    "service account a role (spec.template.spec.serviceAccountName)"
)


class Identity(Protocol):
    """Who signs."""

    @property
    def told(self) -> str:
        """Whose credentials they are, for a sentence; what was looked for where there are none."""

    def credentials(self) -> Credentials | None:
        """Those of now; None: nobody. Raises ``FetchError`` and ``TransientError``."""

    def refused(self) -> bool:
        """A store takes them for ended. Whether others can be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Credentials that do not change; or none."""

    known: Credentials | None

    @property
    def told(self) -> str:
        """The variables."""
        return NOTHING_FOUND if self.known is None else "AWS_ACCESS_KEY_ID"

    def credentials(self) -> Credentials | None:
        """As they were given."""
        return self.known

    def refused(self) -> bool:
        """There are no others."""
        return False


Asked = tuple[Credentials, float]
"""Credentials, and when they end (seconds since 1970)."""


class Renewed:
    """Credentials that end. Owns the last ones; for any number of threads."""

    def __init__(
        self, ask: Callable[[], Asked], told: str, clock: Callable[[], float] = time.time
    ) -> None:
        """``ask``: gets new ones; ``clock``: seconds since 1970."""
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Asked | None = None
        self._due_seconds = 0.0
        self.told = told

    def credentials(self) -> Credentials:
        """Those of now. Raises ``FetchError`` and ``TransientError``."""
        with self._lock:
            now = self._clock()
            last = self._last
            if last is not None and now < self._due_seconds:
                return last[0]
            try:
                self._last = last = self._ask()
            except (FetchError, TransientError):
                if last is None or now >= last[1]:
                    raise
                self._due_seconds = min(now + RETRY_SECONDS, last[1])
            else:
                # Of a session that is shorter than that, half.
                self._due_seconds = max(last[1] - RENEW_SECONDS, (now + last[1]) / 2)
            return last[0]

    def refused(self) -> bool:
        """They are asked for again."""
        with self._lock:
            self._last, self._due_seconds = None, 0.0
        return True


def identity_of(
    given: Credentials | None, roles: RoleSettings, client: httpx2.Client, region: str
) -> Identity:
    """Who this pod is. Raises ``FetchError`` where what is set makes no sense."""
    if given is not None:
        return Given(known=given)
    if roles.role is not None and roles.token_file is not None:
        role, file = roles.role, roles.token_file
        return Renewed(
            lambda: _of_role(role, file, roles, client, region), f"the role {role} (IRSA)"
        )
    if roles.role is not None or roles.token_file is not None:
        missing = "AWS_WEB_IDENTITY_TOKEN_FILE" if roles.role else "AWS_ROLE_ARN"
        message = f"{missing} is not set, and AWS_ROLE_ARN and its token belong together"
        raise FetchError(ExitCode.USAGE, message)
    if roles.uri is not None:
        uri = checked_uri(roles.uri)
        return Renewed(lambda: _of_agent(uri, roles, region), f"the pod's identity at {uri}")
    return Given(known=None)


def checked_uri(uri: str) -> str:
    """The address of an agent, when a token may be sent there. Raises ``FetchError``."""
    try:
        parts = urlsplit(uri)
        host = parts.hostname
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme == "https" or (parts.scheme == "http" and host in PLAIN_HOSTS):
        return uri
    message = (
        f"AWS_CONTAINER_CREDENTIALS_FULL_URI is {uri!r:.120}: without TLS a token is sent to this "
        f"pod's own addresses and Amazon's agents alone"
    )
    raise FetchError(ExitCode.USAGE, message)


def _of_role(
    role: str, file: Path, roles: RoleSettings, client: httpx2.Client, region: str
) -> Asked:
    """From STS, for the token that kubelet keeps in a file."""
    endpoint = (roles.sts_endpoint or f"https://sts.{region}.amazonaws.com").rstrip("/")
    form = query_of(
        {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "RoleArn": role,
            "RoleSessionName": roles.session_name,
            "WebIdentityToken": _token(file, "AWS_WEB_IDENTITY_TOKEN_FILE"),
        }
    )
    headers = {"content-type": "application/x-www-form-urlencoded"}
    response = _sent(client, "POST", f"{endpoint}/", headers, form.encode(), "AWS_ENDPOINT_URL_STS")
    fields = sts_answer(response.content)
    if not response.is_success:
        hint = (
            "the role's trust policy has to name this cluster's issuer, the namespace and the "
            "service account, and the audience sts.amazonaws.com"
        )
        raise _refusal(endpoint, f"the role {role}", response, fields, hint)
    return _read(fields, "SessionToken", endpoint, region)


def _of_agent(uri: str, roles: RoleSettings, region: str) -> Asked:
    """From the agent of the node: never by a proxy."""
    token = roles.uri_token
    if roles.uri_token_file is not None:
        token = _token(roles.uri_token_file, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    headers = {"accept": "application/json"} | ({"authorization": token} if token else {})
    with httpx2.Client(trust_env=False, timeout=TIMEOUT_SECONDS) as client:
        response = _sent(client, "GET", uri, headers, b"", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    try:
        found: dict[str, Any] = parse_object(response.content)
    except UnreadableDocumentError:
        found = {}
    fields = {name: value for name, value in found.items() if isinstance(value, str)}
    if not response.is_success:
        said = {"Code": fields.get("code", ""), "Message": fields.get("message", "")}
        hint = "see the association of the service account with a role, and the agent's own log"
        raise _refusal(uri, "the pod's identity", response, said, hint)
    return _read(fields, "Token", uri, region)


def _sent(
    client: httpx2.Client, method: str, url: str, headers: dict[str, str], body: bytes, name: str
) -> httpx2.Response:
    """A whole answer of bounded size. ``name``: of the variable that has the address."""
    try:
        request = client.build_request(
            method, url, headers=headers, content=body or None, timeout=TIMEOUT_SECONDS
        )
        response = client.send(request, stream=True, follow_redirects=False)
        try:
            content = bytearray()
            for piece in response.iter_bytes():
                content += piece
                if len(content) > MAX_ANSWER_BYTES:
                    break
        finally:
            response.close()
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        cause = printable(str(error) or type(error).__name__, 160)
        message = (
            f"{url} cannot be reached for credentials ({cause}): see to the network, the "
            f"NetworkPolicies of the namespace and {name}"
        )
        raise TransientError(FetchError(ExitCode.NO_NETWORK, message)) from error
    return httpx2.Response(response.status_code, content=bytes(content[:MAX_ANSWER_BYTES]))


def _refusal(
    where: str,
    what: str,
    response: httpx2.Response,
    fields: Mapping[str, str],
    hint: str,
) -> Exception:
    code, words = printable(fields.get("Code", ""), 60), printable(fields.get("Message", ""), 200)
    said = f"{response.status_code} {code}".strip() + (f": {words}" if words else "")
    passes = response.status_code == TOO_MANY or response.status_code >= SERVER_ERROR
    if passes or code in {"IDPCommunicationError", "Throttling", "ThrottlingException"}:
        message = f"{where} has trouble of its own ({said}) when asked for {what}"
        return TransientError(FetchError(ExitCode.NO_NETWORK, message))
    return FetchError(ExitCode.DENIED, f"{where} refuses {what} ({said}): {hint}")


def _read(fields: Mapping[str, str], token: str, where: str, region: str) -> Asked:
    """Credentials and their end. Raises ``TransientError``: agents that start say half of it."""
    try:
        ends = datetime.fromisoformat(fields["Expiration"]).timestamp()
        return (
            Credentials(
                access_key=fields["AccessKeyId"],
                secret_key=fields["SecretAccessKey"],
                session_token=fields[token],
                region=region,
            ),
            ends,
        )
    except (KeyError, ValueError, OverflowError) as error:
        message = f"{where} does not answer with credentials (no valid {error!s:.60})"
        raise TransientError(FetchError(ExitCode.NO_NETWORK, message)) from error


def _token(file: Path, name: str) -> str:
    try:
        with file.open("rb") as opened:
            token = opened.read(MAX_ANSWER_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        message = f"{name} names {file}, which cannot be read ({error.strerror})"
        raise FetchError(ExitCode.DENIED, message) from error
    if not token or not token.isprintable() or not token.isascii():
        message = f"{name} names {file}, which holds no token"
        raise FetchError(ExitCode.DENIED, message)
    return token
