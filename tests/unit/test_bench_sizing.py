"""Estimates and prefix credit against counts that real tokenizers made of the same corpus."""

import pytest

from bench.sizing.__main__ import main, read_counts
from bench.sizing.corpus import make_corpus
from bench.sizing.measure import estimate_errors, quantile

CASES = make_corpus()
COUNTS = read_counts()


@pytest.mark.parametrize("model", COUNTS)
def test_estimates_are_within_a_tenth_of_what_engines_count(model):
    """Nine languages, code, data, images, agents in three dialects: at the 90th percentile.

    After the first third of a pool's traffic; before anything is learned, within 45 %.
    """
    errors = estimate_errors(model, CASES, COUNTS[model])
    assert quantile([error.prompt for error in errors if error.is_judged], 0.9) < 0.1
    assert quantile([error.cold for error in errors], 0.9) < 0.45


@pytest.mark.parametrize("model", COUNTS)
def test_the_credit_for_a_prefix_is_what_engines_have_cached(model):
    """Within a tenth at the 90th percentile, and exactly in most cases, whatever the tokenizer.

    The share that is left to compute is known to five points.
    """
    errors = [error for error in estimate_errors(model, CASES, COUNTS[model]) if error.is_judged]
    assert quantile([error.share for error in errors if error.share is not None], 0.9) < 0.05
    cached = [error.cached for error in errors if error.cached is not None]
    assert len(cached) > 40
    assert quantile(cached, 0.5) < 0.02
    assert quantile(cached, 0.9) < 0.1


@pytest.mark.slow
def test_the_corpus_is_the_one_that_was_counted(monkeypatch, capsys):
    """The table names every pool, and the last case is among those counted."""
    assert max(count.case for count in COUNTS["Qwen3-VL-8B-Instruct"]) == len(CASES) - 1
    monkeypatch.setattr("sys.argv", ["bench.sizing"])
    assert main() == 0
    printed = capsys.readouterr().out
    assert all(model in printed for model in COUNTS)
