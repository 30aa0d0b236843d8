"""What a body's messages hold, in the order in which engines write them into a prompt.

Walks any JSON without recursion: text goes to ``pieces``, what is no text becomes an attachment
with its place among the pieces. Parts are known by their ``type``, as engines know them:

| dialect | parts |
| --- | --- |
| chat | ``text``, ``image_url``, ``input_audio``, ``audio_url``, ``video_url``, ``refusal`` … |
| messages | ``text``, ``image``, ``document``, ``thinking``, ``tool_use``, ``tool_result`` |
| responses | ``input_text``, ``output_text``, ``input_image``, ``input_file``, ``summary_text`` … |

``redacted_thinking`` and encrypted reasoning are for the model's maker: engines leave them out.
"""

from typing import Any, Final

import orjson

from memroute_router.requests.attachments import Attachment, read_attachment
from memroute_router.requests.errors import BadRequestError
from memroute_router.requests.text import num_bytes

MAX_PARTS: Final = 100_000
# Of one request: conversations have thousands. Chosen by hand, to bound the work.

_UNSEEN: Final = frozenset({"redacted_thinking", "encrypted_content", "item_reference"})


class Content:
    """Text and attachments of one prompt; filled by the dialects."""

    __slots__ = (
        "_num_parts", "attachments", "begins", "optional_bytes", "overheads", "pieces", "places",
    )  # fmt: skip

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.attachments: list[Attachment] = []
        self.places: list[int] = []
        """Of each attachment: how many pieces are before it."""
        self.begins: list[int] = []
        """Of each message: how many pieces are before it."""
        self.overheads: list[int] = []
        """Tokens that templates put around each message and its calls."""
        self.optional_bytes = 0
        """Of tools and reasoning, which some templates leave out: no refusal may rely on them."""
        self._num_parts = 0

    def add(self, content: object, parameter: str) -> None:
        """A message's content in any dialect. Raises ``BadRequestError`` when it has no end."""
        if isinstance(content, str):
            self.pieces.append(content)
            return
        if content is None:
            return
        stack: list[object] = [content]
        while stack:
            part = stack.pop()
            self._num_parts += 1
            if self._num_parts > MAX_PARTS:
                msg = f"{parameter} has more than {MAX_PARTS} parts"
                raise BadRequestError(msg, parameter)
            if isinstance(part, str):
                self.pieces.append(part)
            elif isinstance(part, list):
                if len(part) > MAX_PARTS:
                    msg = f"{parameter} has more than {MAX_PARTS} parts"
                    raise BadRequestError(msg, parameter)
                stack.extend(reversed(part))
            elif isinstance(part, dict):
                self._add_part(part, stack)

    def begin_message(self, role: object) -> None:
        """What comes now is another's turn."""
        self.begins.append(len(self.pieces))
        self.overheads.append(TOKENS_PER_MESSAGE)
        self.pieces.append(f"\0{role}\0" if isinstance(role, str) else "\0")

    def add_overhead(self, tokens: int) -> None:
        """What templates put around a part of this message."""
        if self.overheads:
            self.overheads[-1] += tokens

    def add_optional(self, text: str) -> None:
        """What most templates write, and some do not."""
        self.pieces.append(text)
        self.optional_bytes += num_bytes(text)

    def add_json(self, value: object) -> None:
        """What templates write as JSON: tools, arguments of calls."""
        if isinstance(value, str):
            self.pieces.append(value)
        elif value:
            self.pieces.append(dumped(value).decode("utf-8", "replace"))

    def _add_part(self, part: dict[str, Any], stack: list[object]) -> None:
        kind = str(part.get("type"))
        text = part.get("text")
        if isinstance(text, str) and kind != "document":
            self.pieces.append(text)
            return
        if kind == "tool_use":
            self.add_overhead(TOKENS_PER_CALL)
            self.add_json(part.get("name"))
            self.add_json(part.get("input"))
            return
        if kind in _UNSEEN:
            return
        attachment = read_attachment(part)
        if attachment is not None:
            self.places.append(len(self.pieces))
            self.attachments.append(attachment)
            return
        for name in ("content", "thinking", "refusal", "source", "data", "output", "summary"):
            inner = part.get(name)
            if name in {"thinking", "summary"} and isinstance(inner, str):
                self.add_optional(inner)
                return
            if isinstance(inner, (str, list, dict)):
                stack.append(inner)
                return
        if isinstance(text, (list, dict)):
            stack.append(text)


TOKENS_PER_MESSAGE: Final = 4
# Chat templates wrap each message in two to five special tokens.
TOKENS_PER_CALL: Final = 12
# ``<tool_call>\n{"name": …, "arguments": …}\n</tool_call>`` and the like.


def dumped(value: object) -> bytes:
    """JSON of a value; of one nested too deep to be written, the texts in it."""
    try:
        return orjson.dumps(value)
    except TypeError:  # orjson's JSONEncodeError is one: nested deeper than 254
        texts: list[str] = []
        stack: list[object] = [value]
        while stack and len(texts) < MAX_PARTS:
            part = stack.pop()
            if isinstance(part, list):
                stack.extend(reversed(part))
            elif isinstance(part, dict):
                for name, inner in part.items():
                    texts.append(name)
                    stack.append(inner)
            else:
                texts.append(str(part))
        return " ".join(texts).encode("utf-8", "replace")
