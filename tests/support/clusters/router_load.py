"""Load for a router on a cluster: OpenAI streams whose every end is kept."""

import asyncio
import collections
import time

import openai

from cluster_support import ANSWER_SECONDS, fetch


def operations_url(url):
    """Where a router on a cluster has its metrics; ``url``: where it has its API."""
    return url.removesuffix(":8000") + ":8002"


def router_metric(url, name):
    """``pod`` → value of one of the router's gauges. ``url``: of its API."""
    found = {}
    for line in fetch(f"{operations_url(url)}/metrics").text.splitlines():
        if line.startswith(f"memroute_router_{name}{{"):
            labels, value = line.rsplit(" ", 1)
            found[labels.split('replica="')[1].split('"')[0]] = float(value)
    return found


class Load:
    """Open-loop streams, one every ``interval`` seconds; every end is kept.

    An end is when it was sent, how it ended, at which replica, and the tokens that came.
    """

    def __init__(self, url, model, *, tokens=150):
        self.url, self.model, self.tokens, self.ends = url, model, tokens, []
        self.num_begun = 0
        """Streams of which tokens have come."""
        self.under_way = collections.Counter()
        """Replica → streams of which tokens have come, and not all."""

    async def run(self, seconds, interval):
        """Send for so long, and wait for all answers."""
        until = time.monotonic() + seconds
        await self.run_until(lambda: time.monotonic() >= until, interval)

    async def run_until(self, is_over, interval):
        """Send until it is over, and wait for all answers."""
        tasks = []
        async with openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="x", max_retries=0, timeout=ANSWER_SECONDS
        ) as client:
            while not is_over():
                tasks.append(asyncio.create_task(self._one(client)))
                await asyncio.sleep(interval)
            await asyncio.gather(*tasks)

    async def _one(self, client):
        sent, got, replica = time.monotonic(), 0, ""
        try:
            raw = await client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[{"role": "user", "content": "tok " * 100}],
                max_tokens=self.tokens,
                stream=True,
                extra_body={"ignore_eos": True},
                extra_headers={"x-memroute-explain": "1"},
            )
            replica = raw.headers["x-memroute-replica"]
            async for chunk in raw.parse():
                # A chat's first chunk has a role and no content.
                has_token = bool(chunk.choices and chunk.choices[0].delta.content)
                if has_token and not got:
                    self.num_begun += 1
                    self.under_way[replica] += 1
                got += has_token
            outcome = "served" if got == self.tokens else f"short {got}"
        except openai.APIStatusError as error:
            outcome = f"{error.status_code} {error.response.headers.get('x-memroute-reason')}"
        except openai.APIConnectionError:
            outcome = "connection lost"
        except openai.APIError as error:
            outcome = "broken" if "was lost while it answered" in str(error) else repr(error)
        self.under_way[replica] -= bool(got)
        self.ends.append((sent, outcome, replica, got))

    def outcomes(self):
        """How often each end was."""
        return collections.Counter(outcome for _, outcome, _, _ in self.ends)
