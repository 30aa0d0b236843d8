"""Embeddings, pooling, classification, ranking, scoring: nothing is generated.

Each text of a batch is a sequence of its own, and each pair of a query and a document. An engine's
context limits the largest of them; memory is needed for all.
"""

from typing import Any

from memroute.traffic.lengths.prompt import WORDS
from memroute_router.requests.content import Content
from memroute_router.requests.dialects.chat import read_chat
from memroute_router.requests.dialects.completions import weigh_prompts
from memroute_router.requests.fields import model_of, truncation
from memroute_router.requests.parsed import ParsedRequest, PromptWeight
from memroute_router.requests.text import num_bytes
from memroute_router.requests.weighing import weigh_content, weigh_texts

_FIRST = ("query", "queries", "text_1", "data_1")
_SECOND = ("documents", "text_2", "data_2", "items")


def parse_input(document: dict[str, Any]) -> ParsedRequest:
    """Embeddings, pooling, classification, speech: ``input``, or ``messages``."""
    model = model_of(document)
    parameter = "input" if "input" in document or "messages" not in document else "messages"
    given = document.get(parameter)
    if parameter == "messages" or _holds_objects(given):
        weight = _conversations(document, given, parameter)
    else:
        weight = weigh_prompts(document, given, parameter)
    return ParsedRequest(
        model=model,
        weight=weight,
        num_sequences=weight.num_prompts,
        truncated_tokens=truncation(document),
    )


def parse_texts(document: dict[str, Any]) -> ParsedRequest:
    """Ranking and scoring: one text with each of the others, or each with its own.

    ``query`` and ``documents``, ``text_1`` and ``text_2``, ``queries`` and ``items`` …
    """
    model = model_of(document)
    first_name = next((name for name in _FIRST if name in document), "query")
    second_name = next((name for name in _SECOND if name in document), "documents")
    attachments: list[Content] = []
    firsts = _texts(document.get(first_name), first_name, attachments)
    seconds = _texts(document.get(second_name), second_name, attachments)
    weight = PromptWeight()
    weigh_texts(weight, firsts, 1 if len(firsts) > 1 else max(1, len(seconds)))
    weigh_texts(weight, seconds)
    weight.num_prompts = max(1, len(seconds), len(firsts))
    first_bytes = max((num_bytes(text) for text in firsts), default=0)
    if len(firsts) > 1:
        # Each with its own: the longest of either need not meet.
        first_bytes = 0
    weight.longest_bytes = first_bytes + max((num_bytes(text) for text in seconds), default=0)
    weight.attachments = [one for content in attachments for one in content.attachments]
    return ParsedRequest(
        model=model,
        weight=weight,
        num_sequences=weight.num_prompts,
        truncated_tokens=truncation(document),
    )


def parse_no_tokens(document: dict[str, Any]) -> ParsedRequest:
    """Tokenizing and counting: no KV cache is held."""
    return ParsedRequest(model=model_of(document), weight=PromptWeight())


def _holds_objects(given: object) -> bool:
    """Messages where texts might be: vLLM takes conversations, and lists of them, as input."""
    if isinstance(given, list) and given and isinstance(given[0], list):
        given = given[0]
    return isinstance(given, list) and bool(given) and isinstance(given[0], dict)


def _conversations(document: dict[str, Any], given: object, parameter: str) -> PromptWeight:
    if not (isinstance(given, list) and given and isinstance(given[0], list)):
        if isinstance(given, list) and given and not _are_messages(given):
            # Parts of one text, or a list of inputs that are no texts.
            content = Content()
            content.add(given, parameter)
            return weigh_content(document, content)
        content, tools = read_chat(document, given, parameter)
        return weigh_content(document, content, leading=tools)
    weight = PromptWeight()
    weight.num_prompts = len(given)
    for one in given:
        content, _ = read_chat(document, one, parameter)
        weigh_texts(weight, content.pieces)
        weight.parts[WORDS] += sum(content.overheads)
        weight.attachments = weight.attachments + content.attachments
        size = sum(num_bytes(piece) for piece in content.pieces)
        weight.longest_bytes = max(weight.longest_bytes, size)
    return weight


def _are_messages(given: list[Any]) -> bool:
    return not all(isinstance(one, dict) and "type" in one and "role" not in one for one in given)


def _texts(given: object, parameter: str, attachments: list[Content]) -> list[str]:
    """The texts to compare: each may be a text, or parts of one; none where the engine says so."""
    if isinstance(given, str):
        return [given]
    texts: list[str] = []
    if given is None:
        return texts
    for item in given if isinstance(given, list) else [given]:
        if isinstance(item, str):
            texts.append(item)
            continue
        content = Content()
        content.add(item, parameter)
        texts.append("".join(content.pieces))
        if content.attachments:
            attachments.append(content)
    return texts
