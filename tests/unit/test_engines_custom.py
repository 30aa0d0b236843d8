"""Any engine by a template: it is told what was reserved, and what is missing is refused."""

import pytest

from memroute.placement import Placed, PlacementMode, ReplicaKey
from memroute.units import GIB
from memroute_operator.engines.custom import BOUNDS, VARIABLES
from memroute_operator.engines.registry import engine_of
from memroute_operator.pod.manifests import replica_pod
from memroute_operator.pod.pod_defaults import ANY_IPV4
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.spec.revision import revision_of
from memroute_simulator.nodes.environment import expand
from operator_rig import mdep


def manifest(mode="shared", **engine):
    obj = mdep("m", model="Qwen/Qwen3-8B", mode=mode)
    obj["spec"]["engine"] = {
        "type": "Custom", "image": "acme/engine:1",
        "args": ["--kv-bytes", "$(MEMROUTE_KV_CACHE_BYTES)"],
    } | engine  # fmt: skip
    return obj


def container_of(obj):
    of = read_deployment(obj)
    where = Placed(
        key=ReplicaKey(namespace="default", name="m", index=0), node="a", mode=of.mode,
        device_uuids=("GPU-0",) if of.mode is PlacementMode.SHARED else (), num_devices=1,
        bytes_per_device=of.footprint.total_bytes, needed_bytes_per_device=1,
        usable_bytes_per_device=79 * GIB, product=None, why="",
    )  # fmt: skip
    pod = replica_pod(of, where, is_gated=False, default_image="i", shared_runtime_class=None)
    return of, pod, pod["spec"]["containers"][0]


def refusal(obj):
    return engine_of(read_deployment(obj).engine).refusal(obj["spec"])


def test_what_was_reserved_is_what_the_command_is_filled_with():
    """By kubelet's own rules, from the container's own environment, in its order."""
    of, _, container = container_of(
        manifest(command=["acme", "serve"], env=[{"name": "MORE", "value": "$(MEMROUTE_PORT)"}])
    )
    variables = {"POD_IP": "10.0.0.1"}
    for one in container["env"]:
        if "value" in one:
            variables[one["name"]] = expand(one["value"], variables)
    assert variables.keys() >= VARIABLES.keys()
    assert container["command"] == ["acme", "serve"]
    filled = [expand(word, variables) for word in container["args"]]
    assert filled == ["--kv-bytes", str(of.footprint.kv_cache_bytes)]
    assert variables["MEMROUTE_BYTES_PER_DEVICE"] == str(of.footprint.total_bytes)
    assert variables["MEMROUTE_HOST"] == ANY_IPV4, "every address of the pod"
    assert variables["MORE"] == variables["MEMROUTE_PORT"] == "8000"
    assert 0 < float(variables["MEMROUTE_MEMORY_RATIO"]) < 1


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ({"args": ["$(MEMROUTE_KV_BYTES)"]}, "that nobody sets: $(MEMROUTE_KV_BYTES); memroute"),
        ({"command": ["a", "$(HOME_PAGE)"]}, "that nobody sets: $(HOME_PAGE)"),
        ({"args": ["--model", "x"]}, "has to be told its part: give it one of $(MEMROUTE_BYTES"),
        ({"image": None}, "spec.engine.image is needed for Custom"),
        (
            {"env": [{"name": "MEMROUTE_PORT", "value": "1"}]},
            "spec.engine.env sets MEMROUTE_PORT, which memroute sets",
        ),
    ],
)
def test_a_template_that_cannot_work_is_refused_in_words(engine, says):
    """Kubelet would leave an unknown variable as it stands, and the engine would read its name."""
    assert says in refusal(manifest(**engine))


@pytest.mark.parametrize(
    "engine",
    [
        {},
        {"args": ["--ratio=$(MEMROUTE_MEMORY_RATIO)", "$$(NOT_ONE)"]},
        {"args": ["$(OWN)$(MEMROUTE_KV_CACHE_TOKENS)"], "env": [{"name": "OWN", "value": "a"}]},
        {"args": [], "env": [{"name": "KV", "value": "$(MEMROUTE_BYTES_PER_DEVICE)"}]},
    ],
)
def test_a_template_that_can_is_not(engine):
    assert refusal(manifest(**engine)) is None
    assert set(BOUNDS) <= VARIABLES.keys()


def test_on_a_whole_device_nobody_has_to_bound_it():
    assert refusal(manifest("exclusive", args=["--model", "$(MEMROUTE_MODEL)"])) is None


def test_its_health_and_its_end_are_as_it_says():
    """One that drains gets SIGTERM at once; of others SIGTERM is kept for half a minute."""
    _, pod, container = container_of(manifest(healthPath="/live", drainSeconds=90))
    assert container["startupProbe"]["httpGet"]["path"] == "/live"
    assert pod["spec"]["terminationGracePeriodSeconds"] == 110
    assert "lifecycle" not in container
    _, pod, container = container_of(manifest())
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] == 30
    assert pod["spec"]["terminationGracePeriodSeconds"] == 50


def test_an_edit_of_the_template_is_rolled_out():
    one, other = manifest(command=["a"]), manifest(command=["b"])
    assert revision_of(one["spec"]) != revision_of(other["spec"])


def test_the_variables_are_in_the_documentation(repository):
    text = (repository / "docs" / "how-to" / "run-other-engines.md").read_text()
    assert all(f"| `{name}` | {told} |" in text for name, told in VARIABLES.items())
