"""Dashboards against Grafana's own types (opt-in: ``make prometheus`` installs the SDK)."""

import os
import subprocess

import pytest

from monitoring.__main__ import CHART, DASHBOARDS

PYTHON = os.environ.get("MEMROUTE_GRAFANA_PYTHON")


@pytest.mark.skipif(PYTHON is None, reason="make prometheus installs Grafana's SDK, and says where")
def test_dashboards_have_no_field_that_grafana_does_not_know(repository):
    """A misspelt field is ignored without a word: a stacked panel that is not."""
    files = sorted((repository / CHART / "dashboards").glob("*.json"))
    assert len(files) == len(DASHBOARDS)
    program = repository / "tests" / "support" / "metrics" / "grafana_round_trip.py"
    result = subprocess.run(
        [PYTHON, str(program), *map(str, files)], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stdout + result.stderr
