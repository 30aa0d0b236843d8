"""``spec.template``: merged over the operator's pod, with what memroute owns as it was."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute.placement import Placed, PlacementMode, ReplicaKey
from memroute.units import GIB
from memroute_kube.resources import LABEL_DEPLOYMENT
from memroute_operator.engines.seam import SHARED_MEMORY
from memroute_operator.pod.manifests import replica_pod
from memroute_operator.pod.pod_defaults import ANY_IPV4, ANY_IPV6, any_address
from memroute_operator.pod_template.merging import merge
from memroute_operator.pod_template.owned import refusal
from memroute_operator.replicas.pods import _node_of
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.spec.revision import revision_of
from operator_rig import mdep
from sizes import tries
from template_refusals import REFUSED, REFUSED_BY_THE_OPERATOR, engine, pod, sidecar

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
ZONE = {"key": "zone", "operator": "In", "values": ["a", "b"]}


def deployment(template=None, mode="Exclusive", **placement):
    obj = mdep("m", mode=mode)
    obj["spec"]["placement"] |= placement
    if template is not None:
        obj["spec"]["template"] = template
    return read_deployment(obj)


def made(template=None, mode="Exclusive", **settings):
    """The pod that the operator makes of it on node n."""
    of = deployment(template, mode)
    assert of.failure is None, of.failure
    shared = mode == "Shared"
    placed = Placed(
        key=ReplicaKey(namespace="default", name="m", index=0),
        node="n", mode=PlacementMode.SHARED if shared else PlacementMode.EXCLUSIVE,
        device_uuids=("GPU-1",) if shared else (), num_devices=1, bytes_per_device=79 * GIB,
        needed_bytes_per_device=20 * GIB, usable_bytes_per_device=79 * GIB, product=None, why="",
    )  # fmt: skip
    return replica_pod(
        of, placed, is_gated=True, default_image="vllm/x",
        **({"shared_runtime_class": "nvidia"} | settings),
    )  # fmt: skip


def engine_of(pod):
    return next(one for one in pod["spec"]["containers"] if one["name"] == "engine")


@pytest.mark.parametrize("what", [*REFUSED, *REFUSED_BY_THE_OPERATOR])
def test_what_memroute_owns_is_refused_by_name(what):
    """In the condition Resolved too: an older CRD lets it through, and null is pruned, not told."""
    template, sentence = (REFUSED[what][0], REFUSED[what][2]) if what in REFUSED else (
        REFUSED_BY_THE_OPERATOR[what]
    )  # fmt: skip
    told = refusal(template)
    assert told is not None
    assert sentence in told
    of = deployment(template)
    assert (of.failure.reason, of.failure.message) == ("TemplateRefused", told)


def test_without_a_template_the_pod_is_the_operators_own():
    assert made() == made({}) == made({"spec": {}})


def test_a_platform_says_what_it_needs_of_a_pod():
    """The week-one list: taints, priority, account, pull Secret, volumes, variables, sidecars."""
    template = {
        "metadata": {"labels": {"team": "search"}, "annotations": {"prometheus.io/scrape": "true"}},
        "spec": {
            "tolerations": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
            "priorityClassName": "serving",
            "serviceAccountName": "models",
            "imagePullSecrets": [{"name": "registry"}],
            "runtimeClassName": "nvidia-cdi",
            "terminationGracePeriodSeconds": 120,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 2000, "fsGroup": 2000},
            "volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "weights"}}],
            "containers": [
                {
                    "name": "engine",
                    "env": [{"name": "HF_HOME", "value": "/cache"}],
                    "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                    "resources": {"requests": {"memory": "64Gi"}, "limits": {"memory": "96Gi"}},
                    "startupProbe": {"failureThreshold": 3600},
                },
                {"name": "logs", "image": "fluent-bit"},
            ],
        },
    }
    made_pod = made(template)
    spec, own = made_pod["spec"], made()["spec"]
    assert made_pod["metadata"]["labels"]["team"] == "search"
    assert made_pod["metadata"]["annotations"]["prometheus.io/scrape"] == "true"
    assert spec["tolerations"] == [*own["tolerations"], template["spec"]["tolerations"][0]]
    assert [one["name"] for one in spec["volumes"]] == ["shm", "cache"]
    assert [one["name"] for one in spec["containers"]] == ["engine", "logs"]
    container, before = engine_of(made_pod), own["containers"][0]
    assert [one["mountPath"] for one in container["volumeMounts"]] == [SHARED_MEMORY, "/cache"]
    assert container["env"] == [*before["env"], {"name": "HF_HOME", "value": "/cache"}]
    assert container["resources"] == {
        "requests": {"cpu": "1000m", "memory": "64Gi"},
        "limits": {"nvidia.com/gpu": "1", "memory": "96Gi"},
    }
    assert container["startupProbe"] == before["startupProbe"] | {"failureThreshold": 3600}
    assert container["args"] == before["args"]
    replaced = template["spec"].keys() - {"tolerations", "volumes", "containers"}
    assert {name: spec[name] for name in replaced} == {
        name: template["spec"][name] for name in replaced
    }


def test_what_runs_beside_the_engine_sees_no_device():
    """Images that are built on CUDA's ask for all devices: memory that nobody has counted."""
    beside = {"containers": [{"name": "a", "image": "a", "env": [{"name": "A", "value": "1"}]}],
              "initContainers": [{"name": "b", "image": "b"}]}  # fmt: skip
    spec = made({"spec": beside}, mode="Shared")["spec"]
    void = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}
    assert spec["containers"][1]["env"] == [{"name": "A", "value": "1"}, void]
    assert spec["initContainers"][0]["env"] == [void]
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "GPU-1"} in spec["containers"][0]["env"]


def test_their_affinity_and_the_pin_to_the_node_both_hold():
    """Each of their terms is on the chosen node: terms are or-ed, and none may lead elsewhere."""
    theirs = {"nodeSelectorTerms": [
        {"matchExpressions": [ZONE]}, {},
        {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["x"]}]},
    ]}  # fmt: skip
    anti = {REQUIRED: [{"topologyKey": "zone", "labelSelector": {}}]}
    affinity = {"nodeAffinity": {REQUIRED: theirs}, "podAntiAffinity": anti}
    made_pod = made({"spec": {"affinity": affinity}})
    pin = {"key": "metadata.name", "operator": "In", "values": ["n"]}
    assert made_pod["spec"]["affinity"] == {
        "podAntiAffinity": anti,
        "nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [
            {"matchExpressions": [ZONE], "matchFields": [pin]},
            {"matchFields": [pin, theirs["nodeSelectorTerms"][2]["matchFields"][0]]},
        ]}},
    }  # fmt: skip
    assert _node_of(made_pod) == "n", "where the operator looks for the node"


def test_a_spread_counts_all_nodes_and_this_deployments_replicas():
    """The pod is pinned to one node: by Kubernetes' defaults a constraint would see that alone."""
    constraint = {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
    (found,) = made({"spec": {"topologySpreadConstraints": [constraint]}})["spec"][
        "topologySpreadConstraints"
    ]
    assert found == constraint | {
        "nodeAffinityPolicy": "Ignore",
        "labelSelector": {"matchLabels": {LABEL_DEPLOYMENT: "m"}},
    }
    said = constraint | {"nodeAffinityPolicy": "Honor", "labelSelector": {}}
    (found,) = made({"spec": {"topologySpreadConstraints": [said]}})["spec"][
        "topologySpreadConstraints"
    ]
    assert found == said


@pytest.mark.parametrize("nothing", [None, {"limits": None}, {"requests": None}])
def test_null_takes_nothing_of_memroutes_away(nothing):
    """A map that is null is taken away as a whole: with it the devices would be."""
    container = engine_of(made(engine(resources=nothing)))
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    nulls = made({"spec": {"containers": None, "affinity": None, "volumes": None}})
    assert nulls == made()


def test_a_shorter_goodbye_than_the_engines_is_none():
    """The engine finishes its requests in that time; a longer one is for sidecars."""
    own = made()["spec"]["terminationGracePeriodSeconds"]
    for seconds, expected in ((1, own), (600, 600)):
        spec = made(pod(terminationGracePeriodSeconds=seconds))["spec"]
        assert spec["terminationGracePeriodSeconds"] == expected


def test_a_runtime_class_is_for_both_modes_and_the_template_wins():
    """k3s and others do not make nvidia the default: whole devices need it there as well."""
    assert made(mode="Shared")["spec"]["runtimeClassName"] == "nvidia"
    assert "runtimeClassName" not in made()["spec"]
    assert made(exclusive_runtime_class="nvidia")["spec"]["runtimeClassName"] == "nvidia"
    theirs = made(pod(runtimeClassName="kata"), exclusive_runtime_class="nvidia")
    assert theirs["spec"]["runtimeClassName"] == "kata"
    assert "runtimeClassName" not in made(pod(runtimeClassName=""), mode="Shared")["spec"]


def test_restricted_pod_security_lacks_only_what_the_image_decides():
    """Whether it can run as another user than root is the image's to say."""
    assert engine_of(made())["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    own = {"runAsNonRoot": True, "capabilities": {"drop": ["NET_RAW"]}}
    found = engine_of(made(engine(securityContext=own)))["securityContext"]
    assert found["capabilities"] == {"drop": ["NET_RAW"]}
    assert found["runAsNonRoot"]
    assert found["allowPrivilegeEscalation"] is False


def test_the_host_is_asked_for_what_the_engine_holds_there():
    """Without requests a replica is the first to be evicted, and quotas refuse it."""
    requests = engine_of(made(mode="Shared"))["resources"]
    assert requests == {"requests": {"cpu": "1000m", "memory": "4608Mi"}}


@pytest.mark.parametrize(
    ("own", "expected"), [(None, ANY_IPV4), ("10.0.0.7", ANY_IPV4), ("fd00::7", ANY_IPV6)]
)
def test_engines_listen_on_every_address(own, expected):
    """``kubectl port-forward`` dials localhost inside of the pod; IPv6 is not on every node."""
    assert any_address(own) == expected
    container = engine_of(made(bind_address=expected))
    arguments = container["args"]
    assert arguments[arguments.index("--host") + 1] == "$(MEMROUTE_BIND_ADDRESS)"
    assert {"name": "MEMROUTE_BIND_ADDRESS", "value": expected} in container["env"]


def test_a_selector_that_contradicts_the_placement_is_told():
    of = deployment(pod(nodeSelector={"pool": "a"}), nodeSelector={"pool": "b"})
    assert of.failure.reason == "TemplateRefused"
    assert "no node has both" in of.failure.message


@pytest.mark.parametrize(
    "affinity",
    [
        {"nodeSelectorTerms": [{}]},
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Like"}]}]},
        {},
        [],
    ],
)
def test_affinity_that_cannot_be_read_is_told(affinity):
    """An operator of a newer release, or nonsense: placement must not guess what it means."""
    of = deployment(pod(affinity={"nodeAffinity": {REQUIRED: affinity}}))
    assert of.failure.reason == "TemplateRefused"
    assert "node affinity of spec.template.spec cannot be read" in of.failure.message


# The merge.


def test_an_own_variable_or_volume_replaces_the_whole_of_ours():
    """Half of each is a pod that the API server refuses: value beside valueFrom."""
    base = {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}]}  # fmt: skip
    secret = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    claim = {"name": "shm", "persistentVolumeClaim": {"claimName": "c"}}
    assert merge(base, {"env": [secret], "volumes": [claim]}) == {
        "env": [secret, {"name": "B", "value": "2"}],
        "volumes": [claim],
    }
    smaller = merge(base, {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "1Gi"}}]})
    assert smaller["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}


NAMES = st.sampled_from(
    ["name", "env", "volumes", "args", "containers", "initContainers", "tolerations", "affinity",
     "nodeAffinity", REQUIRED, "topologySpreadConstraints", "resources", "limits", "labels",
     "securityContext", "startupProbe", "terminationGracePeriodSeconds", "image", "engine"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "a", "engine"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner),
    max_leaves=12,
)


@pytest.mark.slow
@given(VALUES, VALUES)
def test_merging_changes_neither_side_and_ends(base, over):
    before = copy.deepcopy((base, over))
    json.dumps(merge(base, over))
    assert (base, over) == before


@pytest.mark.slow
@settings(max_examples=tries(50, 150))
@given(st.fixed_dictionaries({"spec": st.dictionaries(NAMES, VALUES), "metadata": VALUES}))
def test_whatever_a_template_is_it_is_read_or_told(template):
    """One odd object is its owner's problem; it must not end the reading of others."""
    of = deployment(template)
    if of.failure is None:
        assert engine_of(made(template))["args"]
    else:
        assert of.failure.reason == "TemplateRefused"


# The revision.


def revision(template=None):
    spec = mdep("m")["spec"]
    return revision_of(spec if template is None else spec | {"template": template})


def test_an_edit_of_the_template_is_a_rollout():
    plain = revision()
    assert revision(pod(priorityClassName="high")) != plain
    assert revision({"metadata": {"annotations": {"restarted": "1"}}}) != plain
    assert revision({}) == revision({"metadata": {}, "spec": {}}) == plain


def test_the_order_of_what_has_a_name_restarts_nothing():
    """Tools write lists in an order of their own."""
    one, two = sidecar()["spec"]["containers"], engine(env=[])["spec"]["containers"]
    assert revision(pod(containers=one + two)) == revision(pod(containers=two + one))
    first, second = {"name": "1", "image": "a"}, {"name": "2", "image": "b"}
    assert revision(pod(initContainers=[first, second])) != revision(
        pod(initContainers=[second, first])
    ), "one runs after the other"
