"""Where weights come from and where they are kept: read from a spec, written into a pod."""

import copy
import json

import pytest

from memroute_fetch import model_directory
from memroute_operator.engines.registry import engine_of
from memroute_operator.pod.manifests import replica_pod
from memroute_operator.pod.templates import Templates
from memroute_operator.pod_template import refusal
from memroute_operator.settings import parse_settings
from memroute_operator.spec.deployment import COMMIT_UNKNOWN, MODEL_UNKNOWN, read_deployment
from memroute_operator.spec.deployments import read_deployments
from memroute_operator.spec.model_pins import ModelPin
from memroute_operator.spec.revision import revision_of
from memroute_operator.store.reading_cache import Cache as ReadingCache
from memroute_operator.weights.caches import NO_SETTINGS, WeightsSettings
from memroute_operator.weights.choosing import server_version
from memroute_operator.weights.pod import with_live_pods
from operator_rig import mdep
from planned_objects import placed_on

COMMIT = "0123456789" * 4
NAME = "Qwen/Qwen3-8B"
NODE_CACHE = WeightsSettings(cache_path="/var/cache/memroute", cache_bytes=500 * 2**30)
HOST_PATHS = WeightsSettings(host_paths=("/data/models",))
COMMITTED = {"source": {"hub": {"revision": COMMIT}}}


def read(settings=NO_SETTINGS, *, pin=False, engine=None, template=None, **model):
    """A ModelDeployment; ``pin``: with what a hub has said of it in its status."""
    obj = mdep("m", model=NAME)
    obj["spec"]["model"] |= model
    obj["spec"]["engine"] |= engine or {}
    obj["spec"]["placement"]["mode"] = "Exclusive"
    if template is not None:
        obj["spec"]["template"] = {"spec": template}
    if pin:
        name = model.get("source", {}).get("hub", {}).get("revision", "main")
        pinned = {"name": NAME, "revision": name, "commit": COMMIT, "config": json.dumps(CONFIG)}
        obj["status"] = {"model": pinned}
    return read_deployment(obj, settings)


CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 4096,
    "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 12288, "vocab_size": 151936, "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
TOLD = {"config": CONFIG, **COMMITTED}
"""A model that no hub has to be asked about."""


def pod_of(of, **more):
    return replica_pod(
        of, placed_on("a"), is_gated=False, default_image="vllm/vllm-openai:v0.32.0",
        shared_runtime_class="nvidia", fetch_image="memroute/fetch:1", **more,
    )  # fmt: skip


def engine_container(pod):
    (engine,) = pod["spec"]["containers"]
    return engine


def flag(container, name):
    return container["args"][container["args"].index(name) + 1]


def env(container):
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


# Sources that are volumes


VOLUMES = {
    "a claim": (
        {"persistentVolumeClaim": {"claimName": "weights", "path": "qwen/8b"}},
        {"persistentVolumeClaim": {"claimName": "weights", "readOnly": True}},
        {"mountPath": "/model", "subPath": "qwen/8b", "readOnly": True},
    ),
    "a claim that cannot be mounted for reading only": (
        {"persistentVolumeClaim": {"claimName": "weights", "readOnly": False}},
        {"persistentVolumeClaim": {"claimName": "weights", "readOnly": False}},
        {"mountPath": "/model"},
    ),
    "a host path": (
        {"hostPath": {"path": "/data/models/qwen/"}},
        {"hostPath": {"path": "/data/models/qwen", "type": "Directory"}},
        {"mountPath": "/model", "readOnly": True},
    ),
    "an image": (
        {"image": {"reference": "r/qwen@sha256:0", "pullPolicy": "Always", "path": "models"}},
        {"image": {"reference": "r/qwen@sha256:0", "pullPolicy": "Always"}},
        {"mountPath": "/model", "subPath": "models", "readOnly": True},
    ),
}


@pytest.mark.parametrize("what", VOLUMES)
def test_weights_of_a_volume_are_read_where_they_are(what):
    """The engine is told a folder, keeps the model's name, asks no hub and sees no token."""
    source, volume, mount = VOLUMES[what]
    of = read(HOST_PATHS, source=source)
    assert of.failure is None
    pod = pod_of(of)
    assert "initContainers" not in pod["spec"]
    assert pod["spec"]["volumes"][-1] == {"name": "memroute-weights", **volume}
    engine = engine_container(pod)
    assert engine["volumeMounts"][-1] == {"name": "memroute-weights", **mount}
    assert (flag(engine, "--model"), flag(engine, "--served-model-name")) == ("/model", NAME)
    assert "--revision" not in engine["args"]
    assert env(engine)["HF_HUB_OFFLINE"] == "1"
    assert not {"HF_TOKEN", "HF_ENDPOINT"} & env(engine).keys()


REFUSED = {
    "two sources": (
        {"source": {"s3": {"uri": "s3://models/p"}, "hostPath": {"path": "/data/models"}}},
        "has hostPath and s3: write the one",
    ),
    "a host path that nobody allows": (
        {"source": {"hostPath": {"path": "/etc"}}},
        "lets a ModelDeployment name: use one below /data/models",
    ),
    "a host path beside the allowed one": (
        {"source": {"hostPath": {"path": "/data/models2"}}}, "/data/models2 is not among",
    ),
    "a host path with a way out": (
        {"source": {"hostPath": {"path": "/data/models/../../etc"}}}, "without ..",
    ),
    "a cache on a node's disk that nobody allows": (
        {"cache": {"hostPath": {"path": "/var/lib/kubelet"}}, **TOLD},
        "spec.model.cache.hostPath.path /var/lib/kubelet is not among",
    ),
    "a cache for what is not fetched": (
        {"source": {"persistentVolumeClaim": {"claimName": "w"}}, "cache": {"emptyDir": {}}},
        "these are read where they are: leave it out",
    ),
    "two caches": (
        {"cache": {"emptyDir": {}, "persistentVolumeClaim": {"claimName": "w"}}, **TOLD},
        "has persistentVolumeClaim and emptyDir: write the one",
    ),
    "a cache without a place": (
        {"cache": {"sizeGiB": 10}, **TOLD},
        "this operator has none of its own (--model-cache-path)",
    ),
    "a bucket that cannot be": ({"source": {"s3": {"uri": "s3://models/../x"}}}, "s3.uri: "),
    "an absolute folder in a claim": (
        {"source": {"persistentVolumeClaim": {"claimName": "w", "path": "/x"}}},
        "without / at its begin",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence(what):
    """The schema says most of it at admission; objects of another schema get past that."""
    model, sentence = REFUSED[what]
    of = read(HOST_PATHS, **model)
    assert of.failure is not None
    assert of.failure.reason == "SourceRefused"
    assert sentence in of.failure.message
    assert of.footprint is None


def test_nobody_names_a_host_path_unless_the_operator_was_told():
    """It makes pods with its own rights: any writer of ModelDeployments would read every node."""
    told = read(source={"hostPath": {"path": "/data/models"}}).failure.message
    assert "or have the operator started with --allowed-host-path" in told


def test_nobody_reads_the_cache_of_others_by_its_path():
    """Gated models of other namespaces are in it, whatever host paths are allowed."""
    settings = WeightsSettings(cache_path="/var/cache/memroute", host_paths=("/var/cache",))
    inside = {"path": "/var/cache/memroute/namespace-other/m"}
    for model in ({"source": {"hostPath": inside}}, {"cache": {"hostPath": inside}, **TOLD}):
        assert "has models of others" in read(settings, **model).failure.message
    own = read(settings, cache={"hostPath": {"path": "/var/cache/memroute/"}}, **TOLD)
    assert own.failure is None, "the cache itself may be named"


@pytest.mark.parametrize(
    ("minor", "is_taken"), [("32", False), ("33", True), ("37+", True), ("x", True)]
)
def test_an_image_needs_a_kubernetes_that_mounts_images(minor, is_taken):
    """Where the version is not known, the API server's own word counts."""
    settings = WeightsSettings(server_version=server_version({"major": "1", "minor": minor}))
    of = read(settings, source={"image": {"reference": "r/qwen"}})
    assert (of.failure is None) is is_taken
    if not is_taken:
        assert "needs image volumes (Kubernetes 1.33), and this one is 1.32" in of.failure.message


# What is fetched


def test_without_a_cache_nothing_is_as_much_as_a_letter_different():
    """An upgrade of memroute must not call every replica outdated."""
    of = read()
    pod = pod_of(of)
    assert of.weights is None
    assert "initContainers" not in pod["spec"]
    assert "securityContext" not in pod["spec"]
    assert [one["name"] for one in pod["spec"]["volumes"]] == ["shm"]
    assert flag(engine_container(pod), "--model") == NAME


def test_what_is_cached_is_fetched_by_its_commit_before_the_engine_starts():
    """The fetcher has the token, a limit of memory and nothing that restricted forbids."""
    hub = {"revision": COMMIT, "tokenSecretRef": {"name": "hf", "key": "token"}}
    cache = {"persistentVolumeClaim": {"claimName": "models"}, "sizeGiB": 300}
    of = read(config=CONFIG, source={"hub": hub}, cache=cache)
    pod = pod_of(of, hub_endpoint="https://hub.example")
    (fetch,) = pod["spec"]["initContainers"]
    assert fetch["command"] == ["memroute-fetch"]
    assert fetch["args"] == [
        f"hf://{NAME}@{COMMIT}", "--cache", "/cache/namespace-default",
        "--max-cache-bytes", str(300 * 2**30), "--port", "8081",
    ]  # fmt: skip
    assert fetch["resources"]["limits"] == {"memory": "1024Mi"}
    context = fetch["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert env(fetch)["HF_TOKEN"] == {"secretKeyRef": {"name": "hf", "key": "token"}}
    assert env(fetch)["HF_ENDPOINT"] == "https://hub.example"
    assert pod["spec"]["securityContext"]["fsGroup"] == 65532
    engine = engine_container(pod)
    directory = model_directory(f"hf://{NAME}@{COMMIT}")
    assert engine["volumeMounts"][-1] == {
        "name": "memroute-weights", "mountPath": "/model", "readOnly": True,
        "subPath": f"namespace-default/{directory}",
    }  # fmt: skip
    assert "HF_TOKEN" not in env(engine)


def test_a_nodes_cache_is_shared_by_what_anybody_may_fetch_and_by_nothing_else():
    """A gated model in a common folder would be everybody's; a store of one's own, poison."""
    token = {"hub": {"revision": COMMIT, "tokenSecretRef": {"name": "hf"}}}
    scopes = {
        "public": read(NODE_CACHE, **TOLD),
        "gated": read(NODE_CACHE, config=CONFIG, source=token),
        "store": read(NODE_CACHE, source={"s3": {"uri": "s3://models/p"}}),
        "other store": read(
            NODE_CACHE, source={"s3": {"uri": "s3://models/p", "endpoint": "http://x"}}
        ),
    }
    found = {name: one.weights.scope for name, one in scopes.items()}
    assert found["public"] == "public"
    assert found["gated"] == found["store"] == "namespace-default"
    assert found["other store"].startswith("namespace-default-")
    assert len({one.weights_key for one in scopes.values()}) == 4


def test_a_folder_of_a_node_is_written_by_root_without_a_capability():
    """Kubelet makes the folder for root, and no fsGroup applies to it."""
    (fetch,) = pod_of(read(NODE_CACHE, **TOLD))["spec"]["initContainers"]
    assert fetch["securityContext"]["runAsUser"] == 0
    assert fetch["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert fetch["args"][fetch["args"].index("--max-cache-bytes") + 1] == str(500 * 2**30)


def test_a_store_is_read_with_three_keys_of_its_secret_and_no_others():
    """All of a Secret as variables could make the program run anything."""
    s3 = {"uri": "s3://models/p@v2", "region": "eu-west-1", "secretName": "aws"}
    of = read(source={"s3": s3})
    pod = pod_of(of)
    (fetch,) = pod["spec"]["initContainers"]
    found = env(fetch)
    assert found["AWS_REGION"] == "eu-west-1"
    assert found["AWS_ACCESS_KEY_ID"]["secretKeyRef"]["name"] == "aws"
    assert found["AWS_SESSION_TOKEN"]["secretKeyRef"]["optional"] is True
    assert "envFrom" not in fetch
    assert pod["spec"]["volumes"][-1] == {"name": "memroute-weights", "emptyDir": {}}


def test_the_fetcher_goes_out_as_the_engine_would():
    proxy = [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}, {"name": "X", "value": "1"}]
    (fetch,) = pod_of(read(NODE_CACHE, engine={"env": proxy}, **TOLD))["spec"]["initContainers"]
    assert env(fetch)["HTTPS_PROXY"] == "http://proxy:3128"
    assert "X" not in env(fetch)


def test_each_engine_loads_from_the_folder():
    """SGLang by its own flag, llama.cpp the one file, a custom engine by a variable."""
    file = "Qwen3-8B-Q8_0-00001-of-00003.gguf"
    sglang = pod_of(read(NODE_CACHE, engine={"type": "SGLang", "image": "s"}, **TOLD))
    assert flag(engine_container(sglang), "--model-path") == "/model"
    llama = {"type": "LlamaCPP", "image": "l"}
    of = read(NODE_CACHE, engine=llama, file=file, checkpointBytes=10**9, **TOLD)
    pod = pod_of(of)
    assert flag(engine_container(pod), "--model") == f"/model/{file}"
    (fetch,) = pod["spec"]["initContainers"]
    assert fetch["args"][-2:] == ["--file", "Qwen3-8B-Q8_0-?????-of-00003.gguf"]
    custom = {"type": "Custom", "image": "c", "args": ["--weights=$(MEMROUTE_MODEL_PATH)"]}
    assert (
        env(engine_container(pod_of(read(NODE_CACHE, engine=custom, **TOLD))))[
            "MEMROUTE_MODEL_PATH"
        ]
        == "/model"
    )
    bare = read(engine=custom)
    assert engine_of(bare.engine).refusal(bare.obj["spec"]) is None
    assert env(engine_container(pod_of(bare)))["MEMROUTE_MODEL_PATH"] == NAME


# The commit


def test_a_model_of_the_catalogue_is_asked_of_the_hub_for_its_commit_where_it_is_cached():
    """Two replicas that start months apart load the same files."""
    of = read(NODE_CACHE)
    assert (of.failure.reason, str(of.hub_name)) == (COMMIT_UNKNOWN, NAME)
    pinned = read(NODE_CACHE, pin=True)
    assert isinstance(pinned.pin, ModelPin)
    assert pinned.weights.address == f"hf://{NAME}@{COMMIT}"
    assert pinned.hub_name is None


def test_a_described_model_is_asked_for_its_commit_alone():
    of = read(NODE_CACHE, config=CONFIG)
    assert (of.failure.reason, str(of.hub_name)) == (COMMIT_UNKNOWN, NAME)
    assert read(NODE_CACHE, config=CONFIG, pin=True).weights.address.endswith(COMMIT)


def test_weights_from_elsewhere_need_no_commit():
    of = read(NODE_CACHE, source={"s3": {"uri": "s3://models/p"}})
    assert (of.failure, of.hub_name) == (None, None)
    assert not of.is_of_hub


# What restarts, and what does not


def test_another_source_or_place_is_a_rollout_and_another_limit_is_none():
    base = mdep("m", model=NAME)["spec"]

    def of(**model):
        return revision_of(base | {"model": base["model"] | model})

    bare, cached = of(), of(cache={"emptyDir": {}})
    assert bare != cached
    assert of(source={"s3": {"uri": "s3://models/p"}}) != of(
        source={"s3": {"uri": "s3://models/q"}}
    )
    assert of(cache={"emptyDir": {}, "sizeGiB": 9}) == cached
    assert of(source={"hub": {}}) == bare


def test_another_fetch_image_outdates_nobody():
    """What has fetched is done by the time that a replica serves."""
    of = read(NODE_CACHE, **TOLD)
    hashes = {
        Templates(default_image="v", shared_runtime_class=None, fetch_image=image).of(of)
        for image in ("memroute/fetch:1", "memroute/fetch:2")
    }
    assert len(hashes) == 1


def test_settings_of_the_operator_reach_every_deployment():
    """Read with the flags: the cache, its size, and where host paths may be."""
    flags = ["--model-cache-path=/c", "--model-cache-gib=5", "--allowed-host-path=/d"]
    settings = parse_settings(flags).weights
    obj = mdep("m", model=NAME)
    obj["spec"]["model"] |= TOLD
    (of,) = read_deployments(
        [obj], [], [], {}, {}, ReadingCache(), None, {}, settings
    ).wanted  # fmt: skip
    assert (of.weights.cache.host_path, of.weights.cache.max_bytes) == ("/c", 5 * 2**30)
    assert settings.host_paths == ("/d",)
    with pytest.raises(SystemExit):
        parse_settings(["--model-cache-path=relative"])


# Templates


REFUSED_TEMPLATES = {
    "another fetcher": {"initContainers": [{"name": "memroute-fetch", "image": "evil"}]},
    "its environment": {
        "initContainers": [{"name": "memroute-fetch", "env": [{"name": "HF_ENDPOINT"}]}]
    },
    "a sidecar that writes into the cache": {
        "containers": [
            {"name": "x", "image": "i",
             "volumeMounts": [{"name": "memroute-weights", "mountPath": "/x"}]}
        ]
    },
    "another volume in its place": {"volumes": [{"name": "memroute-weights", "emptyDir": {}}]},
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED_TEMPLATES)
def test_a_template_does_not_touch_what_others_load(what):
    assert "others" in refusal({"spec": REFUSED_TEMPLATES[what]})


def test_a_template_gives_the_fetcher_more_memory():
    """Also where nothing is fetched it is no container without an image."""
    more = {"limits": {"memory": "4Gi"}}
    template = {"initContainers": [{"name": "memroute-fetch", "resources": more}]}
    (fetch,) = pod_of(read(NODE_CACHE, template=template, **TOLD))["spec"]["initContainers"]
    assert fetch["resources"]["limits"] == {"memory": "4Gi"}
    assert fetch["image"] == "memroute/fetch:1"
    assert not pod_of(read(template=template))["spec"].get("initContainers")


def test_an_init_container_of_the_template_finds_the_weights_there():
    template = {"initContainers": [{"name": "mine", "image": "i"}]}
    pod = pod_of(read(NODE_CACHE, template=template, **TOLD))
    assert [one["name"] for one in pod["spec"]["initContainers"]] == ["memroute-fetch", "mine"]


# Who uses a cache


@pytest.mark.slow
def test_a_fetcher_is_told_who_uses_the_cache_so_that_it_evicts_nobodys_weights():
    """Pods of the same node and folder, of any namespace; of a claim those of its namespace."""
    of = read(NODE_CACHE, **TOLD)

    def other(uid, *, node="a", namespace="other", **volume):
        there = pod_of(of)
        there["metadata"] |= {"uid": uid, "namespace": namespace}
        there["spec"]["nodeName"] = node
        there["spec"]["volumes"][-1] |= volume
        return there

    pods = [
        other("same"), other("elsewhere", node="b"),
        other("another-folder", hostPath={"path": "/x", "type": "DirectoryOrCreate"}),
        {"metadata": {"uid": "odd"}, "spec": {"volumes": 3}},
    ]  # fmt: skip
    (fetch,) = with_live_pods(pod_of(of), pods, 1.7e9)["spec"]["initContainers"]
    assert env(fetch)["MEMROUTE_LIVE_PODS"] == "same"
    assert env(fetch)["MEMROUTE_LIVE_PODS_AT"] == "1700000000"
    assert env(fetch)["POD_UID"] == {"fieldRef": {"fieldPath": "metadata.uid"}}
    assert with_live_pods(pod_of(read()), pods, 1.0) == pod_of(read())
    many = [other(f"uid-{number}") for number in range(1101)]
    assert with_live_pods(pod_of(of), many, 1.0) == pod_of(of), "half of a list would evict"


def test_who_fetches_adapters_knows_which_pods_are_gone_too():
    """Else nothing of theirs ever left for it, and a full cache refused every adapter."""
    settings = WeightsSettings(cache_path="/var/lib/memroute")
    obj = mdep("m")
    obj["spec"]["adapters"] = [{"name": "sql", "source": {"hub": {"repository": "org/sql"}}}]
    obj["spec"]["model"]["source"] = {"persistentVolumeClaim": {"claimName": "models"}}
    made = pod_of(read_deployment(obj, settings))
    there = copy.deepcopy(made)
    there["metadata"] |= {"uid": "there"}
    there["spec"]["nodeName"] = "a"
    told = with_live_pods(made, [there], 1.7e9)["spec"]["containers"]
    (adapters,) = (one for one in told if one["name"] == "memroute-adapters")
    assert env(adapters)["MEMROUTE_LIVE_PODS"] == "there"


def test_a_model_that_nobody_knows_is_told_to_describe_itself():
    obj = mdep("m", model="org/none")
    obj["spec"]["model"]["source"] = {"persistentVolumeClaim": {"claimName": "w"}}
    of = read_deployment(obj)
    assert (of.failure.reason, of.is_of_hub) == (MODEL_UNKNOWN, False)
