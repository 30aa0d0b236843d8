"""The bench of bounds: a short run of the real router, and what it judges."""

import os
import subprocess
import sys
from collections import Counter

from bench.bounds.__main__ import Result
from bench.bounds.engines import ENDLESS, KINDS
from bench.bounds.honest import Ledger
from bench.bounds.resident import forget_peak, peak_bytes, resident_bytes
from bench.bounds.scenarios import SCENARIOS

MIB = 1024**2


def result(**facts):
    known = {
        "name": "x", "before_bytes": 0, "peak_bytes": 100, "after_bytes": 0, "most_open": 1,
        "honest": Ledger(seconds=[0.1] * 100), "told": Counter(), "has_ended": False,
    }  # fmt: skip
    return Result(**(known | facts))


def test_what_is_beyond_its_bound_is_named():
    """The bench ends with 1 for each of these."""
    assert result().faults(100) == []
    assert result(peak_bytes=101 * MIB).faults(100 * MIB) == ["101 MiB resident"]
    assert result(has_ended=True).faults(100) == ["the router has ended"]
    assert result(honest=Ledger()).faults(100) == ["honest client: {}"]
    some = Ledger(seconds=[0.1] * 98, failures=Counter({"503": 2}))
    assert result(honest=some).faults(100) == ["honest client: {'503': 2}"]
    assert (some.success_ratio, Ledger().success_ratio) == (0.98, None)
    assert (Ledger(seconds=[3.0, 1.0, 2.0]).p95_seconds, Ledger().p95_seconds) == (3.0, None)


def test_every_hostile_engine_has_its_scenario(repository):
    """Those that answer without an end, and no scenario asks an engine that is not there."""
    source = (repository / "bench" / "bounds" / "scenarios.py").read_text()
    assert all(f'"{kind}"' in source for kind in ENDLESS)
    assert {"quick", "slow", "paced", "burst"} | set(ENDLESS) == set(KINDS)
    assert all(scenario.__doc__ or "engine" in name or "bodies" in name
               for name, scenario in SCENARIOS.items())  # fmt: skip


def test_the_peak_is_the_kernels_and_is_forgotten():
    """A sample every so often would miss what a body takes for a moment."""
    own = os.getpid()
    forget_peak(own)
    before = resident_bytes(own)
    block = bytearray(64 * MIB)
    del block
    assert peak_bytes(own) >= before + 60 * MIB
    forget_peak(own)
    assert peak_bytes(own) < before + 60 * MIB


def test_a_running_router_stays_under_its_limit(repository):
    """One scenario of clients and one of an engine, a second each: all of them take ten minutes."""
    done = subprocess.run(
        [
            sys.executable, "-m", "bench.bounds", "--seconds", "1", "--connections", "50",
            "--max-memory", "400", "--scenarios", "slow heads", "engine: endless refusal",
        ],
        cwd=repository, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "engine-push-back" in done.stdout
    assert "bounded: at most " in done.stdout
