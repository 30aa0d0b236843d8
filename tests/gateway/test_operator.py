"""Pools that the operator writes, behind Istio's gateway: nothing of them is written by hand.

memroute is as a release installs it; its replicas are simulated engines.
"""

import json
from collections import Counter

import mesh_gateways
import pytest
from mesh_cluster import APPS, POOLS, pool, rule
from mesh_memroute import (
    REPLICA,
    SYSTEM,
    Model,
    Reader,
    Traffic,
    is_picked,
    num_served,
    picker_pods,
    run_nodes,
    written,
)
from mesh_web import ask, eventually, many, prompt

from cluster_support import condition, get_deployment, wait_condition, wait_ready


@pytest.fixture(scope="module")
def reader(mesh):
    """Somebody who had memroute without a picker, and has added it as the page says."""
    run_nodes(mesh.cluster)
    reader = Reader(mesh.cluster)
    reader.apply("install.yaml")
    reader.follow("install-picker.yaml")
    yield reader
    mesh.cluster.kubectl("delete", "mdep", "-A", "--all")


@pytest.fixture
def deployed(mesh, reader, routes):  # noqa: ARG001 - memroute is there
    """Makes ModelDeployments, each with a route of its own; all is gone when the test ends."""
    made = []

    def make(name, **spec):
        model = Model(mesh, name, *routes(rule(name)))
        made.append(model)
        model.write(**spec)
        wait_ready(mesh.cluster, APPS, name)
        eventually(model.ask, is_picked)
        return model

    yield make
    for model in made:
        model.delete()


def test_a_new_user_follows_the_page_word_by_word(mesh, reader):
    """The page's own gateway, its namespaces, its manifests and its commands, in its order.

    Istio would start the gateway's pod; here the test does.
    """
    cluster, name, namespace = mesh.cluster, "inference", "gateways"
    reader.follow("create namespace")
    cluster.apply(mesh_gateways.gateway_service(name, namespace))
    mesh.start_gateway(mesh_gateways.gateway(cluster, name, namespace))
    reader.follow("-f gateway.yaml -f chat.yaml")

    def asked():
        try:
            return reader.follow("GATEWAY=")
        except AssertionError as error:  # Envoy is told of the route a moment after it is accepted
            return f"curl fails: {error}"

    told = eventually(asked, lambda text: "HTTP/1.1 200 OK" in text)
    if REPLICA not in told:
        # What the page says of a gateway's first pool: until another route is applied.
        again = {"metadata": {"name": "again", "namespace": "models"}}
        cluster.apply({**cluster.read("httproute", "models", "chat"), **again, "status": {}})
        told = eventually(asked, lambda text: REPLICA in text)
    assert '"accepted":"True","gateway":"gateways/inference","resolvedRefs":"True"' in told
    assert "HTTP/1.1 200 OK" in told
    assert '"chat.completion"' in told
    assert condition(cluster, "models", "chat", "GatewayNotReady")["status"] is None


def test_a_request_is_answered_by_the_replica_that_the_picker_chose(mesh, deployed):
    """By the engines' own counts; and the operator tells what the gateway says of the pool."""
    model = deployed("picked", replicas=2)
    pods = model.pods()
    before = {name: num_served(address) for name, address in pods.items()}
    chosen = Counter()
    while len(chosen) < 2 or chosen.total() < 20:
        answer = model.ask()
        assert is_picked(answer)
        chosen[answer.headers[REPLICA].rpartition("/")[2]] += 1
    # An engine counts what it has answered, a moment later.
    eventually(
        lambda: {name: num_served(address) - before[name] for name, address in pods.items()},
        lambda counts: counts == chosen,
    )
    told = eventually(lambda: model.status["gateway"], lambda found: "parents" in found)
    assert told == {
        "pool": "picked", "service": "picker-picked",
        "parents": [{"gateway": "infra/first", "accepted": "True", "resolvedRefs": "True"}],
    }  # fmt: skip
    assert condition(mesh.cluster, APPS, "picked", "GatewayNotReady")["status"] is None


def test_scaling_is_followed_and_no_request_fails(deployed):
    """A replica that comes gets its share; one that goes is asked no more before it ends."""
    model = deployed("scaled", replicas=1)
    (first,) = model.pods()
    with Traffic(model) as traffic:
        model.scale(2)
        both = eventually(
            lambda: {one.headers.get(REPLICA, "") for one in traffic.answers[-10:]},
            lambda found: len(found) == 2,
        )
        assert {name.rpartition("/")[2] for name in both} == set(model.pods())
        model.scale(1)
        (left,) = eventually(model.pods, lambda found: len(found) == 1)
        num_answers = len(traffic.answers)
        eventually(lambda: len(traffic.answers), lambda count: count >= num_answers + 20)
    assert Counter(one.status for one in traffic.answers).keys() == {200}
    last = {one.headers[REPLICA].rpartition("/")[2] for one in traffic.answers[-10:]}
    assert last == {left}
    assert left == first


def test_without_its_modeldeployment_a_route_is_answered_with_an_error(mesh, deployed):
    """A backend that is not there is a 5xx by the Gateway API; nobody waits for it."""
    model = deployed("deleted")
    mesh.cluster.kubectl("delete", "mdep", "deleted", "-n", APPS)
    eventually(lambda: written(mesh.cluster, "deleted"), lambda found: not found)
    many(lambda: model.ask().status, lambda status: 500 <= status < 600, count=5)
    mesh.expect("httproute", model.route, "ResolvedRefs", ("False", "BackendNotFound"))


def drifts(name):
    """What somebody does to what the operator wrote: resource, name, and the change or None."""
    return [
        (POOLS, name, {"spec": {"targetPorts": [{"number": 8123}]}}),
        (POOLS, name, {"spec": {"selector": {"matchLabels": {"app": "primary"}}}}),
        (POOLS, name, {"spec": {"endpointPickerRef": {"name": "somebody"}}}),
        ("services", f"picker-{name}", {"spec": {"selector": {"app": "primary"}}}),
        ("services", f"picker-{name}", {"spec": {"ports": [{"name": "grpc", "port": 9999}]}}),
        ("endpointslices", f"picker-{name}-ipv4", {"endpoints": [{"addresses": ["10.9.9.9"]}]}),
        ("services", f"picker-{name}", None),
        ("endpointslices", f"picker-{name}-ipv4", None),
        (POOLS, name, None),
    ]


def test_what_somebody_changes_or_deletes_is_put_right_and_requests_go_on(mesh, deployed):
    """Whatever it was, the picker is asked again soon, and by the pool as it was."""
    model, cluster = deployed("drifting"), mesh.cluster
    whole = eventually(lambda: written(cluster, "drifting"), lambda found: len(found) == 3)

    def specs():
        if written(cluster, "drifting") != whole:
            return None
        found = {each: cluster.read(each[0], APPS, each[1]) for each in whole}
        return {
            each: [obj.get("spec", {}).get(part) for part in ("targetPorts", "selector",
                   "endpointPickerRef", "ports")] + [obj.get("endpoints")]
            for each, obj in found.items()
        }  # fmt: skip

    before = specs()
    for resource, name, change in drifts("drifting"):
        uid = cluster.read(resource, APPS, name)["metadata"]["uid"]
        if change is None:
            cluster.kubectl("delete", resource, name, "-n", APPS)
            eventually(specs, lambda found: found == before)
            assert cluster.read(resource, APPS, name)["metadata"]["uid"] != uid
        else:
            patch = json.dumps(change)
            cluster.kubectl("patch", resource, name, "-n", APPS, "--type=merge", "-p", patch)
            eventually(specs, lambda found: found == before)
        eventually(model.ask, is_picked)
    many(model.ask, is_picked)


def test_two_models_behind_one_gateway_have_a_pool_each(deployed):
    """By their routes; the model of one is not to be had at the other."""
    left, right = deployed("left-hand"), deployed("right-hand")
    for model in (left, right):
        (pod,) = model.pods()
        replicas = {model.ask().headers[REPLICA].rpartition("/")[2] for _ in range(10)}
        assert replicas == {pod}
    for model, other in ((left, right), (right, left)):
        answer = model.ask(model=other.served)
        assert (answer.status, answer.headers["x-memroute-reason"]) == (404, "unknown-model")
    assert left.ask(model="nobodys").status == 404


def test_a_picker_that_is_elsewhere_is_found_again(mesh, deployed):
    """Its pod's address is in slices that the operator writes: nothing else tells the gateway."""
    model, cluster = deployed("moving"), mesh.cluster
    before = picker_pods(cluster)
    cluster.kubectl("delete", "pod", "-n", SYSTEM, "-l", "app.kubernetes.io/component=picker")
    eventually(lambda: picker_pods(cluster), lambda found: found and not found.keys() & before)
    eventually(model.ask, is_picked)
    (address,) = picker_pods(cluster).values()
    assert address not in before.values()

    def led_to():
        endpoints = cluster.read("endpointslices", APPS, "picker-moving-ipv4")["endpoints"]
        return [each for one in endpoints or () for each in one["addresses"]]

    # The one that goes serves on until it has gone: the first answer may have been by it.
    eventually(led_to, lambda found: found == [address])
    many(model.ask, is_picked)


def test_requests_go_on_without_an_operator_which_puts_right_what_was_done_meanwhile(
    mesh, deployed
):
    """It is needed to change, not to serve.

    A selector that somebody has put on a Service has Kubernetes write a slice of its own, which
    it leaves there when the selector goes: to pods that are no picker.
    """
    model, cluster = deployed("alone"), mesh.cluster
    service, operator = "picker-alone", ("deployment/memroute-operator", "-n", SYSTEM)

    def slices():
        label = f"kubernetes.io/service-name={service}"
        found = cluster.get("endpointslices", "-n", APPS, "-l", label)
        return {one["metadata"]["name"] for one in found}

    cluster.kubectl("scale", *operator, "--replicas=0")
    try:
        cluster.kubectl("wait", "pod", "-n", SYSTEM, "--for=delete", "--timeout=240s",
                        "-l", "app.kubernetes.io/component=operator")  # fmt: skip
        assert all(is_picked(model.ask()) for _ in range(20))
        selector = json.dumps({"spec": {"selector": {"app": "primary"}}})
        cluster.kubectl("patch", "service", service, "-n", APPS, "-p", selector)
        eventually(slices, lambda found: len(found) == 2)
    finally:
        cluster.kubectl("scale", *operator, "--replicas=1")
        cluster.kubectl("rollout", "status", *operator, "--timeout=240s")
    eventually(slices, lambda found: found == {f"{service}-ipv4"})
    eventually(
        lambda: cluster.read("service", APPS, service)["spec"], lambda spec: "selector" not in spec
    )
    # Until Istio has told Envoy, every other request still goes to the strange slice.
    many(model.ask, is_picked)


@pytest.mark.usefixtures("reader")
def test_engines_of_ones_own_are_served_by_the_installed_picker(mesh, routes):
    """Their pool is labelled, and names a Service that is not there: the operator writes it."""
    cluster, name = mesh.cluster, "labelled"
    labelled = pool(name, app="primary", picker=f"{name}-picker")
    labelled["metadata"]["labels"] = {"memroute.dev/picker": "serve"}
    cluster.apply(labelled)
    _, host = routes(rule(name))

    def asked():
        return ask(mesh.gateway(), host, body=prompt(), x_memroute_explain="1")

    answer = eventually(asked, is_picked)
    assert answer.pod in {pod.name for pod in mesh.of("primary")}
    cluster.delete(POOLS, APPS, name)
    eventually(lambda: asked().status, lambda status: status >= 500)


def test_the_picker_is_taken_away_as_the_page_says(mesh, reader, deployed):
    """The last of these tests. Whoever still asks for a pool is told that there is no picker."""
    model, cluster = deployed("last"), mesh.cluster
    model.write(routing={})
    eventually(lambda: written(cluster, "last"), lambda found: not found)
    reader.apply("install.yaml")
    reader.follow("clusterrole,clusterrolebinding")
    assert "picker" not in cluster.kubectl("get", "deploy,svc,sa", "-n", SYSTEM, "-o", "name")
    wait_ready(cluster, APPS, "last")
    model.write()
    wait_condition(cluster, APPS, "last", "GatewayNotReady", "PickerNotInstalled")
    assert get_deployment(cluster, APPS, "last")["status"]["replicas"] == 1
