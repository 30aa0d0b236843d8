"""What users' own clients do, against whatever serves an OpenAI API: each answer is looked at."""

import json
import subprocess

import anthropic
import openai
import pytest

MESSAGES = [{"role": "user", "content": "Say something about memory."}]


async def openai_chats(base, model):
    """Whole and streamed, with usage; tokens are counted by the engine."""
    async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as client:
        whole = await client.chat.completions.create(
            model=model, messages=MESSAGES, max_tokens=8, extra_body={"ignore_eos": True}
        )
        assert whole.choices[0].message.content
        assert whole.usage.completion_tokens == 8
        stream = await client.chat.completions.create(
            model=model, messages=MESSAGES, max_tokens=8, stream=True,
            stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
        )  # fmt: skip
        chunks = [chunk async for chunk in stream]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text
        assert chunks[-1].usage.completion_tokens == 8


async def openai_completions(base, model):
    async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as client:
        whole = await client.completions.create(
            model=model, prompt="Memory is", max_tokens=5, extra_body={"ignore_eos": True}
        )
        assert whole.choices[0].text
        assert whole.usage.completion_tokens == 5
        stream = await client.completions.create(
            model=model, prompt="Memory is", max_tokens=5, stream=True,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        assert "".join([chunk.choices[0].text async for chunk in stream])
        listed = [model.id async for model in client.models.list()]
        assert model in listed
        assert (await client.models.retrieve(model)).id == model


async def openai_responses(base, model):
    async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as client:
        whole = await client.responses.create(model=model, input="Hi", max_output_tokens=16)
        assert whole.output_text
        assert whole.usage.output_tokens >= 1
        stream = await client.responses.create(
            model=model, input="Hi", max_output_tokens=16, stream=True
        )
        events = [event async for event in stream]
        assert events[0].type == "response.created"
        assert events[-1].type in {"response.completed", "response.incomplete"}
        deltas = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        assert deltas


async def openai_errors(base, model):
    """Each raises what the client has for it, with a message made for people."""
    async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.chat.completions.create(model="nobody", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(
                model=model, messages=MESSAGES, max_tokens=10_000_000
            )
        assert caught.value.body["message"]


async def anthropic_messages(base, model):
    async with anthropic.AsyncAnthropic(base_url=base, api_key="none", max_retries=0) as client:
        whole = await client.messages.create(model=model, max_tokens=8, messages=MESSAGES)
        assert whole.content[0].text
        assert 1 <= whole.usage.output_tokens <= 8
        async with client.messages.stream(
            model=model, max_tokens=8, messages=MESSAGES, system="Be brief."
        ) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
        assert final.content[0].text == text != ""
        assert final.stop_reason in {"max_tokens", "end_turn"}
        counted = await client.messages.count_tokens(model=model, messages=MESSAGES)
        assert counted.input_tokens > 3
        with pytest.raises(anthropic.NotFoundError, match="does not exist"):
            await client.messages.create(model="nobody", max_tokens=8, messages=MESSAGES)


def curl(base, model):
    """As the README shows it: whole, streamed, a file as the body, HTTP/1.0."""
    url = f"{base}/v1/chat/completions"
    body = json.dumps({"model": model, "messages": MESSAGES, "max_tokens": 4})
    ask = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "60"]
    typed = ["-H", "content-type: application/json"]
    whole = subprocess.run([*ask, url, *typed, "-d", body], capture_output=True, check=True)
    assert json.loads(whole.stdout)["choices"]
    old = subprocess.run([*ask, "-0", url, *typed, "-d", body], capture_output=True, check=True)
    assert json.loads(old.stdout)["choices"]
    expecting = [*ask, url, *typed, "-H", "expect: 100-continue", "-d", body]
    assert json.loads(subprocess.run(expecting, capture_output=True, check=True).stdout)["choices"]
    body = json.dumps({"model": model, "messages": MESSAGES, "max_tokens": 4, "stream": True})
    chunked = [*ask, "-N", url, *typed, "-H", "transfer-encoding: chunked", "-d", "@-"]
    streamed = subprocess.run(chunked, input=body.encode(), capture_output=True, check=True)
    assert streamed.stdout.endswith(b"data: [DONE]\n\n")
    wrong = subprocess.run([*ask, url, *typed, "-d", "{"], capture_output=True, check=False)
    assert wrong.returncode == 22
    assert json.loads(wrong.stdout)["error"]["message"].startswith("the body is not JSON")
