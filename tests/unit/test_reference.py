"""The reference says what the programs do."""

import re
from dataclasses import fields

import pytest

import api_reference
import cli_reference
from exported import picker_metrics, router_pools
from memroute.traffic.admission import OverloadObjective, RejectReason
from memroute.traffic.dispatch import AdmissionMode
from memroute_hub import HubReason
from memroute_kube.memory_words import (
    ENGINE_TYPES,
    EXECUTIONS,
    KV_CACHE_DTYPES,
    PLACEMENT_MODES,
    PLACEMENT_STRATEGIES,
    QUANTIZATIONS,
)
from memroute_operator.metrics import OperatorMetrics
from memroute_operator.settings import parse_settings as parse_operator
from memroute_operator.spec.deployment import COMMIT_UNKNOWN, MODEL_UNKNOWN
from memroute_operator.spec.hub_models import CONFIG_TOO_LARGE, CRD_OUTDATED, MODEL_RESOLVING
from memroute_picker.settings import TEXTS, WITHOUT, PickerSettings
from memroute_picker.settings import parse_settings as parse_picker
from memroute_router.discovery.words import ADMISSION_MODES, OVERLOAD_OBJECTIVES
from memroute_router.lifecycle.failure import FailureCause
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.metrics.exported import RouterMetrics
from memroute_router.replicas.pool_settings import PoolSettings
from memroute_router.settings import parse_settings as parse_router
from memroute_simulator.engine.arguments import engine_parser


def names(text):
    return set(re.findall(r"^\| `([^`]+)` ", text, re.MULTILINE))


def test_the_page_of_the_api_is_made_from_the_crd():
    """Made anew by ``python tests/support/pages/api_reference.py`` whenever a field changes."""
    assert api_reference.PAGE.read_text() == api_reference.page()


def exported_by(metrics):
    """Name → type and labels of every family, as the page writes them."""
    found = {}
    for family in metrics.registry.collect():
        labels = getattr(family, "_labelnames", None)
        if labels is None:  # of a counter that is incremented: told by its zeros
            labels = sorted({name for one in family.samples for name in one.labels} - {"le"})
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = (family.type, ", ".join(labels) or "-")
    return found


def test_the_metrics_page_says_exactly_what_is_exported(repository):
    """Name, type, labels, meaning and what to do, of each; a dashboard is written by this page."""
    text = (repository / "docs" / "reference" / "metrics.md").read_text()
    operator_part, router_part = text.split("## Router")
    router_part, picker_part = router_part.split("## Picker")
    for part, metrics in (
        (operator_part, OperatorMetrics()),
        (router_part, RouterMetrics(router_pools())),
        (picker_part, picker_metrics()),
    ):
        rows = re.findall(
            r"^\| `([^`]+)` \| (\w+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", part, re.MULTILINE
        )
        assert {name: (kind, labels) for name, kind, labels, *_ in rows} == exported_by(metrics)
        assert len(rows) == len(names(part)), "a row that is not written like the others"
        assert all(len(meaning) > 5 and len(advice) > 5 for *_, meaning, advice in rows)


# Labels that a scrape gives to what it scrapes: the community chart's jobs and the operator's
# PodMonitors and ServiceMonitors.
SCRAPED = {"namespace", "pod", "node", "instance", "job", "container", "service", "endpoint"}


def test_no_label_is_one_that_a_scrape_gives():
    """Prometheus would rename ours to ``exported_…``, or ours would hide the scraped program."""
    for metrics in (OperatorMetrics(), RouterMetrics(router_pools())):
        for name, (_, labels) in exported_by(metrics).items():
            assert not SCRAPED & set(labels.split(", ")), name


def test_the_metrics_page_names_every_outcome_and_cause(repository):
    text = (repository / "docs" / "reference" / "metrics.md").read_text()
    assert all(f"`{outcome.value}`" in text for outcome in Outcome)
    final = {FailureCause.BROKEN, FailureCause.EXHAUSTED}
    assert all(f"`{cause.value}`" in text for cause in set(FailureCause) - final)


def test_the_settings_page_lists_exactly_the_flags(repository):
    text = (repository / "docs" / "reference" / "settings.md").read_text()
    operator_part, router_part = text.split("## memroute-router")
    router_part, picker_part = router_part.split("## memroute-picker")
    picker_part, engine_part = picker_part.split("## memroute-simulator engine")
    own = {field.name for field in fields(PickerSettings)} - {"router"}
    table = picker_part[picker_part.index("| flag") :]
    assert {name for name in names(table) if name.startswith("--")} == {
        f"--{name.replace('_', '-')}" for name in own
    }
    assert all(f"`{flag}`" in picker_part for flag in (*WITHOUT, *TEXTS))
    for part, settings in ((operator_part, parse_operator([])), (router_part, parse_router([]))):
        flags = {f"--{name.replace('_', '-')}" for name in settings.__slots__}
        assert {name for name in names(part) if name.startswith("--")} == flags
    flags = {flag for action in engine_parser()._actions for flag in action.option_strings}
    told = {name for name in names(engine_part) if name.startswith("--")}
    short = {
        "-h",
        "--help",
        "-tp",
        "-pp",
        "-dp",
        "--no-enable-prefix-caching",
        "--no-enforce-eager",
    }
    assert told == flags - short


def test_an_option_that_is_something_else_at_the_picker_says_so(capsys):
    """A gateway has one connection for thousands of clients: to bound it as a client is wrong."""
    with pytest.raises(SystemExit):
        parse_picker(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "streams (requests) that one connection of a gateway may have" in told
    assert "clients' connections" not in told


def test_the_errors_page_knows_every_reason(repository):
    text = (repository / "docs" / "reference" / "errors.md").read_text()
    for reason in RejectReason:
        assert f"`{reason.value}`" in text


def test_the_settings_page_knows_every_reason_of_a_hub(repository):
    """What keeps a model from being known is looked up there at night."""
    text = (repository / "docs" / "reference" / "settings.md").read_text()
    part = text.split("### Models that a hub was asked for")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    # An operator has words of its own for being offline.
    hubs = {reason.value for reason in HubReason} - {"HubOffline"}
    assert told == hubs | {
        MODEL_RESOLVING, MODEL_UNKNOWN, COMMIT_UNKNOWN, CONFIG_TOO_LARGE, CRD_OUTDATED,
    }  # fmt: skip


def test_the_settings_page_knows_every_objective(repository):
    text = (repository / "docs" / "reference" / "settings.md").read_text()
    own = text.split("## overloadObjective")[1].split("\n## ")[0]
    assert names(own) == set(OVERLOAD_OBJECTIVES.meanings)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("engine.type", ENGINE_TYPES),
        ("engine.execution", EXECUTIONS),
        ("memory.quantization", QUANTIZATIONS),
        ("memory.kvCacheDtype", KV_CACHE_DTYPES),
        ("placement.mode", PLACEMENT_MODES),
        ("placement.strategy", PLACEMENT_STRATEGIES),
        ("routing.admission", ADMISSION_MODES),
        ("routing.overloadObjective", OVERLOAD_OBJECTIVES),
    ],
)
def test_the_crd_has_the_words_that_the_programs_read(crd, path, words):
    """A word that the schema takes and a program does not would be nobody's mistake to mend."""
    field = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for name in path.split("."):
        field = field["properties"][name]
    assert field["enum"] == list(words.meanings)
    assert field.get("default", words.default) == words.default
    assert all(word not in {"Yes", "No", "On", "Off", "True", "False"} for word in field["enum"])


def test_all_objectives_and_admissions_have_a_word():
    defaults = PoolSettings(namespace="", deployment="")
    assert set(OVERLOAD_OBJECTIVES.meanings.values()) == set(OverloadObjective)
    assert OVERLOAD_OBJECTIVES.read(OVERLOAD_OBJECTIVES.default) is defaults.overload_objective
    assert set(ADMISSION_MODES.meanings.values()) == set(AdmissionMode)
    assert ADMISSION_MODES.read(ADMISSION_MODES.default) is defaults.admission


def test_the_page_of_the_command_line_is_made_from_the_commands():
    """Made anew by ``python tests/support/pages/cli_reference.py`` whenever an option changes."""
    assert cli_reference.PAGE.read_text() == cli_reference.text()
