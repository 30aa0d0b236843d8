"""What the operator costs: ``python -m bench.operator planning`` (pure) or ``fleet`` (all real)."""

import argparse
import sys
from collections.abc import Callable, Sequence

from bench.operator import fleet, planning

BENCHES: dict[str, Callable[[Sequence[str]], int]] = {
    "fleet": fleet.main,
    "planning": planning.main,
}


def main() -> int:
    """Run one of them."""
    parser = argparse.ArgumentParser(prog="python -m bench.operator", description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHES))
    arguments, rest = parser.parse_known_args()
    return BENCHES[arguments.name](rest)


if __name__ == "__main__":
    sys.exit(main())
