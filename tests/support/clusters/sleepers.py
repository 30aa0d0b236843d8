"""Models that sleep on one card of the emulated fleet, and a client that waits for them.

Models of 24.7 GiB each on one L40S of 44.4 GiB: no two of them are awake together.
"""

import time

import httpx

from cluster_support import apply, pods_of
from memroute_operator.sleeping.mark import ANNOTATION_SLEEP, MarkedState, read_mark

MODEL = "Qwen/Qwen3-4B"
# A client's patience in seconds: two other models are served before it, each for 30 s at least.
PATIENCE_SECONDS = 600


def deploy(cluster, namespace, name, spec=None, **sleep):
    apply(
        cluster, namespace, name,
        model={"name": MODEL, "servedName": f"{namespace}-{name}"},
        memory={"maxContextTokens": 8192, "concurrency": 12},
        placement={"mode": "Shared", "nodeSelector": {"kubernetes.io/hostname": "gpu-b"}},
        sleep={"afterSeconds": 10} | sleep, **(spec or {}),
    )  # fmt: skip


def ask(router_url, model):
    """One request as a patient client makes it: what is refused with a time is asked again then.

    Returns the number of tries. Raises for whatever else than an answer comes.
    """
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    ends = time.monotonic() + PATIENCE_SECONDS
    tries = 0
    while True:
        tries += 1
        left = max(1.0, ends - time.monotonic())
        answer = httpx.post(
            f"{router_url}/v1/chat/completions", json=body, timeout=left, trust_env=False
        )
        again = answer.headers.get("retry-after")
        if answer.status_code in (429, 503) and again and time.monotonic() < ends:
            time.sleep(min(float(again), 5.0))
            continue
        answer.raise_for_status()
        assert answer.json()["choices"][0]["message"]["content"]
        return tries


def marks(cluster, namespace):
    """State of each model's sleep, as it is written on its pods."""
    found = {}
    for pod in pods_of(cluster, namespace):
        mark = read_mark(pod["metadata"].get("annotations", {}).get(ANNOTATION_SLEEP))
        name = pod["metadata"]["labels"]["memroute.dev/model-deployment"]
        found[name] = MarkedState.AWAKE if mark is None else mark.state
    return found


def wait_asleep(cluster, namespace, name):
    cluster.wait_for(
        f"{name} to sleep",
        lambda: marks(cluster, namespace).get(name) is MarkedState.ASLEEP,
    )
