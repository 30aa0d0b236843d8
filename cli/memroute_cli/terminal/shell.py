"""Commands for people to copy: folded as a shell reads them, never inside of a quoted word."""

import re

# A word: characters without spaces, and whole quoted parts.
_WORD = re.compile(r"""(?:'[^']*'|"[^"]*"|[^\s'"])+""")
CONTINUED = " \\"
FURTHER = "  "


def folded(command: str, width: int, *, indent: str = "") -> list[str]:
    """The command in lines of at most ``width`` characters, continued by a backslash.

    A word that is longer is a line of its own: it may be copied as it is.
    """
    lines: list[str] = []
    line = ""
    for word in _WORD.findall(command):
        longer = f"{line} {word}" if line else indent + (FURTHER if lines else "") + word
        if line and len(longer) > width - len(CONTINUED):
            lines.append(line + CONTINUED)
            longer = indent + FURTHER + word
        line = longer
    return [*lines, line]
