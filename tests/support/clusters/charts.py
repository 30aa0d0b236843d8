"""What Helm and kustomize make of the chart and of `deploy/`."""

import json
import subprocess
from functools import cache
from pathlib import Path

import yaml

from memroute_simulator.emulated_cluster import find_kubectl

CHART_LABELS = {
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/chart",
}
# Objects that only whoever reads the chart's labels needs to tell apart.
OF_NOBODY = {"users", "crd"}


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def objects_of(text):
    """The objects of a stream of manifests."""
    # libyaml's reader: the CRD alone takes the one in Python half a second.
    return list(filter(None, yaml.load_all(text, yaml.CSafeLoader)))


def key_of(obj):
    metadata = obj["metadata"]
    return obj["kind"], metadata["name"], metadata.get("namespace")


def chart(helm, repository, *flags, release="memroute", namespace="memroute-system"):
    """What Helm makes of the chart: (kind, name, namespace) → object, without its tests."""
    path = str(repository / "helm" / "memroute")
    return {
        key_of(obj): obj
        for obj in objects_of(_templated(helm, release, path, "-n", namespace, *flags))
        if "helm.sh/hook" not in obj["metadata"].get("annotations", {})
    }


@cache
def _templated(helm, *arguments):
    """Many ask for the same: Helm takes half a second each time."""
    return run(helm, "template", *arguments)


def kustomized(folder):
    """What kustomize makes of a folder."""
    return {key_of(obj): obj for obj in objects_of(run(find_kubectl(), "kustomize", str(folder)))}


def overlay(repository, directory, components, patches=()):
    """A folder with the base and these of its components, as somebody would write it."""
    root = directory / "deploy" / "overlays" / "mine"
    root.mkdir(parents=True)
    (directory / "crds").symlink_to(repository / "crds")
    for name in ("base", "components"):
        (directory / "deploy" / name).symlink_to(repository / "deploy" / name)
    document = {
        "resources": ["../../base"],
        "components": [f"../../components/{name}" for name in components],
        "patches": list(patches),
    }
    (root / "kustomization.yaml").write_text(json.dumps(document))
    return root


def comparable(objects):
    """Without what only Helm adds; with flags, said once, and ports in no order."""
    found = json.loads(json.dumps([obj for _, obj in sorted(objects.items(), key=_order)]))
    for obj in found:
        labels = obj["metadata"].get("labels", {})
        for label in CHART_LABELS & labels.keys():
            del labels[label]
        if labels.get("app.kubernetes.io/component") in OF_NOBODY:
            del labels["app.kubernetes.io/component"]
        annotations = obj["metadata"].get("annotations", {})
        annotations.pop("helm.sh/resource-policy", None)
        for at in ("labels", "annotations"):
            if obj["kind"] == "CustomResourceDefinition":
                obj["metadata"].pop(at, None)
        for container in containers(obj):
            container.pop("imagePullPolicy", None)
            said = {flag: list(dict.fromkeys(v)) for flag, v in flags(container["args"]).items()}
            container["args"] = sorted(said.items())
            container.get("ports", []).sort(key=lambda port: port["containerPort"])
    return found


def _order(item):
    return tuple(map(str, item[0]))


def containers(obj):
    template = obj.get("spec", {}).get("template") or {}
    return template.get("spec", {}).get("containers", ())


def flags(args):
    """Flag → its values, of a command line of flags with one value each or none."""
    found = {}
    for at, word in enumerate(args):
        if word.startswith("--"):
            name, _, value = word.partition("=")
            follows = (
                args[at + 1] if at + 1 < len(args) and not args[at + 1].startswith("--") else ""
            )
            found.setdefault(name, []).append(value or follows)
    return found


def pod_of(objects, component):
    """The spec of the only pod of a component, and its only container."""
    (deployment,) = (
        obj
        for obj in objects.values()
        if obj["kind"] == "Deployment"
        and obj["metadata"]["labels"]["app.kubernetes.io/component"] == component
    )
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


def values_files(repository):
    """The matrix of values with which the chart is tried."""
    return sorted((Path(repository) / "helm" / "memroute" / "ci").glob("*-values.yaml"))
