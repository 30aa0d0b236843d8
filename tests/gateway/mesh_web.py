"""Clients of the gateways."""

import http.client
import json
import socket
import time
from dataclasses import dataclass

# A whole answer. Unit: seconds. Chosen by hand; two cores may be busy with other things.
TIMEOUT_SECONDS = 120.0
# Until what was applied is what Envoy does, and replicas have started: only spent where something
# is wrong. Likewise.
SETTLE_SECONDS = 240.0
SELECTION, SERVED = "test-epp-endpoint-selection", "x-conformance-test-served-endpoint"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def pod(self) -> str:
        """Which pod answered; empty: none did."""
        return json.loads(self.body)["pod"] if self.status == 200 else ""

    @property
    def document(self) -> dict:
        """The body, where it is JSON."""
        return json.loads(self.body)


def prompt(**more) -> bytes:
    """A request's body."""
    document = {"model": "model", "prompt": "Write as if you were a critic", "max_tokens": 8}
    return json.dumps(document | more).encode()


def ask(gateway, host, path="/v1/completions", *, body=None, timeout=TIMEOUT_SECONDS, **fields):
    """One request, and its whole answer. ``body``: None for a GET."""
    headers = {"host": host} | {name.replace("_", "-"): text for name, text in fields.items()}
    if body is not None:
        headers["content-type"] = "application/json"
    client = http.client.HTTPConnection(gateway.address, 80, timeout=timeout)
    try:
        client.request("GET" if body is None else "POST", path, body=body, headers=headers)
        got = client.getresponse()
        return Answer(
            got.status, {name.lower(): text for name, text in got.getheaders()}, got.read()
        )
    finally:
        client.close()


class Stream:
    """A client whose streamed answer has begun."""

    def __init__(self, gateway, host, body, **fields) -> None:
        lines = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in fields.items())
        self.request = (
            f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\n{lines}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._socket = socket.create_connection((gateway.address, 80), TIMEOUT_SECONDS)

    def begin(self) -> int:
        """Send all of it; the status of the answer."""
        self._socket.sendall(self.request)
        return int(self._socket.recv(100).split()[1])

    def send(self, count: int) -> None:
        """Send as many bytes of it, and no more."""
        self._socket.sendall(self.request[:count])

    def is_whole(self) -> bool:
        """Read to the end; whether the answer was brought to its own."""
        found = b""
        try:
            while data := self._socket.recv(65536):
                found += data
                if found.endswith(b"0\r\n\r\n"):
                    return True
        except ConnectionResetError:
            pass
        return False

    def close(self) -> None:
        """Leave."""
        self._socket.close()


def eventually(attempt, accepts, *, seconds=SETTLE_SECONDS):
    """What ``attempt`` returns, once ``accepts`` likes it. Fails with the last that it did not."""
    deadline = time.monotonic() + seconds
    while True:
        found = attempt()
        if accepts(found):
            return found
        assert time.monotonic() < deadline, f"still, after {seconds:.0f} s: {found}"
        time.sleep(0.1)


def many(attempt, accepts, *, count=20):
    """So many answers one after the other, once ``accepts`` likes them all.

    The first good one may be from before: Istio tells Envoy of each change a moment later.
    """
    return eventually(
        lambda: [attempt() for _ in range(count)], lambda all_: all(map(accepts, all_))
    )


def is_served(answer: Answer | None) -> bool:
    """Whether a model server has answered."""
    return answer is not None and answer.status == 200
