"""What the router is told when it starts; read once."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """Settings of one router process."""

    host: str
    port: int
    namespace: str | None
    scrape_seconds: float
    max_body_bytes: int
    connect_timeout_seconds: float
    first_byte_timeout_seconds: float
    max_attempts: int
    shutdown_timeout_seconds: float


def parse_settings(argv: Sequence[str]) -> RouterSettings:
    """Settings from the command line; each has a default that fits the shipped manifests."""
    parser = argparse.ArgumentParser(
        prog="memroute-router",
        description="Routes OpenAI-API requests to replicas by KV-cache pressure.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104 - a pod's own address
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--namespace", help="serve the ModelDeployments of this namespace only (default: all)"
    )
    parser.add_argument(
        "--scrape-seconds", type=float, default=1.0, help="how often each replica is read"
    )
    parser.add_argument("--max-body-bytes", type=int, default=32 * 1024**2)
    parser.add_argument("--connect-timeout-seconds", type=float, default=2.0)
    parser.add_argument(
        "--first-byte-timeout-seconds",
        type=float,
        default=600.0,
        help="how long a replica may take to begin its answer",
    )
    parser.add_argument(
        "--max-attempts", type=int, default=3, help="replicas to try before the first byte"
    )
    parser.add_argument(
        "--shutdown-timeout-seconds",
        type=float,
        default=50.0,
        help="how long answers may go on after SIGTERM",
    )
    return RouterSettings(**vars(parser.parse_args(argv)))
