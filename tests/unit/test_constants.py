"""The table of constants says what the source says."""

import re

import pytest

from bench.routing.constants.page import PAGE, Measured, constants_table, effect, page, verdict
from bench.routing.constants.roles import FROM_ONE, GROUPS, KEPT, UNMEASURED
from bench.routing.constants.source import Constant, find_constants
from bench.routing.constants.study import FACTORS, changed, made_changeable


def rows(text):
    """(module, name) to the value, of every row of the page."""
    found = {}
    module = ""
    for line in text.splitlines():
        if line.startswith("## "):
            module = line.removeprefix("## ")
        elif match := re.match(r"\| `(\w+)` \| ([^|]+) \|", line):
            found[module, match[1]] = match[2].removesuffix(", from 1")
    return found


@pytest.mark.slow
def test_the_page_has_every_constant_with_its_present_value_and_nothing_else():
    """A table of 150 numbers that is written by hand is wrong within a week."""
    wanted = {(one.module, one.name): one.expression for one in find_constants()}
    assert len(wanted) > 100
    traffic, _, rates = PAGE.read_text().partition("\n# Step times")
    assert rows(traffic) == wanted
    assert rows(rates)["bandwidth.sharing", "SWITCHING_RATIO"] == "1.055"


@pytest.mark.slow
def test_the_page_is_what_its_program_writes():
    """Units, sources and effects come from the source and the results, so they cannot drift either.

    When this fails: ``python -m bench.routing.constants.page``.
    """
    assert PAGE.read_text() == page()


def test_every_constant_is_explained_above_it_with_unit_and_source():
    """Who reads ``CLOSED_RATIO = 0.3`` at 3 a.m. needs to know of what, and who says so."""
    unexplained = [
        one.path
        for one in find_constants()
        if not one.about or one.unit is None or one.source is None
    ]
    assert unexplained == []


@pytest.mark.slow
def test_roles_name_constants_that_exist():
    """A role that outlives its constant would excuse the next one of that name."""
    constants = find_constants()
    paths = {one.path for one in constants} | {one.module for one in constants}
    assert {*UNMEASURED, *GROUPS, *FROM_ONE, *KEPT} <= paths


@pytest.mark.slow
def test_a_constant_is_halved_and_doubled_or_its_distance_from_one_is():
    """Twice 0.98 would not forget faster but grow without bound; 1 - 0.98 doubled is 0.96."""
    by_path = {one.path: one for one in find_constants()}
    forget = by_path["replica.prefill_law.FORGET_RATIO"]
    assert forget.value == 0.98
    assert [round(changed(forget, factor), 4) for factor in FACTORS] == [0.99, 0.96]
    unproven = by_path["admission.gates.MAX_UNPROVEN"]
    assert [changed(unproven, factor) for factor in FACTORS] == [2, 8]


def test_a_module_is_made_to_ask_for_its_constants():
    """Compiled modules hold constants as literals: what is set at run time would not be seen."""
    text = '"""About."""\n\nfrom typing import Final\n\nPARTS: Final = 20 * 8\n'
    constant = Constant(
        module="a", name="PARTS", line=5, expression="20 * 8", value=160, comment=""
    )
    assert made_changeable(text, [constant]).splitlines() == [
        '"""About."""',
        "",
        "from memroute.asked import asked_float, asked_int",
        "from typing import Final",
        "",
        'PARTS: Final = asked_int("a.PARTS", 20 * 8)',
    ]


def measured(attained):
    """Runs at 0.95 with a noise of 0.01 in each of four scenarios, and one change."""
    keys = [f"plain/{name}" for name in "abcd"]
    unchanged = {key: [0.95] for key in keys}
    return Measured(
        base=dict.fromkeys(keys, 0.95),
        noise=dict.fromkeys(keys, 0.01),
        plain_run=unchanged,
        by_change={("a.PARTS", 0.5): {"value": 1, "attained": unchanged | attained}},
    )


@pytest.mark.parametrize(
    ("attained", "told"),
    [
        # Nothing but the plain run again: no decision was another.
        ({}, ("no run differs", "within noise")),
        # One scenario 4 points lower, its noise 1: the mean of four is 1 lower, its noise 0.5.
        ({"plain/a": [0.91]}, ("\N{MINUS SIGN}1.0", "within noise")),
        # 6 points are more than five times the scenario's noise.
        ({"plain/a": [0.89]}, ("\N{MINUS SIGN}1.5 (plain a \N{MINUS SIGN}6.0)", "matters")),
        # 2 points in every one: four times the noise of the mean.
        ({f"plain/{name}": [0.93] for name in "abcd"}, ("\N{MINUS SIGN}2.0", "matters")),
    ],
)
def test_an_effect_is_one_when_it_is_more_than_noise(attained, told):
    """Of hundreds of runs some differ by chance: a constant that seems to matter would be kept."""
    constant = Constant(module="a", name="PARTS", line=1, expression="2", value=2, comment="Parts.")
    one = effect(measured(attained), constant, 0.5)
    assert (one.cell(), verdict(constant, [one, None])) == told


def test_what_was_measured_of_another_value_is_not_told_of_this_one():
    """Halving 2 was measured; the constant is 4 by now."""
    constant = Constant(module="a", name="PARTS", line=1, expression="4", value=4, comment="Parts.")
    assert effect(measured({}), constant, 0.5) is None
    assert verdict(constant, [None, None]) == "not measured yet"


@pytest.mark.slow
def test_a_constant_that_does_not_matter_says_why_it_is_there():
    """Those that nothing shows to matter are kept for a reason, or go."""
    assert [row[0] for row in constants_table() if row[-1] == "within noise"] == []
