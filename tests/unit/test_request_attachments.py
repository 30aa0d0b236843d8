"""Images, recordings and files: what is known of them without decoding them."""

import base64
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memroute.traffic.lengths import PromptLengths
from memroute_router.requests import media_family
from memroute_router.requests.attachments import bytes_per_second
from memroute_router.requests.images import image_size
from memroute_router.surface import ROUTES

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
LOSSLESS = struct.pack("<I", 639 | 479 << 14)


def parse(path, **body):
    data = json.dumps({"model": "m"} | body).encode()
    return ROUTES[path.encode()].parse(data, b"application/json")


def profile(path, *, media="m", **body):
    request = parse(path, **body)
    return request.profile(assumed_output_tokens=256, media=media_family(media))


def tokens(path, **body):
    return profile(path, **body).num_prompt_tokens


def user(content):
    return [{"role": "user", "content": content}]


def png(width, height, num_bytes=2000):
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)
    return base64.b64encode(header + bytes(num_bytes)).decode()


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 1920, 1080), (1920, 1080)),
        (
            b"\xff\xd8\xff\xe0" + struct.pack(">H", 16) + bytes(14)
            + b"\xff\xc2" + struct.pack(">HBHH", 17, 8, 480, 640) + bytes(9),
            (640, 480),
        ),
        (b"GIF89a" + struct.pack("<HH", 320, 200) + bytes(9), (320, 200)),
        (b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + b"\x7f\x02\0" + b"\xdf\x01\0", (640, 480)),
        (b"RIFF\0\0\0\0WEBPVP8 " + bytes(10) + struct.pack("<HH", 640, 480), (640, 480)),
        (b"RIFF\0\0\0\0WEBPVP8L" + bytes(5) + LOSSLESS + bytes(9), (640, 480)),
        (b"BM" + bytes(16) + struct.pack("<ii", 64, -32) + bytes(9), (64, 32)),
        (b"<svg width='9' height='9'>", (0, 0)),
        (b"\xff\xd8" + b"\xff" * 4000, (0, 0)),
        (b"\x89PNG\r\n\x1a\n", (0, 0)),
        (b"", (0, 0)),
    ],
)  # fmt: skip
def test_an_image_says_its_size_in_its_first_bytes(data, size):
    assert image_size(data) == size


@given(st.binary(max_size=64), st.sampled_from([b"", b"\xff\xd8\xff", b"RIFF....WEBPVP8"]))
def test_no_bytes_are_too_odd_for_it(data, start):
    assert min(image_size(start + data)) >= 0


@pytest.mark.parametrize(
    ("model", "width", "height", "expected"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", 1008, 1008, 36 * 36 + 2),
        ("Qwen2-VL-7B", 28, 28, 4 + 2),
        ("Qwen3-VL-8B", 1024, 1024, 32 * 32 + 2),
        ("google/gemma-3-27b-it", 4000, 3000, 260),
        ("OpenGVLab/InternVL3-8B", 448, 448, 256 + 2),
        ("OpenGVLab/InternVL3-8B", 896, 896, 5 * 256 + 2),
        ("mistralai/Pixtral-12B-2409", 1024, 1024, 64 * 65),
        ("llava-hf/llava-1.5-7b-hf", 640, 480, 576),
        ("meta-llama/Llama-4-Scout-17B-16E", 336, 336, 145 + 2),
    ],
)
def test_each_family_counts_images_in_its_own_way(model, width, height, expected):
    """By hand: a 1,008-pixel square is 36 x 36 cells of 28 pixels for Qwen2-VL, and two marks."""
    url = f"data:image/png;base64,{png(width, height)}"
    part = {"type": "image_url", "image_url": {"url": url}}
    with_image = profile(CHAT, media=model, messages=user([part]))
    without = profile(CHAT, media=model, messages=user([]))
    assert with_image.num_prompt_tokens - without.num_prompt_tokens == expected


def test_a_familys_name_in_the_models_own_config_counts_more_than_its_served_name():
    assert media_family("chat", {"model_type": "gemma3"}).name == "gemma"
    assert media_family("gemma", {"model_type": "qwen2_5_vl"}).name == "qwen2-vl"
    assert media_family("gemma", {"model_type": 7}).name == "gemma"


def test_images_are_found_in_every_dialect():
    """The same picture of 1,008 pixels: 36 x 36 cells and two marks, wherever it is."""
    data = png(1008, 1008)
    url = f"data:image/png;base64,{data}"
    source = {"type": "base64", "media_type": "image/png", "data": data}
    image = {"type": "image", "source": source}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [image]}
    for path, body in (
        (CHAT, {"messages": user([{"type": "image_url", "image_url": {"url": url}}])}),
        (CHAT, {"messages": user([{"image_url": url}])}),
        (MESSAGES, {"messages": user([image]), "max_tokens": 9}),
        (MESSAGES, {"messages": user([result]), "max_tokens": 9}),
        (RESPONSES, {"input": user([{"type": "input_image", "image_url": url}])}),
        (EMBEDDINGS, {"messages": user([{"type": "image_url", "image_url": {"url": url}}])}),
    ):
        assert 1298 <= tokens(path, **body) <= 1315, (path, body)


def test_a_recording_is_as_long_as_its_header_says():
    """16 kHz, 16 bit: 32,000 bytes a second; ten seconds at 12.5 tokens are 125."""
    header = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    header += b"data\0\0\0\0"
    assert bytes_per_second(header) == 32_000
    sound = base64.b64encode(header + bytes(320_000)).decode()
    part = {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}
    assert tokens(CHAT, messages=user([part])) == pytest.approx(126 + 5, abs=2)


def test_a_document_of_text_is_text_and_of_bytes_a_file():
    text = {"type": "document", "source": {"type": "text", "data": "x" * 4000}}
    assert 850 < tokens(MESSAGES, messages=user([text]), max_tokens=9) < 1000
    pdf = {"type": "document", "source": {"type": "base64", "data": "JVBERi0x" * 1000}}
    assert tokens(MESSAGES, messages=user([pdf]), max_tokens=9) == 1024 + 5


def test_what_is_given_by_address_is_learned_by_its_pool():
    """1,024 tokens are a guess; the pool's images turn out to be of 300, and text stays right."""
    part = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    messages = user([{"type": "text", "text": "What is this? " * 20}, part])
    prompts = PromptLengths()
    text = profile(CHAT, messages=user("What is this? " * 20)).num_prompt_tokens
    for _ in range(60):
        request = parse(CHAT, messages=messages)
        request.profile(assumed_output_tokens=1, prompts=prompts)
        request.teach(prompts, text + 300)
    learned = parse(CHAT, messages=messages).profile(assumed_output_tokens=1, prompts=prompts)
    assert learned.num_prompt_tokens == pytest.approx(text + 300, rel=0.05)
    assert prompts.ratio == pytest.approx(1.0, abs=0.1)
