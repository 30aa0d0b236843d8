"""Width and height of an image, from the first bytes of its file."""

from typing import Final

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_BYTES: Final = 24
_WEBP_BYTES: Final = 30
_GIF_BYTES: Final = 10
_BMP_BYTES: Final = 26
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# JPEG's markers that say the size: start of frame, of any coding.
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
# Markers without a length.
MAX_SEGMENTS: Final = 256
# Of a JPEG before its frame: a few, or some tens with a long colour profile.
_FRAME_BYTES: Final = 9

Size = tuple[int, int]
"""Width and height in pixels; zeros: unknown."""


def image_size(data: bytes) -> Size:
    """PNG, JPEG, WebP, GIF and BMP; unknown for others, and where the beginning is too short."""
    if data.startswith(_PNG) and len(data) >= _PNG_BYTES:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= _WEBP_BYTES:
        return _webp_size(data)
    if data.startswith((b"GIF87a", b"GIF89a")) and len(data) >= _GIF_BYTES:
        return _little(data, 6, 2), _little(data, 8, 2)
    if data.startswith(b"BM") and len(data) >= _BMP_BYTES:
        # A height below zero says that the rows go downwards.
        height = int.from_bytes(data[22:26], "little", signed=True)
        return _little(data, 18, 4), abs(height)
    return 0, 0


def _little(data: bytes, start: int, size: int) -> int:
    return int.from_bytes(data[start : start + size], "little")


def _jpeg_size(data: bytes) -> Size:
    """Segments of ``FF marker length``, until the one of the frame."""
    position = 2
    for _ in range(MAX_SEGMENTS):
        if position + _FRAME_BYTES > len(data) or data[position] != 0xFF:  # noqa: PLR2004 - a marker
            return 0, 0
        marker = data[position + 1]
        if marker in _FRAMES:
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            return int.from_bytes(data[position + 7 : position + 9], "big"), height
        if marker == 0xFF:  # noqa: PLR2004 - padding before a marker
            position += 1
        elif marker in _ALONE:
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return 0, 0


def _webp_size(data: bytes) -> Size:
    """Of its three forms: extended, lossless, lossy."""
    form = data[12:16]
    if form == b"VP8X":
        return 1 + _little(data, 24, 3), 1 + _little(data, 27, 3)
    if form == b"VP8L":
        bits = _little(data, 21, 4)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if form == b"VP8 ":
        return _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF
    return 0, 0
