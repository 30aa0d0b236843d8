"""``memroute-fetch``: see ``--help``."""

import os
import sys

from memroute_fetch.failures import FetchError
from memroute_fetch.settings import parse_settings


def main() -> None:
    """Run the program, and end with one of ``ExitCode``."""
    try:
        parse_settings(sys.argv[1:], os.environ)
    except FetchError as error:
        sys.exit(f"memroute-fetch: {error.message}")
