"""Which pool a request is for. In brackets: the upstream test of the behaviour."""

import pytest
from mesh_cluster import rule
from mesh_web import SELECTION, SERVED, ask, eventually, is_served, prompt


@pytest.mark.parametrize("port", [None, 3000, 8888])
def test_the_port_of_a_route_to_a_pool_does_not_matter(mesh, routes, accepted, port):
    """[InferencePoolHTTPRoutePortValidation]."""
    name, host = routes(rule("primary", port=port))
    accepted(name, "primary")
    answer = eventually(lambda: ask(mesh.gateway(), host, "/any"), is_served)
    assert answer.pod.startswith("primary-")


def test_the_rules_of_a_route_may_have_different_pools(mesh, routes, accepted):
    """[HTTPRouteMultipleRulesDifferentPools]."""
    name, host = routes(rule("primary", path="/one"), rule("secondary", path="/two"))
    accepted(name, "primary", "secondary")
    for path, app in (("/one", "primary"), ("/two", "secondary")):
        answer = eventually(lambda p=path: ask(mesh.gateway(), host, p), is_served)
        assert answer.pod.startswith(f"{app}-")


def test_gateways_may_have_different_pools(mesh, routes, accepted):
    """[HTTPRouteMultipleGatewaysDifferentPools]."""
    for gateway, app in (("first", "primary"), ("second", "secondary")):
        name, host = routes(rule(app), gateway=gateway)
        accepted(name, app, gateway=gateway)
        answer = eventually(lambda g=gateway, h=host: ask(mesh.gateway(g), h), is_served)
        assert answer.pod.startswith(f"{app}-")


@pytest.mark.parametrize(
    ("pool", "app", "port", "protocol"),
    [
        ("http2", "protocols", 3001, "HTTP/2"),
        ("http1", "protocols", 3000, "HTTP/1.1"),
        ("primary", "primary", 3000, "HTTP/1.1"),
    ],
)
def test_a_pool_is_spoken_to_in_its_protocol(mesh, routes, accepted, pool, app, port, protocol):
    """[InferencePoolAppProtocol]: explicit h2c, explicit HTTP/1.1, and none given."""
    name, host = routes(rule(pool))
    accepted(name, pool)
    for pod in mesh.of(app):
        wanted = f"{pod.address}:{port}"
        answer = eventually(
            lambda w=wanted: ask(mesh.gateway(), host, body=prompt(), **{SELECTION: w}), is_served
        )
        assert answer.pod == pod.name
        assert answer.headers[SERVED] == wanted
        assert answer.document["protocol"] == protocol


def test_one_picker_may_serve_several_pools(mesh, routes, accepted):
    """Whose request it is says the Service that the gateway has called: each pool has its own."""
    for name, app in (("left", "primary"), ("right", "secondary")):
        route, host = routes(rule(name))
        accepted(route, name)
        eventually(lambda h=host: ask(mesh.gateway(), h, body=prompt()), is_served)
        # By chance alone one of three is missed by 40 less often than once in a million times.
        answers = [ask(mesh.gateway(), host, body=prompt()) for _ in range(40)]
        assert {answer.pod for answer in answers} == {pod.name for pod in mesh.of(app)}
        assert all(answer.headers[SERVED] for answer in answers)
