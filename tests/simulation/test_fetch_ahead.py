"""Fetching ahead: weights and image are on the node before a replica leaves for its successor."""

import copy
import random

import pytest

from ahead_cluster import DONE, FETCH_SECONDS, FETCHING, PULLED, AheadCluster, failed_fetch
from memroute_fetch.failures import ExitCode
from memroute_kube.resources import LABEL_DEPLOYMENT, LABEL_REPLICA
from memroute_operator.ahead.facts import BEGIN_SECONDS, MAX_TRIES
from memroute_operator.plan import Create, FetchAhead, MarkDraining
from memroute_operator.replicas.pods import read_pods
from memroute_operator.store.projections import POD_PROJECTION
from memroute_operator.weights.book import learned
from memroute_operator.weights.container import LABEL_AHEAD
from memroute_operator.weights.pod import live_users
from memroute_operator.weights.reports import find_fetching

NAME = "m"
# Of 80 GiB: two of them do not fit beside each other.
WIDE = 20


def full_cluster(*, replicas=1, num_nodes=1, **rollout):
    """A model that serves on every device there is, before its commit is edited."""
    cluster = AheadCluster(num_nodes=num_nodes)
    cluster.add_deployment(NAME, concurrency=WIDE, replicas=replicas)
    cluster.edit(NAME, rollout=rollout)
    cluster.load(NAME, 1)
    settle(cluster)
    assert len(cluster.serving(NAME)) == replicas
    cluster.cold_starts.clear()
    return cluster


def pass_time(cluster, seconds):
    """Let time pass, a step of the operator each two seconds."""
    (planner,) = cluster.planners
    steps = []
    for _ in range(int(seconds // 2)):
        cluster.advance(2)
        cluster.sync(planner)
        steps.append(cluster.reconcile(planner))
    return steps


def settle(cluster):
    return pass_time(cluster, 2 * FETCH_SECONDS + 240)


def phase_of(cluster):
    return cluster.status[NAME]["rollout"]["phase"]


def message_of(cluster):
    return cluster.status[NAME]["rollout"]["message"]


def test_the_old_replica_serves_while_the_weights_of_its_successor_come():
    """140 GB take half an hour: it leaves when they are there, and its successor reads none."""
    cluster = full_cluster()
    (old,) = cluster.serving(NAME)
    cluster.load(NAME, 2)
    pass_time(cluster, FETCH_SECONDS - 10)
    assert [one.uid for one in cluster.serving(NAME)] == [old.uid]
    assert phase_of(cluster) == "FetchingAhead"
    assert "Fetching ahead begins on n0; " in message_of(cluster)
    assert f"{old.pod_name} serves meanwhile" in message_of(cluster)
    assert len(cluster.aheads) == 1
    settle(cluster)
    (new,) = cluster.serving(NAME)
    assert new.revision != old.revision
    assert cluster.cold_starts == []
    assert cluster.aheads == {}, "what went ahead is cleaned up"
    assert phase_of(cluster) == "Complete"


def test_a_surge_needs_nobody_to_go_ahead():
    """The old replica serves anyway until its successor does."""
    cluster = full_cluster(num_nodes=2)
    cluster.load(NAME, 2)
    steps = settle(cluster)
    assert not any(isinstance(a, FetchAhead) for step in steps for a in step.actions)
    assert len(cluster.serving(NAME)) == 1


def test_nothing_goes_ahead_where_the_node_has_all_that_is_needed():
    """An edit of the concurrency needs other flags, and no other byte."""
    cluster = full_cluster()
    cluster.edit(NAME, concurrency=WIDE - 1)
    steps = settle(cluster)
    assert not any(isinstance(a, FetchAhead) for step in steps for a in step.actions)
    assert phase_of(cluster) == "Complete"


def test_another_image_goes_ahead_without_weights():
    """Ten gigabytes of an engine's image are a gap too. It needs no fetcher and no volume."""
    cluster = full_cluster()
    cluster.deployments[NAME]["spec"]["engine"]["image"] = "vllm/y"
    cluster.deployments[NAME]["metadata"]["generation"] += 1
    pass_time(cluster, 10)
    (pod,) = cluster.aheads.values()
    (container,) = pod["spec"]["containers"]
    assert (container["image"], container["command"]) == ("vllm/y", ["true"])
    settle(cluster)
    assert phase_of(cluster) == "Complete"


def test_a_spec_may_ask_for_none():
    cluster = full_cluster(fetchAhead=False)
    cluster.load(NAME, 2)
    settle(cluster)
    assert cluster.num_made == 0
    assert len(cluster.cold_starts) == 1


@pytest.mark.parametrize("on_failure", ["Return", "Halt"])
def test_weights_that_cannot_be_had_fail_the_revision_and_nobody_leaves(on_failure):
    """A typing error in a commit, or a gate of a hub, must not cost the model that serves."""
    cluster = full_cluster(onFailure=on_failure)
    (old,) = cluster.serving(NAME)
    cluster.failures = failed_fetch(ExitCode.NOT_FOUND, MAX_TRIES - 1, "no such commit")
    cluster.load(NAME, 2)
    steps = settle(cluster)
    assert not any(isinstance(a, MarkDraining) for step in steps for a in step.actions)
    assert [one.uid for one in cluster.serving(NAME)] == [old.uid]
    assert phase_of(cluster) == ("Returned" if on_failure == "Return" else "Halted")
    failed = cluster.status[NAME]["rollout"]["failed"]
    assert failed["reason"] == "WeightsNotFound"
    assert "fetching ahead on n0 (m-" in failed["message"]
    assert f"({MAX_TRIES} tries)" in failed["message"]
    assert cluster.aheads == {}
    # Mended, and told so.
    cluster.failures = None
    cluster.edit(NAME, rollout={"retry": 1})
    settle(cluster)
    assert phase_of(cluster) == "Complete"
    assert cluster.cold_starts == []


def test_a_source_that_breaks_once_is_tried_again():
    cluster = full_cluster()
    cluster.failures = failed_fetch(ExitCode.NO_NETWORK, 1, "connection reset")
    cluster.load(NAME, 2)
    pass_time(cluster, 60)
    assert phase_of(cluster) == "FetchingAhead"
    assert "fails, and is tried again" in message_of(cluster)
    cluster.failures = None
    settle(cluster)
    assert phase_of(cluster) == "Complete"


def test_a_pod_that_the_api_server_refuses_is_done_without_and_told():
    """A quota must not hold a rollout for ever: the replica's own pod gives its place free."""
    cluster = full_cluster()
    cluster.refuses = "exceeded quota: pods, requested: pods=1, used: pods=1, limited: pods=1"
    cluster.load(NAME, 2)
    steps = settle(cluster)
    told = [step.outcomes["default/m"].rollout or "" for step in steps]
    assert any("nothing goes ahead of it: exceeded quota" in one for one in told)
    assert phase_of(cluster) == "Complete"


def test_a_pod_that_does_not_begin_is_not_waited_for_for_ever():
    """No CPU for it, or a volume that only one pod may have."""
    cluster = full_cluster()
    cluster.is_full = True
    cluster.load(NAME, 2)
    pass_time(cluster, BEGIN_SECONDS - 20)
    assert len(cluster.serving(NAME)) == 1
    assert phase_of(cluster) == "FetchingAhead"
    settle(cluster)
    assert phase_of(cluster) == "Complete"
    assert cluster.aheads == {}


@pytest.mark.parametrize("why", ["late", "refused", "deleted"])
def test_a_restart_calls_nobody_back_who_has_begun_to_leave(why):
    """Why it was let go is known to no operator any more; it drained, served, and drained again."""
    cluster = full_cluster()
    (planner,) = cluster.planners
    cluster.load(NAME, 2)
    if why == "refused":
        cluster.refuses = "exceeded quota: pods"
    cluster.is_full = why == "late"
    # Its last answer takes long.
    cluster.routers_up = False
    for _ in range(int(BEGIN_SECONDS)):
        pass_time(cluster, 2)
        if any(one.is_draining for one in cluster.replicas()):
            break
    (leaving,) = [one for one in cluster.replicas() if one.is_draining]
    if why == "deleted":
        cluster.aheads.clear()
    cluster.refused.clear()  # of memory alone, as its back-off is
    cluster.restart(planner)
    for step in pass_time(cluster, 20):
        assert not any(isinstance(one, MarkDraining) for one in step.actions)
        assert not any(isinstance(one, FetchAhead) for one in step.actions)
    assert [one.is_draining for one in cluster.replicas() if one.uid == leaving.uid] == [True]
    cluster.routers_up = True
    settle(cluster)
    assert phase_of(cluster) == "Complete"


def test_who_leaves_for_one_successor_is_called_back_for_another_that_lacks_its_weights():
    """The edit came while it drained: 140 GB would come while nobody serves."""
    cluster = full_cluster()
    cluster.load(NAME, 2)
    cluster.routers_up = False
    for _ in range(200):
        pass_time(cluster, 2)
        if any(one.is_draining for one in cluster.replicas()):
            break
    cluster.load(NAME, 3)
    pass_time(cluster, 10)
    assert not any(one.is_draining for one in cluster.replicas())
    assert all(one.drains_for is None for one in cluster.replicas())
    cluster.routers_up = True
    settle(cluster)
    assert phase_of(cluster) == "Complete"
    assert cluster.cold_starts == []


def test_an_edit_ends_what_nobody_waits_for_any_more():
    cluster = full_cluster()
    cluster.load(NAME, 2)
    pass_time(cluster, 20)
    (first,) = cluster.aheads
    cluster.load(NAME, 3)
    pass_time(cluster, 20)
    (second,) = cluster.aheads
    assert first != second
    cluster.load(NAME, 1)  # edited back
    pass_time(cluster, 20)
    assert cluster.aheads == {}
    assert phase_of(cluster) == "Complete"


def test_a_deleted_model_leaves_nothing_behind():
    cluster = full_cluster()
    cluster.load(NAME, 2)
    pass_time(cluster, 20)
    del cluster.deployments[NAME]
    pass_time(cluster, 60)
    assert cluster.aheads == {}
    assert cluster.pods == {}


def test_a_paused_model_is_left_as_it_is_and_goes_on_later():
    cluster = full_cluster()
    cluster.load(NAME, 2)
    pass_time(cluster, 20)
    before = dict(cluster.aheads)
    cluster.deployments[NAME]["spec"]["paused"] = True
    cluster.deployments[NAME]["metadata"]["generation"] += 1
    steps = pass_time(cluster, 40)
    assert all(step.actions == [] for step in steps)
    assert cluster.aheads.keys() == before.keys()
    cluster.deployments[NAME]["spec"]["paused"] = False
    cluster.deployments[NAME]["metadata"]["generation"] += 1
    settle(cluster)
    assert phase_of(cluster) == "Complete"
    assert cluster.num_made == 1


def test_a_node_that_is_cordoned_meanwhile_holds_nothing_up():
    """Its replica stays there, as ever, and so does the rollout: nobody fetches for nothing."""
    cluster = full_cluster()
    cluster.load(NAME, 2)
    pass_time(cluster, 20)
    cluster.nodes["n0"].add("cordoned")
    pass_time(cluster, 60)
    assert len(cluster.serving(NAME)) == 1
    cluster.nodes["n0"].discard("cordoned")
    settle(cluster)
    assert phase_of(cluster) == "Complete"
    assert cluster.cold_starts == []


@pytest.mark.parametrize("seed", range(6))
def test_no_history_makes_two_or_leaves_one_or_loses_the_model(seed):
    """Operators killed in the midst of a step, edits, failures that end: it comes right, each time.

    While weights come, somebody serves; no node has two pods ahead of one model.
    """
    rng = random.Random(seed)
    cluster = full_cluster(replicas=2, num_nodes=2)
    (planner,) = cluster.planners
    for round_number in range(3):
        while sum(not one.is_terminating for one in cluster.replicas()) < 2:
            pass_time(cluster, 2)  # one that is missing when the spec is edited serves nobody
        cluster.load(NAME, 10 * seed + round_number + 2)
        for _ in range(60):
            cluster.advance(rng.choice([1, 3, 9]))
            if rng.random() < 0.2:
                cluster.restart(planner)
            if rng.random() < 0.05:
                cluster.failures = failed_fetch(ExitCode.NO_NETWORK, 0, "reset")
            if rng.random() < 0.3:
                cluster.failures = None
            if cluster.aheads and rng.random() < 0.02:
                cluster.aheads.pop(rng.choice(sorted(cluster.aheads)))  # somebody deletes it
            cluster.sync(planner)
            cluster.reconcile(planner, only=rng.choice([None, None, 0, 1]))
            places = [one.node for one in cluster.seen_aheads()]
            assert len(places) == len(set(places))
            assert cluster.serving(NAME)
    cluster.failures = None
    for _ in range(3):
        settle(cluster)
    assert phase_of(cluster) == "Complete", message_of(cluster)
    assert len(cluster.serving(NAME)) == 2
    assert cluster.aheads == {}
    assert cluster.cold_starts == []


# The pod


def pod_ahead(**template):
    cluster = AheadCluster(num_nodes=1)
    cluster.add_deployment(NAME, concurrency=WIDE, replicas=1)
    cluster.deployments[NAME]["spec"]["template"] = template
    cluster.load(NAME, 1)
    settle(cluster)
    cluster.load(NAME, 2)
    pass_time(cluster, 10)
    (pod,) = cluster.aheads.values()
    pod = {key: value for key, value in pod.items() if key != "owner"}
    pod["metadata"]["resourceVersion"] = "1"
    return pod


def test_the_pod_is_the_replicas_own_less_all_that_serves():
    """Registries, tolerations, accounts and networks are its owner's; devices are nobody's."""
    pod = pod_ahead(
        metadata={"labels": {"team": "a"}, "annotations": {"net": "x"}},
        spec={
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "serviceAccountName": "loader",
            "imagePullSecrets": [{"name": "registry"}],
            "priorityClassName": "high",
            "containers": [{"name": "sidecar", "image": "busybox"}],
        },
    )
    spec, labels = pod["spec"], pod["metadata"]["labels"]
    assert labels["team"] == "a"
    assert labels[LABEL_AHEAD] == NAME
    assert LABEL_DEPLOYMENT not in labels, "routers and budgets take it for no replica"
    assert LABEL_REPLICA not in labels
    assert pod["metadata"]["annotations"]["net"] == "x"
    assert {"key": "spot", "operator": "Exists"} in spec["tolerations"]
    assert spec["serviceAccountName"] == "loader"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert "priorityClassName" not in spec, "it drives nobody out"
    (engine,) = spec["containers"]
    assert engine["env"] == [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]
    assert not any("/" in name for name in engine["resources"]["limits"])
    (fetch,) = spec["initContainers"]
    assert fetch["args"][0].startswith("s3://models/qwen-2")
    assert spec["restartPolicy"] == "OnFailure"
    assert spec["activeDeadlineSeconds"] >= 3600
    owner = pod["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["controller"]) == ("ModelDeployment", True)


def test_what_it_has_is_counted_and_kept_for_the_successor():
    """Evictions spare it, the book knows it, and no device is anybody's for it."""
    pod = pod_ahead()
    pod["spec"]["nodeName"] = "n0"
    pod["status"] = {"phase": "Running", "initContainerStatuses": [copy.deepcopy(FETCHING)]}
    assert find_fetching([pod]) == [pod]
    pod["status"] |= {
        "initContainerStatuses": [copy.deepcopy(DONE)],
        "containerStatuses": copy.deepcopy(PULLED),
    }
    kept = POD_PROJECTION.project(pod)
    found = read_pods([kept])
    (ahead,) = found.aheads
    assert ahead.is_done
    assert (found.replicas, found.unreadable, found.foreign_devices) == ([], [], {})
    assert learned([ahead]) == {ahead.weights_key: frozenset({"n0"})}
    (volume,) = pod["spec"]["volumes"]
    assert live_users([kept], volume, namespace="other", node="n0") == [ahead.uid]


def test_an_image_without_a_program_true_is_as_much_there():
    """Images without a shell are common; that its container could not be run says that it came."""
    pod = pod_ahead()
    pod["spec"]["nodeName"] = "n0"
    waiting = {"name": "engine", "state": {"waiting": {"reason": "RunContainerError"}}}
    pod["status"] = {
        "phase": "Pending",
        "initContainerStatuses": [copy.deepcopy(DONE)],
        "containerStatuses": [waiting],
    }
    (ahead,) = read_pods([POD_PROJECTION.project(pod)]).aheads
    assert ahead.is_done
    waiting["state"]["waiting"] = {"reason": "ErrImagePull", "message": "not found"}
    (ahead,) = read_pods([POD_PROJECTION.project(pod)]).aheads
    assert not ahead.is_done
    assert ahead.diagnosis is not None


def test_a_full_disk_sends_the_successor_elsewhere():
    """There it would not start either. The old replica serves until another node is found."""
    cluster = full_cluster()
    cluster.failures = failed_fetch(ExitCode.NO_SPACE, 0, "no space")
    cluster.load(NAME, 2)
    steps = pass_time(cluster, 30)
    ends = [a for step in steps for a in step.actions if type(a).__name__ == "EndFetch"]
    assert ends
    assert ends[0].avoid_node
    assert not any(isinstance(a, Create) for step in steps for a in step.actions)
    assert len(cluster.serving(NAME)) == 1


def test_a_pod_that_hangs_in_its_end_holds_nothing_up_for_ever():
    """A kubelet that does not answer, on a node that is not given up: the rollout goes on."""
    cluster = full_cluster()
    cluster.load(NAME, 2)
    pass_time(cluster, 20)
    (pod,) = cluster.aheads.values()
    pod["metadata"]["deletionTimestamp"] = cluster.stamp()
    cluster.failures = FETCHING
    pass_time(cluster, BEGIN_SECONDS - 40)
    assert len(cluster.serving(NAME)) == 1
    steps = pass_time(cluster, 200)
    told = [step.outcomes["default/m"].rollout or "" for step in steps]
    assert any("hangs in Terminating on n0" in one for one in told)
    assert len(cluster.cold_starts) == 1


def test_who_loads_adapters_from_a_cache_uses_it():
    """Its weights may be elsewhere: a fetcher that is not told of it would evict its adapters."""
    volume = {"hostPath": {"path": "/var/cache/models", "type": "DirectoryOrCreate"}}
    pod = {
        "metadata": {
            "namespace": "a", "name": "m-0", "uid": "u", "labels": {LABEL_DEPLOYMENT: "m"},
        },
        "spec": {
            "nodeName": "n0",
            "containers": [{"name": "engine"}],
            "volumes": [{"name": "shm", "emptyDir": {}}, {"name": "memroute-adapters", **volume}],
        },
        "status": {"phase": "Running"},
    }  # fmt: skip
    kept = POD_PROJECTION.project(pod)
    assert live_users([kept], volume, namespace="b", node="n0") == ["u"]
