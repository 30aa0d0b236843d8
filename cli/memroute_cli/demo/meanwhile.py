"""Something to read while the control plane is built, the first time: what needs no cluster."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable

# Answers of seconds, about the kind of model that the demo serves, from the catalogue alone.
COMMANDS = (
    ("plan", "Qwen/Qwen3-8B", "--accelerator", "L4,L40S,H100", "--concurrency", "8", "--offline"),
    ("simulate", "Qwen/Qwen3-8B", "-a", "L40S", "--replicas", "4", "--requests", "1000"),
)


def show_meanwhile(
    say: Callable[[str], None], show: Callable[[str], None], *, num_columns: int
) -> threading.Thread:
    """Run the commands beside the caller, one after the other, and show what they print.

    ``say``: takes a line of progress; ``show``: takes an answer. Nothing that fails here matters.
    """

    def run() -> None:
        for command in COMMANDS:
            result = subprocess.run(  # noqa: S603 - our own program
                [sys.executable, "-m", "memroute_cli", *command],
                env=os.environ | {"COLUMNS": str(num_columns)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if result.returncode == 0:
                say(f"meanwhile: .venv/bin/memroute {' '.join(command)}")
                show(result.stdout.rstrip())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
