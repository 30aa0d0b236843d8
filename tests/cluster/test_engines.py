"""Other engines on the emulated fleet: placed, started with their own flags, routed to, drained."""

import json

import httpx
import pytest

from cluster_support import (
    ANSWER_SECONDS,
    apply,
    condition,
    fetch,
    get_deployment,
    pod_names,
    pods_of,
    wait_condition,
    wait_ready,
)
from memroute.units import GIB

MODEL = "Qwen/Qwen3-0.6B"
FILE = "Qwen3-0.6B-Q8_0.gguf"
# Bytes of that file: what the simulated llama.cpp makes of its name, and a little more.
FILE_BYTES = int(0.7 * GIB)
ENGINES = {
    "SGLang": {
        "engine": {"type": "SGLang", "image": "lmsysorg/sglang:v0.5.23"},
        "model": {"name": MODEL},
    },
    "LlamaCPP": {
        "engine": {"type": "LlamaCPP", "image": "ggml-org/llama.cpp:server-cuda"},
        "model": {"name": f"{MODEL}-GGUF", "file": FILE, "checkpointBytes": FILE_BYTES},
    },
}
PAGES = {"SGLang": "sglang:", "LlamaCPP": "llamacpp:"}


def spec_of(name, namespace, **more):
    spec = json.loads(json.dumps(ENGINES[name]))
    spec["model"]["servedName"] = namespace
    return spec | more


def ask(router_url, namespace, **more):
    body = {"model": namespace, "messages": [{"role": "user", "content": "hello"}]}
    return httpx.post(
        f"{router_url}/v1/chat/completions",
        json=body | {"max_tokens": 8} | more,
        timeout=ANSWER_SECONDS,
        trust_env=False,
    )


@pytest.mark.parametrize("mode", ["Shared", "Exclusive"])
@pytest.mark.parametrize("engine", ENGINES)
def test_another_engine_is_deployed_and_routed_to(cluster, namespace, router_url, engine, mode):
    """The same ModelDeployment with another word: placed by its own rules, served by the router."""
    apply(cluster, namespace, "m", **spec_of(engine, namespace, placement={"mode": mode}))
    wait_ready(cluster, namespace, "m")
    (pod,) = pods_of(cluster, namespace)
    page = fetch(f"http://{pod['status']['podIP']}:8000/metrics").text
    assert PAGES[engine] in page

    def served():
        answer = ask(router_url, namespace)
        return answer.status_code == 200 and answer

    answer = cluster.wait_for("the router to serve it", served)
    assert answer.json()["choices"][0]["message"]["content"]
    status = get_deployment(cluster, namespace, "m")["status"]
    assert status["kvCapacityTokens"] >= 4 * 8192
    told = int(pod["metadata"]["annotations"]["memroute.dev/kv-capacity-tokens"])
    if engine == "SGLang":
        has = float(page.split("sglang:max_total_num_tokens{")[1].split("} ")[1].split()[0])
        if mode == "Shared":
            assert has == told, "just what was given"
        else:
            assert told <= has <= told * 1.2, "what was not needed for the rest is its own"


def test_two_engines_share_a_device_and_neither_takes_the_others_part(cluster, namespace):
    """SGLang measures what is free: a neighbour must not make its pool smaller or larger."""
    apply(cluster, namespace, "a", model={"name": MODEL, "servedName": f"{namespace}-a"})
    wait_ready(cluster, namespace, "a")
    node = pods_of(cluster, namespace, "a")[0]["spec"]["nodeName"]
    spec = spec_of("SGLang", namespace)
    spec["placement"] = {
        "mode": "Shared", "nodeSelector": {"kubernetes.io/hostname": node},
    }  # fmt: skip
    apply(cluster, namespace, "b", **spec)
    wait_ready(cluster, namespace, "b")
    (pod,) = pods_of(cluster, namespace, "b")
    page = fetch(f"http://{pod['status']['podIP']}:8000/metrics").text
    has = float(page.split("sglang:max_total_num_tokens{")[1].split("} ")[1].split()[0])
    assert has == int(pod["metadata"]["annotations"]["memroute.dev/kv-capacity-tokens"])


def test_llama_cpp_goes_on_with_a_stream_after_its_pod_was_deleted(cluster, namespace, router_url):
    """It would break it off on SIGTERM: the pod's preStop keeps that from it."""
    engine = ENGINES["LlamaCPP"]["engine"] | {"args": ["--simulator-time-scale=3"]}
    apply(cluster, namespace, "m", **spec_of("LlamaCPP", namespace, engine=engine))
    wait_ready(cluster, namespace, "m")
    cluster.wait_for(
        "the router to serve it", lambda: ask(router_url, namespace).status_code == 200
    )
    with httpx.stream(
        "POST", f"{router_url}/v1/chat/completions", timeout=ANSWER_SECONDS, trust_env=False,
        json={
            "model": namespace, "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 600, "stream": True, "ignore_eos": True,
        },
    ) as answer:  # fmt: skip
        lines = answer.iter_lines()
        next(lines)
        cluster.kubectl("delete", "pod", *pod_names(cluster, namespace), "-n", namespace,
                        "--wait=false")  # fmt: skip
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"


def test_any_engine_fits_a_template_of_its_command(cluster, namespace, router_url):
    """Here vLLM's, by its own words: kubelet fills in what was reserved."""
    args = [
        "--model=$(MEMROUTE_MODEL)", "--served-model-name=$(MEMROUTE_SERVED_NAME)",
        "--host=$(MEMROUTE_HOST)", "--port=$(MEMROUTE_PORT)",
        "--max-model-len=$(MEMROUTE_MAX_CONTEXT_TOKENS)",
        "--kv-cache-memory-bytes=$(MEMROUTE_KV_CACHE_BYTES)",
    ]  # fmt: skip
    engine = {"type": "Custom", "image": "vllm/vllm-openai:v1", "args": args, "drainSeconds": 5}
    model = {"name": MODEL, "servedName": namespace}
    apply(cluster, namespace, "m", model=model, engine=engine)
    wait_ready(cluster, namespace, "m")
    cluster.wait_for(
        "the router to serve it", lambda: ask(router_url, namespace).status_code == 200
    )
    (pod,) = pods_of(cluster, namespace)
    page = fetch(f"http://{pod['status']['podIP']}:8000/metrics").text
    env = {one["name"]: one.get("value") for one in pod["spec"]["containers"][0]["env"]}
    assert f'kv_cache_memory_bytes="{env["MEMROUTE_KV_CACHE_BYTES"]}"' in page


def test_a_template_with_a_variable_that_nobody_sets_is_refused(cluster, namespace):
    engine = {"type": "Custom", "image": "i", "args": ["--kv=$(MEMROUTE_KV_BYTES)"]}
    apply(cluster, namespace, "m", engine=engine)
    wait_condition(cluster, namespace, "m", "Ready", "EngineRefuses")
    told = condition(cluster, namespace, "m", "Resolved")["message"]
    assert "$(MEMROUTE_KV_BYTES); memroute sets MEMROUTE_MODEL" in told


def test_a_replica_that_does_not_say_what_it_needs_is_refused_in_words(cluster, namespace):
    """Before an image of gigabytes is pulled for it."""
    apply(cluster, namespace, "m", engine={"type": "SGLang"})
    wait_condition(cluster, namespace, "m", "Ready", "EngineRefuses")
    told = condition(cluster, namespace, "m", "Resolved")["message"]
    assert "spec.engine.image is needed for SGLang" in told


def test_kv_cache_on_the_host_is_taken_from_what_a_node_has_free(cluster, namespace):
    """More than any node has is kept by none: the scheduler's word is told, and an edit mends it.

    4 TiB would be promised and never given if nobody asked kube-scheduler; 16 GiB are requested,
    given to the engine by its flag, and told to routers.
    """
    memory = {"maxContextTokens": 8192, "concurrency": 4, "hostKVCacheGiB": 4096}
    apply(cluster, namespace, "m", model={"name": MODEL}, memory=memory)

    def refused():
        status = get_deployment(cluster, namespace, "m").get("status") or {}
        told = " ".join(one.get("message", "") for one in status.get("conditions", ()))
        return "memory.hostKVCacheGiB" in told and told

    assert "memory" in cluster.wait_for("the scheduler's refusal to be told", refused)
    apply(cluster, namespace, "m", model={"name": MODEL}, memory=memory | {"hostKVCacheGiB": 16})
    wait_ready(cluster, namespace, "m")
    (pod,) = pods_of(cluster, namespace)
    page = fetch(f"http://{pod['status']['podIP']}:8000/metrics").text
    assert 'kv_offloading_size="16.0"' in page
    tokens = int(pod["metadata"]["annotations"]["memroute.dev/host-kv-tokens"])
    assert tokens == 16 * GIB // (114_688 * 16) * 16, "28 layers x 8 heads x 128 x 2 in 16 bit"
