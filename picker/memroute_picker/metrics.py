"""Series of the picker beside the router's: its streams, and who has served other than chosen."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from memroute_picker.grpc.listening import GrpcServer
from memroute_picker.picking.side import PickerCounts


class PickerCollector(Collector):
    """Gauges and counters of the picker process."""

    def __init__(self, counts: PickerCounts, server: GrpcServer) -> None:
        self._counts = counts
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """The families."""
        yield GaugeMetricFamily(
            "memroute_picker_streams",
            "Streams of gateways that are open: a request each.",
            value=self._server.num_calls,
        )
        elsewhere = CounterMetricFamily(
            "memroute_picker_served_elsewhere",
            "Requests that a gateway has sent elsewhere than it was told.",
            labels=("where",),
        )
        elsewhere.add_metric(("another-replica",), self._counts.num_moved)
        elsewhere.add_metric(("no-replica",), self._counts.num_strangers)
        yield elsewhere
        broken = CounterMetricFamily(
            "memroute_picker_streams_broken",
            "Streams that could not be read.",
            labels=("reason",),
        )
        broken.add_metric(("malformed",), self._counts.num_malformed)
        broken.add_metric(("body-mode",), self._counts.num_unsupported)
        yield broken
        yield CounterMetricFamily(
            "memroute_picker_connections_calmed",
            "Connections of gateways that were left because too many streams came to nothing.",
            value=self._server.num_calmed,
        )
        yield CounterMetricFamily(
            "memroute_picker_connections_silent",
            "Connections that were closed because nothing came of their gateways, nor an answer.",
            value=self._server.num_silent,
        )
