"""``python -m bench.routing.behind_envoy PORT FLEET``: Envoy, and memroute's picker behind it.

One command, so that it is measured as a router is: Envoy listens on the port, the picker on the
next one, and operations on the one after. It ends with either of them.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from bench.datapath.gateway import bootstrap, found_envoy

POLL_SECONDS = 0.2


def main(argv: Sequence[str]) -> int:
    """Run until one of the two ends."""
    port, fleet = int(argv[0]), Path(argv[1])
    picker_port, ops_port = port + 1, port + 2
    config = bootstrap()(f"127.0.0.1:{picker_port}", port, ("FULL_DUPLEX_STREAMED",) * 2)
    path = fleet.parent / "envoy.yaml"
    path.write_text(yaml.safe_dump(config))
    commands = [
        [sys.executable, "-m", "memroute_picker", "--config", str(fleet), "--host", "127.0.0.1",
         "--port", str(picker_port), "--ops-port", str(ops_port), "--scrape-seconds", "0.5",
         "--access-log", "off"],
        [found_envoy(), "-c", str(path), "--concurrency", "1", "--log-level", "error",
         "--use-dynamic-base-id"],
    ]  # fmt: skip
    # Both are of our group: whoever ends that ends them.
    running = [subprocess.Popen(command) for command in commands]  # noqa: S603 - made above
    while all(process.poll() is None for process in running):
        time.sleep(POLL_SECONDS)
    for process in running:
        process.kill()
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
