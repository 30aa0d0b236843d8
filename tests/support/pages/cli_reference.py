"""Writes docs/reference/cli.md: the help of every command, as it is printed in 80 columns."""

from pathlib import Path

from typer.testing import CliRunner

from memroute_cli.main import COMMANDS, app

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"
HEAD = """\
# The command line

Made from the commands by `python tests/support/pages/cli_reference.py`; a test compares it.

What all commands share:

* **`--output table|json|yaml`** (`-o`). JSON and YAML are the same document, for programs. Its
  names are stable within a minor release. A table is for people, and may change.
* **80 columns.** A table has the columns that fit 80 characters, `--wide` shows the rest. Names
  give way in their middle (`ip-10-0…internal`), numbers are never cut. Where output is no
  terminal, it is 80 columns wide; `COLUMNS` says otherwise.
* **Unknown is `-`**, and `null` in documents: never 0.
* **Quantities.** Tokens: `32768`, `32k` (32,000), `32K` (32,768), `1M` (1,048,576): small letters
  are thousands and capitals 1,024s, as vLLM's flags have it. Sizes: `14GB`, `14GiB`, `14Gi`.
  Times: `0.5`, `500ms`, `2s`, `1m`.
* **Lists** are separated by commas; an option may be repeated as well: `-a H100,L40S -a L4`.
* **Exit status** 0: yes, done; 1: the answer is no (something does not fit, does not serve, has
  failed); 2: the question makes no sense, or cannot be asked. Errors are one sentence on stderr,
  with the closest name where one was misspelt.
* **Progress** is on stderr, and only where that is a terminal.
* **Completion**: `memroute --install-completion` for bash, zsh and fish.

Beside `memroute` there are `memroute-operator`, `memroute-router` and `memroute-picker`
([settings](settings.md)),
`memroute-fetch` ([fetch](fetch.md)) and `memroute-simulator` ([the
simulator](../explanation/simulator.md)). Each has `--help` and `--version`. A flag that is wrong is
one sentence on stderr with the closest one, and exit status 2; `memroute-fetch` ends with 64, which
the operator reads off the pod. `python -m bench.startup` prints how long each takes to answer.
"""


def text():
    """The page."""
    parts = [HEAD, _section("memroute", ["--help"])]
    parts += [_section(f"memroute {name}", [name, "--help"]) for name in COMMANDS]
    return "\n".join(parts)


def _section(title, arguments):
    result = CliRunner().invoke(app, arguments, prog_name="memroute", env={"COLUMNS": "80"})
    lines = [line.rstrip() for line in result.stdout.strip().splitlines()]
    return "\n".join([f"## `{title}`", "", "```text", *lines, "```", ""])


if __name__ == "__main__":
    PAGE.write_text(text())
