"""The manifests of a release: what whoever has no Helm applies."""

import asyncio

import pytest

from charts import key_of, kustomized
from dry_runs import dry_runs, parsed, pods_of
from memroute import __version__
from release.artifacts import MANIFESTS


@pytest.fixture(scope="module")
def manifests(repository):
    """A release's file → its objects."""
    return {
        file: list(kustomized(repository / folder).values()) for file, folder in MANIFESTS.items()
    }


def test_the_api_server_takes_every_object_of_a_releases_manifests(cluster, namespace, manifests):
    """Whoever has no Helm has these, and no checkout to mend them in."""
    cluster.kubectl(
        "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"
    )
    refused, number = asyncio.run(dry_runs(cluster, manifests, namespace))
    assert refused == []
    pods = sum(len(list(pods_of(these))) for these in manifests.values())
    assert number == sum(map(len, manifests.values())) + pods
    assert pods == 2 + 3, "operator and router; and the picker in one of them"


def test_the_manifest_with_the_picker_is_the_other_one_and_a_picker(manifests):
    """So that each may be applied over the other: operator and router are told, and may do more.

    The operator writes what leads gateways to the picker; the router hears what the picker sends.
    """
    plain, picker = (
        {key_of(one): one for one in manifests[file]}
        for file in ("install.yaml", "install-picker.yaml")
    )
    assert plain.keys() < picker.keys()
    added = [picker[key] for key in picker.keys() - plain.keys()]
    components = {one["metadata"]["labels"]["app.kubernetes.io/component"] for one in added}
    assert components == {"picker"}, "by which it is taken away again"
    changed = {key[:2] for key in plain if plain[key] != picker[key]}
    assert changed == {
        ("Deployment", "memroute-operator"), ("ClusterRole", "memroute-operator-memroute-system"),
        ("Deployment", "memroute-router"),
    }  # fmt: skip
    for objects in (plain, picker):
        for pod in pods_of(objects.values()):
            (container,) = pod["spec"]["containers"]
            assert container["image"].endswith(f":{__version__}")


def test_programs_take_every_flag_of_a_releases_manifests(manifests):
    """A flag that nobody knows is a pod that crashes."""
    settings, pods = {}, {}
    for objects in manifests.values():
        for pod in pods_of(objects):
            program = pod["metadata"]["labels"]["app.kubernetes.io/component"]
            (container,) = pod["spec"]["containers"]
            settings[program], pods[program] = parsed(program, container["args"]), pod
    assert settings["picker"].inference_pools
    # The last one, of the manifest with a picker, is told which pods are the picker's.
    assert settings["operator"].picker_selector.matches(pods["picker"])
    assert not settings["operator"].picker_selector.matches(pods["router"])


def test_the_page_names_every_manifest(repository):
    """A file that nobody has heard of is applied by nobody."""
    text = (repository / "docs" / "how-to" / "verify-a-release.md").read_text()
    for file in MANIFESTS:
        assert f"| `{file}` |" in text
