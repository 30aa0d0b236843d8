"""`memroute demo --gateway`, before there is a cluster, and what its summary checks."""

import re

import pytest
import typer
import yaml
from typer.testing import CliRunner

from memroute_cli.demo.front import (
    DEPLOY,
    EnvoyMissingError,
    bootstrap,
    find_envoy,
    picker_front,
)
from memroute_cli.demo.summary import Result, _broken_check
from memroute_cli.demo.traffic import Answer, Traffic
from memroute_cli.main import app

KILLED_AT = 100.0


def envoys_own():
    return (DEPLOY / "demo-gateway" / "envoy.yaml").read_text()


def test_the_demo_has_the_envoy_of_the_how_to(repository):
    """What people copy is what the demo runs: the page's test runs it, too."""
    page = (repository / "docs/how-to/behind-a-gateway-picker.md").read_text()
    (block,) = re.findall(r"```yaml\n(static_resources:.*?)```", page, re.DOTALL)
    assert yaml.safe_load(envoys_own()) == yaml.safe_load(block)


def test_of_envoys_configuration_the_demo_changes_addresses_alone():
    before = yaml.safe_load(envoys_own())
    after = bootstrap(envoys_own(), ("127.77.0.1", 4321), "127.77.255.2:9002")
    own = after["static_resources"]["listeners"][0].pop("address")
    assert own == {"socket_address": {"address": "127.77.0.1", "port_value": 4321}}
    before["static_resources"]["listeners"][0].pop("address")
    clusters = [each["static_resources"]["clusters"][1] for each in (before, after)]
    assert clusters[0]["name"] == "memroute-picker"
    places = [cluster.pop("load_assignment")["endpoints"] for cluster in clusters]
    assert places[1][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"] == {
        "address": "127.77.255.2",
        "port_value": 9002,
    }
    assert before == after


def test_without_an_envoy_the_demo_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvoyMissingError, match=r"`make demo ARGS=--gateway` installs it"):
        find_envoy(None, installed=tmp_path / "none")
    with pytest.raises(EnvoyMissingError, match="there is no Envoy at"):
        find_envoy(tmp_path / "other")


def test_the_callers_own_envoy_goes_before_the_installed_one(tmp_path, monkeypatch):
    mine, installed, on_path = (tmp_path / name for name in ("mine", "installed", "envoy"))
    for path in (mine, installed, on_path):
        path.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_envoy(mine, installed=installed) == mine
    assert find_envoy(None, installed=installed) == installed
    assert find_envoy(None, installed=tmp_path / "none") == on_path
    assert picker_front(mine).component == "picker"


def test_an_envoy_without_a_gateway_is_refused():
    result = CliRunner().invoke(app, ["demo", "--envoy", "/usr/bin/envoy"])
    assert result.exit_code == typer.BadParameter.exit_code
    assert "--envoy is for --gateway" in result.output


@pytest.mark.parametrize(
    ("outcome", "replica", "sent_at", "by_router", "by_gateway"),
    [
        ("served", "default/chat-1", 150.0, True, True),
        ("connection lost", "default/chat-1", 99.0, False, True),
        ("connection lost", "default/chat-2", 99.0, False, False),
        ("connection lost", "default/chat-1", 101.0, False, False),
        ("connection lost", "", 99.0, False, False),
    ],
)
def test_a_gateway_breaks_off_answers_of_the_killed_replica_alone(
    outcome, replica, sent_at, by_router, by_gateway
):
    """The router ends a broken stream with an error; Envoy has only the connection to say it by."""
    traffic = Traffic("http://x", answers=[Answer("chat", sent_at, outcome, replica)])
    result = Result(
        deployments=[], traffic=traffic, killed_pod="chat-1", killed_at=KILLED_AT,
        reserved_tokens_left=0, engine_restarts={}, oom_logs=[],
    )  # fmt: skip
    passed = [
        _broken_check(result, KILLED_AT, through_gateway=gateway).passed
        for gateway in (False, True)
    ]
    assert passed == [by_router, by_gateway]
