"""What the API server, and the programs themselves, say of manifests without running them."""

import asyncio
import copy

from memroute_kube import KubernetesClient, Resource
from memroute_operator.settings import parse_settings as parse_operator
from memroute_picker.settings import parse_settings as parse_picker
from memroute_router.settings import parse_settings as parse_router

# What the control plane of the tests does not serve: its CRDs belong to others.
OF_OTHERS = {"HTTPRoute", "PodMonitor", "ServiceMonitor", "PrometheusRule", "GrafanaDashboard"}
PARSERS = {"operator": parse_operator, "router": parse_router, "picker": parse_picker}


def pods_of(objects):
    """Every pod of a chart, by itself."""
    for obj in objects:
        if obj["kind"] == "Pod":
            yield copy.deepcopy(obj)
        elif obj["kind"] == "Deployment":
            template = copy.deepcopy(obj["spec"]["template"])
            template["metadata"]["name"] = obj["metadata"]["name"]
            yield {"apiVersion": "v1", "kind": "Pod", **template}


def resource_of(obj):
    group, _, version = obj["apiVersion"].rpartition("/")
    kind = obj["kind"]
    plural = {"Ingress": "ingresses", "NetworkPolicy": "networkpolicies"}.get(
        kind, f"{kind.lower()}s"
    )
    return Resource(group=group, version=version, plural=plural, kind=kind)


async def dry_runs(cluster, objects, restricted):
    """What the API server refuses of these, strictly; pods as in a restricted namespace."""
    refused = []
    gate = asyncio.Semaphore(16)
    async with await KubernetesClient.from_environment(kubeconfig=cluster.kubeconfig) as client:

        async def ask(file, obj, namespace):
            resource = resource_of(obj)
            path = resource.path(namespace, obj["metadata"]["name"])
            query = {
                "fieldManager": "test", "force": "true", "dryRun": "All",
                "fieldValidation": "Strict",
            }  # fmt: skip
            async with gate:
                try:
                    await client.request(
                        "PATCH", path, body=obj, query=query,
                        content_type="application/apply-patch+yaml",
                    )  # fmt: skip
                except Exception as error:  # noqa: BLE001 - each is told
                    refused.append((file, obj["kind"], obj["metadata"]["name"], str(error)))

        calls = []
        for file, these in objects.items():
            calls += [
                ask(file, obj, obj["metadata"].get("namespace"))
                for obj in these
                if obj["kind"] not in OF_OTHERS
            ]
            for pod in pods_of(these):
                pod["metadata"] |= {"namespace": restricted}
                # Accounts and classes of the chart are not there in a dry run.
                pod["spec"].pop("serviceAccountName", None)
                calls.append(ask(file, pod, restricted))
        await asyncio.gather(*calls)
        return refused, len(calls)


def parsed(program, args):
    """The settings of a program's command line, as it has them in a pod."""
    return PARSERS[program](
        [
            word.replace("$(POD_IP)", "10.0.0.1").replace("$(POD_NAMESPACE)", "default")
            for word in args
        ]
    )
