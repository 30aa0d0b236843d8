"""What the process is and uses: under the names that Prometheus' own client libraries give.

``prometheus_client`` has a collector of the same. It lists the folder of open files at each scrape,
which takes some 5 ms with 10,000 connections, and the event loop would wait for it: here the folder
is asked for its size, as Linux has told since 6.2, and listed only where it does not say.
"""

import os
import platform
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from memroute import __version__

_OPEN_FILES: Final = "/proc/self/fd"
_STATUS: Final = "/proc/self/statm"
_STAT: Final = "/proc/self/stat"
_SYSTEM: Final = "/proc/stat"
# Fields behind the program's name in /proc/self/stat, from 0: when the process began, in clock
# ticks since the machine started (proc(5)).
_STARTED_FIELD: Final = 19


class OwnProcessCollector(Collector):
    """CPU, memory, open files and start of this process, and which build it is.

    What this machine does not tell (no ``/proc``) has no series.
    """

    def __init__(self, component: str, *, is_compiled: bool) -> None:
        """``component``: ``router`` or ``operator``, as in the name of the family."""
        self._component = component
        self._build = (__version__, platform.python_version(), str(is_compiled).lower())
        self._started_at = _started_at_seconds()
        self._page_bytes = resource.getpagesize()

    def collect(self) -> Iterator[Metric]:
        """The families."""
        build = GaugeMetricFamily(
            f"memroute_{self._component}_build_info",
            "1; which release runs, on which Python, and whether its hot modules are compiled.",
            labels=("version", "python", "compiled"),
        )
        build.add_metric(self._build, 1)
        yield build
        times = os.times()
        cpu = CounterMetricFamily("process_cpu_seconds", "CPU time that the process has used.")
        cpu.add_metric((), times.user + times.system)
        yield cpu
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        for name, text, value in (
            ("process_start_time_seconds", "When the process began, since the epoch.",
             self._started_at),
            ("process_resident_memory_bytes", "Memory of the process.", self._resident_bytes()),
            ("process_open_fds", "Files and sockets that are open.", _num_open_files()),
            ("process_max_fds", "The most that may be.",
             None if limit == resource.RLIM_INFINITY else float(limit)),
        ):  # fmt: skip
            family = GaugeMetricFamily(name, text)
            if value is not None:
                family.add_metric((), value)
            yield family

    def _resident_bytes(self) -> float | None:
        try:
            pages = Path(_STATUS).read_text().split()[1]
        except OSError:
            return None
        return float(int(pages) * self._page_bytes)


def _num_open_files() -> float | None:
    try:
        told = os.stat(_OPEN_FILES).st_size  # noqa: PTH116 - a size, of no file
        return float(told or len(os.listdir(_OPEN_FILES)))  # noqa: PTH208 - likewise
    except OSError:
        return None


def _started_at_seconds() -> float | None:
    try:
        # The program's name is in parentheses, and may have spaces.
        fields = Path(_STAT).read_text().rpartition(")")[2].split()
        ticks = float(fields[_STARTED_FIELD])
        for line in Path(_SYSTEM).read_text().splitlines():
            if line.startswith("btime "):
                return float(line.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    return None
