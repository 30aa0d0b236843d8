from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from sizes import EXPLORES, tries

# A check tries the same examples each time: what fails is what has changed. `make explore` tries
# new ones, and more of them; what it finds becomes a test of its own.
settings.register_profile(
    "default",
    deadline=None,
    max_examples=tries(20, 30),
    derandomize=not EXPLORES,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def repository():
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def crd(repository):
    """The CRD of ModelDeployments, read once: half a second in plain Python, and many look."""
    import yaml

    text = (repository / "crds" / "modeldeployments.memroute.dev.yaml").read_text()
    return yaml.load(text, Loader=yaml.CSafeLoader)


@pytest.fixture(scope="session")
def data_directory():
    """Files that tests read."""
    return REPOSITORY / "tests" / "data"


# Exporters collect every second, because tests wait for what they say; test_odd_nodes.py has the
# real 30 s, and nodes that are set up otherwise.
TEST_FLEET = [
    {"exporterSeconds": 1} | node
    for node in (
        {"name": "gpu-a", "machine": "h100-1", "gpuSharing": "shared"},
        {"name": "gpu-b", "machine": "l40s-1", "gpuSharing": "shared"},
        {"name": "gpu-c", "machine": "h100-2"},
        {"name": "gpu-d", "machine": "l4-1"},
        {"name": "gpu-e", "machine": "l4-1"},
        {"name": "gpu-mixed", "machine": "mixed"},
        {"name": "plain", "machine": "plain"},
    )
]
OPERATOR_ARGS = [
    "--scrape-seconds=1",
    "--resync-seconds=10",
    "--node-lost-seconds=3",
    "--drain-timeout-seconds=15",
]
NUM_LOG_LINES = 40
"""Of each operator's log, when a test fails."""


# How long a test on a control plane may take, in seconds: some wait for a dozen states, each of
# which may take its time on a slow machine.
CLUSTER_SECONDS = 900
CLUSTER_FOLDERS = {"cluster", "contract", "e2e", "gateway"}
# What takes longer: programs as processes; whole operators, fleets and routers on their own clocks.
SLOW_FOLDERS = {"programs", "simulation"}


def pytest_collection_modifyitems(items):
    """`make slow` takes whole folders too."""
    for item in items:
        if item.path.parent.name in SLOW_FOLDERS:
            item.add_marker("slow")
        if item.path.parent.name in CLUSTER_FOLDERS and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(CLUSTER_SECONDS))


def pytest_collection_finish():
    """What is imported by now stays: not to look at it again saves 6 % of the unit tests' time."""
    import gc

    gc.collect()
    gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """What failed on a cluster is told with the ends of the operator's logs."""
    report = (yield).get_result()
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if not report.failed or cluster is None:
        return
    for path in sorted(cluster.directory.glob("pods/*_memroute-operator-*/operator/*.log")):
        tail = "\n".join(path.read_text(errors="replace").splitlines()[-NUM_LOG_LINES:])
        report.sections.append((f"the end of {path.relative_to(cluster.directory)}", tail))


@pytest.fixture(scope="session")
def helm():
    """The path of a real Helm."""
    from memroute_simulator.controlplane import find_binaries

    return str(find_binaries(["helm"])["helm"])


@pytest.fixture(scope="session")
def hub():
    """The hub that the cluster's operator asks: one tiny model, under several names."""
    from fake_hub import FakeHub, Repository, adapter_files, tiny_files

    repositories = {
        "org/tiny": Repository(tiny_files()),
        "org/gated": Repository(tiny_files(), is_gated=True),
        "org/cached": Repository(tiny_files()),
        "org/sql-lora": Repository(adapter_files()),
        "org/large-lora": Repository(adapter_files(rank=64)),
    }
    with FakeHub(repositories) as running:
        yield running


@pytest.fixture(scope="session")
def cluster(repository, helm, hub):
    """A worker's control plane, with emulated nodes, memroute installed by Helm.

    At the end no program may have asked it for what its rights do not allow.
    """
    from cluster_support import installed_cluster
    from rights_used import Used

    chart = repository / "helm" / "memroute"
    arguments = [*OPERATOR_ARGS, f"--hub-endpoint={hub.url}", "--allowed-host-path=/var/cache"]
    with installed_cluster(TEST_FLEET, helm, chart, arguments) as it:
        yield it
        for program in ("operator", "router"):
            used = Used(it, program)
            used.look()
            assert used.refused == [], f"the {program} may not do what it tried"


@pytest.fixture(scope="session")
def fleet():
    """The nodes of the cluster."""
    return TEST_FLEET


@pytest.fixture
def namespace(cluster, request):
    """A namespace of the test's own; its replicas are gone when the test ends."""
    import re
    import secrets

    from cluster_support import create_namespace

    stem = re.sub(r"[^a-z0-9]+", "-", request.node.originalname.lower())[:40].strip("-")
    name = f"{stem}-{secrets.token_hex(2)}"
    create_namespace(cluster, name)
    yield name
    cluster.delete_all("mdep", name)
    cluster.wait_for("ModelDeployments to go", lambda: not cluster.get("mdep", "-n", name))
    cluster.wait_for("replicas to go", lambda: not cluster.get("pods", "-n", name))
    # It stays, empty: to take it away Kubernetes looks for objects of every kind that there is.
