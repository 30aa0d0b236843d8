"""What upstream's suite says, held against what is known of it. Pure.

| outcome | known to fail | not known to fail |
| --- | --- | --- |
| passed | **wrong**: the list is out of date | right |
| failed | right, with its reason | **wrong** |
| skipped, not run | **wrong** | **wrong**, unless another one was asked for alone |
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

TESTS = (
    "EppUnAvailableFailOpen",
    "GatewayDestinationEndpointServed",
    "GatewayFollowingEPPRouting",
    "GatewayFollowingEPPRoutingWithDataParallelism",
    "GatewayWeightedAcrossTwoInferencePools",
    "HTTPRouteInvalidInferencePoolRef",
    "HTTPRouteMultipleGatewaysDifferentPools",
    "HTTPRouteMultipleRulesDifferentPools",
    "InferencePoolAccepted",
    "InferencePoolHTTPRoutePortValidation",
    "InferencePoolInvalidEPPService",
    "InferencePoolResolvedRefsCondition",
)
"""Of the suite that is built here (v1.3.0): a test that is not run is missed by its name."""
LATER_TESTS = ("InferencePoolAppProtocol", "InferencePoolMissingEPPRef")
"""Of upstream's main branch on 18 August 2026, and not of v1.3.0."""
KNOWN_FAILURES = {
    "GatewayWeightedAcrossTwoInferencePools": "Istio before istio#61601: a rule weighted over two "
    "pools asks one picker for both (istio#61594)",
}
TOP = "TestConformance"
_RESULT = re.compile(rf"^\s*--- (PASS|FAIL|SKIP): {TOP}/([^/\s]+) \((\d+(?:\.\d+)?)s\)$")


class Outcome(StrEnum):
    """What became of a test."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    NOT_RUN = "not run"


_WORDS = {"PASS": Outcome.PASSED, "FAIL": Outcome.FAILED, "SKIP": Outcome.SKIPPED}


@dataclass(frozen=True, slots=True)
class Result:
    """What one test has come to."""

    outcome: Outcome
    seconds: float | None = None
    """How long it took; None: it was not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A test, and whether its result is the one that is known."""

    test: str
    result: Result
    note: str = ""
    is_wrong: bool = False


def results_of(output: str) -> dict[str, Result]:
    """Results by the names of tests, of what the suite prints (``-test.v``); subtests left out."""
    found = {}
    for line in output.splitlines():
        if match := _RESULT.match(line):
            found[match[2]] = Result(_WORDS[match[1]], float(match[3]))
    return found


def rows_of(
    results: Mapping[str, Result],
    *,
    expected: Collection[str],
    known: Mapping[str, str],
    asked: str | None = None,
) -> list[Row]:
    """A row for each test that is expected, and for each that has a result.

    ``known``: the reason of each known failure. ``asked``: the one that was to run alone.
    """
    missing = Result(Outcome.NOT_RUN)
    return [
        _row(name, results.get(name, missing), expected=expected, known=known, asked=asked)
        for name in sorted({*expected, *results, *([asked] if asked else ())})
    ]


def _row(
    name: str,
    result: Result,
    *,
    expected: Collection[str],
    known: Mapping[str, str],
    asked: str | None,
) -> Row:
    reason = known.get(name)
    if asked is not None and name != asked:
        is_wrong = result.outcome in {Outcome.PASSED, Outcome.FAILED}
        note = f"not asked for: {asked} alone is"
    elif name not in expected:
        is_there = result.outcome is not Outcome.NOT_RUN
        note = "a test that nobody expects: the list of tests is out of date"
        note, is_wrong = note if is_there else "the suite has no such test", True
    elif result.outcome is Outcome.PASSED:
        note = f"it is known to fail ({reason}): take it off the list" if reason else ""
        is_wrong = reason is not None
    elif result.outcome is Outcome.FAILED:
        note, is_wrong = (f"known: {reason}", False) if reason else ("", True)
    else:
        note, is_wrong = "it was to run", True
    return Row(test=name, result=result, note=note, is_wrong=is_wrong)


def report_troubles(report: Mapping | None, results: Mapping[str, Result]) -> list[str]:
    """Where upstream's report and what the suite has printed differ. None: there is no report."""
    if report is None:
        return ["the suite has written no report"]
    troubles = []
    counts = Counter(result.outcome for result in results.values())
    profiles = report.get("profiles") or []
    if [profile.get("name") for profile in profiles] != ["Gateway"]:
        return [f"the report is of other profiles than Gateway: {profiles}"]
    core = profiles[0]["core"]
    for word, outcome in (("Passed", Outcome.PASSED), ("Failed", Outcome.FAILED),
                          ("Skipped", Outcome.SKIPPED)):  # fmt: skip
        said = core["statistics"][word]
        if said != counts[outcome]:
            printed = counts[outcome]
            troubles.append(f"the report says {said} {outcome}, the suite's output {printed}")
    failed = {name for name, one in results.items() if one.outcome is Outcome.FAILED}
    if set(core.get("failedTests") or ()) != failed:
        troubles.append(f"the report and the output name other failures: {sorted(failed)}")
    return troubles


def table(rows: Sequence[Row], *, later: Collection[str], troubles: Sequence[str]) -> str:
    """What there is to say, as a page of markdown."""
    counts = Counter(row.result.outcome for row in rows)
    total = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
    lines = ["| test | outcome | seconds | |", "| --- | --- | --- | --- |"]
    for row in rows:
        seconds = "" if row.result.seconds is None else f"{row.result.seconds:.1f}"
        outcome = f"**{row.result.outcome}**" if row.is_wrong else row.result.outcome
        lines.append(f"| {row.test} | {outcome} | {seconds} | {row.note} |")
    lines += [f"| {name} | not in this version | | |" for name in sorted(later)]
    lines += ["", f"{len(rows)} tests: {total}."]
    wrong = [f"{row.test} {row.result.outcome}" for row in rows if row.is_wrong]
    if wrong or troubles:
        lines += ["", "Not as it should be:", "", *(f"* {each}" for each in [*wrong, *troubles])]
    return "\n".join(lines) + "\n"
