"""A running router under ``--max-memory``, against the worst that clients and engines do.

For each scenario: what was resident before, at the peak and two seconds after, what an honest
client saw meanwhile, and what the hostile ones were told. Exits 1 where the peak is beyond the
limit, the router has ended, or the honest client was not answered.
"""

import argparse
import asyncio
import json
import resource
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.arguments import positive, whole_number
from bench.bounds.engines import KINDS, serve
from bench.bounds.honest import Honest, Ledger
from bench.bounds.resident import forget_peak, peak_bytes, resident_bytes
from bench.bounds.scenarios import MIB, SCENARIOS
from bench.native import ROOT, build_native
from bench.server import Server, ServerError

# How long a scenario's traces may stay before "after" is read. Unit: seconds.
SETTLE_SECONDS = 2.0
# Of an honest client's requests, those that must be answered.
MIN_SUCCESS_RATIO = 0.99
# Files that a router keeps for itself (memroute_router.app), and some for the honest client.
SPARE_FILES = 64 + 128
START_SECONDS = 60.0
# A scenario that does not end by itself is ended after so long more. Unit: seconds.
GRACE_SECONDS = 60.0
MAX_TOLD = 4
# Where the router takes so many times what it may, the scenario is ended.
MAX_RATIO = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one scenario did to the router."""

    name: str
    before_bytes: int
    peak_bytes: int
    after_bytes: int
    most_open: int
    honest: Ledger
    told: Counter[str]
    has_ended: bool
    """Whether the router is no longer there."""

    def faults(self, limit_bytes: int) -> list[str]:
        """What of it may not be."""
        success = self.honest.success_ratio
        found = []
        if self.has_ended:
            found.append("the router has ended")
        if self.peak_bytes > limit_bytes:
            found.append(f"{self.peak_bytes / MIB:.0f} MiB resident")
        if success is None or success < MIN_SUCCESS_RATIO:
            found.append(f"honest client: {dict(self.honest.failures)}")
        return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.bounds", description=__doc__)
    parser.add_argument(
        "--scenarios", nargs="+", metavar="NAME", default=list(SCENARIOS),
        help="some of them, by the beginnings of their names: " + ", ".join(SCENARIOS),
    )  # fmt: skip
    parser.add_argument(
        "--max-memory", type=whole_number, default=512, metavar="MIB", help="of the router"
    )
    parser.add_argument("--seconds", type=positive, default=15.0, help="of each scenario")
    parser.add_argument(
        "--connections", type=whole_number, default=10_000,
        help="of scenarios that are about connections; fewer where ulimit -n has no room",
    )  # fmt: skip
    parser.add_argument(
        "--addresses", type=whole_number, default=250, help="that hostile clients come from"
    )
    parser.add_argument(
        "--words", type=whole_number, default=1_000_000,
        help="keys, tenants, sessions and names of models, as far as the seconds go",
    )  # fmt: skip
    parser.add_argument("--native", action="store_true", help="the compiled modules, as in images")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each scenario")
    parser.add_argument(
        "--router-args", nargs=argparse.REMAINDER, default=[], help="further flags of the router"
    )
    return parser


def main() -> int:
    """Run the scenarios, one after the other, against one router."""
    arguments = _parser().parse_args()
    names = [
        name for name in SCENARIOS if any(name.startswith(given) for given in arguments.scenarios)
    ]
    if not names:
        print("no scenario has such a name", file=sys.stderr)
        return 2
    connections = _room_for(arguments.connections)
    folder = Path(tempfile.mkdtemp(prefix="memroute-bounds-"))
    try:
        results = asyncio.run(_run(arguments, names, connections, folder))
    except ServerError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    limit = arguments.max_memory * MIB
    bad = [result for result in results if result.faults(limit)]
    for result in bad:
        print(f"NOT BOUNDED {result.name}: {'; '.join(result.faults(limit))}")
    if not bad:
        peak = max(result.peak_bytes for result in results)
        print(f"bounded: at most {peak / MIB:.0f} of {arguments.max_memory} MiB were resident")
    return 1 if bad or len(results) < len(names) else 0


def _room_for(connections: int) -> int:
    """As many as files allow, in the router (two for each) as here; says so where that is fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = (hard - SPARE_FILES) // 2
    if most >= connections:
        return connections
    print(f"ulimit -n is {hard}: {most} connections instead of {connections}", file=sys.stderr)
    return most


async def _run(
    arguments: argparse.Namespace, names: list[str], connections: int, folder: Path
) -> list[Result]:
    engines = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.bounds.engines", cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    own, port_of_own = await serve("quick")
    router: Server | None = None
    results: list[Result] = []
    try:
        line = await engines.stdout.readline() if engines.stdout else b""
        ports = json.loads(line) | {"honest": port_of_own}
        router, url = _router(arguments, ports, folder)
        router.start()
        await asyncio.to_thread(router.wait_until_ready, "/ready", within_seconds=START_SECONDS)
        port = int(url.rpartition(":")[2])
        _print_head(arguments)
        for name in names:
            result = await _measure(name, router, port, connections, arguments)
            results.append(result)
            _print(result, arguments)
            if result.has_ended:
                print((folder / "router.log").read_text(errors="replace")[-2000:], file=sys.stderr)
                break
    finally:
        own.close()
        if router is not None:
            await asyncio.to_thread(router.stop, within_seconds=5.0)
        engines.terminate()
        await engines.wait()
    return results


def _router(
    arguments: argparse.Namespace, ports: dict[str, int], folder: Path
) -> tuple[Server, str]:
    """The real program, as users start it, on a free port."""
    # Nothing keeps requests from the hostile engines: the router has to bear whatever they do.
    models = [
        {
            "name": name,
            "replicas": [{"url": f"http://127.0.0.1:{ports[name]}"}],
            "admission": "Enforce" if name == "honest" else "Disabled",
        }
        for name in ("honest", *KINDS)
    ]
    (folder / "router.yaml").write_text(json.dumps({"models": models}))
    port, ops_port = _free_port(), _free_port()
    environment = {"PYTHONPATH": str(build_native())} if arguments.native else {}
    url = f"http://127.0.0.1:{port}"
    server = Server(
        [
            sys.executable, "-m", "memroute_router", "--host", "127.0.0.1", "--port", str(port),
            "--ops-port", str(ops_port), "--config", str(folder / "router.yaml"),
            "--max-memory", str(arguments.max_memory * MIB), "--tenants", "key",
            "--access-log", "off", "--shutdown-timeout-seconds", "1", *arguments.router_args,
        ],
        url=url, log=folder / "router.log", environment=environment,
    )  # fmt: skip
    return server, url


async def _measure(
    name: str, router: Server, port: int, connections: int, arguments: argparse.Namespace
) -> Result:
    pid = router.pid
    forget_peak(pid)
    before = resident_bytes(pid)
    honest = Honest(port)
    asking = asyncio.create_task(honest.run())
    flags = {
        "--port": port, "--connections": connections, "--addresses": arguments.addresses,
        "--words": arguments.words, "--seconds": arguments.seconds,
    }  # fmt: skip
    words = [str(word) for pair in flags.items() for word in pair]
    hostile = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.bounds.scenarios", name, *words,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    watching = asyncio.create_task(
        _end_beyond(MAX_RATIO * arguments.max_memory * MIB, pid, hostile)
    )
    try:
        async with asyncio.timeout(arguments.seconds + GRACE_SECONDS):
            said, _ = await hostile.communicate()
    except TimeoutError:
        hostile.kill()
        await hostile.wait()
        said = b""
    watching.cancel()
    await asyncio.sleep(SETTLE_SECONDS)
    asking.cancel()
    document: dict[str, Any] = {"told": {"(did not end)": 1}, "most_open": 0}
    if said:
        document = json.loads(said)
    has_ended = not router.is_running
    return Result(
        name=name,
        before_bytes=before,
        peak_bytes=0 if has_ended else peak_bytes(pid),
        after_bytes=0 if has_ended else resident_bytes(pid),
        most_open=document["most_open"],
        honest=honest.ledger,
        told=Counter(document["told"]),
        has_ended=has_ended,
    )


async def _end_beyond(num_bytes: int, pid: int, hostile: asyncio.subprocess.Process) -> None:
    """End the hostile clients before they take the whole machine with the router."""
    while True:
        await asyncio.sleep(0.1)
        if resident_bytes(pid) > num_bytes:
            hostile.kill()
            return


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _print_head(arguments: argparse.Namespace) -> None:
    if not arguments.json:
        print(f"router under --max-memory {arguments.max_memory} MiB; {time.strftime('%F %T')}")
        print(
            f"{'scenario':34}{'open':>7}  {'RSS MiB before':>14}{'peak':>6}{'after':>6}  "
            f"{'honest':>12}{'p95':>7}{'max ms':>8}  told"
        )


def _print(result: Result, arguments: argparse.Namespace) -> None:
    honest = result.honest
    success, p95 = honest.success_ratio, honest.p95_seconds
    slowest = max(honest.seconds, default=None)
    told = ", ".join(f"{count} x {what}" for what, count in result.told.most_common(MAX_TOLD))
    if arguments.json:
        facts = {
            "scenario": result.name,
            "open": result.most_open,
            "before_bytes": result.before_bytes,
            "peak_bytes": result.peak_bytes,
            "after_bytes": result.after_bytes,
            "honest_success_ratio": success,
            "honest_p95_seconds": p95,
            "honest_max_seconds": slowest,
            "honest_failures": dict(honest.failures),
            "told": dict(result.told),
        }
        print(json.dumps(facts), flush=True)
        return
    total = len(honest.seconds) + honest.failures.total()
    print(
        f"{result.name:34}{result.most_open:>7}  {result.before_bytes / MIB:>14.0f}"
        f"{result.peak_bytes / MIB:>6.0f}{result.after_bytes / MIB:>6.0f}  "
        f"{f'{len(honest.seconds)}/{total}':>12}{_milliseconds(p95):>7}"
        f"{_milliseconds(slowest):>8}  "
        f"{told}",
        flush=True,
    )
    for why, count in honest.failures.most_common(MAX_TOLD):
        print(f"{'':34}honest client: {count} x {why}", flush=True)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.0f}"


if __name__ == "__main__":
    sys.exit(main())
