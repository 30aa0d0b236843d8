"""Is the CRD installed, and does it have the fields that this program knows?"""

from collections.abc import Iterator
from typing import Any

from memroute_cli.doctor.facts import Facts, Unread, spec_of, status_of
from memroute_cli.doctor.finding import Finding, failed, ok, unknown, warning
from memroute_kube import KubeObject
from memroute_kube.resources import VERSION
from memroute_kube.shapes import listed, mapping

NAME = "crd"
INSTALL = "helm install memroute helm/memroute -n memroute-system --create-namespace"
UPDATE = "helm upgrade with crds.enabled=true, or kubectl apply --server-side -k crds"
# Fields that are named one by one.
MAX_NAMED = 3


def check(facts: Facts) -> Iterator[Finding]:
    """Installed, served, and as this program has it."""
    crd = facts.crd
    if isinstance(crd, Unread):
        yield unknown(NAME, crd.why, crd.next_step)
        return
    if crd is None:
        yield failed(
            NAME, "the CRD modeldeployments.memroute.dev is not installed: memroute is not here",
            INSTALL,
        )  # fmt: skip
        return
    version = _served(crd)
    if version is None:
        yield failed(NAME, f"the CRD does not serve {VERSION}, which this program speaks", UPDATE)
        return
    conditions = [mapping(one) for one in listed(status_of(crd).get("conditions"))]
    refused = [one for one in conditions if one.get("type") == "Established"
               and one.get("status") != "True"]  # fmt: skip
    if refused:
        yield failed(
            NAME, f"the CRD is not established: {refused[0].get('message')}",
            "kubectl describe crd modeldeployments.memroute.dev",
        )  # fmt: skip
        return
    yield _compared(fields_of(version), facts)


def _compared(there: frozenset[str], facts: Facts) -> Finding:
    missing, more = facts.crd_fields - there, there - facts.crd_fields
    release = f"memroute {facts.program_version}"
    if missing:
        return failed(
            NAME,
            f"the CRD is older than {release}: it lacks {_named(missing)}, which are dropped "
            "without a word",
            UPDATE,
        )
    if more:
        return warning(
            NAME, f"the CRD is newer than this {release}: it also has {_named(more)}",
            "take the command line of the release that is installed",
        )  # fmt: skip
    return ok(NAME, f"the CRD is installed and as {release} has it")


def _named(paths: frozenset[str]) -> str:
    # A field says enough for all below it.
    tops = sorted(path for path in paths if path.rpartition(".")[0] not in paths)
    more = len(tops) - MAX_NAMED
    return ", ".join(tops[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _served(crd: KubeObject) -> KubeObject | None:
    versions = [dict(mapping(one)) for one in listed(spec_of(crd).get("versions"))]
    return next((one for one in versions if one.get("name") == VERSION and one.get("served")), None)


def fields_of(version: KubeObject) -> frozenset[str]:
    """Paths of all fields of a version's schema: ``spec.memory.concurrency``."""
    schema = mapping(mapping(version.get("schema")).get("openAPIV3Schema"))
    return frozenset(_paths(schema, ""))


def _paths(schema: Any, path: str) -> Iterator[str]:
    for name, child in mapping(mapping(schema).get("properties")).items():
        here = f"{path}.{name}" if path else name
        yield here
        yield from _paths(child, here)
    for part in ("items", "additionalProperties"):
        if mapping(schema).get(part):
            yield from _paths(mapping(schema)[part], f"{path}[]")
