"""What the conformance suite for pickers says at its end, and which claims it takes."""

from picker_report import Verdict, summary
from picker_rules import RULES, unknown_claims


def test_what_is_broken_is_told_by_level():
    """Whoever ran it with another picker saw failed tests, and not which rules were binding."""
    verdicts = {name: Verdict("passed", "") for name in RULES}
    verdicts |= {"pick-header": Verdict("failed", "none"), "duplex-waits": Verdict("failed", "no")}
    del verdicts["test-selection"]
    first, *others = summary(verdicts)
    assert first == f"of {len(RULES)} rules {len(RULES) - 3} kept, 2 broken, 1 not tested"
    assert others == [
        "MUST broken: pick-header", "SHOULD broken: duplex-waits", "not tested: test-selection",
    ]  # fmt: skip


def test_only_optional_rules_are_claimed():
    """A misspelt claim was left out, and its rule not tested."""
    assert unknown_claims("") == unknown_claims("all") == []
    assert unknown_claims("test-selection,served-reported") == []
    assert unknown_claims("pick-header,test-selektion") == ["pick-header", "test-selektion"]
