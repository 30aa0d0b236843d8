"""Is a request answered?"""

from collections.abc import Iterator

from memroute_cli.doctor.facts import ROUTER, Facts, Unread, is_program, name_of
from memroute_cli.doctor.finding import Finding, failed, ok

NAME = "request"
OK_STATUS = 200
UNAUTHORIZED = (401, 403)
NOT_FOUND = 404


def check(facts: Facts) -> Iterator[Finding]:
    """One finding where a request was asked for."""
    request = facts.request
    if request is None:
        return
    if request.status is None:
        yield failed(
            NAME, f"{request.url} does not answer: {request.message}",
            f"kubectl -n {facts.namespace} port-forward svc/{_service(facts)} 8000:80 brings it "
            "to http://localhost:8000, --router names another address",
        )  # fmt: skip
    elif request.status == OK_STATUS:
        by = f" by {request.replica}" if request.replica else ""
        yield ok(NAME, f"{request.model} answered in {request.seconds:.1f} s{by}")
    elif request.status in UNAUTHORIZED:
        yield failed(
            NAME, f"the router refuses the key: {request.message}",
            "give one by --key or MEMROUTE_API_KEY (docs/how-to/give-out-keys.md)",
        )  # fmt: skip
    elif request.status == NOT_FOUND:
        yield failed(
            NAME, f"the router has no model {request.model}: {request.message}",
            f"curl {request.url}/v1/models lists them",
        )  # fmt: skip
    else:
        yield failed(
            NAME, f"the router answered {request.status}: {request.message}",
            "memroute decisions --refused, and docs/how-to/when-it-refuses.md",
        )  # fmt: skip


def _service(facts: Facts) -> str:
    """The Service of the router in the operator's namespace, by the name that it has there."""
    services = () if isinstance(facts.services, Unread) else facts.services
    return next(
        (
            name_of(one) for one in services
            if is_program(one, ROUTER) and one["metadata"].get("namespace") == facts.namespace
        ),
        "memroute-router",
    )  # fmt: skip
