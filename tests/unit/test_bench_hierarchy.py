"""``python -m bench.hierarchy``: ten break-evens, and every published figure within a quarter."""

import json

import pytest

from bench.hierarchy.__main__ import main


def test_published_figures_are_met(capsys):
    """Who changes a rate or a law sees here what it no longer explains."""
    assert main(["--output", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["breakEvens"]) == 10
    assert len(document["published"]) == 12


@pytest.mark.slow
def test_the_table_has_a_break_even_for_each(capsys):
    """No row may be empty: a person compares their own with the nearest."""
    main([])
    text = capsys.readouterr().out
    assert "break-even" in text
    assert "never" not in text
