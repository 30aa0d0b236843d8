"""Requests, parsed once: what is needed to admit them. The bytes go on unchanged.

```text
dialects/ ── what is in the body, in the order of the prompt ──► content.Content
                     │ images, recordings: attachments, images, media
                     ▼
text, weighing ── tokens by kind of content, keys of blocks ──► parsed.ParsedRequest
                     │ what the pool has learned
                     ▼
                RequestProfile
```

Every function here is total: whatever JSON comes, it ends in a ``ParsedRequest`` or in a
``BadRequestError``, without recursion and in time that is linear in the body.
"""

from memroute_router.requests.dialects.audio import parse_audio_form
from memroute_router.requests.dialects.chat import parse_chat
from memroute_router.requests.dialects.completions import parse_completion
from memroute_router.requests.dialects.inputs import parse_input, parse_no_tokens, parse_texts
from memroute_router.requests.dialects.messages import parse_messages
from memroute_router.requests.dialects.responses import parse_responses
from memroute_router.requests.errors import BadRequestError
from memroute_router.requests.fields import MAX_ANSWERS, MAX_LIMIT, MAX_TOKEN_ID
from memroute_router.requests.media import UNKNOWN_FAMILY, MediaFamily, media_family
from memroute_router.requests.parsed import ParsedRequest

__all__ = [
    "MAX_ANSWERS",
    "MAX_LIMIT",
    "MAX_TOKEN_ID",
    "UNKNOWN_FAMILY",
    "BadRequestError",
    "MediaFamily",
    "ParsedRequest",
    "media_family",
    "parse_audio_form",
    "parse_chat",
    "parse_completion",
    "parse_input",
    "parse_messages",
    "parse_no_tokens",
    "parse_responses",
    "parse_texts",
]
