"""The commands of every page against a real API server, and every manifest, as they stand.

What would change the shared cluster is asked with ``--dry-run=server``: validated and admitted, and
not stored. Which block is run where, and what is run nowhere, is in
tests/support/pages/page_blocks.py.
"""

import gzip
import json
import re
import shutil
import subprocess

import pytest
import yaml

from cluster_support import (
    apply,
    get_deployment,
    install_definition,
    pods_of,
    wait_program,
    wait_ready,
)
from followed_pages import Reader
from memroute_simulator.emulated_cluster import KubectlError, find_kubectl
from page_blocks import (
    KINDS_ELSEWHERE,
    Block,
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
# By tests/e2e/test_demo.py, where it changes what it says that it changes.
FOLLOWED_ON_THE_DEMO = "docs/tutorial/first-hour.md"
EMPTY = "reader-with-nothing"
THERE_TOO = (("team-a", "chat"), ("team-b", "chat"))
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
    made = [namespace, EMPTY, *namespaces_of_pages()]
    listed = {"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one}} for one in made
    ]}  # fmt: skip
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(listed))
    there = {(namespace, name): "Qwen/Qwen3-8B" for name in THERE}
    there |= dict.fromkeys(THERE_TOO, "Qwen/Qwen3-8B")
    for block, document in documents(Yaml.OBJECT):
        if block.page.startswith("docs/tutorial") and document["kind"] == "ModelDeployment":
            metadata = document["metadata"]
            where = metadata.get("namespace", namespace), metadata["name"]
            there[where] = document["spec"]["model"]["name"]
    for (where, name), model in there.items():
        spec = {"name": model, "servedName": f"{where}-{name}"}
        if model.endswith("-GGUF"):
            spec |= {"file": "q.gguf", "checkpointBytes": 640_000_000}
        apply(cluster, where, name, replicas=0, model=spec)
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
    address = wait_program(cluster, "router")
    router = cluster.get("pods", "-n", "memroute-system", "-l",
                         "app.kubernetes.io/component=router")[0]["metadata"]["name"]  # fmt: skip
    yield Reader(
        folder / "home",
        environment={
            "KUBECONFIG": str(kubeconfig), "PAGE_KUBECTL": find_kubectl(), "PAGE_HELM": helm,
            "ROUTER": f"http://{address}:8000", "OPERATIONS": f"http://{address}:8002",
            "KEY": "none-is-needed", "HF_TOKEN": "hf_example",
            "PAGE_NAMESPACE": namespace,
        },
        words={"POD": router, "memroute-worker": "plain"},
    )  # fmt: skip
    cluster.kubectl("delete", "mdep", "--all", "-n", namespace)
    cluster.kubectl("delete", "namespace", *made, "--wait=false")


@pytest.mark.parametrize(
    "page",
    [name for name in pages() if scripts(name, on_cluster=True) and name != FOLLOWED_ON_THE_DEMO],
)
def test_the_commands_of_a_page_run_as_written(reader, page):
    """A reader at 3 a.m. types what stands there."""
    assert reader.follow(scripts(page, on_cluster=True), page=page) == ""


def test_every_manifest_of_every_page_is_taken_by_the_api_server(reader):
    """A field that is misspelt, renamed, or of another release is a page that lies."""
    objects = []
    for number, (block, document) in enumerate(documents(Yaml.OBJECT, Yaml.PART)):
        whole = document
        if kind_of(document) is Yaml.PART:
            whole = whole_deployment(document, number)
        if whole["kind"] in KINDS_ELSEWHERE:
            continue
        # Where nothing of that name is.
        metadata = whole["metadata"] | {"namespace": EMPTY}
        annotations = metadata.get("annotations", {}) | {"page": str(block)}
        objects.append(whole | {"metadata": metadata | {"annotations": annotations}})
    assert len(objects) > 20
    file = reader.folder / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    command = [reader.environment["PAGE_KUBECTL"], "--kubeconfig", reader.environment["KUBECONFIG"]]
    command += ["create", "--dry-run=server", "--validate=strict", "-f", str(file)]
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


@pytest.fixture
def http_routes(cluster, repository):
    """The Gateway API's own definition of HTTPRoute, for as long as the test takes."""
    packed = repository / "tests" / "data" / "gateway-api" / "httproutes.yaml.gz"
    definition = yaml.load(gzip.decompress(packed.read_bytes()), yaml.CSafeLoader)
    install_definition(cluster, definition)
    yield
    cluster.kubectl("delete", "crd", definition["metadata"]["name"], "--wait=false")


def routes_of(helm, repository, *flags):
    """The HTTPRoutes that the chart makes, as text."""
    path = str(repository / "helm" / "memroute")
    text = subprocess.run(
        [helm, "template", "m", path, *flags], check=True, capture_output=True, text=True
    ).stdout
    found = [
        one for one in yaml.load_all(text, yaml.CSafeLoader) if one and one["kind"] == "HTTPRoute"
    ]
    return yaml.safe_dump_all([one | {"metadata": {"name": "m"}} for one in found])


@pytest.mark.usefixtures("http_routes")
def test_routes_of_the_chart_are_what_the_gateway_api_takes(reader, cluster, repository, helm):
    """A gateway that refuses a route says so in a status that nobody looks at."""
    checked = 0
    values = repository / "helm" / "memroute" / "ci" / "06-gateway-values.yaml"
    pages = [one for _, one in documents(Yaml.VALUES) if "httpRoute" in one.get("router", {})]
    files = [values]
    for number, document in enumerate(pages):
        files.append(reader.folder / f"route-{number}.yaml")
        files[-1].write_text(yaml.safe_dump(document))
    for file in files:
        route = routes_of(helm, repository, "-f", str(file))
        cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=route)
        checked += 1
    assert checked >= 2
    wrong = routes_of(helm, repository, "-f", str(values), "--set",
                      "router.httpRoute.timeouts.request=soon")  # fmt: skip
    with pytest.raises(KubectlError, match=r"timeouts\.request"):
        cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=wrong)


def test_what_was_backed_up_as_the_page_says_serves_again(cluster, namespace, reader):
    """The commands of docs/how-to/back-up.md, with a model that is deleted between them."""
    apply(cluster, namespace, "kept", model={"name": "Qwen/Qwen3-0.6B", "servedName": namespace})
    wait_ready(cluster, namespace, "kept")
    page = "docs/how-to/back-up.md"
    saving = next(one for one in scripts(page, on_cluster=True) if "models.json" in one.script)
    assert reader.follow([saving]) == ""
    cluster.kubectl("delete", "mdep", "kept", "-n", namespace, "--wait=true")
    cluster.wait_for("its replica to go", lambda: not pods_of(cluster, namespace))
    restoring = Block(page, 0, "bash", "kubectl apply -f models.json\n")
    assert restoring.script in "".join(one.script for one in scripts(page, on_cluster=True))
    assert reader.follow([restoring], changes=True) == ""
    wait_ready(cluster, namespace, "kept")
    (name,) = get_deployment(cluster, namespace, "kept")["status"]["routing"]["names"]
    assert name["name"] == namespace


def test_the_model_of_the_kind_tutorial_gets_a_place_on_a_worker_without_a_gpu(
    cluster, namespace, reader
):
    """Its commands as they stand, and its manifest, with the bytes that a hub would tell."""
    page = "docs/tutorial/kind.md"
    preparing = next(one for one in scripts(page, on_cluster=True) if "capacity" in one.script)
    ((_, small),) = ((b, d) for b, d in documents(Yaml.OBJECT) if b.page == page)
    small["spec"]["model"]["checkpointBytes"] = 640_000_000
    small["spec"]["model"]["servedName"] = namespace
    # The emulated cluster has other nodes, which kind's has not.
    small["spec"]["placement"] = {"nodeSelector": {"kubernetes.io/hostname": "plain"}}

    def patch_status(operation, path, **more):
        patch = json.dumps([{"op": operation, "path": path} | more])
        command = ("patch", "node", "plain", "--subresource=status", "--type=json", "-p", patch)
        cluster.kubectl(*command)

    try:
        assert reader.follow([preparing], changes=True) == ""
        patch_status("add", "/status/allocatable/nvidia.com~1gpu", value="1")  # kubelet does
        cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(small))

        def placed():
            pods = pods_of(cluster, namespace)
            return [one for one in pods if one["spec"].get("nodeName")]

        (pod,) = cluster.wait_for("a place", placed)
        assert pod["spec"]["nodeName"] == "plain"
    finally:
        cluster.kubectl("annotate", "node", "plain", "memroute.dev/device-memory-")
        for part in ("capacity", "allocatable"):
            # As the node was: whether it was added or not, it can be taken away then.
            patch_status("add", f"/status/{part}/nvidia.com~1gpu", value="0")
            patch_status("remove", f"/status/{part}/nvidia.com~1gpu")
