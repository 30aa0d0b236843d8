"""Pods of each source and cache, on the real API server: taken whole, within Pod Security."""

import json

import pytest

from memroute_operator.failures import refusal_of
from memroute_operator.pod.manifests import replica_pod
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.weights.caches import WeightsSettings
from memroute_simulator.emulated_cluster import KubectlError
from operator_rig import mdep
from planned_objects import placed_on

COMMIT = {"source": {"hub": {"revision": "0123456789" * 4, "tokenSecretRef": {"name": "hf"}}}}
MODELS = {
    "a claim as cache": {"cache": {"persistentVolumeClaim": {"claimName": "w"}}, **COMMIT},
    "an emptyDir as cache": {"cache": {"emptyDir": {}, "sizeGiB": 9}, **COMMIT},
    "a bucket": {"source": {"s3": {"uri": "s3://models/m", "secretName": "s"}}},
    "a claim": {"source": {"persistentVolumeClaim": {"claimName": "w", "path": "a/b"}}},
    "an image": {"source": {"image": {"reference": "r/m@sha256:0", "path": "models"}}},
}
ADAPTERS = [
    {"name": "a", "source": {"hub": {"repository": "o/a", "tokenSecretRef": {"name": "t"}}}},
    {"name": "b", "source": {"s3": {"uri": "s3://adapters/b", "secretName": "s"}}},
    {"name": "c", "source": {"persistentVolumeClaim": {"claimName": "w", "path": "c"}}},
]
IN_NODE = WeightsSettings(cache_path="/var/cache/memroute")
# What an image without a user asks of a template in such a namespace.
TEMPLATE = {"spec": {"securityContext": {"runAsNonRoot": True, "runAsUser": 1000}}}
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 512, "max_position_embeddings": 8192,
}  # fmt: skip


def pod_of(namespace, model, settings=None, adapters=()):
    obj = mdep("m", namespace, mode="Exclusive")
    obj["spec"]["adapters"] = list(adapters)
    obj["spec"]["model"] |= {"config": CONFIG, **model}
    obj["spec"]["template"] = TEMPLATE
    of = read_deployment(obj, settings or WeightsSettings())
    assert of.failure is None
    pod = replica_pod(
        of, placed_on("gpu-c"), is_gated=False, default_image="vllm/vllm-openai:v1",
        shared_runtime_class=None, fetch_image="memroute/fetch:1",
    )  # fmt: skip
    pod["metadata"].pop("ownerReferences")
    return json.dumps(pod)


def create(cluster, namespace, pod):
    """The pod as the API server would have it; nothing is created."""
    told = cluster.kubectl(
        "create", "-n", namespace, "--dry-run=server", "--validate=strict", "-o", "json",
        "-f", "-", stdin=pod,
    )  # fmt: skip
    return json.loads(told)


def test_a_template_may_give_the_fetcher_more_memory(cluster, namespace):
    """It has an image already: of all other init containers one is asked for."""
    more = {"name": "memroute-fetch", "resources": {"limits": {"memory": "2Gi"}}}
    spec = {"model": {"name": "org/m"}, "template": {"spec": {"initContainers": [more]}}}
    manifest = {
        "apiVersion": "memroute.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": "m", "namespace": namespace}, "spec": spec,
    }  # fmt: skip
    cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))
    more["name"] = "mine"
    with pytest.raises(KubectlError, match="a container needs an image"):
        cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))


def test_pods_of_every_source_are_taken_whole_in_a_restricted_namespace(cluster, namespace):
    """A field that the API server does not know, or forbids, would be told to each user."""
    cluster.kubectl(
        "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"
    )
    for what, model in MODELS.items():
        pod = create(cluster, namespace, pod_of(namespace, model))
        (volume,) = [v for v in pod["spec"]["volumes"] if v["name"] == "memroute-weights"]
        assert len(volume) == 2, what
        pod = create(cluster, namespace, pod_of(namespace, model, adapters=ADAPTERS))
        assert [one["name"] for one in pod["spec"]["containers"]] == ["engine", "memroute-adapters"]
    with pytest.raises(KubectlError) as caught:
        create(cluster, namespace, pod_of(namespace, COMMIT, IN_NODE))
    assert refusal_of(str(caught.value)).name == "HostPathForbidden"
