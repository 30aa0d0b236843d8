"""Gateways of the mesh: their objects, Envoy, and that they ask pickers."""

import yaml
from mesh_cluster import CLASS, INFRA, XDS_PORT, MeshCluster, route, rule
from mesh_network import GATEWAY_ADDRESS, PodNetwork
from mesh_pods import Pod, envoy_program, next_address
from mesh_web import SERVED, ask, eventually, is_served

LISTENER_PORT = 80


def expose(cluster: MeshCluster, pod: Pod) -> None:
    """A gateway has its address. It listens once it has a route, which needs that."""
    address = {"loadBalancer": {"ingress": [{"ip": pod.address}]}}
    service = pod.name.replace("-gateway", f"-{CLASS}")
    cluster.status("service", pod.namespace, service, address)


def attach(cluster: MeshCluster, pod: Pod, pool: str, *, host: str | None = None) -> None:
    """A gateway has a pool that stays, and asks its picker.

    Istio puts the filter that asks into a listener only while the gateway has a pool attached,
    and may see the first one too late for the push that it causes: seen in 4 of 25 tries. With
    the next route it sees it.
    ``host``: whom requests are for; None: one of each route's own.
    """
    gateway = pod.name.removesuffix("-gateway")
    for attempt in range(3):
        name = host or f"standing-{attempt}.example.com"
        path = f"/standing-{attempt}"
        standing = route(
            f"standing-{gateway}-{attempt}", gateway, [rule(pool, path=path)], [name],
            namespace=pod.namespace,
        )  # fmt: skip
        cluster.apply(standing)
        if SERVED in eventually(lambda h=name, p=path: _asked(pod, h, p), is_served).headers:
            return
    message = f"the {gateway} gateway asks no picker"
    raise RuntimeError(message)


def _asked(pod: Pod, host: str, path: str):
    """What a gateway answers; None: it does not listen yet."""
    try:
        return ask(pod, host, path)
    except OSError:
        return None


def gateway_object(name: str, namespace: str = INFRA) -> dict:
    """A Gateway that takes routes of all namespaces."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "gatewayClassName": CLASS,
            "listeners": [{
                "name": "http", "port": LISTENER_PORT, "protocol": "HTTP",
                "allowedRoutes": {"namespaces": {"from": "All"}},
            }],
        },
    }  # fmt: skip


def gateway_service(name: str, namespace: str = INFRA) -> dict:
    """The Service of a Gateway's pods: Istio deploys neither without its own images."""
    labels = {"gateway.networking.k8s.io/gateway-name": name}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{name}-{CLASS}", "namespace": namespace, "labels": labels},
        "spec": {
            "type": "LoadBalancer",
            "selector": labels,
            "ports": [{"name": "http", "port": LISTENER_PORT, "targetPort": LISTENER_PORT,
                       "appProtocol": "http"}],
        },
    }  # fmt: skip


def gateway(cluster, name, namespace=INFRA):
    """A pod with Envoy, all of whose configuration is pilot's."""
    address = next_address()
    labels = {"gateway.networking.k8s.io/gateway-name": name}
    path = cluster.directory / f"envoy-{name}.yaml"
    path.write_text(yaml.safe_dump(_bootstrap(name, namespace, address, labels)))
    command = [str(envoy_program()), "-c", str(path), "--concurrency", "1", "-l", "warn",
               "--base-id", address.rpartition(".")[2]]  # fmt: skip
    return Pod(
        cluster=cluster, name=f"{name}-gateway", address=address, labels=labels,
        ports=(LISTENER_PORT,), command=command, namespace=namespace,
        network=PodNetwork(address, cluster.environment),
    )  # fmt: skip


def _bootstrap(name: str, namespace: str, address: str, labels: dict[str, str]) -> dict:
    h2 = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    pilot = {"address": {"socket_address": {"address": GATEWAY_ADDRESS, "port_value": XDS_PORT}}}
    ads = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {
            "id": f"router~{address}~{name}-gateway.{namespace}~{namespace}.svc.cluster.local",
            "cluster": f"{name}.{namespace}",
            "metadata": {
                "NAMESPACE": namespace, "CLUSTER_ID": "Kubernetes", "LABELS": labels,
                "INSTANCE_IPS": address, "ISTIO_VERSION": "1.31.0",
            },
        },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC", "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
            "lds_config": ads,
            "cds_config": ads,
        },
        "static_resources": {"clusters": [{
            "name": "xds-grpc", "type": "STATIC", "connect_timeout": "2s",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": h2, "explicit_http_config": {"http2_protocol_options": {}}}},
            "load_assignment": {"cluster_name": "xds-grpc",
                                "endpoints": [{"lb_endpoints": [{"endpoint": pilot}]}]},
        }]},
        "admin": {"address": {"socket_address": {"address": address, "port_value": 15000}}},
    }  # fmt: skip
