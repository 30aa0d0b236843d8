"""``/v1/completions``: a text, token ids, embeddings, or a list of texts or of ids."""

from typing import Any

from memroute_router.requests.attachments import embeds
from memroute_router.requests.content import Content
from memroute_router.requests.errors import BadRequestError
from memroute_router.requests.fields import (
    DEFAULT_COMPLETION_TOKENS,
    MAX_ANSWERS,
    MAX_TOKEN_ID,
    model_of,
    num_answers,
    output_limit,
    session_of,
    truncation,
)
from memroute_router.requests.parsed import ParsedRequest, PromptWeight, id_keys, salt_of
from memroute_router.requests.text import num_bytes
from memroute_router.requests.weighing import weigh_content, weigh_texts


def parse_completion(document: dict[str, Any]) -> ParsedRequest:
    """``/v1/completions``."""
    model = model_of(document)
    weight = _weight(document)
    num_choices, num_sequences = num_answers(document, weight.num_prompts)
    # An explicit null is no limit; a missing one is the API's default.
    limit: int | None = DEFAULT_COMPLETION_TOKENS
    if "max_tokens" in document:
        limit = output_limit(document, "max_tokens")
    return ParsedRequest(
        model=model,
        weight=weight,
        max_output_tokens=limit,
        num_choices=num_choices,
        num_sequences=num_sequences,
        document=document if weight.num_prompts == 1 else None,
        is_stream=document.get("stream") is True,
        session=session_of(document),
        truncated_tokens=truncation(document),
    )


def _weight(document: dict[str, Any]) -> PromptWeight:
    given = document.get("prompt_embeds")
    prompt = document.get("prompt")
    if not given:
        if prompt == "":
            msg = "prompt must not be empty"
            raise BadRequestError(msg, "prompt")
        return weigh_prompts(document, prompt, "prompt")
    items = given if isinstance(given, list) else [given]
    if len(items) > MAX_ANSWERS:
        msg = f"prompt_embeds must be at most {MAX_ANSWERS}"
        raise BadRequestError(msg, "prompt_embeds")
    weight = PromptWeight()
    if prompt:
        weight = weigh_prompts(document, prompt, "prompt")
        weight.num_prompts += len(items)
    else:
        weight.num_prompts = len(items)
    # Several prompts at once have no prefix in common with others.
    weight.keys = ()
    weight.chain = None
    weight.token_ids = None
    weight.attachments = [embeds(item) for item in items]
    return weight


def weigh_prompts(document: dict[str, Any], prompt: object, parameter: str) -> PromptWeight:
    """A prompt, or several. Raises ``BadRequestError`` when it is none."""
    if isinstance(prompt, str):
        content = Content()
        content.pieces.append(prompt)
        return weigh_content(document, content)
    if not isinstance(prompt, list) or not prompt:
        raise _no_prompt(parameter)
    if are_token_ids(prompt):
        return _ids(document, prompt)
    if len(prompt) == 1:
        if isinstance(prompt[0], list) and are_token_ids(prompt[0]):
            return _ids(document, prompt[0])
        if isinstance(prompt[0], str):
            return weigh_prompts(document, prompt[0], parameter)
    weight = PromptWeight()
    weight.num_prompts = len(prompt)
    texts: list[str] = []
    for item in prompt:
        if isinstance(item, str):
            texts.append(item)
            weight.longest_bytes = max(weight.longest_bytes, num_bytes(item))
        elif isinstance(item, list) and are_token_ids(item):
            weight.num_ids += len(item)
            weight.longest_ids = max(weight.longest_ids, len(item))
        else:
            raise _no_prompt(parameter)
    weigh_texts(weight, texts)
    return weight


def are_token_ids(prompt: list[Any]) -> bool:
    """Whether all are ids; of none, too."""
    # At the speed of C: there may be a hundred thousand of them.
    types = set(map(type, prompt))
    if not types <= {int} and (not types <= {int, float} or any(x != int(x) for x in prompt)):
        return False
    return not prompt or (min(prompt) >= 0 and max(prompt) <= MAX_TOKEN_ID)


def _ids(document: dict[str, Any], ids: list[int]) -> PromptWeight:
    weight = PromptWeight()
    weight.num_ids = weight.longest_ids = len(ids)
    if ids:
        weight.token_ids = ids
        weight.keys = id_keys(ids, salt_of(document))
    return weight


def _no_prompt(parameter: str) -> BadRequestError:
    msg = f"{parameter} must be a text, a list of texts, or token ids"
    return BadRequestError(msg, parameter)
