"""``memroute-router``: see ``--help``."""

import asyncio
import logging
import sys

import uvloop

from memroute_router.app import run_router
from memroute_router.settings import parse_settings
from memroute_router.static import ConfigError


def main() -> None:
    """Run the router."""
    settings = parse_settings(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(run_router(settings))
        except ConfigError as error:
            sys.exit(f"memroute-router: {settings.config}: {error}")


if __name__ == "__main__":
    main()
