"""``memroute-router``: see ``--help``."""

import sys

from memroute_router.settings import parse_settings


def main() -> None:
    """Run the router."""
    settings = parse_settings(sys.argv[1:])
    # After the flags: --help and a flag that is misspelt are answered at once.
    from memroute_router.process import run_router  # noqa: PLC0415
    from memroute_router.program import run_program  # noqa: PLC0415

    run_program("memroute-router", settings, lambda: run_router(settings))


if __name__ == "__main__":
    main()
