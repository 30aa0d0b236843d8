"""The engine's program: flags are read and judged first; what serves is imported when it starts."""

import sys
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from memroute_simulator.engine.arguments import EngineArguments, parse_arguments
from memroute_simulator.engine.endings import ENDINGS
from memroute_simulator.engine.faces import llama_cpp, sglang
from memroute_simulator.engine.faults import FaultError, Faults
from memroute_simulator.engine.spec import EngineSpec
from memroute_simulator.engine.startup import DriverClient, start_vllm

# The commands of other engines' faces.
FACES: Final = MappingProxyType(
    {
        "sglang": (sglang.parse, sglang.start),
        "llama-server": (llama_cpp.parse, llama_cpp.start),
    }
)


def main(argv: Sequence[str], face: str = "engine") -> int:
    """Run one engine; the exit status. ``face``: whose flags these are."""
    start = start_vllm
    if face in FACES:
        parse, start_face = FACES[face]
        arguments, flags = parse(argv)

        async def start(
            arguments: EngineArguments, driver: DriverClient
        ) -> tuple[EngineSpec, dict[str, float]]:
            return await start_face(arguments, flags, driver)

    else:
        arguments = parse_arguments(argv)
    if arguments.ending is not None:
        return ENDINGS[arguments.ending].play()
    try:
        Faults().update(arguments.faults)
    except FaultError as error:
        print(f"memroute-simulator engine: --simulator-fault: {error}", file=sys.stderr)
        return 2
    # Two thirds of a second that no flag needs: HTTP, sockets for events, metrics.
    import uvloop  # noqa: PLC0415

    from memroute_simulator.engine.http.app import serve_engine  # noqa: PLC0415

    return uvloop.run(serve_engine(arguments, start))
