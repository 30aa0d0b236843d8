"""STS and EKS's agent on loopback: one service account, one role, sessions of a stated length.

```python
with FakeSTS() as sts:
    sts.url                       # AWS_ENDPOINT_URL_STS; f"{sts.url}/v1/credentials" is the agent
    sts.token                     # what either accepts
    sts.sessions                  # those that were given, each by (access key, session token)
```
"""

import json
import threading
import time
import urllib.parse
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from fake_s3 import ACCESS_KEY, SECRET_KEY

ROLE = "arn:aws:iam::123456789012:role/models"
# The agent: it takes the token as it is, of no form.
AGENT = "/v1/credentials"


class FakeSTS:
    """Gives sessions; each of ``faults`` is the answer to one request: status and body."""

    def __init__(self) -> None:
        self.token = "token-1"  # noqa: S105 - opens nothing but this
        self.seconds = 3600.0
        self.sessions: list[tuple[str, str]] = []
        self.asked: list[dict[str, str]] = []
        self.faults: list[tuple[int, bytes]] = []
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def session(self) -> dict[str, str]:
        """New credentials."""
        token = f"session-{len(self.sessions) + 1}"
        self.sessions.append((ACCESS_KEY, token))
        ends = datetime.fromtimestamp(time.time() + self.seconds, UTC)
        return {
            "AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY, "SessionToken": token,
            "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }  # fmt: skip

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, sts: FakeSTS) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.sts = sts


def refusal(code: str, message: str) -> bytes:
    """An error of STS."""
    return (
        f'<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender'
        f"</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    ).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5.0
    server: _Server

    def log_message(self, *_: object) -> None:
        """Nothing: tests look at ``asked``."""

    def answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        form = dict(urllib.parse.parse_qsl(self.rfile.read(length).decode()))
        sts = self.server.sts
        sts.asked.append(form)
        if sts.faults:
            self.answer(*sts.faults.pop(0))
        elif form.get("Action") != "AssumeRoleWithWebIdentity" or form.get("RoleArn") != ROLE:
            words = "Not authorized to perform sts:AssumeRoleWithWebIdentity"
            self.answer(403, refusal("AccessDenied", words))
        elif form.get("WebIdentityToken") != sts.token:
            self.answer(400, refusal("ExpiredTokenException", "Token expired"))
        else:
            fields = "".join(f"<{k}>{v}</{k}>" for k, v in sts.session().items())
            self.answer(200, (
                '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/'
                f'2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>{fields}</Credentials>'
                "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            ).encode())  # fmt: skip

    def do_GET(self) -> None:
        sts = self.server.sts
        sts.asked.append({"path": self.path})
        if sts.faults:
            self.answer(*sts.faults.pop(0))
        elif self.path != AGENT or self.headers.get("Authorization") != sts.token:
            said: dict[str, Any] = {"code": "AccessDenied", "message": "no association"}
            self.answer(403, json.dumps(said).encode())
        else:
            found = sts.session()
            found["Token"] = found.pop("SessionToken")
            self.answer(200, json.dumps(found | {"AccountId": "123456789012"}).encode())
