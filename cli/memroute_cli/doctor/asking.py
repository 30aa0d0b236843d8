"""One test request through a router."""

import time

import httpx

from memroute_cli.doctor.facts import RequestOutcome
from memroute_cli.terminal.addresses import base_address

# A cold replica computes a first prompt for some seconds.
TIMEOUT_SECONDS = 30.0
# Of an error's text, characters.
MAX_MESSAGE = 300


def ask(router: str, model: str, key: str | None) -> RequestOutcome:
    """Ask for one token, and tell what came of it."""
    url = base_address(router)
    headers = {"x-memroute-explain": "1"} | ({"authorization": f"Bearer {key}"} if key else {})
    body = {
        "model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Say yes."}],
    }  # fmt: skip
    started = time.monotonic()
    try:
        answer = httpx.post(
            f"{url}/v1/chat/completions", json=body, headers=headers, timeout=TIMEOUT_SECONDS,
            trust_env=False,
        )  # fmt: skip
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        seconds = time.monotonic() - started
        message = str(error) or type(error).__name__
        return RequestOutcome(url=url, model=model, status=None, seconds=seconds, message=message)
    return RequestOutcome(
        url=url, model=model, status=answer.status_code, seconds=time.monotonic() - started,
        message=_message(answer), replica=answer.headers.get("x-memroute-replica"),
    )  # fmt: skip


def _message(answer: httpx.Response) -> str:
    """The error's own words."""
    try:
        return str(answer.json()["error"]["message"])[:MAX_MESSAGE]
    except (ValueError, KeyError, TypeError):
        return answer.text[:MAX_MESSAGE]
