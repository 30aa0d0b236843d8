"""``memroute-operator``: see ``--help``."""

import asyncio
import logging
import sys

from memroute.sentences import for_stderr
from memroute_kube.errors import NotConfiguredError
from memroute_operator.settings import parse_settings


def main() -> None:
    """Run the operator."""
    settings = parse_settings(sys.argv[1:])
    # After the flags: --help and a flag that is misspelt are answered at once.
    from memroute_operator.app import run_operator  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for noisy in ("aiohttp.access", "kopf.objects"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        asyncio.run(run_operator(settings))
    except NotConfiguredError as error:
        told = f"no cluster is configured: KUBECONFIG, else ~/.kube/config: {error}"
        sys.exit(for_stderr(f"memroute-operator: {told}"))


if __name__ == "__main__":
    main()
