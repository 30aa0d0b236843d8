"""A process that answers HTTP: started, waited for, measured, and ended with its children."""

import os
import resource
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

LAST_WORDS = 3000
"""Characters of a log that an error repeats."""
STOP_SECONDS = 30.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ServerError(RuntimeError):
    """A server cannot be started; the message has its last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process has used so far."""

    cpu_seconds: float
    rss_bytes: int


class Server:
    """A process in a group of its own, and the file of what it says. Owns both."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        url: str,
        log: Path,
        environment: Mapping[str, str] | None = None,
        core: int | None = None,
    ) -> None:
        """``url``: where it will answer, without a path. ``environment``: beside ours.

        ``core``: the one that it may use; None: any.
        """
        self.url = url
        self._command = command
        self._log = log
        self._environment = os.environ | dict(environment or {})
        self._core = core
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it is ready later. Raises ``ServerError``, also if another serves there."""
        if _is_taken(self.url):
            msg = f"{self._command[0]} cannot be started: something else serves {self.url}"
            raise ServerError(msg)
        try:
            with self._log.open("w") as output:
                self._process = subprocess.Popen(  # noqa: S603 - a command that the caller made
                    self._command,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,
                    preexec_fn=lambda: _confine(self._core),  # noqa: PLW1509 - no threads here
                )
        except OSError as error:
            msg = f"{self._command[0]} cannot be started: {error}"
            raise ServerError(msg) from error

    def wait_until_ready(self, path: str = "/health", *, within_seconds: float) -> None:
        """Return when the path is answered with 200. Raises ``ServerError``."""
        deadline = time.monotonic() + within_seconds
        while not is_ok(f"{self.url}{path}"):
            has_ended = self._process is None or self._process.poll() is not None
            if has_ended or time.monotonic() > deadline:
                why = "ended" if has_ended else f"was not ready after {within_seconds:g} s"
                said = self._log.read_text(errors="replace")[-LAST_WORDS:]
                msg = f"the server at {self.url} {why}; it said:\n{said}"
                raise ServerError(msg)
            time.sleep(0.1)

    @property
    def pid(self) -> int:
        """Of the process itself; 0: there is none."""
        return 0 if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def usage(self) -> Usage:
        """CPU time and resident memory of it and its children, now."""
        cpu, rss = 0.0, 0
        group = 0 if self._process is None else self._process.pid
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group:
                cpu += (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
                rss += int(fields[21]) * PAGE_BYTES
        return Usage(cpu_seconds=cpu, rss_bytes=rss)

    def stop(self, *, within_seconds: float = STOP_SECONDS) -> None:
        """Ask it and its children to end; after so long, end them."""
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(within_seconds)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


@contextmanager
def serving(*servers: Server, within_seconds: float) -> Iterator[None]:
    """All of them started and ready; ended afterwards. Raises ``ServerError``."""
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait_until_ready(within_seconds=within_seconds)
        yield
    finally:
        for server in servers:
            server.stop()


def is_ok(url: str) -> bool:
    """Whether something answers there with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - a server of ours
            return bool(answer.status == 200)  # noqa: PLR2004
    except OSError:
        return False


def _is_taken(url: str) -> bool:
    """Whether something listens there: it would be taken for the server that is started."""
    address = urlsplit(url)
    with suppress(OSError), socket.create_connection((address.hostname, address.port), timeout=1):
        return True
    return False


def _confine(core: int | None) -> None:
    """One core if it is said which, and as many open files as the machine allows."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
