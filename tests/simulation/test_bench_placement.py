import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from bench.placement.__main__ import main
from bench.placement.books import Books, Choice, IllegalChoiceError
from bench.placement.cases import CASES
from bench.placement.instance import Instance, ModelSize, deployment, node
from bench.placement.optimum import fullest_part, optimum_of
from bench.placement.policies import POLICIES
from bench.placement.scale import scale
from memroute.placement import Inventory

ROOT = Path(__file__).parents[2]
SMALL = ModelSize(model="Qwen/Qwen3-0.6B", max_context_tokens=2048, concurrency=1)
FULL = 158
# Units of 512 MiB of an H100.


def tiny(*sizes, foreign=None, devices=2):
    """So many replicas, each its own deployment, on one shared node of H100."""
    one = node("n", ("H100",) * devices, foreign_units=foreign)
    wanted = [
        replica
        for number, units in enumerate(sizes)
        for replica in deployment(number, SMALL, 1, units=units)
    ]
    inventory = Inventory(nodes=(one,))
    return Instance(case="tiny", seed=1, inventory=inventory, wanted=tuple(wanted))


def placed(policy, instance):
    """Replicas that the policy places, and those that never start."""
    books = Books(instance)
    refused = POLICIES[policy](instance, books)
    assert books.num_placed + books.num_never_starts + len(refused) == len(instance.wanted)
    return books.num_placed, books.num_never_starts


def test_whole_gpus_hold_one_replica_each():
    """What kube-scheduler does: the second half of each H100 serves nobody."""
    halves = tiny(79, 79, 79, 79)
    assert placed("most-allocated", halves) == (2, 0)
    assert {placed(name, halves)[0] for name in POLICIES if name != "most-allocated"} == {4}


def test_promises_alone_put_replicas_beside_what_others_use():
    """HAMi's ledger is blind to processes it did not place: its pods hold promises and fail."""
    used = tiny(100, 50, foreign={0: 100, 1: 100})
    assert placed("hami-binpack", used) == (0, 2)
    assert placed("memroute", used) == (1, 0)


def test_a_plan_of_all_places_what_one_after_the_other_cannot():
    """38 + 62 %, 39 + 61 %: smallest first, in order, 39 goes beside 38."""
    sizes = (60, 61, 97, 98)
    assert placed("memroute-online", tiny(*sizes)) == (3, 0)
    assert placed("memroute", tiny(*sizes)) == (4, 0)


def test_the_books_believe_no_policy():
    """A bench that took a policy's word would measure its mistakes as success."""
    instance = tiny(100, 100, devices=1)
    books = Books(instance)
    books.take(instance.wanted[0], Choice("n", ("GPU-n-0",)))
    with pytest.raises(IllegalChoiceError, match="more than it has"):
        books.take(instance.wanted[1], Choice("n", ("GPU-n-0",)))
    pair = deployment(9, SMALL, 1, units=15, num_devices=2)[0]
    with pytest.raises(IllegalChoiceError, match="no group"):
        books.take(pair, Choice("n", ("GPU-n-0", "GPU-n-0")))


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_the_same_for_a_seed_and_has_at_most_200_devices(name):
    """Figures can be printed again, and the bar speaks of up to 200 devices."""
    instance = CASES[name].instance(1)
    assert instance == CASES[name].instance(1)
    assert instance != CASES[name].instance(2) or CASES[name].is_planted
    assert 100 < instance.num_devices <= 200
    keys = [replica.key for replica in instance.wanted]
    assert len(set(keys)) == len(keys)


def test_what_an_adversary_has_planted_fits():
    """Their optimum is known without a solver: it must be true."""
    assert placed("first-fit-decreasing", CASES["groups-last"].instance(1)) == (180, 0)
    assert placed("first-fit-decreasing", CASES["thirds"].instance(1)) == (576, 0)


def test_the_optimum_is_that_of_trying_everything():
    """On an instance small enough to try all places of all replicas."""
    for sizes in ((100, 75, 75, 50, 15), (85, 80, 75, 70, 12), (158, 140, 18, 19)):
        best = 0
        for places in product((None, 0, 1), repeat=len(sizes)):
            loads = [sum(s for s, p in zip(sizes, places, strict=True) if p == d) for d in (0, 1)]
            if max(loads) <= FULL:
                best = max(best, sum(place is not None for place in places))
        found = optimum_of(tiny(*sizes), limit_seconds=10)
        assert (found.num_replicas, found.num_found) == (best, best)


def test_the_part_that_just_fits_leaves_out_the_first_that_does_not():
    """Oldest first: 100 and 75 fit, another 100 does not, nor would a later one of its kind."""
    part = fullest_part(tiny(100, 75, 100, 50, 30), limit_seconds=10)
    assert [one.key.name for one in part.wanted] == ["m0000", "m0001", "m0003", "m0004"]


def test_the_command_compares_without_a_solver_what_is_planted(capsys, tmp_path):
    plot = tmp_path / "placement.svg"
    policies = "memroute,most-allocated"
    arguments = ["compare", "--cases", "groups-last", "--seeds", "1", "--policies", policies]
    assert main([*arguments, "--output", "json", "--plot", str(plot)]) == 0
    ours, theirs = json.loads(capsys.readouterr().out)
    assert ours["placed_ratio"] == 1.0
    assert (theirs["policy"], theirs["placed_ratio"]) == ("most-allocated", 0.8)
    assert theirs["stranded_bytes"] > 0
    assert plot.read_text().startswith("<?xml")


def test_a_missing_solver_is_said_in_words(capsys, monkeypatch):
    """Only the optimum needs it: where it does not run, the rest of the bench does."""
    monkeypatch.setitem(sys.modules, "highspy", None)
    assert main(["compare", "--cases", "exclusive", "--seeds", "1"]) == 2
    assert "make install" in capsys.readouterr().err


def test_scale_tells_seconds_by_mode():
    rows = scale(num_devices=16, num_models=7, num_replicas=1, num_hopeless=3)
    assert [row["what"] for row in rows[:3]] == ["models", "models, twice too many", "fit nowhere"]
    for fitting, tight, hopeless in (rows[:3], rows[3:]):
        assert fitting["placed_replicas"] == fitting["wanted_replicas"] == 7
        assert 7 < tight["placed_replicas"] < tight["wanted_replicas"]
        assert hopeless["placed_replicas"] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["compare", "--cases", "nope"], "no such one in --cases"),
        (["scale", "--plot", "x.png"], "there is no plot of scale"),
        (["compare", "--plot", "x.txt"], "does not end in"),
        (["compare", "--seeds", "0"], "is not 1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, told):
    done = subprocess.run(
        [sys.executable, "-m", "bench.placement", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert told in done.stderr
