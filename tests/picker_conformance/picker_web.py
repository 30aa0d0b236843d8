"""A client of the gateway."""

import time
import urllib.error
import urllib.request
from dataclasses import dataclass

TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes


def _request(envoy, body, fields):
    given = {"content-type": "application/json"}
    given |= {name.replace("_", "-"): value for name, value in fields.items()}
    return urllib.request.Request(f"{envoy.url}/v1/chat/completions", data=body, headers=given)


def post(envoy, body, **fields) -> Answer:
    """One request, and its whole answer."""
    try:
        with urllib.request.urlopen(_request(envoy, body, fields), timeout=TIMEOUT_SECONDS) as got:
            return Answer(got.status, _lower(got.headers), got.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, _lower(error.headers), error.read())


def stream_times(envoy, body, **fields) -> list[float]:
    """When each line with an event of an answer came, in seconds."""
    with urllib.request.urlopen(_request(envoy, body, fields), timeout=TIMEOUT_SECONDS) as got:
        return [time.monotonic() for line in got if line.startswith(b"data:")]


def _lower(headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
