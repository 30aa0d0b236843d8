"""What a user is told in each of some 80 situations: state, reason, sentence, Event, next step."""

import asyncio
import re

import pytest

from conditions_page import PAGE, page
from memroute_kube.resources import MODEL_DEPLOYMENTS
from memroute_operator.status.health_conditions import EXPECTED_REASONS
from situation_rows import HUB_CASES, UNREACHED_CASE, rows
from situations import GROUPS

TITLES = [one.title for several in GROUPS.values() for one in several]
TITLES += [*(title for title, *_ in HUB_CASES), UNREACHED_CASE[0]]
# Nothing that needs anybody: no next step is expected of it, and no Warning.
WELL = "Well, and on the way"


@pytest.fixture(scope="module")
def found():
    return asyncio.run(rows())


@pytest.fixture(scope="module")
def by_title(found):
    return {row.title: row for several in found.values() for row in several}


def test_there_are_enough_situations_and_each_once():
    assert len(TITLES) == len(set(TITLES)) >= 75


@pytest.mark.parametrize("title", TITLES)
def test_the_sentence_has_the_next_step_and_reads_as_one(by_title, title):
    """A person at night reads this and nothing else."""
    row = by_title[title]
    assert row.reason not in ("-", "Unknown", "InternalError")
    assert row.message
    assert row.helps in row.message
    bare = re.sub(r"taint \{.*?\}|dict_keys.*", "", row.message)
    assert not re.search(r"[{}]|\[\[|\]\]|None|  ", bare)
    assert len(row.message) < 2000


@pytest.mark.parametrize("title", TITLES)
def test_each_change_is_told_by_events_without_repetition(by_title, title):
    """An Event wakes somebody: none is missing where somebody must act, and none is twice."""
    row = by_title[title]
    reasons = [one.partition(" ")[2] for one in row.events]
    assert len(reasons) == len(set(reasons)), reasons
    assert len(reasons) <= 3
    needs_somebody = (
        row.kind == "Ready" and row.status != "True" and row.reason not in EXPECTED_REASONS
    )
    if needs_somebody:
        assert any(one.startswith("Warning ") for one in row.events), row.events
    else:
        assert not [one for one in row.events if one.startswith("Warning ")] or row.kind != "Ready"


def test_the_page_of_conditions_is_what_is_told(found):
    """``python tests/support/pages/conditions_page.py`` writes it anew."""
    assert PAGE.read_text() == page(found)


def test_the_situations_are_those_that_the_issue_names(by_title):
    """Each of them has a reason of its own."""
    assert MODEL_DEPLOYMENTS.kind == "ModelDeployment"
    expected = {
        "host memory runs out": "HostMemoryExhausted",
        "device memory runs out": "DeviceMemoryExhausted",
        "it ends and says nothing": "EngineFailing",
        "no such image": "ImageNotFound",
        "a Secret is missing": "SecretMissing",
        "the model is gated, no token": "ModelGated",
        "weights are damaged": "WeightsDamaged",
        "weights are missing": "WeightsMissing",
        "no device is visible": "NoDeviceVisible",
        "the driver is too old": "DriverTooOld",
        "the port is taken": "PortTaken",
        "it is never ready in its time": "StartTooLong",
        "a taint keeps it off": "NoEligibleNode",
        "a quota is used up": "PodRefused",
        "a webhook denies it": "PodRefused",
    }
    assert {title: by_title[title].reason for title in expected} == expected
