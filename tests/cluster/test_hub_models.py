"""Models that only a hub knows, on a real API server: read by the operator, run by engines."""

import json
import shlex

from cluster_support import apply, get_deployment, pods_of, wait_condition, wait_ready
from fake_hub import GOOD_TOKEN, TINY_CONFIG

MEMORY = {"maxContextTokens": 1024}


def test_a_model_of_the_hub_serves_at_the_commit_that_was_pinned(cluster, namespace, hub):
    """The API server keeps the pin, and two replicas load the same commit."""
    apply(cluster, namespace, "m", model={"name": "org/tiny"}, memory=MEMORY, replicas=2)
    wait_ready(cluster, namespace, "m")
    pinned = get_deployment(cluster, namespace, "m")["status"]["model"]
    commit = hub.repositories["org/tiny"].commit
    assert (pinned["commit"], pinned["revision"], pinned["endpoint"]) == (commit, "main", hub.url)
    assert json.loads(pinned["config"]) == TINY_CONFIG
    own = [path for path in hub.paths if "/org/tiny/" in path]
    assert not any(path.endswith(".safetensors") for path in own)
    for pod in pods_of(cluster, namespace, "m"):
        arguments = pod["spec"]["containers"][0]["args"]
        assert arguments[arguments.index("--revision") + 1] == commit


def test_a_gated_model_says_whose_token_is_missing(cluster, namespace):
    apply(cluster, namespace, "m", model={"name": "org/gated"}, memory=MEMORY)
    found = wait_condition(cluster, namespace, "m", "Resolved", "TokenRequired")
    assert "--hub-token-file" in found["message"]
    assert "tried again in" in found["message"]


def test_a_gated_model_is_read_with_the_token_that_its_namespace_grants(cluster, namespace):
    """The sentence has two commands: pasted, they let the operator read that one Secret."""
    secret = {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub", "namespace": namespace},
        "stringData": {"token": GOOD_TOKEN, "same": GOOD_TOKEN},
    }  # fmt: skip
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(secret))

    def ask(key):
        source = {"hub": {"tokenSecretRef": {"name": "hub", "key": key}}}
        apply(cluster, namespace, "m", model={"name": "org/gated", "source": source}, memory=MEMORY)

    ask("token")
    found = wait_condition(cluster, namespace, "m", "Resolved", "TokenRequired")
    told = found["message"].partition("To let it read that one: ")[2].partition("; tried again")[0]
    for command in told.split(" && "):
        program, *arguments = shlex.split(command)
        assert program == "kubectl"
        cluster.kubectl(*arguments)
    ask("same")  # what waits for a person is tried again in a minute, and an edit at once
    wait_ready(cluster, namespace, "m")


def test_an_edit_of_the_revision_is_asked_of_the_hub(cluster, namespace):
    """What serves goes on while the new revision is not known."""
    model = {"name": "org/tiny"}
    apply(cluster, namespace, "m", model=model, memory=MEMORY)
    wait_ready(cluster, namespace, "m")
    (before,) = pods_of(cluster, namespace, "m")
    wrong = model | {"source": {"hub": {"revision": "v9"}}}
    apply(cluster, namespace, "m", model=wrong, memory=MEMORY)
    found = wait_condition(cluster, namespace, "m", "Resolved", "RevisionNotFound")
    assert "v9" in found["message"]
    assert [p["metadata"]["uid"] for p in pods_of(cluster, namespace, "m")] == [
        before["metadata"]["uid"]
    ]
    right = model | {"source": {"hub": {"revision": "main"}}}
    apply(cluster, namespace, "m", model=right, memory=MEMORY)
    wait_ready(cluster, namespace, "m")
