import json

import pytest

from memroute_simulator.emulated_cluster import KubectlError

MODEL = {"name": "Qwen/Qwen3-8B"}


def manifest(spec, name="nonsense", **metadata):
    return json.dumps(
        {
            "apiVersion": "memroute.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": "default"} | metadata,
            "spec": spec,
        }
    )


NONSENSE = {
    "no model": ({}, "spec.model: Required value"),
    "a model without owner": ({"model": {"name": "llama"}}, "must be owner/name"),
    "an unknown field": ({"model": MODEL, "replica": 3}, 'unknown field "spec.replica"'),
    "negative replicas": ({"model": MODEL, "replicas": -1}, "greater than or equal to 0"),
    "three ways to split": (
        {"model": MODEL, "parallelism": {"tensorParallelSize": 3}},
        "tensorParallelSize must be 1, 2, 4 or 8",
    ),
    "an unknown cache type": (
        {"model": MODEL, "memory": {"kvCacheDtype": "fp4"}},
        'supported values: "auto", "fp8"',
    ),
    "an unknown quantization": (
        {"model": MODEL, "memory": {"quantization": "q4"}},
        "supported values",
    ),
    "a tiny context": (
        {"model": MODEL, "memory": {"maxContextTokens": 1}},
        "greater than or equal to 256",
    ),
    "more tokens than any device holds": (
        {"model": MODEL, "memory": {"maxContextTokens": 10485760, "concurrency": 4096}},
        "must be at most 2^30 tokens",
    ),
    "a percentage for a ratio": (
        {"model": MODEL, "routing": {"kvWatermarkRatio": 90}},
        "a ratio from 0.1 to 1 (write 0.9 for 90 %)",
    ),
    "a flag that memroute computes": (
        {"model": MODEL, "engine": {"args": ["--gpu-memory-utilization=0.9"]}},
        "engine.args must not set what memroute computes",
    ),
    "the same flag in two words": (
        {"model": MODEL, "engine": {"args": ["--max-model-len", "4096"]}},
        "engine.args must not set what memroute computes",
    ),
    "a device of one's own choice": (
        {"model": MODEL, "engine": {"env": [{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}]}},
        "because memroute chooses the devices",
    ),
    "a variable with two values": (
        {"model": MODEL, "engine": {"env": [{"name": "A", "value": "1", "valueFrom": {}}]}},
        "either value or valueFrom",
    ),
    "a mode that is none": ({"model": MODEL, "placement": {"mode": "maybe"}}, "supported values"),
    "replicas as text": ({"model": MODEL, "replicas": "two"}, "must be of type integer"),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_is_refused_with_a_sentence(cluster, what):
    spec, sentence = NONSENSE[what]
    with pytest.raises(KubectlError) as caught:
        cluster.kubectl("apply", "-f", "-", stdin=manifest(spec))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("m" * 53, "at most 52 characters"), ("a.b", "must be a DNS label")],
)
def test_names_that_cannot_become_pods_are_refused(cluster, name, sentence):
    with pytest.raises(KubectlError) as caught:
        cluster.kubectl("apply", "-f", "-", stdin=manifest({"model": MODEL}, name))
    assert sentence in str(caught.value)


def test_the_model_cannot_be_swapped_under_its_clients(cluster, namespace):
    good = manifest({"model": MODEL, "replicas": 0}, "m", namespace=namespace)
    cluster.kubectl("apply", "-f", "-", stdin=good)
    other = manifest({"model": {"name": "Qwen/Qwen3-32B"}}, "m", namespace=namespace)
    with pytest.raises(KubectlError, match=r"model\.name is immutable"):
        cluster.kubectl("apply", "-f", "-", stdin=other)


def test_defaults_make_a_model_name_enough(cluster, namespace):
    cluster.kubectl(
        "apply", "-f", "-",
        stdin=manifest({"model": MODEL, "replicas": 0}, "m", namespace=namespace),
    )  # fmt: skip
    spec = json.loads(cluster.kubectl("get", "mdep", "m", "-n", namespace, "-o", "json"))["spec"]
    assert spec["memory"] == {
        "maxContextTokens": 8192,
        "concurrency": 4,
        "kvCacheDtype": "Auto",
        "quantization": "Auto",
    }
    assert spec["placement"] == {"mode": "Exclusive", "strategy": "Pack"}
    assert spec["engine"] == {"type": "VLLM"}


def test_explain_teaches(cluster):
    text = cluster.kubectl("explain", "mdep.spec.memory")
    assert "often the cheapest way to" in text
    assert "enum: auto, fp8" in text


def test_columns_answer_is_it_serving_where_and_how_full(cluster, namespace):
    cluster.kubectl(
        "apply", "-f", "-",
        stdin=manifest({"model": MODEL, "replicas": 0}, "m", namespace=namespace),
    )  # fmt: skip
    header = cluster.kubectl("get", "mdep", "-n", namespace).splitlines()[0].split()
    assert header == [
        "NAME", "MODEL", "READY", "REASON", "REPLICAS", "HBM", "KV-TOKENS", "KV-PRESSURE",
        "TARGETS-MET", "NODES", "AGE",
    ]  # fmt: skip
