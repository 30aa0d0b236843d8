"""The operator: its reconciles, its placements, and the API server's answers."""

from monitoring.panels import Dashboard, Row, Unit, lines, number, table

_AT = "{{instance}}"


def _rate(name: str, by: str) -> str:
    return f"sum by ({by}) (rate(memroute_operator_{name}[$__rate_interval]))"


def _quantile(quantile: float, name: str) -> str:
    buckets = f"rate(memroute_operator_{name}_bucket[$__rate_interval])"
    return f"histogram_quantile({quantile}, sum by (instance, le) ({buckets}))"


OPERATOR = Dashboard(
    uid="memroute-operator",
    title="memroute / Operator",
    description="Whether the operator reconciles, what it places, and what is refused to it.",
    rows=(
        Row(
            title="Reconciling",
            panels=(
                number("Leaders", "1: one operator writes.", Unit.COUNT,
                       "sum(memroute_operator_leading)"),
                number("Last good reconcile", "Age; a minute at the most while nothing changes.",
                       Unit.SECONDS,
                       "time() - max(memroute_operator_last_reconcile_timestamp_seconds)"),
                number("Nodes unreachable", "Whose kubelet does not report.", Unit.COUNT,
                       "sum(memroute_nodes_unreachable)"),
                number("Given up", "Whose replicas are replaced elsewhere.", Unit.COUNT,
                       "sum(memroute_nodes_given_up)"),
                number("Loss braked", "1: too many at once, none is given up.", Unit.COUNT,
                       "max(memroute_node_loss_braked)"),
                number("Refused replicas", "Replicas that fit nowhere now.", Unit.COUNT,
                       "sum(memroute_replicas_refused)"),
                lines("Time of a reconcile", "Of everything.", Unit.SECONDS,
                      (_quantile(0.5, "reconcile_seconds"), f"{_AT} p50"),
                      (_quantile(0.99, "reconcile_seconds"), f"{_AT} p99")),
                lines("Lag of the event loop", "Above 5 s the Lease is in danger.", Unit.SECONDS,
                      (_quantile(0.99, "loop_lag_seconds"), f"{_AT} p99")),
                lines("Bugs and errors", "The log has them.", Unit.EVENTS_PER_SECOND,
                      (_rate("internal_errors_total", "instance, where"),
                       f"{_AT} {{{{where}}}}"),
                      (_rate("reconcile_errors_total", "instance"), f"{_AT} API errors"),
                      (_rate("reading_errors_total", "instance"), f"{_AT} readings")),
            ),
        ),
        Row(
            title="Placement",
            panels=(
                lines("Replicas by state", "Anything but Serving for long: describe the mdep.",
                      Unit.COUNT,
                      ("sum by (model_namespace, state) (memroute_replicas)",
                       "{{model_namespace}} {{state}}")),
                lines("Replicas that fit nowhere", "By reason.", Unit.COUNT,
                      (("sum by (model_namespace, model_deployment, reason) "
                       "(memroute_replicas_refused)"),
                       "{{model_namespace}}/{{model_deployment}} {{reason}}")),
                lines("Actions", "Create and Delete in turns: a replica that fails.",
                      Unit.EVENTS_PER_SECOND, (_rate("actions_total", "action"), "{{action}}")),
                table("Conditions that are not well",
                      "ModelDeployments that are not Ready, with the reason.", Unit.COUNT,
                      (('max by (model_namespace, model_deployment, type, status, reason) '
                       '(memroute_condition_info{type="Ready",status!="True"})'), "now")),
            ),
        ),
        Row(
            title="What it reads and writes",
            panels=(
                lines("Refused by the API server", "Each is tried again.", Unit.EVENTS_PER_SECOND,
                      (_rate("failures_total", "action, status"), "{{action}} {{status}}")),
                lines("Pages", "That are read, and that cannot be.", Unit.COUNT,
                      ("sum by (kind) (memroute_operator_sources)", "{{kind}}"),
                      ("sum by (kind, trouble) (memroute_operator_sources_failing)",
                       "{{kind}} {{trouble}}")),
                lines("Objects that cannot be read", "Each is counted at its worst.", Unit.COUNT,
                      ("sum by (kind) (memroute_operator_unreadable_objects)", "{{kind}}"),
                      ("sum by (object) (memroute_operator_config_refused)", "{{object}}")),
                lines("Hub", "Models that a hub was asked for.", Unit.EVENTS_PER_SECOND,
                      (_rate("hub_reads_total", "result"), "{{result}}")),
                lines("CPU", "Of each operator.", Unit.COUNT,
                      (("rate(process_cpu_seconds_total[$__rate_interval]) and on (instance) "
                       "memroute_operator_build_info"), _AT)),
                lines("Memory", "Of each operator.", Unit.BYTES,
                      (("process_resident_memory_bytes and on (instance) "
                       "memroute_operator_build_info"), _AT)),
                table("Builds", "Two versions at once: a rollout that has not ended.", Unit.COUNT,
                      ("max by (instance, version, python) (memroute_operator_build_info)",
                       "now")),
            ),
        ),
    ),
)  # fmt: skip
"""The dashboard."""
