"""Alerts about devices, nodes, the operator and the routers."""

from monitoring.alerts import Alert, Severity

_DEVICE = "{{ $labels.node_name }} {{ $labels.device }}"
# Bytes of others on a device from which on it is told: below, it is a monitor or a desktop.
_FOREIGN_BYTES = 1024**3

PLATFORM_ALERTS = (
    Alert(
        name="MemrouteForeignMemory",
        value="memroute_device_foreign_bytes and on (node_name, device) "
        "(memroute_device_reserved_bytes > 0)",
        condition=f"> {_FOREIGN_BYTES}",
        minutes=10,
        severity=Severity.WARNING,
        summary=f"{{{{ $value | humanize1024 }}}}B of {_DEVICE} are used by somebody else",
        meaning="A process that is no replica of ours uses more than 1 GiB of a device that replicas "
        "have.",
        impact="Engines may die of out-of-memory; less can be placed.",
        look="The dashboard *Fleet memory*; `nvidia-smi` on the node.",
        do="Move the process, or taint the node ([share GPUs](../how-to/share-gpus.md)).",
        drill="Fault on the emulated fleet: 20 GiB on a device beside a replica; freed.",
    ),
    Alert(
        name="MemrouteOverbooked",
        value='memroute_condition{type="Overbooked"}',
        condition="== 1",
        minutes=5,
        severity=Severity.CRITICAL,
        summary="A device of {{ $labels.model_namespace }}/{{ $labels.model_deployment }} has more "
        "promised than it has",
        meaning="Replicas on one device were promised more bytes than it has: a pod that was placed by "
        "hand, a device that has shrunk, a second operator.",
        impact="The next long prompt may kill an engine.",
        look="The condition's message names the device and the pods.",
        do="Delete the pod that it names last; another place is found for it.",
        drill="Fault on the emulated fleet: a pod that says it was promised 200 GiB of a device; replaced.",
    ),
    Alert(
        name="MemrouteExporterStale",
        value="memroute_node_metrics_fresh",
        condition="== 0",
        minutes=5,
        severity=Severity.WARNING,
        summary="Nothing is read of the devices of {{ $labels.node_name }}",
        meaning="The node's exporter has not been read of late.",
        impact="Placement there goes by labels and promises alone: others' processes are not seen.",
        look="`memroute_operator_sources_failing{kind=\"exporter\"}` by `trouble`; the exporter's pod on "
        "that node.",
        do="Restart the exporter; let the operator reach its port (NetworkPolicy).",
        drill="Fault on the emulated fleet: an exporter that answers nothing; mended.",
    ),
    Alert(
        name="MemrouteNodeUnreachable",
        value="max(memroute_nodes_unreachable)",
        condition="> 0",
        minutes=2,
        severity=Severity.CRITICAL,
        summary="{{ $value }} node(s) with accelerators do not report",
        meaning="The kubelets of these nodes do not renew their Leases.",
        impact="Their replicas are replaced elsewhere, unless more than half of the nodes are silent.",
        look="`kubectl get nodes`; `memroute_nodes_given_up`, `memroute_node_loss_braked`.",
        do="Mend the node, or delete its Node object once it is off.",
        drill="Fault on the emulated fleet: a node whose machine dies; back again.",
    ),
    Alert(
        name="MemrouteDeviceUnusable",
        value="memroute_device_unusable",
        condition="== 1",
        minutes=30,
        severity=Severity.WARNING,
        summary=f"{_DEVICE} takes no replicas",
        meaning="The device is cordoned, or has reported an error (XID) after which it is not used.",
        impact="One device less.",
        look="Annotations of the node ([describe nodes](../how-to/describe-nodes.md)); its kernel log.",
        do="Reset or replace the device; take the annotation off.",
        drill="Fault on the emulated fleet: a device whose driver reports XID 79; mended.",
    ),
    Alert(
        name="MemrouteOperatorNotLeading",
        value="sum(memroute_operator_leading) or vector(0)",
        condition="< 1",
        minutes=3,
        severity=Severity.CRITICAL,
        summary="No operator leads",
        meaning="No operator that is scraped holds the Lease: nothing is placed, replaced or scaled.",
        impact="What serves goes on serving; whatever fails stays so.",
        look="`kubectl get lease -n memroute-system`; the operators' pods and logs; whether they are "
        "scraped.",
        do="Mend or restart the operator.",
        drill="Fault on the emulated fleet: the operator scaled to 0 and back.",
    ),
    Alert(
        name="MemrouteOperatorNotReconciling",
        value="time() - max(memroute_operator_last_reconcile_timestamp_seconds)",
        condition="> 300",
        minutes=1,
        severity=Severity.CRITICAL,
        summary="The operator has not reconciled for {{ $value | humanizeDuration }}",
        meaning="An idle operator reconciles once a minute; this one has not for five.",
        impact="As above.",
        look="`memroute_operator_reconcile_errors_total`, `memroute_operator_internal_errors_total`, its "
        "log.",
        do="An API server that does not answer: mend that. Else restart the operator, and report it.",
        drill="Series. Five minutes without an API server are longer than a drill may take.",
    ),
    Alert(
        name="MemrouteOperatorRefused",
        value='sum by (action, status) (increase(memroute_operator_failures_total{status!="409"}'
        "[10m]))",
        condition="> 5",
        minutes=5,
        severity=Severity.WARNING,
        summary="The API server refuses {{ $labels.action }} with {{ $labels.status }}",
        meaning="More than five calls of that kind were refused within ten minutes.",
        impact="What they were to do is not done; each is tried again with a growing wait.",
        look="The operator's log; Events and conditions of the ModelDeployments.",
        do="403: a quota or rights ([access](access.md)); 422: Pod Security or a webhook; 0, 500: the "
        "API server.",
        drill="Fault on the emulated fleet: a ResourceQuota without room for any of twelve replicas; deleted.",
    ),
    Alert(
        name="MemrouteConfigRefused",
        value="max by (file) (memroute_router_config_refused) or max by (object) "
        "(memroute_operator_config_refused)",
        condition="== 1",
        minutes=5,
        severity=Severity.WARNING,
        summary="{{ $labels.file }}{{ $labels.object }} is refused",
        meaning="A file of the routers, or a ConfigMap of the operator, cannot be read; the last good "
        "reading stays in force.",
        impact="The latest change is not in force; after a restart there may be no last good reading.",
        look="The log of the router or operator says which line.",
        do="Mend the file.",
        drill="Fault on the emulated fleet: a Secret of keys that is no YAML; mended.",
    ),
    Alert(
        name="MemrouteInternalErrors",
        value="sum by (place) (increase(memroute_router_internal_errors_total[15m])) or "
        "sum by (where) (increase(memroute_operator_internal_errors_total[15m]))",
        condition="> 0",
        minutes=1,
        severity=Severity.WARNING,
        summary="A bug in {{ $labels.place }}{{ $labels.where }}",
        meaning="An exception that nobody expected was caught; one request, object or round has failed "
        "alone.",
        impact="That one thing; more if it repeats.",
        look="The traceback in the log (`internal error`).",
        do="Report it.",
        drill="Series. It takes a bug: what provokes one is mended.",
    ),
    Alert(
        name="MemrouteRouterSlow",
        value="max by (instance) (min_over_time(memroute_router_loop_lag_seconds[5m]))",
        condition="> 0.1",
        minutes=5,
        severity=Severity.WARNING,
        summary="The router {{ $labels.instance }} is late by {{ $value | humanizeDuration }}",
        meaning="The router's event loop has been later than 0.1 s for minutes: its core is full.",
        impact="Every answer through it is late.",
        look="The dashboard *Router*: CPU, requests, tokens; CPU limits (throttling).",
        do="More routers, or no CPU limit.",
        drill="Fault on the emulated fleet: a router that is stopped for two thirds of the time; let go.",
    ),
    Alert(
        name="MemrouteRouterGone",
        value="count(memroute_router_build_info) or vector(0)",
        condition="< 1",
        minutes=2,
        severity=Severity.CRITICAL,
        summary="No router is scraped",
        meaning="No router exports anything: none runs, or none is scraped.",
        impact="Where none runs, no model is reachable.",
        look="The routers' pods; the targets of Prometheus.",
        do="Mend the Deployment, or the scraping "
        "([how](../how-to/watch-with-prometheus.md)).",
        drill="Fault on the emulated fleet: the router scaled to 0 and back.",
    ),
    Alert(
        name="MemroutePeersUnheard",
        value="memroute_router_peers - memroute_router_peers_heard",
        condition="> 0",
        minutes=5,
        severity=Severity.WARNING,
        summary="The router {{ $labels.instance }} does not hear {{ $value }} other(s)",
        meaning="Routers that serve the same replicas do not hear each other.",
        impact="Each sees less of the load: uneven replicas, engines that push back.",
        look="`memroute_router_peer_datagrams_dropped_total` by `reason`; UDP between the pods.",
        do="Open the port of peers; give all routers the same secret "
        "([several routers](../how-to/several-routers.md)).",
        drill="Fault on the emulated fleet: one router of two that is stopped; let go.",
    ),
)  # fmt: skip
"""In the order of the page."""
