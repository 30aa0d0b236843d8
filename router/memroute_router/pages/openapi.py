"""The router's own description of what it serves: ``/openapi.json`` of each listener."""

from collections.abc import Sequence
from typing import Any

from memroute_router.requests import (
    MAX_ANSWERS,
    MAX_LIMIT,
    MAX_TOKEN_ID,
    parse_chat,
    parse_completion,
    parse_input,
    parse_messages,
    parse_no_tokens,
    parse_responses,
    parse_texts,
)
from memroute_router.surface import ROUTES, Parser

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer"]},
            },
        },
    },
}
_LIMIT = {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_LIMIT}
_COUNT = {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_ANSWERS}
_CUT = {"type": ["integer", "null"], "minimum": -1, "maximum": MAX_LIMIT}
_OBJECTS = {"type": "array", "minItems": 1, "items": {"type": "object"}}
_TOKEN = {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_ID}
_PROMPT = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": _TOKEN},
        {
            "type": "array",
            "minItems": 1,
            "items": {"anyOf": [{"type": "string"}, {"type": "array", "items": _TOKEN}]},
        },
    ]
}

_ANY_TEXT = {"anyOf": [{"type": "string"}, _OBJECTS, *_PROMPT["anyOf"][1:]]}
_TEXT_OR_OBJECTS = {"anyOf": [{"type": "string", "minLength": 1}, _OBJECTS]}


def _body(*required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["model", *required],
        "properties": properties,
    }


_BODIES: dict[Parser, dict[str, Any]] = {
    parse_chat: _body(
        "messages", messages=_OBJECTS, max_tokens=_LIMIT, max_completion_tokens=_LIMIT, n=_COUNT,
        best_of=_COUNT, truncate_prompt_tokens=_CUT,
    ),
    parse_completion: _body(
        "prompt", prompt=_PROMPT, max_tokens=_LIMIT, n=_COUNT, best_of=_COUNT,
        truncate_prompt_tokens=_CUT,
    ),
    parse_responses: _body("input", input=_TEXT_OR_OBJECTS, max_output_tokens=_LIMIT),
    parse_messages: _body("messages", messages=_OBJECTS, max_tokens=_LIMIT),
    parse_input: _body(truncate_prompt_tokens=_CUT)
    | {
        "anyOf": [
            {"required": ["input"], "properties": {"input": _ANY_TEXT}},
            {
                "required": ["messages"],
                "properties": {"messages": _OBJECTS},
                "not": {"required": ["input"]},
            },
        ]
    },
    parse_texts: _body(truncate_prompt_tokens=_CUT),
    parse_no_tokens: _body(),
}  # fmt: skip
"""What the router itself asks of bodies; engines ask for more."""
_FORM = _body(file={"type": "string", "format": "binary"})
_REFUSALS = {
    "400": "It cannot be understood, or can never fit: with the numbers.",
    "404": "Nobody serves the model; those that the client may know are listed.",
    "408": "It did not arrive in time.",
    "413": "Its body is too large.",
    "415": "Its body is compressed.",
    "429": "It would fit, not now: with Retry-After.",
    "431": "Its header fields are too large.",
    "500": "The engine, or the router, failed at it.",
    "502": "Every replica tried failed before answering.",
    "503": "No replica is ready, or the router is stopping: with Retry-After.",
    "504": "It waited for room for as long as it may: with Retry-After.",
}


def openapi_document(models: Sequence[str]) -> dict[str, Any]:
    """OpenAPI 3.1: paths, what their bodies must have, how they are refused.

    ``models``: that are served now.
    """
    model = {"type": "string", "minLength": 1} | ({"enum": list(models)} if models else {})
    paths: dict[str, Any] = {
        "/health": _get("Whether the process runs.", "text/plain"),
        "/ready": _get("Whether models and replicas are known.", "text/plain", unready=True),
        "/openapi.json": _get("This document."),
        "/v1/models": _get("The models that are served."),
    }
    model_path = _get("One model.")
    model_path["get"]["parameters"] = [
        {"name": "model", "in": "path", "required": True, "schema": model}
    ]
    model_path["get"]["responses"]["404"] = _error(_REFUSALS["404"])
    paths["/v1/models/{model}"] = model_path
    for path, route in ROUTES.items():
        body = _FORM if route.parse_document is None else _BODIES[route.parse_document]
        body = body | {"properties": {"model": model} | body["properties"]}
        kind = "application/json" if route.parse_document else "multipart/form-data"
        paths[path.decode()] = {
            "post": {
                "summary": f"A {route.what}, as the engine that serves the model answers it.",
                "requestBody": {"required": True, "content": {kind: {"schema": body}}},
                "responses": {
                    "200": {"description": "The engine's answer, byte for byte."},
                    **{status: _error(text) for status, text in _REFUSALS.items()},
                },
            }
        }
    return _document("memroute-router", paths)


def operations_document() -> dict[str, Any]:
    """OpenAPI 3.1 of the operations listener."""
    return _document(
        "memroute-router, operations",
        {
            "/health": _get("Whether the process runs.", "text/plain"),
            "/ready": _get("Whether models and replicas are known.", "text/plain", unready=True),
            "/metrics": _get("Prometheus metrics.", "text/plain"),
            "/openapi.json": _get("This document."),
            "/debug/decisions": _get("What became of the last requests of every kind."),
            "/debug/queue": _get("The requests that wait: for what, why, since when."),
            "/debug/replicas": _get("What each replica is believed to hold."),
            "/map": _get("The live map, a page for people: /map/ is the page.", "text/html"),
            "/map/live.json": _get("What the map shows of this router."),
            "/map/fleet.json": _get("What the map shows of nodes, devices and models; or null."),
        },
    )


def _document(title: str, paths: dict[str, Any]) -> dict[str, Any]:
    return {"openapi": "3.1.0", "info": {"title": title, "version": "1"}, "paths": paths}


def _get(text: str, kind: str = "application/json", *, unready: bool = False) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": text, "content": {kind: {}}}}
    if unready:
        responses["503"] = {"description": "Not yet, or no more.", "content": {kind: {}}}
    return {"get": {"summary": text, "responses": responses}}


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": _ERROR}}}
