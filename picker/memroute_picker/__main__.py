"""``memroute-picker``: see ``--help``."""

import sys

from memroute_picker.process import run_picker
from memroute_picker.settings import parse_settings
from memroute_router.__main__ import run_program


def main() -> None:
    """Run the picker."""
    settings = parse_settings(sys.argv[1:])
    run_program("memroute-picker", settings.router, lambda: run_picker(settings))


if __name__ == "__main__":
    main()
