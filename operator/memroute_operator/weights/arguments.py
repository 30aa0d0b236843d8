"""Flags of the operator about sources and caches of weights."""

import argparse

from memroute import __version__
from memroute_operator.weights.sources import SourceError, host_path

DEFAULT_FETCH_IMAGE = f"memroute/fetch:{__version__}"


def _host_folder(text: str) -> str | None:
    if not text:
        return None
    try:
        return host_path({"path": text}, "the flag")
    except SourceError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        message = f"{number} is not 1 or more"
        raise argparse.ArgumentTypeError(message)
    return number


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the operator is told of caches."""
    parser.add_argument(
        "--model-cache-path",
        type=_host_folder,
        help="folder of every node in which replicas keep what they have fetched of models, one "
        "for all namespaces; without it engines fetch by themselves, at every start",
    )
    parser.add_argument(
        "--model-cache-gib",
        type=_positive,
        help="how much is kept there at the most, in GiB; without it as much as the disk holds",
    )
    parser.add_argument(
        "--allowed-host-path",
        action="append",
        type=_host_folder,
        default=[],
        help="folder of nodes below which ModelDeployments may name host paths (source.hostPath, "
        "cache.hostPath); may be given several times; without it they may name none",
    )
    parser.add_argument(
        "--fetch-image",
        default=DEFAULT_FETCH_IMAGE,
        help="of the init container that fetches weights into a cache",
    )
