"""The commands of every page against a real API server, and every manifest, as they stand.

What would change the shared cluster is asked with ``--dry-run=server``: validated and admitted, and
not stored. Which block is run where, and what is run nowhere, is in tests/support/page_blocks.py.
"""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from cluster_support import apply, program_address, wait_ready
from followed_pages import Reader
from memroute_simulator.emulated_cluster import find_kubectl
from page_blocks import (
    KINDS_ELSEWHERE,
    Yaml,
    blocks,
    documents,
    kind_of,
    pages,
    scripts,
    whole_deployment,
)

# ModelDeployments that pages speak of as there.
THERE = ("chat", "draft", "large", "big", "low")
NAMESPACE = re.compile(r"(?:-n|--namespace) ([a-z][a-z0-9-]*)|namespace[ :=]+([a-z][a-z0-9-]*)")
KNOWN = {"default", "kube-system", "kube-node-lease", "memroute-system"}


def namespaces_of_pages():
    """Every namespace that a command or a manifest names."""
    found = {"team-a", "team-b"}
    for block in blocks():
        if block.language in {"bash", "sh", "console"}:
            found |= {one or other for one, other in NAMESPACE.findall(block.script)}
    for _, document in documents(Yaml.OBJECT):
        found |= {document["metadata"].get("namespace")} - {None}
    return sorted(found - KNOWN)


@pytest.fixture(scope="module")
def reader(cluster, helm, tmp_path_factory):
    """Somebody with a kubeconfig whose namespace has what pages speak of, without an engine."""
    namespace = "reader"
    made = [namespace, *namespaces_of_pages()]
    listed = {"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one}} for one in made
    ]}  # fmt: skip
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(listed))
    for name in THERE:
        apply(cluster, namespace, name, replicas=0,
              model={"name": "Qwen/Qwen3-0.6B", "servedName": f"reader-{name}"})  # fmt: skip
    argo = {"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "argocd-cm", "namespace": "argocd"}}  # fmt: skip
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(argo))
    for name in THERE:
        wait_ready(cluster, namespace, name)
    folder = tmp_path_factory.mktemp("reader")
    kubeconfig = folder / "kubeconfig"
    shutil.copy(cluster.kubeconfig, kubeconfig)
    subprocess.run(
        [find_kubectl(), "--kubeconfig", str(kubeconfig), "config", "set-context", "--current",
         f"--namespace={namespace}"], check=True, capture_output=True,
    )  # fmt: skip
    address = program_address(cluster, "router")
    router = cluster.get("pods", "-n", "memroute-system", "-l",
                         "app.kubernetes.io/component=router")[0]["metadata"]["name"]  # fmt: skip
    yield Reader(
        folder / "home",
        environment={
            "KUBECONFIG": str(kubeconfig), "PAGE_KUBECTL": find_kubectl(), "PAGE_HELM": helm,
            "ROUTER": f"http://{address}:8000", "OPERATIONS": f"http://{address}:8002",
            "KEY": "none-is-needed",
        },
        words={"POD": router},
    )  # fmt: skip
    cluster.kubectl("delete", "mdep", "--all", "-n", namespace)
    cluster.kubectl("delete", "namespace", *made, "--wait=false")


def test_the_commands_of_every_page_run_as_written(reader):
    """A reader at 3 a.m. types what stands there."""
    failed = {
        page: told
        for page in pages()
        if (typed := scripts(page, on_cluster=True)) and (told := reader.follow(typed))
    }
    assert "\n\n".join(f"{page}: {told}" for page, told in failed.items()) == ""


def test_every_manifest_of_every_page_is_taken_by_the_api_server(reader):
    """A field that is misspelt, renamed, or of another release is a page that lies."""
    objects = []
    for number, (block, document) in enumerate(documents(Yaml.OBJECT, Yaml.PART)):
        whole = document
        if kind_of(document) is Yaml.PART:
            whole = whole_deployment(document, number)
        if whole["kind"] in KINDS_ELSEWHERE:
            continue
        metadata = whole["metadata"]
        annotations = metadata.get("annotations", {}) | {"page": str(block)}
        objects.append(whole | {"metadata": metadata | {"annotations": annotations}})
    assert len(objects) > 20
    file = reader.folder / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    command = [reader.environment["PAGE_KUBECTL"], "--kubeconfig", reader.environment["KUBECONFIG"]]
    command += ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""


def test_every_values_file_of_every_page_is_taken_by_the_chart(reader, repository, helm):
    """``values.schema.json`` refuses what the chart does not know."""
    failed = {}
    for block, document in documents(Yaml.VALUES):
        file = reader.folder / "values.yaml"
        file.write_text(yaml.safe_dump(document))
        command = [helm, "template", "m", str(repository / "helm" / "memroute"), "-f", str(file)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            failed[str(block)] = result.stderr
    assert failed == {}
