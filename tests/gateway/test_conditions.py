"""What the gateway says of routes and pools. In brackets: the upstream test of the behaviour."""

from mesh_cluster import APPS, POOLS, pool, rule
from mesh_web import ask, eventually, is_served


def test_a_pool_with_a_picker_is_accepted(routes, accepted):
    """[InferencePoolAccepted]."""
    name, _ = routes(rule("primary"))
    accepted(name, "primary")


def test_a_pool_has_a_status_for_each_gateway_that_refers_to_it(mesh, routes, accepted):
    """[InferencePoolResolvedRefsCondition] and traffic follows: through both, one, none."""
    cluster, first, second = mesh.cluster, mesh.gateway("first"), mesh.gateway("second")
    one, host = routes(rule("primary"))
    other, other_host = routes(rule("primary"), gateway="second")
    accepted(one, "primary")
    accepted(other, "primary", gateway="second")
    for gateway, where in ((first, host), (second, other_host)):
        eventually(lambda g=gateway, w=where: ask(g, w), lambda a: a.pod.startswith("primary"))
    cluster.delete("httproute", APPS, one)
    eventually(lambda: ask(first, host), lambda answer: answer.status == 404)
    mesh.expect(POOLS, "primary", "Accepted", ("True",), gateway="second")
    assert is_served(ask(second, other_host))
    cluster.delete("httproute", APPS, other)
    eventually(lambda: ask(second, other_host), lambda answer: answer.status == 404)
    eventually(lambda: mesh.conditions(POOLS, "primary", "second"), lambda found: not found)


def test_a_pool_whose_picker_is_missing_serves_nothing(mesh, routes):
    """[InferencePoolInvalidEPPService]."""
    mesh.cluster.apply(pool("no-such-picker", app="primary", picker="no-such-service"))
    name, host = routes(rule("no-such-picker"))
    mesh.expect("httproute", name, "Accepted", ("True",))
    mesh.expect(POOLS, "no-such-picker", "ResolvedRefs", ("False",))
    eventually(lambda: ask(mesh.gateway(), host), lambda answer: answer.status >= 500)


def test_a_pool_without_a_picker_says_so_or_is_accepted(mesh, routes):
    """[InferencePoolMissingEPPRef]."""
    mesh.cluster.apply(pool("without-picker", app="primary"))
    name, _ = routes(rule("without-picker"))
    mesh.expect("httproute", name, "Accepted", ("True",))
    mesh.expect(
        POOLS, "without-picker", "Accepted", ("True",), ("False", "EndpointPickerRefMissing")
    )


def test_a_route_to_a_pool_that_is_not_there_says_so(mesh, routes):
    """[HTTPRouteInvalidInferencePoolRef]."""
    name, _ = routes(rule("no-such-pool"))
    mesh.expect("httproute", name, "Accepted", ("True",))
    mesh.expect("httproute", name, "ResolvedRefs", ("False", "BackendNotFound"))
