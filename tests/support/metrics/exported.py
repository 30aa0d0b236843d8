"""What both programs export, without running them."""

import random
from types import SimpleNamespace

from prometheus_client import CollectorRegistry

from memroute.traffic.admission import QueueLimits
from memroute_operator.metrics import OperatorMetrics
from memroute_picker.metrics import PickerCollector
from memroute_picker.picking.side import PickerCounts
from memroute_router.metrics.exported import RouterMetrics
from memroute_router.replicas.pool_settings import CommonSettings
from memroute_router.replicas.pools import Pools


def router_pools():
    """No pools yet."""
    return Pools(
        random.Random(1),
        common=CommonSettings(queue_limits=QueueLimits()),
        call_soon=lambda *_: None,
        call_later=lambda *_: None,
        on_error=lambda _: None,
    )


class _NoGateways:
    """Where no gateway has come yet."""

    num_calls = num_calmed = num_silent = 0


def picker_metrics():
    """What a picker exports beside a router's."""
    metrics = SimpleNamespace(registry=CollectorRegistry())
    metrics.registry.register(PickerCollector(PickerCounts(), _NoGateways))
    return metrics


def series_names():
    """The names of all series, as a query writes them."""
    found = set()
    for metrics in (OperatorMetrics(), RouterMetrics(router_pools())):
        for family in metrics.registry.collect():
            ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
            found |= {f"{family.name}{end}" for end in ends.get(family.type, ("",))}
    return found
