"""A program's flags: what is wrong with them is told in one sentence, with the closest name.

The programs of memroute take flags, as containers do; `memroute` itself has commands, and says the
same in the same words. Of the standard library alone: ``--help`` imports nothing else for it.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from memroute import __version__
from memroute.closeness import did_you_mean
from memroute.sentences import for_stderr

# What a program ends with when its flags make no sense; argparse's own.
USAGE_STATUS = 2
MAX_PORT = 2**16 - 1
_NUMBERS = {int: "a whole number", float: "a number"}


class DefaultsFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """``--help`` with the defaults beside the flags, once, and only where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        says_nothing = default is None or default is False or default in ([], ())
        if says_nothing or "(default:" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class CommandLine(argparse.ArgumentParser):
    """A parser whose errors are sentences. It has ``--version``, and takes no halves of flags."""

    def __init__(
        self,
        *,
        prog: str,
        description: str = "",
        epilog: str | None = None,
        formatter_class: Any = argparse.HelpFormatter,
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=formatter_class,
            allow_abbrev=False,
            exit_on_error=False,
        )
        self.add_argument(
            "--version",
            action="version",
            version=f"{prog.partition(' ')[0]} {__version__}",
            help="show the version of memroute, and exit",
        )

    def parse_args(  # type: ignore[override] # a namespace of the caller's own is not taken
        self, args: Sequence[str] | None = None, namespace: None = None
    ) -> argparse.Namespace:
        """The flags. Ends the program by ``refused`` where one makes no sense."""
        words = sys.argv[1:] if args is None else list(args)
        # First of all, also where something else is missing: a misspelt flag is why.
        for word in itertools.takewhile(lambda word: word != "--", words):
            if word.startswith("--") and " " not in word:
                self._check_flag(word.partition("=")[0])
        try:
            known, unknown = self.parse_known_args(words)
        except argparse.ArgumentError as error:
            name = error.argument_name
            self.refused(f"{name}: {error.message}" if name else error.message)
        if unknown:
            self.refused(f"{unknown[0]!r} is no flag, and belongs to none")
        return known

    def error(self, message: str) -> NoReturn:
        """End the program: what a caller, or argparse itself, finds wrong."""
        self.refused(message)

    def refused(self, sentence: str) -> NoReturn:
        """Print the sentence on stderr, with where to look, and end with status 2."""
        self.exit(USAGE_STATUS, for_stderr(f"{self.prog}: {self.hinted(sentence)}") + "\n")

    def hinted(self, sentence: str) -> str:
        """The sentence, and which command lists what there is."""
        return f"{sentence} (see {self.prog} --help)"

    def _check_flag(self, flag: str) -> None:
        known = list(self._long_flags())
        if flag not in known:
            self.refused(f"no flag {flag}{did_you_mean(flag, known)}")

    def _long_flags(self) -> Iterator[str]:
        """Names of flags, those of commands too."""
        for action in self._actions:
            yield from (name for name in action.option_strings if name.startswith("--"))
            for command in action.choices.values() if isinstance(action.choices, dict) else ():
                yield from command._long_flags()  # noqa: SLF001 - of this class

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """As argparse does it, with a number told as one, and the closest of the choices."""
        try:
            value = super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            if action.choices is not None:
                raise _no_choice(action, arg_string) from error
            if isinstance(error.__context__, argparse.ArgumentTypeError):
                raise  # in words of the flag's own
            kind = next((words for of, words in _NUMBERS.items() if of is action.type), "a number")
            raise argparse.ArgumentError(action, f"{arg_string!r} is not {kind}") from error
        if action.type in (int, float) and not 0 <= value < math.inf:
            raise argparse.ArgumentError(action, f"{arg_string!r} is not a number of 0 or more")
        return value

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse does it, with the closest of the choices."""
        if action.choices is not None and value not in action.choices:
            raise _no_choice(action, str(value))


def port(text: str) -> int:
    """A port, for ``type=``; 0 is any."""
    if not text.isdecimal() or int(text) > MAX_PORT:
        msg = f"{text!r} is not a port, 0 to {MAX_PORT}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def above_0(text: str) -> float:
    """Seconds of an interval, for ``type=``: at 0 a program would do nothing else."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        msg = f"{text!r} is not a number above 0"
        raise argparse.ArgumentTypeError(msg)
    return value


def _no_choice(action: argparse.Action, typed: str) -> argparse.ArgumentError:
    names = [str(choice) for choice in action.choices or ()]
    told = f"{typed!r}: one of {', '.join(names)}{did_you_mean(typed, names)}"
    return argparse.ArgumentError(action, told)
