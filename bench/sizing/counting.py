"""True counts of the corpus, by real tokenizers, chat templates and image rules.

Needs what the project does not: ``--install`` (see ``__main__``) puts it into an environment of its
own. Requests of other dialects are turned into conversations as vLLM turns them.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.sizing.corpus import CHAT, COMPLETIONS, MESSAGES, Case
from bench.sizing.measure import TrueCount
from memroute_router.prompts.tokenizer import PromptTokenizer
from memroute_router.requests.images import image_size

ENGINE_BLOCK_TOKENS = 16
# vLLM caches whole blocks of so many.

Encode = Callable[[dict[str, Any]], list[int]]
ImageTokens = Callable[[int, int], int]


class Counter:
    """Counts one pool's requests."""

    def __init__(
        self,
        encode: Encode,
        image_tokens: ImageTokens | None,
        *,
        writes_tools: bool,
    ) -> None:
        """``writes_tools``: whether its template does."""
        self._encode = encode
        self._image_tokens = image_tokens
        self._writes_tools = writes_tools

    def counts(self, cases: list[Case]) -> Iterator[TrueCount]:
        """Of the cases that the pool's model can be asked."""
        known: dict[int, tuple[list[int], list[str]]] = {}
        for number, case in enumerate(cases):
            if case.kind == "agent" and not self._writes_tools:
                continue
            if case.kind == "image" and self._image_tokens is None:
                continue
            document, images = as_chat(case)
            ids = self._encode(document)
            extra = sum(self._image_size(image) for image in images)
            cached = None
            if case.after in known:
                before, images_before = known[case.after]
                same = 0
                while same < min(len(ids), len(before)) and ids[same] == before[same]:
                    same += 1
                if same == len(ids) and images == images_before:
                    same += extra
                cached = same // ENGINE_BLOCK_TOKENS * ENGINE_BLOCK_TOKENS
            known[number] = ids, images
            yield TrueCount(number, len(ids) + extra, cached)

    def _image_size(self, marker_and_url: str) -> int:
        if self._image_tokens is None:
            return 0
        marker, _, url = marker_and_url.partition(" ")
        width, height = image_size(base64.b64decode(url.partition(",")[2]))
        of_marker = len(self._encode({"prompt": f"a {marker} a"})) - len(
            self._encode({"prompt": "a a"})
        )
        return self._image_tokens(width, height) - of_marker


def as_chat(case: Case) -> tuple[dict[str, Any], list[str]]:
    """A case as a conversation of texts, with a marker in the place of each image; the images."""
    body = case.body
    if case.path == COMPLETIONS:
        return body, []
    if case.path == CHAT:
        messages, tools = body["messages"], body.get("tools")
    elif case.path == MESSAGES:
        messages = list(_of_messages(body))
        tools = [
            {
                "type": "function",
                "function": {
                    "name": tool["name"],
                    "description": tool["description"],
                    "parameters": tool["input_schema"],
                },
            }
            for tool in body["tools"]
        ]
    else:
        messages = list(_of_responses(body))
        tools = [
            {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
            for tool in body["tools"]
        ]
    images: list[str] = []
    plain = []
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            texts = []
            for part in content:
                if part["type"] == "text":
                    texts.append(part["text"])
                    continue
                url = part["image_url"]["url"]
                marker = hashlib.sha256(url.encode()).hexdigest()[:8]
                images.append(f"{marker} {url}")
                texts.append(f" {marker} ")
            content = "".join(texts)
        plain.append({**message, "content": content})
    return {"messages": plain, "tools": tools}, images


def _of_messages(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"role": "system", "content": "".join(block["text"] for block in body["system"])}
    for message in body["messages"]:
        content = message["content"]
        if isinstance(content, str):
            yield message
            continue
        for part in content:
            if part["type"] == "tool_use":
                function = {"name": part["name"], "arguments": json.dumps(part["input"])}
                call = {"id": part["id"], "type": "function", "function": function}
                yield {"role": "assistant", "content": "", "tool_calls": [call]}
            else:
                given = part["content"]
                text = given if isinstance(given, str) else "\n".join(p["text"] for p in given)
                yield {"role": "tool", "tool_call_id": part["tool_use_id"], "content": text}


def _of_responses(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"role": "system", "content": body["instructions"]}
    for item in body["input"]:
        if item.get("type") == "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            yield {"role": "assistant", "content": "", "tool_calls": [call]}
        elif item.get("type") == "function_call_output":
            yield {"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]}
        else:
            yield item


def hugging_face(folder: Path) -> Encode:
    """By ``tokenizer.json`` and the chat template beside it."""
    tokenizer = PromptTokenizer.load(folder)

    def encode(document: dict[str, Any]) -> list[int]:
        ids = tokenizer.encode(document)
        if ids is None:
            msg = f"{folder}: the template failed"
            raise ValueError(msg)
        return ids

    return encode


def mistral() -> tuple[Encode, ImageTokens]:
    """Mistral's own library, with the tokenizer and the image rule of Mistral Small 3.1."""
    import mistral_common  # noqa: PLC0415 - the bench's own
    from mistral_common.protocol.instruct.normalize import (  # noqa: PLC0415
        get_normalizer,
    )
    from mistral_common.protocol.instruct.request import ChatCompletionRequest  # noqa: PLC0415
    from mistral_common.protocol.instruct.validator import (  # noqa: PLC0415
        ValidationMode,
        get_validator,
    )
    from mistral_common.tokens.tokenizers.base import TokenizerVersion  # noqa: PLC0415
    from mistral_common.tokens.tokenizers.image import (  # noqa: PLC0415
        ImageConfig,
        ImageEncoder,
        SpecialImageIDs,
    )
    from mistral_common.tokens.tokenizers.instruct import InstructTokenizerV7  # noqa: PLC0415
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer  # noqa: PLC0415
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    folder = Path(mistral_common.__file__).parent / "data"
    tekken = Tekkenizer.from_file(folder / "tekken_240911.json")
    # The same vocabulary, written as Small 3.1 writes conversations: instructions come first.
    version = tekken._version = TokenizerVersion.v7  # noqa: SLF001 - it comes as v3 alone
    tokenizer = MistralTokenizer(
        InstructTokenizerV7(tekken),
        validator=get_validator(version, ValidationMode.test),
        request_normalizer=get_normalizer(version, tekken.model_settings_builder),
    )
    config = ImageConfig(image_patch_size=14, max_image_size=1540, spatial_merge_size=2)
    encoder = ImageEncoder(config, SpecialImageIDs(img=10, img_break=12, img_end=13))

    def encode(document: dict[str, Any]) -> list[int]:
        if "messages" not in document:
            text = tokenizer.instruct_tokenizer.tokenizer
            return list(text.encode(document["prompt"], bos=True, eos=False))
        messages = [
            {key: value for key, value in message.items() if value != ""}
            for message in document["messages"]
        ]
        for message in messages:
            for call in message.get("tool_calls", ()):
                call["id"] = (call["id"] + "000000000")[:9]
            if "tool_call_id" in message:
                message["tool_call_id"] = (message["tool_call_id"] + "000000000")[:9]
        request = ChatCompletionRequest.from_openai(messages=messages, tools=document.get("tools"))
        return list(tokenizer.encode_chat_completion(request).tokens)

    def image_tokens(width: int, height: int) -> int:
        columns, rows = encoder._image_to_num_tokens(Image.new("RGB", (width, height)))  # noqa: SLF001
        return int((columns + 1) * rows)

    return encode, image_tokens


def qwen_image_tokens(width: int, height: int) -> int:
    """Qwen3-VL's image processor: patches of 16 pixels, four to a token; and two marks."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (  # noqa: PLC0415
        smart_resize,
    )

    rows, columns = smart_resize(
        height, width, factor=32, min_pixels=256 * 256, max_pixels=4096 * 4096
    )
    return int(rows * columns) // 32**2 + 2


def gemma_image_tokens(_width: int, _height: int) -> int:
    """Gemma 3's processor: 256 soft tokens, a mark before and behind, an empty line around."""
    return 260


def counters(folder: Path) -> dict[str, Counter]:
    """By the name that each pool's model is served by. ``folder``: of ``tokenizer.json`` files."""
    encode, image_tokens = mistral()
    return {
        "Qwen3-VL-8B-Instruct": Counter(
            hugging_face(folder / "qwen3"), qwen_image_tokens, writes_tools=True
        ),
        "Mistral-Small-3.1-24B": Counter(encode, image_tokens, writes_tools=True),
        "gemma-3-12b-it": Counter(
            hugging_face(folder / "gemma3"), gemma_image_tokens, writes_tools=False
        ),
        "Llama-3.1-8B-Instruct": Counter(
            hugging_face(folder / "llama3_1"), None, writes_tools=False
        ),
        "DeepSeek-V3": Counter(hugging_face(folder / "deepseek_v3"), None, writes_tools=False),
    }
