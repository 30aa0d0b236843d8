"""Refusals with vLLM 0.32's bodies and statuses.

``tests/data/vllm-0.32-answers.json`` holds what a real server said; a unit test compares.
"""

from typing import Any

from aiohttp import web

from memroute_simulator.engine.http.responses import json_response


class APIError(Exception):
    """A refusal in OpenAI's shape."""

    def __init__(self, status: int, kind: str, message: str, parameter: str | None = None) -> None:
        self.status = status
        self.kind = kind
        self.message = message
        self.parameter = parameter
        super().__init__(message)

    def document(self) -> dict[str, Any]:
        """The body."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.parameter,
                "code": self.status,
            }
        }

    def response(self) -> web.Response:
        """The answer."""
        return json_response(self.document(), status=self.status)


def bad_request(message: str, parameter: str | None = None) -> APIError:
    """400 from the engine's own checks."""
    return APIError(400, "BadRequestError", message, parameter)


def bad_parameter(message: str, name: str, value: object = None) -> APIError:
    """400 that names the parameter, and its value where it has one, in the message."""
    detail = f"parameter={name}" if value is None else f"parameter={name}, value={value}"
    return bad_request(f"{message} ({detail})", name)


def validation_error(
    kind: str, where: str, message: str, given: object, context: dict[str, str] | None = None
) -> APIError:
    """400 as pydantic's errors come out of vLLM: one line per error, a dict's repr."""
    shown = given
    if isinstance(given, dict):
        shown = f"<dict of {len(given)} items>"
    elif isinstance(given, list):
        shown = f"<list of {len(given)} items>"
    elif not isinstance(given, str):
        shown = repr(given)
    detail: dict[str, Any] = {"type": kind, "loc": where, "msg": message, "input": shown}
    if context is not None:
        detail["ctx"] = context
    return APIError(400, "Bad Request", f"1 validation error:\n  {detail}", where)


def unknown_model(name: object, aliases: list[str]) -> APIError:
    """404 with the names that are served."""
    known = ", ".join(aliases)
    text = f"The model `{name}` does not exist. Valid aliases: {known}."
    return APIError(404, "NotFoundError", text, "model")


def queue_full() -> APIError:
    """503 of ``--max-num-queued-reqs``: no Retry-After."""
    return APIError(
        503,
        "Service Unavailable",
        "The engine is currently busy and cannot accept new requests. "
        "Please try again later or on a different instance.",
    )


def engine_dead() -> APIError:
    """500 once the engine has died."""
    return APIError(
        500,
        "InternalServerError",
        "EngineCore encountered an issue. See stack trace (above) for the root cause.",
    )


def context_exceeded(context_tokens: int, num_prompt_tokens: int) -> APIError:
    """400 for a prompt that is too long; vLLM stops counting one token past the limit."""
    counted = min(num_prompt_tokens, context_tokens + 1)
    return bad_parameter(
        f"This model's maximum context length is {context_tokens} tokens. However, your prompt "
        f"contains at least {counted} input tokens, which exceeds this limit even without any "
        "output tokens. Please reduce the length of the input prompt.",
        "input_tokens",
        counted,
    )
