"""How a sentence stands on stderr: folded where a person reads it, one line where a program does.

On a terminal a line is at most as wide as the terminal (``COLUMNS``, else what the terminal says,
else 80), and is broken between words, so that names and paths can be copied. Anywhere else (a file,
a pipe, the log of a container) a sentence is one line, and can be searched as one. Lines of a
program's log are not told by this: they are one line everywhere.
"""

import sys


def for_stderr(sentence: str, *, after: str = "") -> str:
    """The sentence as stderr gets it. ``after``: what stands before it on its first line."""
    if not sys.stderr.isatty():
        return sentence
    # Only for who sits there: each is some milliseconds.
    import shutil  # noqa: PLC0415
    import textwrap  # noqa: PLC0415

    width = shutil.get_terminal_size().columns
    lines = [
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        if len(line) > width
        else line
        for line in (after + sentence).splitlines()
    ]
    return "\n".join(lines)[len(after) :]
