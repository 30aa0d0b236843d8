"""Our merge against kubectl's, which is the API's own."""

import copy
import json
import random

import pytest
import yaml

from memroute_operator.pod_template.merging import MERGE_KEYS, merge

BASE = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "m-0", "labels": {"a": "1"}, "annotations": {"b": "2"}},
    "spec": {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 60,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
        "containers": [
            {
                "name": "engine",
                "image": "vllm",
                "args": ["--model", "m"],
                "env": [{"name": "POD_IP", "value": "1"}, {"name": "A", "value": "a"}],
                "ports": [{"name": "http", "containerPort": 8000}],
                "volumeMounts": [{"name": "shm", "mountPath": "/shared"}],
                "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "1"}},
                "securityContext": {"capabilities": {"drop": ["ALL"]}},
                "startupProbe": {"httpGet": {"path": "/health", "port": "http"}},
            }
        ],
    },
}
CONTAINER = {
    "env": [[{"name": "A", "value": "b"}, {"name": "C", "value": "c"}], []],
    "args": [["--seed"], []],
    "ports": [[{"containerPort": 8000, "protocol": "TCP"}, {"containerPort": 9}]],
    "volumeMounts": [[{"name": "c", "mountPath": "/c"}, {"name": "x", "mountPath": "/shared"}]],
    "resources": [{"limits": {"memory": "1Gi"}}, {"requests": {"cpu": "2"}}],
    "securityContext": [{"runAsUser": 1}, {"capabilities": {"drop": ["NET_RAW"]}}],
    "startupProbe": [{"failureThreshold": 3}],
    "envFrom": [[{"secretRef": {"name": "s"}}]],
}
SPEC = {
    "tolerations": [[{"key": "sku", "operator": "Exists"}]],
    "volumes": [
        [{"name": "shm", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "c", "emptyDir": {}}],
    ],
    "imagePullSecrets": [[{"name": "a"}, {"name": "b"}]],
    "nodeSelector": [{"pool": "a"}],
    "hostAliases": [[{"ip": "10.0.0.1", "hostnames": ["a"]}]],
    "terminationGracePeriodSeconds": [120, None],
    "priorityClassName": ["high"],
    "securityContext": [{"fsGroup": 1}],
    "initContainers": [[{"name": "first", "image": "busybox"}]],
}
PARTS = ((SPEC, 0.5), (CONTAINER, 0.5))


def overlay(seed):
    """A template, as a platform might write one."""
    rng = random.Random(seed)
    spec, engine = (
        {name: copy.deepcopy(rng.choice(values)) for name, values in part.items()
         if rng.random() < chance}
        for part, chance in PARTS
    )  # fmt: skip
    spec["containers"] = [{"name": "engine"} | engine]
    if rng.random() < 0.5:
        spec["containers"].insert(0, {"name": "logs", "image": "fluent"} | {"env": []})
    return {"metadata": {"labels": {"a": "x", "team": "t"}}, "spec": spec}


def by_key(part, field=""):
    """Without the order of lists that have a key: kubectl puts what is new first."""
    if isinstance(part, dict):
        return {name: by_key(value, name) for name, value in part.items()}
    if isinstance(part, list):
        entries = [by_key(one) for one in part]
        key = MERGE_KEYS.get(field)
        return entries if key is None else sorted(entries, key=lambda one: str(one[key]))
    return part


@pytest.mark.parametrize("seed", range(12))
def test_a_template_is_merged_as_kubectl_merges(cluster, tmp_path, seed):
    """What users of Kubernetes know of patches holds for templates."""
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(BASE))
    over = overlay(seed)
    told = cluster.kubectl(
        "patch", "--local", "--type=strategic", "-o", "json",
        "-f", str(tmp_path / "pod.yaml"), "-p", json.dumps(over),
    )  # fmt: skip
    assert by_key(merge(BASE, over)) == by_key(json.loads(told))
