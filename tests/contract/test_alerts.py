"""Alerts and dashboards: as they are written, and each alert fires and resolves in promtool."""

import json
import re
import subprocess

import pytest
import yaml

from exported import series_names
from monitoring.__main__ import ALERTS, CHART, DASHBOARDS, GROUPS, files
from monitoring.alerts import groups
from prometheus_rig import PrometheusMissingError, find_program

MODEL = 'model_namespace="shop",model_deployment="chat"'
REPLICA = f'{MODEL},replica="chat-1"'
DEVICE = 'node_name="gpu-a",device="GPU-1",product="H100"'


def steps(before, during, minutes, after=None):
    """A gauge: five minutes as it should be, then wrong, then right again."""
    after = before if after is None else after
    return f"{before}x4 {during}x{minutes + 9} {after}x130"


def burst(minutes, per_minute=60):
    """A counter that stands still, rises, and stands still again."""
    top = per_minute * (minutes + 30)
    return f"0x4 0+{per_minute}x{minutes + 30} {top}x100"


def requests(outcome, values):
    return f'memroute_router_requests_total{{{MODEL},outcome="{outcome}"}}', values


def always(per_minute=60, minutes=140):
    return f"0+{per_minute}x{minutes}"


# Alert → the series that it is about, by the minute.
SERIES = {
    "MemrouteModelUnavailable": [
        (f'memroute_condition{{{MODEL},type="Available"}}', steps(1, 0, 2))
    ],
    "MemrouteReplicasMissing": [
        (f"memroute_replicas_wanted{{{MODEL}}}", "2x140"),
        (f"memroute_replicas_ready{{{MODEL}}}", steps(2, 1, 15)),
    ],
    "MemrouteModelStalled": [(f'memroute_condition{{{MODEL},type="Stalled"}}', steps(0, 1, 5))],
    "MemrouteRefusals": [requests("served", always()), requests("saturated", burst(10))],
    "MemrouteFailures": [requests("served", always()), requests("stream-broken", burst(5))],
    "MemrouteTargetsMissed": [
        (f'memroute_router_target_streams_total{{{MODEL},target="both",result="met"}}', always()),
        (
            f'memroute_router_target_streams_total{{{MODEL},target="both",result="missed"}}',
            burst(15),
        ),
    ],
    "MemrouteReplicaHung": [(f"memroute_router_replica_hung{{{REPLICA}}}", steps(0, 1, 1))],
    "MemrouteReplicaAvoided": [(f"memroute_router_replica_avoided{{{REPLICA}}}", steps(0, 1, 5))],
    "MemroutePreemptions": [(f"memroute_router_engine_preemptions_total{{{REPLICA}}}", burst(15))],
    "MemrouteRetries": [
        requests("served", always()),
        (f'memroute_router_retries_total{{{MODEL},cause="timeout"}}', burst(10)),
    ],
    "MemrouteSafeMode": [(f"memroute_router_safe_mode{{{MODEL}}}", steps(0, 1, 10))],
    "MemrouteForeignMemory": [
        (f"memroute_device_reserved_bytes{{{DEVICE}}}", "1000x140"),
        (f"memroute_device_foreign_bytes{{{DEVICE}}}", steps(0, 2_000_000_000, 10)),
    ],
    "MemrouteOverbooked": [(f'memroute_condition{{{MODEL},type="Overbooked"}}', steps(0, 1, 5))],
    "MemrouteExporterStale": [('memroute_node_metrics_fresh{node_name="gpu-a"}', steps(1, 0, 5))],
    "MemrouteNodeUnreachable": [("memroute_nodes_unreachable", steps(0, 1, 2))],
    "MemrouteDeviceUnusable": [(f"memroute_device_unusable{{{DEVICE}}}", steps(0, 1, 30))],
    "MemrouteOperatorNotLeading": [("memroute_operator_leading", steps(1, 0, 3))],
    # Minutes since the epoch, as the clock of the test counts: it stands at 4 min, then goes on.
    "MemrouteOperatorNotReconciling": [
        ("memroute_operator_last_reconcile_timestamp_seconds", "0+60x4 240x14 1200+60x140")
    ],
    "MemrouteOperatorRefused": [
        ('memroute_operator_failures_total{action="Create",status="403"}', burst(5))
    ],
    "MemrouteConfigRefused": [('memroute_router_config_refused{file="keys"}', steps(0, 1, 5))],
    "MemrouteInternalErrors": [
        ('memroute_router_internal_errors_total{place="pool"}', "0x4 1x140")
    ],
    "MemrouteRouterSlow": [
        ('memroute_router_loop_lag_seconds{instance="r"}', steps(0.001, 0.5, 15))
    ],
    "MemrouteRouterGone": [
        ('memroute_router_build_info{instance="r"}', "1x4 stale _x12 1x130"),
    ],
    "MemroutePeersUnheard": [
        ('memroute_router_peers{instance="r"}', "1x140"),
        ('memroute_router_peers_heard{instance="r"}', steps(1, 0, 5)),
    ],
}
# Minutes that the value itself needs before it is wrong.
SLOW_MINUTES = {"MemrouteOperatorNotReconciling": 5, "MemrouteRouterSlow": 5}
# Minutes after which a rate over the longest window sees nothing of what has ended.
SETTLED_MINUTES = 130


@pytest.fixture(scope="module")
def promtool():
    try:
        return str(find_program("promtool"))
    except PrometheusMissingError as error:
        pytest.skip(str(error))


def test_what_is_in_the_chart_and_on_the_page_is_what_the_code_says(repository):
    """Made anew by ``python -m monitoring``."""
    for path, text in files().items():
        assert (repository / path).read_text() == text, path
    found = {path.name for path in (repository / CHART / "dashboards").glob("*.json")}
    assert found == {f"{one.uid}.json" for one in DASHBOARDS}


def test_prometheus_reads_the_rules(repository, promtool):
    path = repository / CHART / "alerts.yaml"
    result = subprocess.run(
        [promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(ALERTS)} rules found" in result.stdout


def test_every_alert_fires_and_resolves(promtool, tmp_path):
    """An expression with a misspelt label never fires, and nobody notices before the night."""
    assert SERIES.keys() == {one.name for one in ALERTS}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(groups(GROUPS)))
    tests = []
    for alert in ALERTS:
        extra = [
            (one, "1x140") for one in ("memroute_operator_leading", "memroute_router_build_info")
        ]
        series = SERIES[alert.name]
        told = {name.partition("{")[0] for name, _ in series}
        series = series + [one for one in extra if one[0] not in told]
        count = f'count(ALERTS{{alertname="{alert.name}",alertstate="firing"}}) or vector(0)'
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series],
                "promql_expr_test": [
                    {"expr": count, "eval_time": f"{minute}m", "exp_samples": [
                        {"labels": "{}", "value": value}]}
                    for minute, value in (
                        (4, 0), (_firing_minute(alert), 1), (SETTLED_MINUTES, 0)
                    )
                ],
            }
        )  # fmt: skip
    path = tmp_path / "test.yaml"
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    path.write_text(yaml.safe_dump(document))
    result = subprocess.run(
        [promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def _firing_minute(alert):
    """Five minutes of peace, then as long as it waits, and three for what it is an average of."""
    return 5 + alert.minutes + 3 + SLOW_MINUTES.get(alert.name, 0)


def test_every_alert_has_a_runbook_and_words(repository):
    page = (repository / "docs" / "reference" / "alerts.md").read_text()
    for alert in ALERTS:
        assert f"\n### {alert.name}\n" in page
        assert alert.rule()["annotations"]["runbook_url"].endswith(f"#{alert.name.lower()}")
        assert min(map(len, (alert.meaning, alert.impact, alert.look, alert.do))) > 8
    assert len({one.name for one in ALERTS}) == len(ALERTS) >= 15


OURS = re.compile(r"\b(?:memroute|process)_[a-z_]+\b")


def test_dashboards_and_alerts_ask_for_what_is_exported():
    """A metric that was renamed leaves an empty panel behind, and an alert that is silent."""
    exported = series_names()
    asked = [e for one in DASHBOARDS for e in one.expressions()] + [one.expr for one in ALERTS]
    for expr in asked:
        names = set(OURS.findall(re.sub(r"\{[^}]*\}", "", expr)))
        assert names <= exported, expr
        assert names, expr


def test_dashboards_are_put_together_as_grafana_wants_them(repository):
    """What Grafana refuses or draws on top of each other: ids, places, queries without a letter."""
    for path in sorted((repository / CHART / "dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(ids) == len(set(ids))
        taken = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            taken |= cells
            if panel["type"] == "row":
                continue
            assert panel["description"]
            refs = [target["refId"] for target in panel["targets"]]
            assert refs
            assert len(refs) == len(set(refs))
            assert panel["datasource"]["uid"] == "${datasource}"
