"""``memroute-router``: see ``--help``."""

import asyncio
import logging
import sys

import uvloop

from memroute_router.app import run_router
from memroute_router.settings import parse_settings


def main() -> None:
    """Run the router."""
    settings = parse_settings(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_router(settings))


if __name__ == "__main__":
    main()
