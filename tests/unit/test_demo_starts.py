"""`memroute demo` on a fresh machine, before there is a cluster."""

import json
import shlex
import sys
import types

import pytest
import typer
from typer.testing import CliRunner

from memroute_cli.demo.told import kept_text, step_lines
from memroute_cli.main import app


def test_the_first_line_waits_for_nothing(monkeypatch):
    """Importing what the demo needs takes most of a second, and building it minutes."""
    program = types.ModuleType("memroute_cli.demo.program")
    program.demo = lambda **_settings: typer.echo("the work begins")
    monkeypatch.setitem(sys.modules, "memroute_cli.demo.program", program)
    first, second = CliRunner().invoke(app, ["demo"]).stdout.splitlines()
    assert first.startswith("memroute on this machine: a control plane, five emulated GPU nodes")
    assert second == "the work begins"


def test_a_step_of_two_lines_is_read_as_one_step():
    """The second line began below the time, and looked like a step of its own."""
    text = "starting etcd, kube-apiserver, kube-scheduler, kube-controller-manager and five nodes"
    assert step_lines(0.0, text, 80) == [
        "   0.0 s  starting etcd, kube-apiserver, kube-scheduler, kube-controller-manager",
        "          and five nodes",
    ]
    url = "http://127.217.255.3:8002/metrics"
    assert url in "\n".join(step_lines(100.0, f"operator {url}, router {url} and {url}", 40))


@pytest.mark.parametrize("has_gateway", [False, True])
def test_what_to_paste_into_another_terminal_fits_and_is_valid(has_gateway):
    """A line of 82 characters broke inside of a quoted word."""
    text = kept_text(
        has_gateway=has_gateway,
        kubeconfig="/run/memroute-9vt9tmox/admin.kubeconfig",
        operator_url="http://127.217.255.1:8080",
        router_url="http://127.217.255.2:8080",
        ops_url="http://127.217.255.3:8002",
    )
    assert max(len(line) for line in text.splitlines()) <= 80
    command = text[text.index("curl") : text.index("memroute decisions")]
    *_, data = shlex.split(command)
    assert json.loads(data)["model"] == "chat"
    assert text.split()[0] == ("gateway" if has_gateway else "router")
