"""Mixed traffic through the official OpenAI client, and what became of every request."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openai

CHAT_PER_SECOND = 5.0
DRAFT_PER_SECOND = 3.0
HOPELESS_PER_SECOND = 0.2
BURST_SIZE = 24
BURST_PROMPT_TOKENS = 5000


@dataclass(slots=True)
class Answer:
    """How one request ended."""

    kind: str
    sent_at: float
    outcome: str
    replica: str = ""
    ttft_seconds: float | None = None
    message: str = ""
    retry_after: str | None = None


@dataclass(slots=True)
class Traffic:
    """Sends requests at fixed rates. Owns the list of answers."""

    base_url: str
    seed: int = 0
    answers: list[Answer] = field(default_factory=list)
    num_in_flight: int = 0

    async def run(self, seconds: float) -> None:
        """Send for so long, with one burst on the way; returns when every answer has ended."""
        import openai  # noqa: PLC0415 - half a second that only the demo pays

        rng = random.Random(self.seed)  # noqa: S311 - a reproducible workload
        started = time.monotonic()
        burst_at = started + seconds * 0.75
        tasks: set[asyncio.Task[None]] = set()
        rates = {
            "chat": CHAT_PER_SECOND,
            "draft": DRAFT_PER_SECOND,
            "hopeless": HOPELESS_PER_SECOND,
        }
        due = {kind: started + rng.expovariate(rate) for kind, rate in rates.items()}
        async with openai.AsyncOpenAI(
            base_url=f"{self.base_url}/v1", api_key="none", max_retries=0, timeout=120
        ) as client:
            while time.monotonic() - started < seconds:
                now = time.monotonic()
                for kind, at in due.items():
                    if now >= at:
                        due[kind] = at + rng.expovariate(rates[kind])
                        tasks.add(asyncio.create_task(self._send(client, kind, rng)))
                if burst_at is not None and now >= burst_at:
                    burst_at = float("inf")
                    tasks |= {
                        asyncio.create_task(self._send(client, "burst", rng))
                        for _ in range(BURST_SIZE)
                    }
                tasks = {task for task in tasks if not task.done()}
                await asyncio.sleep(0.01)
            await asyncio.gather(*tasks)

    async def _send(self, client: "openai.AsyncOpenAI", kind: str, rng: random.Random) -> None:
        import openai  # noqa: PLC0415 - as above

        answer = Answer(kind, time.monotonic(), "served")
        self.num_in_flight += 1
        try:
            if kind == "draft":
                await self._ask_whole(client, answer, rng)
            else:
                await self._ask_streamed(client, answer, rng)
        except openai.APIStatusError as error:
            reason = error.response.headers.get("x-memroute-reason", "error")
            answer.outcome = f"{error.status_code} {reason}"
            answer.message = str(error.message)
            answer.retry_after = error.response.headers.get("retry-after")
        except openai.APIConnectionError as error:
            answer.outcome, answer.message = "connection lost", repr(error)
        except openai.APIError as error:
            answer.outcome, answer.message = "stream broken", str(error.message)
        finally:
            self.num_in_flight -= 1
            self.answers.append(answer)

    async def _ask_streamed(
        self, client: "openai.AsyncOpenAI", answer: Answer, rng: random.Random
    ) -> None:
        model, prompt_tokens, output_tokens = _shape(answer.kind, rng)
        raw = await client.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": "tok " * prompt_tokens}],
            max_tokens=output_tokens,
            stream=True,
            extra_headers={"x-memroute-explain": "1"},
        )
        answer.replica = raw.headers.get("x-memroute-replica", "")
        async for _ in raw.parse():
            if answer.ttft_seconds is None:
                answer.ttft_seconds = time.monotonic() - answer.sent_at

    async def _ask_whole(
        self, client: "openai.AsyncOpenAI", answer: Answer, rng: random.Random
    ) -> None:
        model, prompt_tokens, output_tokens = _shape(answer.kind, rng)
        raw = await client.completions.with_raw_response.create(
            model=model,
            prompt="tok " * prompt_tokens,
            max_tokens=output_tokens,
            extra_headers={"x-memroute-explain": "1"},
        )
        answer.replica = raw.headers.get("x-memroute-replica", "")

    def outcomes(self) -> Counter[str]:
        """How many requests ended how."""
        return Counter(answer.outcome for answer in self.answers)


def _shape(kind: str, rng: random.Random) -> tuple[str, int, int]:
    """Model, prompt tokens, longest answer."""
    match kind:
        case "chat":
            return "chat", min(3000, int(rng.lognormvariate(6.0, 0.9))), rng.randint(40, 300)
        case "burst":
            return "chat", BURST_PROMPT_TOKENS, 400
        case "draft":
            return "draft", rng.randint(50, 400), rng.randint(10, 80)
        case _:
            # Two that cannot be served: an answer longer than the context, a model that is not up.
            return rng.choice([("chat", 100, 100_000), ("large", 100, 50)])
