"""Fleet memory: where the HBM of every device is."""

from dataclasses import replace

from monitoring.panels import Dashboard, Row, Unit, Variable, lines, number, table

_NODE = 'node_name=~"$node_name"'
_BY_DEVICE = "sum by (node_name, device, product)"
_DEVICE = "{{node_name}} {{device}}"


def _purpose(purpose: str) -> str:
    selector = f'{_NODE},purpose="{purpose}"'
    return f"{_BY_DEVICE} (memroute_device_reserved_by_purpose_bytes{{{selector}}})"


def _device(name: str) -> str:
    return f"{_BY_DEVICE} (memroute_device_{name}_bytes{{{_NODE}}})"


def _all(name: str) -> str:
    return f"sum(memroute_device_{name}_bytes{{{_NODE}}})"


FLEET = Dashboard(
    uid="memroute-fleet",
    title="memroute / Fleet memory",
    description="Bytes of every device: what they are promised for, what is observed, and whose.",
    variables=(
        Variable(
            name="node_name",
            label="node",
            query="label_values(memroute_device_usable_bytes, node_name)",
        ),
    ),
    rows=(
        Row(
            title="The fleet",
            panels=(
                number("Devices", "Devices that the operator knows.", Unit.COUNT,
                       f"count(memroute_device_usable_bytes{{{_NODE}}})"),
                number("Usable", "HBM that processes can use.", Unit.BYTES, _all("usable")),
                number("Promised", "HBM promised to replicas.", Unit.BYTES, _all("reserved")),
                number("Observed", "HBM in use, as exporters read it.", Unit.BYTES,
                       _all("observed")),
                number("Foreign", "In use beyond what our replicas explain.", Unit.BYTES,
                       _all("foreign")),
                number("Free", "HBM that may still be promised.", Unit.BYTES, _all("free")),
            ),
        ),
        Row(
            title="Device by device",
            panels=(
                table(
                    "HBM of every device",
                    "Weights, KV cache and overhead add up to what is promised, unless a replica "
                    "cannot be read. Foreign above 0 is somebody else's process.",
                    Unit.BYTES,
                    (_device("usable"), "usable"),
                    (_purpose("weights"), "weights"),
                    (_purpose("kv-cache"), "KV cache"),
                    (_purpose("overhead"), "overhead"),
                    (_device("reserved"), "promised"),
                    (_device("observed"), "observed"),
                    (_device("foreign"), "foreign"),
                    (_device("free"), "free"),
                ),
                replace(
                    lines(
                        "What the fleet's HBM is promised for",
                        "Stacked: the rest of usable is free or foreign.",
                        Unit.BYTES,
                        (f"sum by (purpose) (memroute_device_reserved_by_purpose_bytes{{{_NODE}}})",
                         "{{purpose}}"),
                    ),
                    is_stacked=True,
                ),
                replace(
                    lines(
                        "Promised share",
                        "1 is full: nothing more fits on the device.",
                        Unit.RATIO,
                        ((f"memroute_device_reserved_bytes{{{_NODE}}} / "
                         "on (node_name, device, product) memroute_device_usable_bytes"), _DEVICE),
                    ),
                    max_value=1,
                ),
                lines(
                    "Foreign",
                    "Bytes that no replica explains: a notebook, another engine, a leak.",
                    Unit.BYTES,
                    (f"memroute_device_foreign_bytes{{{_NODE}}}", _DEVICE),
                ),
                lines(
                    "Who holds what",
                    "Bytes promised to each replica, on each of its devices.",
                    Unit.BYTES,
                    (f"memroute_replica_reserved_bytes{{{_NODE}}}",
                     "{{node_name}} {{device}} {{model_namespace}}/{{replica}}"),
                ),
                lines(
                    "Promised minus observed",
                    "Above 0: promised and not used yet. Below 0: a footprint that is too small, "
                    "or a foreign process.",
                    Unit.BYTES,
                    ((f"memroute_device_reserved_bytes{{{_NODE}}} - "
                     "on (node_name, device, product) memroute_device_observed_bytes"), _DEVICE),
                ),
                lines(
                    "Free for the next replica",
                    "0 everywhere: the next one waits.",
                    Unit.BYTES,
                    (f"memroute_device_free_bytes{{{_NODE}}}", _DEVICE),
                ),
            ),
        ),
        Row(
            title="Namespaces and nodes",
            panels=(
                lines(
                    "HBM by namespace",
                    "Beside the quota, where an administrator has set one.",
                    Unit.BYTES,
                    ("memroute_namespace_reserved_bytes", "{{model_namespace}} promised"),
                    ("memroute_namespace_quota_bytes", "{{model_namespace}} quota"),
                ),
                lines(
                    "Nodes",
                    "Nodes that may take replicas, whose exporter is read, that are silent.",
                    Unit.COUNT,
                    (f"sum(memroute_node_usable{{{_NODE}}})", "usable"),
                    (f"sum(memroute_node_metrics_fresh{{{_NODE}}})", "exporter fresh"),
                    ("memroute_nodes_unreachable", "unreachable"),
                    (f"sum(memroute_device_unusable{{{_NODE}}})", "devices out of use"),
                ),
                lines(
                    "Age of readings",
                    "How old what the exporter says is, at most.",
                    Unit.SECONDS,
                    (f"max by (node_name) (memroute_device_reading_age_seconds{{{_NODE}}})",
                     "{{node_name}}"),
                ),
            ),
        ),
    ),
)  # fmt: skip
"""The dashboard."""
