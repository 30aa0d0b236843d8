"""Bodies as clients send them: agents in three dialects, images, nine languages, code, data.

Made from ``tests/data/sizing/texts.json`` by a seeded generator, so that only the texts and the
true counts have to be kept. Images and recordings are a valid header and noise: nobody decodes
them.
"""

import base64
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

DATA = Path(__file__).resolve().parents[2] / "tests/data/sizing"
LANGUAGES = (
    "english", "russian", "chinese", "japanese", "korean", "arabic", "hindi", "german", "spanish",
)  # fmt: skip
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request."""

    kind: str
    path: str
    body: dict[str, Any]
    after: int | None = None
    """The case whose prompt is in the engine's cache when this one comes; None: none."""


class Maker:
    """Makes the corpus; the same for the same texts."""

    def __init__(self, texts: dict[str, list[str]], seed: int = 17) -> None:
        self._texts = texts
        self._rng = Random(seed)  # noqa: S311 - a corpus, no secret
        self.cases: list[Case] = []

    def prose(self, language: str, num_characters: int) -> str:
        """Sentences of a language, about so many characters of them."""
        sentences: list[str] = []
        while sum(map(len, sentences)) < num_characters:
            sentences += self._rng.sample(self._texts[language], 3)
        return ("" if language in {"chinese", "japanese"} else " ").join(sentences)

    def code(self, num_pieces: int) -> str:
        """Functions of several programming languages."""
        return "\n".join(self._rng.choice(self._texts["code"]) for _ in range(num_pieces))

    def rows(self, count: int) -> list[dict[str, Any]]:
        """Records as an API gives them."""
        rng = self._rng
        return [
            {
                "id": rng.randrange(10**6), "sku": f"AB-{rng.randrange(10**4):04d}",
                "title": rng.choice(self._texts["english"])[:32],
                "price": rng.randrange(40_000) / 100, "inStock": rng.choice((True, False)),
                "updatedAt": f"2026-{rng.randrange(1, 13):02d}-{rng.randrange(10, 29)}T08:15:00Z",
            }
            for _ in range(count)
        ]  # fmt: skip

    def log(self, count: int) -> str:
        """Lines of a program's log."""
        rng = self._rng
        return "\n".join(
            f"2026-11-{rng.randrange(10, 29)} 10:{rng.randrange(60):02d}:{rng.randrange(60):02d} "
            f"{rng.choice(('INFO', 'WARN', 'ERROR'))} worker-{rng.randrange(9)} "
            f"{rng.choice(('request served', 'cache miss', 'retrying upstream', 'slow query'))} "
            f"path=/api/v1/{rng.choice(('items', 'users', 'orders'))} took={rng.randrange(900)}ms"
            for _ in range(count)
        )

    def output(self) -> str:
        """What a tool gives back."""
        pick = self._rng.randrange(4)
        if pick == 0:
            return self.code(self._rng.randrange(1, 5))
        if pick == 1:
            return json.dumps(self.rows(self._rng.randrange(2, 8)))
        if pick == 2:  # noqa: PLR2004 - the third kind
            return self.log(self._rng.randrange(5, 25))
        return self.prose("english", self._rng.randrange(100, 800))

    def image(self) -> str:
        """A data URL of a picture of some size."""
        rng = self._rng
        width, height = rng.choice(
            ((512, 512), (1024, 768), (1920, 1080), (640, 1280), (224, 224), (3000, 2000))
        )
        noise = rng.randbytes(600)
        if rng.choice((True, False)):
            data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + noise
            kind = "png"
        else:
            app = b"\xff\xe1" + struct.pack(">H", 302) + noise[:300]
            frame = b"\xff\xc0" + struct.pack(">HBHH", 17, 8, height, width)
            data, kind = b"\xff\xd8" + app + frame + noise, "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

    def add(self, kind: str, path: str, body: dict[str, Any], after: int | None = None) -> int:
        """One more case; its number."""
        body = {"model": "m", "max_tokens": 256} | body
        self.cases.append(
            Case(kind=kind, path=path, body=json.loads(json.dumps(body)), after=after)
        )
        return len(self.cases) - 1

    # The kinds.

    def question(self, language: str) -> None:
        """A question; the same again; a second turn; another question after its instructions."""
        system = {"role": "system", "content": self.prose(language, self._rng.choice((300, 2500)))}
        ask = {"role": "user", "content": self.prose(language, self._rng.choice((100, 900, 4000)))}
        first = self.add(f"chat {language}", CHAT, {"messages": [system, ask]})
        self.add(f"chat {language}", CHAT, {"messages": [system, ask]}, first)
        answer = {"role": "assistant", "content": self.prose(language, 700)}
        further = {"role": "user", "content": self.prose(language, 200)}
        messages = [system, ask, answer, further]
        self.add(f"chat {language}", CHAT, {"messages": messages}, first)
        other = {"role": "user", "content": self.prose(language, 600)}
        self.add(f"chat {language}", CHAT, {"messages": [system, other]}, first)

    def document(self, kind: str) -> None:
        """Code or data to work on, with English around it."""
        text = {
            "code": self.code(6),
            "json": json.dumps(self.rows(14), indent=2),
            "log": self.log(30),
        }
        content = f"{self.prose('english', 150)}\n\n{text[kind]}"
        self.add(kind, CHAT, {"messages": [{"role": "user", "content": content}]})
        self.add(kind, COMPLETIONS, {"prompt": content})

    def tools(self, count: int) -> list[dict[str, Any]]:
        """Descriptions of functions."""
        words = ("read", "write", "search", "list", "run", "open")
        return [
            {
                "name": f"{words[number % 6]}_{self._rng.choice(('file', 'order', 'page'))}",
                "description": self.prose("english", 150),
                "parameters": {
                    "type": "object",
                    "properties": {
                        "path": {"type": "string", "description": self.prose("english", 60)},
                        "limit": {"type": "integer", "minimum": 1, "default": 20},
                    },
                    "required": ["path"],
                },
            }
            for number in range(count)
        ]

    def agent(self, num_turns: int) -> None:
        """A loop of calls and results in three dialects, each twice: half of it, and all."""
        tools = self.tools(self._rng.randrange(4, 9))
        system = self.prose("english", 1800)
        ask = self.prose("english", 200)
        steps = [
            (
                f"call{number:05d}",
                tools[number % len(tools)]["name"],
                {
                    "path": f"/srv/app/{self._rng.choice(('models', 'views'))}/{number}.py",
                    "limit": 50,
                },
                self.output(),
            )
            for number in range(num_turns)
        ]
        for path, write in (
            (CHAT, _chat_agent), (MESSAGES, _messages_agent), (RESPONSES, _responses_agent)
        ):  # fmt: skip
            earlier = write(system, ask, tools, steps[: num_turns // 2])
            number = self.add("agent", path, earlier)
            self.add("agent", path, write(system, ask, tools, steps), number)

    def picture(self) -> None:
        """A question about an image; another image after the same instructions."""
        system = {"role": "system", "content": self.prose("english", 2000)}
        asked = self.prose("english", 120)
        before: int | None = None
        for _ in range(2):
            parts = [
                {"type": "text", "text": asked},
                {"type": "image_url", "image_url": {"url": self.image()}},
            ]
            messages = [system, {"role": "user", "content": parts}]
            number = self.add("image", CHAT, {"messages": messages}, before)
            before = number
        again = self.cases[number].body
        self.add("image", CHAT, again, number)


def make_corpus(texts: dict[str, list[str]] | None = None) -> list[Case]:
    """The corpus, in an order that mixes its kinds."""
    maker = Maker(texts or json.loads((DATA / "texts.json").read_text()))
    for number in range(3):
        for language in LANGUAGES:
            maker.question(language)
        for kind in ("code", "json", "log"):
            maker.document(kind)
        maker.agent(6 + 4 * number)
        maker.picture()
        maker.picture()
    return maker.cases


def _chat_agent(system: str, ask: str, tools: Any, steps: Any) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": system},
        {"role": "user", "content": ask},
    ]
    for name, tool, arguments, output in steps:
        function = {"name": tool, "arguments": json.dumps(arguments)}
        call = {"id": name, "type": "function", "function": function}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": name, "content": output})
    return {
        "messages": messages,
        "tools": [{"type": "function", "function": tool} for tool in tools],
    }


def _messages_agent(system: str, ask: str, tools: Any, steps: Any) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": ask}]
    for name, tool, arguments, output in steps:
        use = {"type": "tool_use", "id": name, "name": tool, "input": arguments}
        result = {"type": "tool_result", "tool_use_id": name, "content": output}
        if len(output) % 2:
            result["content"] = [{"type": "text", "text": output}]
        messages.append({"role": "assistant", "content": [use]})
        messages.append({"role": "user", "content": [result]})
    described = [
        {
            "name": tool["name"],
            "description": tool["description"],
            "input_schema": tool["parameters"],
        }
        for tool in tools
    ]
    return {
        "system": [{"type": "text", "text": system}],
        "messages": messages,
        "tools": described,
    }


def _responses_agent(system: str, ask: str, tools: Any, steps: Any) -> dict[str, Any]:
    items: list[dict[str, Any]] = [{"role": "user", "content": ask}]
    for name, tool, arguments, output in steps:
        call = {"type": "function_call", "call_id": name, "name": tool}
        items.append(call | {"arguments": json.dumps(arguments)})
        items.append({"type": "function_call_output", "call_id": name, "output": output})
    return {
        "instructions": system,
        "input": items,
        "tools": [{"type": "function", **tool} for tool in tools],
    }
