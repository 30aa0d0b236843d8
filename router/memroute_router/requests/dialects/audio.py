"""A form with a recording: its model; how much of it the engine makes is unknown."""

import re

from memroute_router.requests.attachments import Attachment, AttachmentKind
from memroute_router.requests.errors import BadRequestError
from memroute_router.requests.fields import model_of
from memroute_router.requests.parsed import ParsedRequest, PromptWeight

MAX_FORM_PARTS = 64
# A transcription has about ten fields.
_BOUNDARY = re.compile(rb'(?is)multipart/form-data\s*;.*?boundary="?([^";,\s]{1,70})"?')
_MODEL_PART = re.compile(rb'(?i)content-disposition:[^\r\n]*;\s*name="?model"?\s*(?:;|\r|$)')
_MAX_HEAD_BYTES = 4096


def parse_audio_form(body: bytes, content_type: bytes) -> ParsedRequest:
    """Transcription and translation. Raises ``BadRequestError``."""
    match = _BOUNDARY.match(content_type)
    if match is None:
        msg = "the body must be multipart/form-data with a boundary"
        raise BadRequestError(msg)
    for part in body.split(b"--" + match[1], MAX_FORM_PARTS)[1:]:
        blank = part.find(b"\r\n\r\n", 0, _MAX_HEAD_BYTES)
        if blank >= 0 and _MODEL_PART.search(part, 0, blank):
            model = part[blank + 4 :].removesuffix(b"\r\n").decode("utf-8", "replace")
            weight = PromptWeight()
            weight.attachments = [Attachment(AttachmentKind.AUDIO, key=0)]
            return ParsedRequest(
                model=model_of({"model": model}), weight=weight, max_output_tokens=None
            )
    return ParsedRequest(model=model_of({}), weight=PromptWeight())
