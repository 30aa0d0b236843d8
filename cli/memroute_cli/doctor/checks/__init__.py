"""The checks, in the order in which they are told: the first that fails explains the others."""

from collections.abc import Callable, Iterator

from memroute_cli.doctor.checks import (
    api,
    crd,
    devices,
    gateways,
    lease,
    lost_devices,
    models,
    namespaces,
    network,
    programs,
    request,
    rights,
    webhooks,
)
from memroute_cli.doctor.facts import Facts, Unread
from memroute_cli.doctor.finding import Finding

Check = Callable[[Facts], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    api.check, crd.check, programs.check, lease.check, rights.check, devices.check,
    lost_devices.check, network.check, gateways.check, namespaces.check, webhooks.check,
    models.check, request.check,
)  # fmt: skip


def all_findings(facts: Facts) -> list[Finding]:
    """What every check has found; where nothing answers, that alone: one reason is enough."""
    if isinstance(facts.server_version, Unread):
        return [*api.check(facts), *request.check(facts)]
    return [finding for check in CHECKS for finding in check(facts)]
