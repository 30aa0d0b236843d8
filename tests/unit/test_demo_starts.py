"""`memroute demo` on a fresh machine, before there is a cluster."""

import sys
import types

import typer
from typer.testing import CliRunner

from memroute_cli.main import app


def test_the_first_line_waits_for_nothing(monkeypatch):
    """Importing what the demo needs takes most of a second, and building it minutes."""
    program = types.ModuleType("memroute_cli.demo.program")
    program.demo = lambda **_settings: typer.echo("the work begins")
    monkeypatch.setitem(sys.modules, "memroute_cli.demo.program", program)
    first, second = CliRunner().invoke(app, ["demo"]).stdout.splitlines()
    assert first.startswith("memroute on this machine: a control plane, five emulated GPU nodes")
    assert second == "the work begins"
