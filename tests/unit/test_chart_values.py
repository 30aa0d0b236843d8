"""The chart's values: each is described, typed and used, and each setting of a program has one."""

import argparse
import json
import re

import pytest

import values_reference
from memroute.command_line import CommandLine
from memroute_operator import settings as operator_settings
from memroute_picker import settings as picker_settings
from memroute_router import settings as router_settings
from values_reference import CHART

# Flags that have a value beside `settings`, or that the chart itself gives → where. A value that
# only says which flags there are (several at once, a Secret) is named by its group.
ELSEWHERE = {
    "operator": {
        "--host": "the chart: every address of the pod",
        "--lease-namespace": "the chart: the release's",
        "--metrics-port": "operator.ports.metrics",
        "--health-port": "operator.ports.health",
        "--watch-namespace": "scope.namespaces",
        "--hub-endpoint": "operator.hub.endpoint",
        "--hub-token-file": "operator.hub.tokenSecretName",
        "--offline": "operator.hub.offline",
        "--fetch-image": "fetch.image",
        "--model-cache-path": "modelCache.path",
        "--model-cache-gib": "modelCache.sizeGiB",
        "--allowed-host-path": "modelCache.allowedHostPaths",
        "--leader-election": "operator.leaderElection",
    },
    "router": {
        "--host": "the chart: every address of the pod",
        "--config": "the chart: none, because on Kubernetes ModelDeployments say it",
        "--namespace": "scope.namespaces",
        "--map-namespace": "the chart: the release's",
        "--router-name": "the chart: its pod's",
        "--port": "router.ports.http",
        "--ops-port": "router.ports.ops",
        "--tls-cert": "router.tls.secretName",
        "--tls-key": "router.tls.secretName",
        "--tls-client-ca": "router.tls.requireClientCertificate",
        "--keys": "router.keys.secretName",
        "--engine-key-file": "router.engineKey.secretName",
        "--peer-selector": "the chart: the routers of this release",
        "--peer-namespace": "the chart: the release's",
        "--peer-port": "router.peers.port",
        "--peer-secret-file": "router.peers.secretName",
        "--peer-bytes-per-second": "router.peers.bytesPerSecond",
    },
}
ELSEWHERE["picker"] = {
    flag: where.replace("router.", "picker.").replace("routers", "pickers")
    for flag, where in ELSEWHERE["router"].items()
} | {
    "--port": "picker.ports.grpc",
    "--map-namespace": "the chart: none, because the live map is the routers'",
    "--inference-pools": "the chart: always",
    "--inference-pool": "the chart: none, because pools say by a label that they ask for it",
    "--conformance-test": "the chart: none, for tests of gateways alone",
}
PROGRAMS = {
    "operator": operator_settings,
    "router": router_settings,
    "picker": picker_settings,
}


@pytest.fixture
def values():
    return {".".join(one.path): one for one in values_reference.values()}


@pytest.fixture
def schema():
    return json.loads((CHART / "values.schema.json").read_text())


def actions(module, monkeypatch):
    """Flag → how argparse reads it."""
    parsers = []

    def parse_args(self, argv):
        parsers.append(self)
        return original(self, argv)

    original = CommandLine.parse_args
    with monkeypatch.context() as patched:
        patched.setattr(CommandLine, "parse_args", parse_args)
        module.parse_settings([])
    return {
        next(text for text in one.option_strings if text.startswith("--")): one
        for one in parsers[0]._actions
        if one.dest not in ("help", "version")
    }


def camel_case(flag):
    first, *others = flag.removeprefix("--").split("-")
    return first + "".join(word.capitalize() for word in others)


def allowed(schema, path):
    """What the schema says of a value."""
    for name in path.split("."):
        schema = schema["properties"][name]
    return schema


def kind_of(action):
    """The types that a setting has in the schema."""
    if isinstance(action, argparse._StoreTrueAction):
        return ["boolean"]
    if isinstance(action, argparse._AppendAction):
        return ["array"]
    if action.type is int or isinstance(action.default, int):
        return ["integer", "null"]
    if action.type is float or isinstance(action.default, float):
        return ["number", "null"]
    return ["string", "null"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_setting_has_a_value_of_its_type_and_every_value_is_a_setting(
    program, values, schema, monkeypatch
):
    """Nobody has to write raw arguments, and no value is silently ignored."""
    flags = actions(PROGRAMS[program], monkeypatch)
    elsewhere = ELSEWHERE[program]
    assert elsewhere.keys() <= flags.keys()
    for where in elsewhere.values():
        assert where.startswith("the chart: ") or where in values, where
    here = {camel_case(flag): flag for flag in flags if flag not in elsewhere}
    prefix = f"{program}.settings."
    named = {name.removeprefix(prefix) for name in values if name.startswith(prefix)}
    assert named == here.keys()
    for name, flag in here.items():
        action, said = flags[flag], allowed(schema, prefix + name)
        if action.choices:
            assert said["enum"] == [str(one) for one in action.choices] + [None], flag
        else:
            types = said["type"] if isinstance(said["type"], list) else [said["type"]]
            assert types == kind_of(action), flag
        told = values[prefix + name]
        assert f"({flag}" in told.comment, "the comment names its flag, and its default"
        is_one = not isinstance(action, argparse._StoreTrueAction | argparse._AppendAction)
        if is_one and action.default not in (None, "", ()) and name != "engineBindAddress":
            assert (
                f"({flag}, {action.default:g})" in told.comment
                if isinstance(action.default, float)
                else f"({flag}, {action.default})" in told.comment
            )


def test_the_page_of_values_is_the_comments(values):
    """Made anew by ``python tests/support/pages/values_reference.py`` whenever a value changes."""
    assert [name for name, one in values.items() if not one.comment] == []
    assert values_reference.PAGE.read_text() == values_reference.page()


# Values of older charts, which a template refuses with their new name.
OLDER = {"image.prefix", "operator.args", "router.args", "router.volumes", "router.volumeMounts"}


def leaves(schema, path=()):
    """What the schema names, and what is a map of fixed keys there must be closed."""
    for name, inner in schema["properties"].items():
        where = (*path, name)
        yield ".".join(where)
        if "properties" in inner and name != "timeouts":
            assert inner["additionalProperties"] is False, where
            yield from leaves(inner, where)


def test_the_schema_names_exactly_the_values(values, schema):
    """A typo is refused; a value that the schema forgot would be too."""
    assert schema["additionalProperties"] is False
    assert set(leaves(schema)) - {"global"} - OLDER == values.keys()


def test_every_value_is_read_by_a_template(values):
    """A value that nothing reads promises something that does not happen."""
    texts = "\n".join(
        path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file()
    )
    for name, one in values.items():
        if one.is_group or ".settings." in name:
            continue
        assert re.search(rf"\.{re.escape(one.path[-1])}\b", texts), name


def test_an_older_value_is_refused_with_its_new_name():
    texts = (CHART / "templates" / "_helpers.tpl").read_text()
    assert all(f'"{name}"' in texts for name in OLDER)
