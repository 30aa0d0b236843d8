"""The last lines of an engine's log, as they may stand in a status that a namespace can read.

Bounded, one line, without control characters, without prompts, and without what looks like a
secret. What is cut is said to be cut; better one word too many than a token.
"""

import re

# How much is quoted: lines, characters of a line, characters of all. A condition's message is read
# in a terminal; the whole log is a kubectl away. Chosen by hand.
MAX_LINES = 3
MAX_LINE_CHARACTERS = 240
MAX_CHARACTERS = 600
CUT = "(cut)"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What engines write before each line: level, time, place, process.
_PREFIX = re.compile(
    r"^(\((?:APIServer|EngineCore|Worker)[^)]*\)\s*)?"
    r"(?:(?:INFO|WARNING|ERROR|CRITICAL|DEBUG)\b:?\s*)?"
    r"(?:\[?\d{2,4}-\d{2}(?:-\d{2})?[ T][\d:.,]+\]?\s*)?(?:\[[\w./]+:\d+\]\s*)?"
)
# Lines that may carry what a user has asked.
_PROMPTS = re.compile(r"(?i)\bprompt(_token_ids)?\b\s*[:=]|received request|\"messages\"\s*:")
_SECRETS = (
    # tokens by their shape
    re.compile(r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|xox[abp]-|glpat-|nvapi-)[A-Za-z0-9_-]{6,}"),
    re.compile(r"\bA(?:KIA|SIA)[A-Z0-9]{12,}\b"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+){0,2}"),
    re.compile(r"-----BEGIN [A-Z ]+-----.*"),
    # what is named as one
    re.compile(r"(?i)(?<=bearer )\S+|(?<=basic )[A-Za-z0-9+/=]{8,}"),
    re.compile(
        r"(?i)(?:(?<=token)|(?<=key)|(?<=secret)|(?<=password)|(?<=passwd)|(?<=authorization)"
        r"|(?<=credential)|(?<=signature))[\"']?\s*[=:]\s*[\"']?[^\s\"',;&)]{4,}"
    ),
    re.compile(r"(?<=://)[^\s/@]+:[^\s/@]+(?=@)"),
    re.compile(r"(?i)(?<=[?&])(?:x-amz-[a-z-]+|sig|signature|token|key|access_token)=[^\s&]+"),
    # long runs of random characters
    re.compile(r"\b(?=[A-Za-z0-9_-]*\d)(?=[A-Za-z0-9_-]*[A-Za-z])[A-Za-z0-9_-]{40,}\b"),
)


def without_secrets(text: str) -> str:
    """The text, with what looks like a secret cut out of it."""
    for pattern in _SECRETS:
        text = pattern.sub(CUT, text)
    return text


def last_words(log: str) -> str:
    """The last lines that say something, joined by `` | ``; empty when there are none."""
    told: list[str] = []
    for raw in reversed(log.splitlines()):
        line = _plain(raw)
        if not line or line in told or _PROMPTS.search(line) or not re.search(r"\w", line):
            continue
        told.append(line)
        if len(told) == MAX_LINES:
            break
    text = " | ".join(reversed(told))
    return text if len(text) <= MAX_CHARACTERS else f"…{text[-MAX_CHARACTERS + 1 :]}"


def line_of(log: str, start: int) -> str:
    """The one line of the log that has this position, plain and without secrets."""
    begin = log.rfind("\n", 0, start) + 1
    end = log.find("\n", start)
    return _plain(log[begin : end if end >= 0 else len(log)])


def _plain(line: str) -> str:
    bare = _ANSI.sub("", line)
    bare = "".join(c if c.isprintable() else " " for c in bare).strip()
    bare = _PREFIX.sub("", bare, count=1).strip()
    bare = without_secrets(bare)
    if len(bare) > MAX_LINE_CHARACTERS:
        return f"{bare[: MAX_LINE_CHARACTERS - 1]}…"
    return bare
