"""A group whose commands are imported when they are called, and not for ``--help``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer._click.exceptions import NoSuchOption, UsageError
from typer._click.shell_completion import CompletionItem
from typer.core import TyperArgument, TyperCommand, TyperGroup

from memroute.closeness import did_you_mean
from memroute.sentences import for_stderr


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command is, and its sentence in the list."""

    module: str
    function: str
    sentence: str
    """The first line of its docstring; a test compares them."""


class LazyGroup(TyperGroup):
    """The root. A subclass says which commands there are."""

    lazy: ClassVar[Mapping[str, LazyCommand]] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Ends with status 2 and the closest name for an option that there is not."""
        with told_options(self, ctx):
            return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, as they are listed."""
        return list(self.lazy)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, imported now; None where there is none of that name."""
        where = self.lazy.get(cmd_name)
        return None if where is None else load(cmd_name, where)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of ``--help``, from the sentences here: nothing is imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, where.sentence) for name, where in self.lazy.items()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is named first. Ends with status 2 and the closest name else."""
        if args and not args[0].startswith("-") and args[0] not in self.lazy:
            hint = did_you_mean(args[0], self.lazy)
            there = f"; there are {', '.join(self.lazy)}"
            msg = f"no command {args[0]!r}{hint or there}"
            raise _usage_error(msg, ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Names of commands, without importing them."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=where.sentence)
            for name, where in self.lazy.items()
            if name.startswith(incomplete)
        ]


class OwnCommand(TyperCommand):
    """A command with plain help, that knows which option may have been meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Ends with status 2 and the closest name for an option that there is not."""
        with told_options(self, ctx):
            return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments and options, without Python's names of their types."""
        records = {parameter: parameter.get_help_record(ctx) for parameter in self.params}
        for title, is_argument in (("Arguments", True), ("Options", False)):
            rows = [
                (record[0].partition(" <")[0], record[1])
                for parameter, record in records.items()
                if record is not None and isinstance(parameter, TyperArgument) is is_argument
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


@contextmanager
def told_options(command: Any, ctx: Any) -> Iterator[None]:
    """What is wrong with options is a sentence; of one that there is not, with the closest."""
    try:
        yield
    except NoSuchOption as error:
        names = [name for parameter in command.get_params(ctx) for name in parameter.opts]
        close = did_you_mean(error.option_name, (n for n in names if n.startswith("--")))
        msg = f"no option {error.option_name}{close}"
        raise _usage_error(msg, ctx) from error
    except UsageError as error:
        raise _usage_error(error.format_message(), error.ctx or ctx) from error


def _usage_error(sentence: str, ctx: Any) -> UsageError:
    """What typer prints behind ``Error: ``, in lines that fit."""
    return UsageError(for_stderr(sentence, after="Error: "), ctx=ctx)


def load(name: str, where: LazyCommand) -> Any:
    """The command itself: its module is imported by this."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    settings = {"help_option_names": ["-h", "--help"]}
    app.command(name=name, cls=OwnCommand, context_settings=settings)(
        getattr(import_module(where.module), where.function)
    )
    return typer.main.get_command(app)
