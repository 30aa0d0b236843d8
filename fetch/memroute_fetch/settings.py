"""What ``memroute-fetch`` is asked to do: read once, from options and the environment."""

import argparse
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from memroute.command_line import CommandLine
from memroute_fetch.failures import ExitCode, FetchError
from memroute_fetch.remotes.roles import RoleSettings, role_settings
from memroute_fetch.sources import Source, SourceError, parse_source

# Where the kubelet reads a container's last words; its limit is 4,096 bytes.
TERMINATION_LOG = Path("/dev/termination-log")
# The port of /progress.
PORT = 8081
# Bytes of the volume that stay free, chosen by hand: room for logs and for what else writes there.
KEEP_FREE_BYTES = 2**30
# Files that are fetched at once, chosen by hand: one connection to a CDN gives 50 to 200 MB/s.
PARALLEL_FILES = 4
MAX_PARALLEL_FILES = 32
# A pod's UID, or anything else that can be the name of a file.
_POD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# A variable that lists pods may be this long (characters): an environment has 128 KiB a string.
MAX_LIVE_PODS_CHARACTERS = 120_000


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """How a store that speaks S3 is asked. Without a key and a role: anonymously."""

    endpoint: str | None = None
    """None: Amazon's own, by region."""
    region: str = "us-east-1"
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    roles: RoleSettings = field(default_factory=RoleSettings)
    """What the pod's service account may be instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePods:
    """Which pods there were at one time, as the operator wrote it into this pod."""

    pods: frozenset[str]
    at_seconds: float
    """Since 1970: what was written to the cache later is newer than this list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run of the program."""

    source: Source
    cache: Path
    file: str | None = None
    """Chooses the GGUF file: a pattern of its name."""
    adapters: Mapping[str, Source] = field(default_factory=dict)
    """Sources of LoRA adapters, by name."""
    max_cache_bytes: int | None = None
    """Bytes of all models of the cache together; None: as many as the volume has."""
    keep_free_bytes: int = KEEP_FREE_BYTES
    parallel_files: int = PARALLEL_FILES
    host: str = ""
    """What /progress listens on; empty for every address."""
    port: int | None = PORT
    """Of /progress; 0 takes any, None opens none."""
    endpoint: str | None = None
    """Of the hub or of the S3 store; None: the environment's, else the public one."""
    s3: S3Settings = field(default_factory=S3Settings)
    termination_log: Path | None = None
    is_verifying: bool = False
    """Hash every file of a complete model too."""
    pod: str | None = None
    """UID of this pod: it is noted as one that uses the model."""
    live_pods: LivePods | None = None
    """None: nobody has said, so that every noted pod counts as alive."""


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The options as they are written. Raises ``FetchError``, and ``SystemExit`` for ``--help``."""
    options = options_parser().parse_args(arguments)
    options.termination_log = termination_log(options.termination_log)
    return options


def settings_of(options: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """What the options and the environment mean. Raises ``FetchError`` (``USAGE``)."""
    try:
        source = parse_source(options.source)
        adapters = dict(_adapter(text) for text in options.adapter)
    except SourceError as error:
        raise FetchError(ExitCode.USAGE, str(error)) from error
    if len(adapters) != len(options.adapter):
        raise FetchError(ExitCode.USAGE, "--adapter names one adapter twice")
    if options.file is not None and not options.file:
        raise FetchError(ExitCode.USAGE, "--file is empty: give a pattern such as *Q4_K_M.gguf")
    pod = environment.get("POD_UID") or None
    if pod is not None and _POD.fullmatch(pod) is None:
        raise FetchError(ExitCode.USAGE, f"POD_UID is no pod's UID: {pod!r:.80}")
    return Settings(
        source=source,
        cache=options.cache,
        file=options.file or None,
        adapters=adapters,
        max_cache_bytes=options.max_cache_bytes,
        keep_free_bytes=options.keep_free_bytes,
        parallel_files=options.parallel,
        host=environment.get("MEMROUTE_BIND_ADDRESS") or "",
        port=None if options.port < 0 else options.port,
        endpoint=options.endpoint,
        s3=_s3_settings(environment),
        termination_log=options.termination_log,
        is_verifying=options.verify,
        pod=pod,
        live_pods=_live_pods(environment),
    )


def settings_of_adapter(
    source: Source, cache: Path, max_cache_bytes: int | None, environment: Mapping[str, str]
) -> Settings:
    """How one adapter is fetched by the container that runs beside an engine."""
    pod = environment.get("POD_UID") or None
    return Settings(
        source=source,
        cache=cache,
        max_cache_bytes=max_cache_bytes,
        s3=_s3_settings(environment),
        pod=pod if pod is not None and _POD.fullmatch(pod) is not None else None,
        live_pods=_live_pods(environment),
    )


def _s3_settings(environment: Mapping[str, str]) -> S3Settings:
    return S3Settings(
        endpoint=environment.get("AWS_ENDPOINT_URL_S3")
        or environment.get("AWS_ENDPOINT_URL")
        or None,
        region=environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or "us-east-1",
        access_key=environment.get("AWS_ACCESS_KEY_ID") or None,
        secret_key=environment.get("AWS_SECRET_ACCESS_KEY") or None,
        session_token=environment.get("AWS_SESSION_TOKEN") or None,
        roles=role_settings(environment),
    )


class FetchCommandLine(CommandLine):
    """What makes no sense is a failure as every other: one sentence, and its code."""

    def refused(self, sentence: str) -> NoReturn:
        """Raise ``FetchError`` (``USAGE``)."""
        raise FetchError(ExitCode.USAGE, self.hinted(sentence))


def options_parser() -> argparse.ArgumentParser:
    """What ``--help`` shows."""
    parser = FetchCommandLine(
        prog="memroute-fetch",
        description="Bring a model's files into a cache, exactly once.",
        epilog="Exit codes: 0 complete, 64 usage, 65 checksum, 66 not found, 69 no network, "
        "73 no space, 74 cache unusable, 77 denied, 143 stopped.",
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="hf://ORG/MODEL@COMMIT or s3://BUCKET/PREFIX[@VERSION]")
    add("--cache", type=Path, required=True, metavar="DIR", help="the cache, a directory")
    add("--file", metavar="PATTERN", help="the GGUF file to take, such as *Q4_K_M.gguf")
    add(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="a LoRA adapter to fetch too; repeat it for more",
    )
    add(
        "--max-cache-bytes",
        type=_bytes,
        metavar="N",
        help="bytes of all models of the cache together (default: as many as the volume has)",
    )
    add(
        "--keep-free-bytes",
        type=_bytes,
        default=KEEP_FREE_BYTES,
        metavar="N",
        help="bytes of the volume that stay free (default: 1 GiB)",
    )
    add("--parallel", type=_parallel, default=PARALLEL_FILES, metavar="N", help="files at once (4)")
    add("--port", type=_port, default=PORT, metavar="N", help="of /progress (8081); -1: none")
    add("--endpoint", metavar="URL", help="of the hub (HF_ENDPOINT) or store (AWS_ENDPOINT_URL)")
    add(
        "--termination-log",
        metavar="FILE",
        help="where the last words go (default: /dev/termination-log, where it is)",
    )
    add("--verify", action="store_true", help="hash every file of a complete model too")
    return parser


def _adapter(text: str) -> tuple[str, Source]:
    name, equals, source = text.partition("=")
    if not equals or not name.strip() or not name.isprintable():
        message = f"--adapter {text!r:.120} is not NAME=SOURCE"
        raise SourceError(message)
    return name, parse_source(source)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        message = f"{text!r} is not a whole number"
        raise argparse.ArgumentTypeError(message) from error


def _bytes(text: str) -> int:
    number = _whole(text)
    if number < 0:
        message = f"{text!r} is below 0"
        raise argparse.ArgumentTypeError(message)
    return number


def _parallel(text: str) -> int:
    number = _whole(text)
    if not 1 <= number <= MAX_PARALLEL_FILES:
        message = f"{text!r} is not 1 to {MAX_PARALLEL_FILES}"
        raise argparse.ArgumentTypeError(message)
    return number


def _port(text: str) -> int:
    number = _whole(text)
    if not -1 <= number < 2**16:
        message = f"{text!r} is not a port, nor -1"
        raise argparse.ArgumentTypeError(message)
    return number


def termination_log(text: str | None) -> Path | None:
    """Where the last words go: where it is said, else where the kubelet looks, if it does."""
    if text is not None:
        return Path(text)
    return TERMINATION_LOG if os.access(TERMINATION_LOG, os.W_OK) else None


def _live_pods(environment: Mapping[str, str]) -> LivePods | None:
    """``MEMROUTE_LIVE_PODS`` and the time that it was written at; None where either is missing."""
    pods, at = environment.get("MEMROUTE_LIVE_PODS"), environment.get("MEMROUTE_LIVE_PODS_AT")
    if pods is None or not at or len(pods) > MAX_LIVE_PODS_CHARACTERS:
        return None
    try:
        at_seconds = float(at)
    except ValueError:
        return None
    if not math.isfinite(at_seconds):
        return None
    return LivePods(pods=frozenset(pods.replace(",", " ").split()), at_seconds=at_seconds)
