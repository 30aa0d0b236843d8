import json
import re

import pytest
import yaml

from memroute_operator.pod_template import refusal
from memroute_simulator.emulated_cluster import KubectlError
from template_refusals import REFUSED

MODEL = {"name": "Qwen/Qwen3-8B"}


def manifest(spec, name="nonsense", **metadata):
    return json.dumps(
        {
            "apiVersion": "memroute.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": "default"} | metadata,
        }
        | ({} if spec is None else {"spec": spec})
    )


def engine(**fields):
    return {"model": MODEL, "engine": fields}


def variable(**fields):
    return {"model": MODEL, "engine": {"env": [{"name": "A"} | fields]}}


def memory(**fields):
    return {"model": MODEL, "memory": fields}


def placement(**fields):
    return {"model": MODEL, "placement": fields}


def routing(**fields):
    return {"model": MODEL, "routing": fields}


def rollout(**fields):
    return {"model": MODEL, "rollout": fields}


def source(*, cache=None, **kinds):
    return {"model": MODEL | {"source": kinds} | ({} if cache is None else {"cache": cache})}


def on(key, value):
    return placement(nodeSelector={key: value})


def adapter(**fields):
    return {"model": MODEL, "adapters": [{"name": "sql"} | fields]}


HUB = {"hub": {"repository": "org/sql"}}
# What is wrong → a spec, and what the API server says of it.
NONSENSE = {
    "an adapter from two places": (
        adapter(source=HUB | {"s3": {"uri": "s3://adapters/sql"}}),
        "an adapter's source has exactly one of hub, s3",
    ),
    "an adapter from nowhere": (adapter(source={}), "has exactly one of hub, s3"),
    "an adapter from a page": (
        adapter(source={"hub": {"repository": "https://hub/org/sql"}}),
        "adapters.source.hub.repository must be owner/name",
    ),
    "a rank of a name alone": (adapter(rank=8), "give its source, or leave the rank out"),
    "a rank that no slot takes": (
        adapter(source=HUB, rank=64) | {"engine": {"maxAdapterRank": 32}},
        "an adapter's rank must be at most engine.maxAdapterRank",
    ),
    "slots of an odd rank": (
        engine(maxAdapters=2, maxAdapterRank=24),
        "engine.maxAdapterRank must be 8, 16, 32",
    ),
    "a rank without slots": (
        engine(maxAdapterRank=32),
        "set engine.maxAdapters too, or give an adapter its source",
    ),
    "an adapter outside of its volume": (
        adapter(source={"persistentVolumeClaim": {"claimName": "c", "path": "../x"}}),
        "is a folder in the volume, without / at its begin",
    ),
    "a surge in words": (rollout(maxSurge="one"), "or a percentage such as 25%"),
    "a surge of less than none": (rollout(maxSurge=-1), "a number from 0 to 1000"),
    "a number of replicas as a text": (rollout(partition="1"), "or a percentage up to 100%"),
    "more away than there are": (rollout(maxUnavailable="101%"), "or a percentage up to 100%"),
    "no way to replace one": (
        rollout(maxSurge="0%", maxUnavailable=0),
        "must not both be 0, because then no replica could be replaced",
    ),
    "a rollout that is given no time": (
        rollout(progressDeadlineSeconds=0),
        "greater than or equal to 1",
    ),
    "a failure that is undone": (rollout(onFailure="Undo"), 'supported values: "Return", "Halt"'),
    "no spec at all": (None, "spec: Required value"),
    "no model": ({}, "spec.model: Required value"),
    "a model without a name": ({"model": {}}, "spec.model.name: Required value"),
    "a model without owner": ({"model": {"name": "llama"}}, "must be owner/name"),
    "a URL for a model": (
        {"model": {"name": "https://huggingface.co/Qwen/Qwen3-8B"}},
        "must be owner/name",
    ),
    "a revision with spaces": (
        {"model": MODEL | {"source": {"hub": {"revision": "my branch"}}}},
        "is a branch, a tag or a commit",
    ),
    "a revision that climbs": (
        {"model": MODEL | {"source": {"hub": {"revision": "refs/../x"}}}},
        "is a branch, a tag or a commit",
    ),
    "a token without a Secret": (
        {"model": MODEL | {"source": {"hub": {"tokenSecretRef": {"key": "token"}}}}},
        "tokenSecretRef.name: Required value",
    ),
    "two sources": (
        source(hub={}, s3={"uri": "s3://models/m"}),
        "model.source has one of hub, persistentVolumeClaim, hostPath, s3 and image",
    ),
    "a folder outside of the claim": (
        source(persistentVolumeClaim={"claimName": "w", "path": "a/../../b"}),
        "is a folder in the volume, without / at its begin and without ..",
    ),
    "a host path that climbs": (source(hostPath={"path": "/data/../etc"}), "without .."),
    "a token's Secret that climbs": (
        source(hub={"tokenSecretRef": {"name": "../../x"}}),
        "tokenSecretRef.name in body should match",
    ),
    "a store's Secret that climbs": (
        source(s3={"uri": "s3://models/m", "secretName": "../../x"}),
        "secretName in body should match",
    ),
    "a claim that climbs": (
        source(persistentVolumeClaim={"claimName": "../../x"}),
        "claimName in body should match",
    ),
    "a cache's claim that climbs": (
        {"model": MODEL | {"cache": {"persistentVolumeClaim": {"claimName": "../../x"}}}},
        "claimName in body should match",
    ),
    "an adapter's claim in capitals": (
        adapter(source={"persistentVolumeClaim": {"claimName": "Sql"}}),
        "claimName in body should match",
    ),
    "a bucket of two letters": (
        source(s3={"uri": "s3://ab/m"}),
        "the name of a bucket has three characters or more",
    ),
    "a bucket without its kind": (source(s3={"uri": "models/m"}), "is s3://BUCKET/PREFIX"),
    "a store without its kind": (
        source(s3={"uri": "s3://models/m", "endpoint": "minio:9000"}),
        "begins with https:// or http://",
    ),
    "an image of two words": (source(image={"reference": "a b"}), "without spaces"),
    "two caches": (
        {"model": MODEL | {"cache": {"emptyDir": {}, "hostPath": {"path": "/c"}}}},
        "model.cache has one of hostPath, persistentVolumeClaim and emptyDir",
    ),
    "a cache for a volume": (
        source(persistentVolumeClaim={"claimName": "w"}, cache={"emptyDir": {}}),
        "these are read where they are: leave it out",
    ),
    "a cache of nothing": (
        {"model": MODEL | {"cache": {"emptyDir": {}, "sizeGiB": 0}}},
        "greater than or equal to 1",
    ),
    "a text for a config": (
        {"model": MODEL | {"config": "config.json"}},
        "spec.model.config in body must be of type object",
    ),
    "a checkpoint of nothing": (
        {"model": MODEL | {"checkpointBytes": 0}},
        "greater than or equal to 1",
    ),
    "a name of two words": (
        {"model": MODEL | {"servedName": "my chat"}},
        "one word without spaces",
    ),
    "an unknown field": ({"model": MODEL, "replica": 3}, 'unknown field "spec.replica"'),
    "a field of 0.1": (
        routing(kvWatermarkRatio=0.9),
        'unknown field "spec.routing.kvWatermarkRatio"',
    ),
    "seconds, as 0.1 had them": (
        routing(ttftTargetSeconds=2),
        'unknown field "spec.routing.ttftTargetSeconds"',
    ),
    "negative replicas": ({"model": MODEL, "replicas": -1}, "greater than or equal to 0"),
    "replicas as text": ({"model": MODEL, "replicas": "two"}, "must be of type integer"),
    "more replicas than anybody has": (
        {"model": MODEL, "replicas": 1001},
        "less than or equal to 1000",
    ),
    "half a replica": ({"model": MODEL, "replicas": 1.5}, "must be of type integer"),
    "paused as text": ({"model": MODEL, "paused": "yes"}, "must be of type boolean"),
    "three ways to split": (
        {"model": MODEL, "parallelism": {"tensorParallelSize": 3}},
        "tensorParallelSize must be 1, 2, 4 or 8",
    ),
    "an unknown cache type": (memory(kvCacheDtype="FP4"), 'supported values: "Auto", "FP8"'),
    "an unknown quantization": (memory(quantization="Q4"), 'supported values: "Auto", "FP8"'),
    "a word in lower case": (memory(kvCacheDtype="fp8"), 'supported values: "Auto", "FP8"'),
    "a tiny context": (memory(maxContextTokens=1), "greater than or equal to 256"),
    "a context with a unit": (memory(maxContextTokens="8k"), "must be of type integer"),
    "more tokens than any device holds": (
        memory(maxContextTokens=10485760, concurrency=4096),
        "must be at most 2^30 tokens",
    ),
    "nobody at a time": (memory(concurrency=0), "greater than or equal to 1"),
    "a mode that is none": (
        placement(mode="maybe"),
        'supported values: "Exclusive", "Shared"',
    ),
    "a strategy that is none": (placement(strategy="Scatter"), '"Pack", "Spread"'),
    "a key that is no label's": (on("-pool", "a"), "is no label of a node"),
    "a value that is no label's": (on("pool", "NVIDIA H100"), "is no label's value"),
    "a number for a label": (on("pool", 7), "must be of type string"),
    "a ratio for a percentage": (routing(kvWatermarkPercent=0.95), "must be of type integer"),
    "a percentage above all": (routing(kvWatermarkPercent=950), "less than or equal to 100"),
    "a target of no time": (routing(tpotTargetMilliseconds=0), "greater than or equal to 1"),
    "a target of a day": (
        routing(ttftTargetMilliseconds=86_400_000),
        "less than or equal to 3600000",
    ),
    "what YAML makes of off": (routing(admission=False), "must be of type string"),
    "an admission that is none": (
        routing(admission="Politely"),
        'supported values: "Enforce", "Observe", "Disabled"',
    ),
    "an objective that is none": (
        routing(overloadObjective="Mine"),
        '"Requests", "Tokens", "Sizes"',
    ),
    "a failure mode that is none": (
        routing(gateway={"failureMode": "Never"}),
        'supported values: "FailClose", "FailOpen"',
    ),
    "a gateway that is a name": (routing(gateway="main"), "must be of type object"),
    "a policy in capitals": (routing(policy="LLM-D"), "routing.policy is a lower-case name"),
    "a speed of nothing": (routing(prefillTokensPerSecond=0), "greater than or equal to 1"),
    "a negative share": (routing(weight=-1), "greater than or equal to 0"),
    "adapters as names": ({"model": MODEL, "adapters": ["sql"]}, "must be of type object"),
    "an adapter without a name": ({"model": MODEL, "adapters": [{}]}, "adapters[0].name: Required"),
    "an adapter twice": (
        {"model": MODEL, "adapters": [{"name": "sql"}, {"name": "sql"}]},
        "Duplicate value",
    ),
    "an engine that is none": (engine(type="Ollama"), 'supported values: "VLLM"'),
    "an image with a space": (engine(image="vllm/vllm-openai: v1"), "a reference without spaces"),
    "a block of seven": (engine(blockSizeTokens=7), "must be 16, 32, 64, 128 or 256"),
    "no sequence at a time": (engine(maxSequences=0), "greater than or equal to 1"),
    "steps of one token": (engine(maxBatchedTokens=1), "greater than or equal to 64"),
    "an execution that is none": (engine(execution="Lazy"), 'supported values: "Graphs", "Eager"'),
    "more sequences than tokens": (
        engine(maxSequences=512, maxBatchedTokens=256),
        "must be at least engine.maxSequences",
    ),
    "flags as one text": (engine(args="--seed 1"), "must be of type array"),
    "a flag that memroute computes": (
        engine(args=["--gpu-memory-utilization=0.9"]),
        "engine.args must not set what memroute owns",
    ),
    "the same flag in two words": (
        engine(args=["--max-model-len", "4096"]),
        "engine.args must not set what memroute owns",
    ),
    "the same flag with underscores": (
        engine(args=["--kv_cache_memory_bytes=1"]),
        "engine.args must not set what memroute owns",
    ),
    "a device of one's own choice": (
        engine(env=[{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}]),
        "because memroute chooses the devices",
    ),
    "a variable with two values": (
        variable(value="1", valueFrom={"fieldRef": {"fieldPath": "metadata.name"}}),
        "either value or valueFrom",
    ),
    "a variable from nowhere": (variable(valueFrom={}), "exactly one of secretKeyRef"),
    "a variable from a Secret without a key": (
        variable(valueFrom={"secretKeyRef": {"name": "hub"}}),
        "secretKeyRef.key: Required value",
    ),
    "a variable that no shell takes": (engine(env=[{"name": "1=2"}]), "no digit first"),
    "a variable twice": (engine(env=[{"name": "A"}, {"name": "A"}]), "Duplicate value"),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_is_refused_with_a_sentence(cluster, what):
    spec, sentence = NONSENSE[what]
    with pytest.raises(KubectlError) as caught:
        cluster.create(json.loads(manifest(spec)))
    told = str(caught.value)
    assert sentence in told
    # The API server has lines of its own about rules that it did not come to.
    first, *others = re.findall(r"^(?:\* |.* invalid: )(spec[^:]*):", told, re.MULTILINE) or [""]
    assert all(one.startswith(first) or first.startswith(one) for one in others), (
        "one mistake, one field"
    )


def template(**spec):
    return {"model": MODEL, "template": {"spec": spec}}


# What is no part of a pod's template: told at once, with the path.
NO_TEMPLATE = {
    "a field that no pod has": (
        template(tolerationz=[]),
        'unknown field "spec.template.spec.tolerationz"',
    ),
    "a field that no container has": (
        template(containers=[{"name": "engine", "imagee": "x"}]),
        'unknown field "spec.template.spec.containers[0].imagee"',
    ),
    "a container twice": (
        template(containers=[{"name": "a", "image": "a"}] * 2),
        "Duplicate value",
    ),
    "a short goodbye": (
        template(terminationGracePeriodSeconds=5),
        "terminationGracePeriodSeconds must be at least 60",
    ),
    "a pod's name": (
        {"model": MODEL, "template": {"metadata": {"name": "me"}}},
        'unknown field "spec.template.metadata.name"',
    ),
}


@pytest.mark.parametrize("what", [*REFUSED, *NO_TEMPLATE])
def test_what_memroute_owns_of_a_pod_is_refused_by_name(cluster, what):
    """At admission: nobody finds out from a pod that did not come."""
    if what in NO_TEMPLATE:
        spec, sentence = NO_TEMPLATE[what]
    else:
        said, sentence, _ = REFUSED[what]
        spec = {"model": MODEL, "template": said}
    with pytest.raises(KubectlError) as caught:
        cluster.create(json.loads(manifest(spec)))
    told = str(caught.value)
    assert sentence in told
    first, *others = re.findall(r"^(?:\* |.* invalid: )(spec[^:]*):", told, re.MULTILINE) or [""]
    assert all(one.startswith(first) for one in others), "one mistake, one field"


def test_the_example_of_the_how_to_is_taken(cluster, repository):
    """People copy it: by the API server's rules, and by the operator's that CEL cannot have."""
    text = (repository / "docs" / "how-to" / "change-the-pod.md").read_text()
    spec = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["spec"]
    assert refusal(spec["template"]) is None
    cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=manifest(spec))


def test_explain_teaches_what_a_template_may_say(cluster):
    assert "Taints that the replicas tolerate" in cluster.kubectl(
        "explain", "mdep.spec.template.spec.tolerations"
    )
    told = cluster.kubectl("explain", "mdep.spec.template.spec.nodeName")
    assert "Refused: memroute chooses the node" in told


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
    assert "enum: Auto, FP8" in text


def test_columns_answer_is_it_serving_and_how_full_in_80_characters(cluster, namespace):
    """Names are long where teams, models and sizes are in them: thirty characters still fit."""
    name = "search-team-qwen3-32b-fp8-long"
    assert len(name) == 30
    cluster.kubectl(
        "apply", "-f", "-",
        stdin=manifest({"model": MODEL, "replicas": 0}, name, namespace=namespace),
    )  # fmt: skip
    header = cluster.kubectl("get", "mdep", "-n", namespace).splitlines()[0].split()
    assert header == ["NAME", "READY", "REASON", "PRESSURE", "AGE"]
    widest = {
        "summary": "0/16",
        "kvPressure": "Moderate",
        "footprint": {"perDevice": "143.5Gi"},
        "conditions": [
            {
                "type": "Ready", "status": "Unknown", "reason": "NoDeviceLargeEnough",
                "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }  # fmt: skip
    cluster.kubectl(
        "patch", "mdep", name, "-n", namespace, "--subresource=status", "--type=merge",
        "-p", json.dumps({"status": widest}),
    )  # fmt: skip
    lines = cluster.kubectl("get", "mdep", "-n", namespace).splitlines()
    # An age has five characters at most (364d), and this one has two.
    assert max(map(len, lines)) <= 80 - 3
    wide = cluster.kubectl("get", "llm", "-n", namespace, "-o", "wide").splitlines()[0].split()
    more = ["STATUS", "HBM", "MODEL", "URL", "UPDATED", "ROLLOUT", "KV-TOKENS", "NODES", "PLACED"]
    assert wide[5:] == [*more, "MESSAGE"]


def undescribed(schema, path="spec"):
    """Paths of the schema that explain nothing."""
    for name, sub in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        if "description" not in sub:
            yield where
        yield from undescribed(sub, where)
        yield from undescribed(sub.get("items", {}), f"{where}[]")


def test_every_field_is_explained(crd):
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    assert list(undescribed(properties["spec"])) == []
    assert list(undescribed(properties["status"], "status")) == []


def test_no_field_of_the_spec_is_a_fraction(repository):
    """Floats differ after a round trip through another language: integers with a unit do not."""
    text = (repository / "crds" / "modeldeployments.memroute.dev.yaml").read_text()
    assert "type: number" not in text


def test_an_object_that_nobody_has_looked_at_is_not_done(cluster, namespace):
    """A tool that goes by kstatus takes an object without a status for done."""
    good = manifest({"model": MODEL, "replicas": 0}, "m", namespace=namespace)
    told = cluster.kubectl("create", "-o", "json", "-f", "-", stdin=good)
    assert json.loads(told)["status"] == {"observedGeneration": -1}


def test_the_number_of_replicas_can_be_left_to_an_autoscaler(cluster, namespace):
    """A manifest that leaves it out gets 1, and takes nothing back when it is applied again."""
    good = manifest({"model": MODEL, "paused": True}, "m", namespace=namespace)
    cluster.kubectl("apply", "-f", "-", stdin=good)
    cluster.kubectl("scale", "mdep/m", "--replicas=3", "-n", namespace)
    cluster.kubectl("apply", "-f", "-", stdin=good)

    def selector():
        told = cluster.kubectl("get", "mdep", "m", "-n", namespace, "-o", "json")
        return json.loads(told)["status"].get("selector")

    def replicas():
        told = cluster.kubectl("get", "mdep", "m", "-n", namespace, "-o", "json")
        return json.loads(told)["spec"]["replicas"]

    cluster.wait_for("the operator to have seen it", selector)

    assert replicas() == 3
    scale = f"/apis/memroute.dev/v1alpha1/namespaces/{namespace}/modeldeployments/m/scale"
    told = json.loads(cluster.kubectl("get", "--raw", scale))
    assert (told["spec"], told["status"]["replicas"]) == ({"replicas": 3}, 0)
    assert told["status"]["selector"] == "memroute.dev/model-deployment=m"


def test_a_number_that_is_null_counts_as_left_out(cluster, namespace):
    """The API server takes no null where the scale subresource points; an autoscaler reads it."""
    for number, name in ((None, "a"), (0, "b")):
        spec = {"model": MODEL, "paused": True, "replicas": number}
        cluster.kubectl("apply", "-f", "-", stdin=manifest(spec, name, namespace=namespace))
    told = json.loads(cluster.kubectl("get", "mdep", "-n", namespace, "-o", "json"))["items"]
    assert [one["spec"]["replicas"] for one in told] == [1, 0]
