"""Fields that several dialects have: the model, limits, the session."""

from typing import Any, Final

from memroute_router.requests.errors import BadRequestError

MAX_TOKEN_ID: Final = 2**31 - 1
MAX_LIMIT: Final = 2**63 - 1
MAX_SESSION_CHARACTERS: Final = 128
MAX_ANSWERS: Final = 4096
# Answers of one request: prompts times ``n``. vLLM takes up to 1,024 prompts and an ``n`` of up to
# 16,384; OpenAI an ``n`` of 128. One request of more could not run at once on any replica, and
# would be taken to need all the memory there is.
DEFAULT_COMPLETION_TOKENS: Final = 16
# The API's own default for text completions that do not name ``max_tokens``.


def model_of(document: dict[str, Any]) -> str:
    """The model that is asked for. Raises ``BadRequestError``."""
    model = document.get("model")
    if not isinstance(model, str) or not model:
        msg = "model must name one of /v1/models"
        raise BadRequestError(msg, "model")
    return model


def session_of(document: dict[str, Any]) -> str:
    """What the body calls the conversation; empty: nothing."""
    key = document.get("prompt_cache_key")
    return key[:MAX_SESSION_CHARACTERS] if isinstance(key, str) else ""


def whole_number(value: object, parameter: str, *, least: int = 1) -> int | None:
    """An integer of at least ``least``, None when there is none. Raises ``BadRequestError``."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as engines take it
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_LIMIT:
        least_word = {0: "an integer of 0 or more", 1: "a positive integer"}
        msg = f"{parameter} must be {least_word.get(least, f'an integer of {least} or more')}"
        raise BadRequestError(msg, parameter)
    return value


def output_limit(document: dict[str, Any], *parameters: str) -> int | None:
    """The client's limit by the first of these that is set, None without one.

    0 is an answer of none: vLLM serves it with ``echo``, SGLang to fill its cache.
    """
    found: int | None = None
    for name in parameters:
        limit = whole_number(document.get(name), name, least=0)
        if found is None:
            found = limit
    return found


def num_answers(document: dict[str, Any], num_prompts: int = 1) -> tuple[int, int]:
    """Answers that are given, and sequences that are run for them (``best_of`` may be more).

    Raises ``BadRequestError``, also when they are more than any engine takes.
    """
    if "n" not in document and "best_of" not in document and num_prompts <= MAX_ANSWERS:
        return num_prompts, num_prompts
    count = whole_number(document.get("n"), "n") or 1
    tried = whole_number(document.get("best_of"), "best_of") or 1
    for number, parameter in ((count, "n"), (tried, "best_of")):
        if number * num_prompts > MAX_ANSWERS:
            msg = f"{parameter} times the prompts must be at most {MAX_ANSWERS}"
            raise BadRequestError(msg, parameter)
    return count * num_prompts, max(count, tried) * num_prompts


def truncation(document: dict[str, Any]) -> int | None:
    """The most tokens of each prompt that the engine keeps (vLLM's ``truncate_prompt_tokens``).

    None: all. -1 is its context: 0 stands for that here, of which only the engine knows the length.
    """
    value = document.get("truncate_prompt_tokens")
    limit = whole_number(value, "truncate_prompt_tokens", least=-1)
    return None if limit is None else max(0, limit)
