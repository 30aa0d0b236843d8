"""``memroute-picker``: see ``--help``."""

import sys

from memroute_picker.settings import parse_settings


def main() -> None:
    """Run the picker."""
    settings = parse_settings(sys.argv[1:])
    # After the flags: --help and a flag that is misspelt are answered at once.
    from memroute_picker.process import run_picker  # noqa: PLC0415
    from memroute_router.program import run_program  # noqa: PLC0415

    run_program("memroute-picker", settings.router, lambda: run_picker(settings))


if __name__ == "__main__":
    main()
