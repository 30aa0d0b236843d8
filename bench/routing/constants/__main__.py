"""One process, one scaled constant: what its scenarios attained, as a line of JSON.

``python -m bench.routing.constants GROUP[,GROUP...] SEEDS`` on the modules that
``bench.routing.constants.study`` has built; the environment says which constant, and how much.
"""

import json
import sys

from bench.routing.constants.scenarios import SCENARIOS


def main() -> None:
    """Run them, and print."""
    groups, num_seeds = sys.argv[1].split(","), int(sys.argv[2])
    attained = {
        scenario.key: [round(scenario.run(seed), 4) for seed in range(1, num_seeds + 1)]
        for scenario in SCENARIOS
        if scenario.group in groups
    }
    print(json.dumps(attained))


if __name__ == "__main__":
    main()
