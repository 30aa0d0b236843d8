"""The compiled modules: used when they are there, and the same source."""

import os
import sys
from pathlib import Path

from hatch_build import FOR_TESTS, MODULES, OPTIMISED, PACKAGES
from memroute.traffic.dispatch import dispatcher
from memroute.traffic.routing import cost_seconds
from memroute_router.lifecycle import lifecycle
from memroute_simulator.engine.model import vllm

# By the folder that ``make native-test`` names; None for the plain source.
LIBRARIES = {None: None, ".native": OPTIMISED.library, ".native-tests": FOR_TESTS.library}


def test_a_run_on_compiled_modules_is_one():
    """Else ``make native-test`` would test the plain source twice, or the other compiled ones."""
    library = LIBRARIES[os.environ.get("MEMROUTE_EXPECT_NATIVE")]
    loaded = {name for name in sys.modules if name.endswith("__mypyc") and "memroute" in name}
    assert loaded == ({f"{library}__mypyc"} if library else set())
    wanted = library is not None
    assert lifecycle.__file__.endswith(".so") == wanted
    assert vllm.__file__.endswith(".so") == wanted
    assert dispatcher.__file__.endswith(".so") == wanted
    assert (type(cost_seconds).__name__ == "builtin_function_or_method") == wanted


def test_every_module_that_is_compiled_exists(repository):
    parents = {Path(package).name: (repository / package).parent for package in PACKAGES}
    missing = [m for m in MODULES if not (parents[m.partition("/")[0]] / m).is_file()]
    assert missing == []
