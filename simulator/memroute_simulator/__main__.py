"""``memroute-simulator``: the parts of the emulation that run as processes of their own."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from memroute.command_line import CommandLine
from memroute.sentences import for_stderr


def main() -> None:
    """Dispatch: everything after ``engine``, ``sglang`` or ``llama-server`` is the engine's."""
    # Each part imports what it alone needs: an engine starts without a Kubernetes client.
    if sys.argv[1:2] and sys.argv[1] in ("engine", "sglang", "llama-server"):
        from memroute_simulator.engine.program import main as engine_main  # noqa: PLC0415

        sys.exit(engine_main(sys.argv[2:], face=sys.argv[1]))
    parser = CommandLine(prog="memroute-simulator", description="A fleet without GPUs.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("engine", help="a simulated vLLM engine (its flags are vLLM's)")
    commands.add_parser("sglang", help="the same behind SGLang's flags and pages")
    commands.add_parser("llama-server", help="the same behind llama.cpp's flags and pages")
    nodes = commands.add_parser("nodes", help="emulated GPU nodes of one cluster")
    nodes.add_argument("--fleet", type=Path, required=True, help="YAML file that names the nodes")
    nodes.add_argument("--kubeconfig", type=Path, required=True)
    nodes.add_argument("--network", type=int, required=True, help="N of 127.N.0.0/16")
    nodes.add_argument("--cluster-id", required=True)
    nodes.add_argument("--directory", type=Path, required=True, help="the cluster's directory")
    binaries = commands.add_parser(
        "binaries", help="build what a local control plane needs, once; their paths"
    )
    binaries.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="these alone (default: all but what only tests of gateways need: pilot-discovery, "
        "gateway-suite, echo-basic)",
    )
    arguments = parser.parse_args()
    if arguments.command == "binaries":
        _build_binaries(arguments.names)
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    from memroute_simulator.nodes.fleet import (  # noqa: PLC0415
        FleetFileError,
        load_fleet,
        run_fleet,
    )

    try:
        specs = load_fleet(arguments.fleet)
    except (FleetFileError, OSError) as error:
        sys.exit(for_stderr(f"memroute-simulator: {error}"))
    asyncio.run(
        run_fleet(
            specs,
            kubeconfig=arguments.kubeconfig,
            network=arguments.network,
            cluster_id=arguments.cluster_id,
            directory=arguments.directory,
        )
    )


def _build_binaries(names: Sequence[str]) -> None:
    from memroute_simulator.controlplane import BinaryError, find_binaries  # noqa: PLC0415
    from memroute_simulator.controlplane.recipes import BINARY_SETS  # noqa: PLC0415

    try:
        found = find_binaries(
            names or [name for each in BINARY_SETS if not each.is_opt_in for name in each.packages]
        )
    except BinaryError as error:
        sys.exit(for_stderr(f"memroute-simulator: {error}"))
    for name, path in found.items():
        print(f"{name}\t{path}")


if __name__ == "__main__":
    main()
