"""Images, recordings, videos and files of a request: what can be known without decoding them.

An image says its size in its first bytes, a recording in its header how many bytes a second has.
What is given by address (``https://…``) is not fetched: its size is unknown until the engine
reports what the prompt came to, and each pool learns the mean.

The key of an attachment is a hash of all its data (8 MB take about a millisecond, a seventh of what
it takes to parse the JSON around them), so that the same image is the same prefix, and another one
is not.
"""

from binascii import Error, a2b_base64
from enum import StrEnum
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from memroute_router.requests.images import image_size
from memroute_router.requests.text import utf8

HEADER_CHARACTERS: Final = 87_384
# Of base64, 64 KiB of data: where a JPEG with thumbnails and colour profiles has said its size.
_FIRST_CHARACTERS: Final = 128
# Enough for every other format.


class AttachmentKind(StrEnum):
    """What it is; the value is the word that engines use."""

    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"
    FILE = "file"
    EMBEDS = "embeds"


class Attachment:
    """One of them; never changed."""

    __slots__ = ("height", "key", "kind", "num_bytes", "seconds", "width")

    def __init__(
        self,
        kind: AttachmentKind,
        *,
        key: int,
        num_bytes: int = 0,
        width: int = 0,
        height: int = 0,
        seconds: float = 0.0,
    ) -> None:
        self.kind = kind
        self.key = key
        """A hash of its data, or of its address."""
        self.num_bytes = num_bytes
        """Of its data; 0 when only its address is known."""
        self.width = width
        self.height = height
        """In pixels; 0: unknown."""
        self.seconds = seconds
        """Of sound; 0: unknown."""


_FIELDS: Final = (
    # The field that holds it, what it is. Engines go by the part's type or by the field.
    ("image_url", AttachmentKind.IMAGE),
    ("input_audio", AttachmentKind.AUDIO),
    ("audio_url", AttachmentKind.AUDIO),
    ("video_url", AttachmentKind.VIDEO),
    ("image_embeds", AttachmentKind.EMBEDS),
    ("audio_embeds", AttachmentKind.EMBEDS),
    ("video_embeds", AttachmentKind.EMBEDS),
    ("prompt_embeds", AttachmentKind.EMBEDS),
    ("file", AttachmentKind.FILE),
    ("file_data", AttachmentKind.FILE),
    ("file_id", AttachmentKind.FILE),
    ("file_url", AttachmentKind.FILE),
)
_TYPES: Final = {
    "image": AttachmentKind.IMAGE,
    "input_image": AttachmentKind.IMAGE,
    "audio": AttachmentKind.AUDIO,
    "video": AttachmentKind.VIDEO,
    "input_file": AttachmentKind.FILE,
    "document": AttachmentKind.FILE,
}


def read_attachment(part: dict[str, Any]) -> Attachment | None:
    """The attachment that a part of a message is; None when it is none."""
    for name, kind in _FIELDS:
        if name in part:
            return _attachment(kind, part[name], part)
    kind_of_type = _TYPES.get(str(part.get("type")))
    if kind_of_type is None:
        return None
    source = part.get("source")
    if isinstance(source, dict) and str(source.get("type")) in {"text", "content"}:
        return None  # a document of plain text: read as text
    if source is None:
        source = part.get(str(part.get("type")))
    return _attachment(kind_of_type, source, part)


def embeds(value: object) -> Attachment:
    """A prompt that came as its embeddings (``prompt_embeds``)."""
    return _attachment(AttachmentKind.EMBEDS, value, {})


def _attachment(kind: AttachmentKind, value: object, part: dict[str, Any]) -> Attachment:
    data = _data(value)
    if not data:
        known = part.get("uuid") or part.get("file_id")
        return Attachment(kind, key=_key(known if isinstance(known, str) else ""))
    start = _base64_start(data)
    key = _key(data)
    if start < 0:
        return Attachment(kind, key=key)
    num_bytes = (len(data) - start) * 3 // 4
    if kind is AttachmentKind.IMAGE:
        width, height = image_size(_decoded(data, start, _FIRST_CHARACTERS))
        if not width:
            width, height = image_size(_decoded(data, start, HEADER_CHARACTERS))
        return Attachment(kind, key=key, num_bytes=num_bytes, width=width, height=height)
    if kind is AttachmentKind.AUDIO:
        rate = bytes_per_second(_decoded(data, start, _FIRST_CHARACTERS))
        return Attachment(kind, key=key, num_bytes=num_bytes, seconds=num_bytes / rate)
    return Attachment(kind, key=key, num_bytes=num_bytes)


def _data(value: object) -> str:
    """The address or the base64 in whatever holds it."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        for name in ("url", "data", "file_data", "image_url", "file_id"):
            inner = value.get(name)
            if isinstance(inner, str):
                return inner
    return ""


def _base64_start(data: str) -> int:
    """Where its base64 begins; -1 when it is an address."""
    if data.startswith("data:"):
        comma = data.find(",", 0, 256)
        return comma + 1 if comma >= 0 else -1
    return -1 if "://" in data[:64] or len(data) < _FIRST_CHARACTERS // 4 else 0


def _decoded(data: str, start: int, num_characters: int) -> bytes:
    """The first bytes; none when they are no base64."""
    # Whole groups of four: the rest of it follows.
    characters = data[start : start + num_characters]
    try:
        return a2b_base64(characters[: len(characters) // 4 * 4])
    except (Error, ValueError):
        return b""


def _key(data: str) -> int:
    return xxh3_64_intdigest(utf8(data))


DEFAULT_BYTES_PER_SECOND: Final = 16_000
# 128 kbit/s: MP3 and AAC; also 16-bit speech at 8 kHz.
_BYTE_RATE_AT: Final = 28
_WAV_HEADER_BYTES: Final = 44
MAX_BYTES_PER_SECOND: Final = 4_000_000


def bytes_per_second(header: bytes) -> int:
    """Of a recording: as a WAV file says, else as most compressed ones have."""
    if header[:4] == b"RIFF" and header[8:12] == b"WAVE" and len(header) >= _WAV_HEADER_BYTES:
        rate = int.from_bytes(header[_BYTE_RATE_AT : _BYTE_RATE_AT + 4], "little")
        return min(MAX_BYTES_PER_SECOND, max(1, rate))
    return DEFAULT_BYTES_PER_SECOND
