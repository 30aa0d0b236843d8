"""Do requests find the router: its Service, pods behind it, and names of Services?"""

import ipaddress
from collections.abc import Iterator

from memroute_cli.doctor.facts import (
    ROUTER,
    Facts,
    Unread,
    is_program,
    labels_of,
    name_of,
    spec_of,
    status_of,
)
from memroute_cli.doctor.finding import Finding, failed, ok, unknown, warning
from memroute_kube import KubeObject
from memroute_kube.resources import object_key
from memroute_kube.shapes import listed, mapping

SERVICE_LABEL = "kubernetes.io/service-name"
DNS_LABELS = ("k8s-app", "kube-dns")


def check(facts: Facts) -> Iterator[Finding]:
    """The router's Service, then the cluster's DNS."""
    yield from _router(facts)
    yield from _dns(facts)


def _router(facts: Facts) -> Iterator[Finding]:
    routers = facts.programs(ROUTER)
    if isinstance(facts.services, Unread):
        yield unknown("service", facts.services.why, facts.services.next_step)
        return
    if isinstance(routers, Unread) or not routers:
        return
    services = [one for one in facts.services if is_program(one, ROUTER)]
    reached = {one["metadata"].get("namespace") for one in services}
    for router in routers:
        if router["metadata"].get("namespace") not in reached:
            yield warning(
                "service",
                f"no Service leads to the router {object_key(router)}: its address ends with its "
                "pod",
                "set router.service.enabled=true, or make one of your own",
            )
    for service in services:
        ready = ready_endpoints(facts, service)
        key = object_key(service)
        ports = ", ".join(
            str(mapping(p).get("port")) for p in listed(spec_of(service).get("ports"))
        )
        if ready is None:
            yield unknown("service", f"who is behind Service {key} may not be read", _READ_SLICES)
        elif ready == 0 and (emulated := _loopback_addresses(facts, service)):
            yield ok(
                "service", f"an emulated cluster has nobody behind {key}, because no Service leads "
                f"to loopback addresses; its routers have {', '.join(emulated)}",
            )  # fmt: skip
        elif ready == 0:
            yield failed(
                "service", f"no ready pod is behind Service {key}",
                f"kubectl -n {service['metadata'].get('namespace')} get endpointslices,pods "
                "--show-labels: does the selector match the router's pods?",
            )  # fmt: skip
        else:
            host = f"{name_of(service)}.{service['metadata'].get('namespace')}.svc"
            yield ok("service", f"{host}, port {ports}, leads to {ready} router(s)")


_READ_SLICES = "you need list on endpointslices (discovery.k8s.io)"


def _dns(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.services, Unread):
        return
    key, value = DNS_LABELS
    dns = [
        one for one in facts.services
        if labels_of(one).get(key) == value or name_of(one) in ("kube-dns", "coredns")
    ]  # fmt: skip
    if not dns and any(_loopback_addresses(facts, service) for service in facts.services):
        yield ok("dns", "an emulated cluster has no DNS: programs are asked by their addresses")
        return
    if not dns:
        yield warning(
            "dns",
            "no Service of a DNS was found in kube-system: names of Services may not resolve",
            "look for CoreDNS (kubectl -n kube-system get svc,deploy), or use addresses",
        )  # fmt: skip
        return
    ready = ready_endpoints(facts, dns[0])
    if ready == 0:
        yield failed(
            "dns", f"no ready pod is behind {object_key(dns[0])}: no name resolves",
            "kubectl -n kube-system get pods -l k8s-app=kube-dns",
        )  # fmt: skip
    elif ready is None:
        yield unknown("dns", f"who is behind {object_key(dns[0])} may not be read", _READ_SLICES)
    else:
        yield ok("dns", f"{object_key(dns[0])} has {ready} ready pod(s)")


def ready_endpoints(facts: Facts, service: KubeObject) -> int | None:
    """Pods behind a Service that are ready; None where that is not known."""
    if isinstance(facts.endpoint_slices, Unread):
        return None
    namespace, name = service["metadata"].get("namespace"), name_of(service)
    return sum(
        mapping(mapping(endpoint).get("conditions")).get("ready") is not False
        for one in facts.endpoint_slices
        if one["metadata"].get("namespace") == namespace
        and labels_of(one).get(SERVICE_LABEL) == name
        for endpoint in listed(one.get("endpoints"))
    )


def _loopback_addresses(facts: Facts, service: KubeObject) -> list[str]:
    """Of the pods that a Service selects: only an emulated node gives pods loopback addresses."""
    selector = mapping(spec_of(service).get("selector"))
    if isinstance(facts.pods, Unread) or not selector:
        return []
    namespace = service["metadata"].get("namespace")
    addresses = {
        str(status_of(pod).get("podIP") or "")
        for pod in facts.pods
        if pod["metadata"].get("namespace") == namespace
        and selector.items() <= labels_of(pod).items()
    }
    return sorted(filter(_is_loopback, addresses))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
