"""The routers: their data path, their bounds, and how they hear each other."""

from monitoring.panels import Dashboard, Row, Unit, lines, table

_AT = "{{instance}}"


def _rate(name: str, by: str = "") -> str:
    return f"sum by (instance{by}) (rate(memroute_router_{name}[$__rate_interval]))"


def _own(name: str) -> str:
    """A series of the process, of routers alone."""
    return f"process_{name} and on (instance) memroute_router_build_info"


ROUTER = Dashboard(
    uid="memroute-router",
    title="memroute / Router",
    description="The data path of every router: its core, its bounds, its peers and its tenants.",
    rows=(
        Row(
            title="The data path",
            panels=(
                lines("Requests", "Of each router.", Unit.PER_SECOND,
                      (_rate("requests_total"), _AT)),
                lines("Output tokens", "That have gone through each router.",
                      Unit.EVENTS_PER_SECOND, (_rate("output_tokens_total"), _AT)),
                lines("Failures and refusals", "By outcome, of all models and routers.",
                      Unit.PER_SECOND,
                      (('sum by (outcome) (rate(memroute_router_requests_total{outcome!="served"}'
                       "[$__rate_interval]))"), "{{outcome}}")),
                lines("CPU", "A router at one core is full.", Unit.COUNT,
                      (("rate(process_cpu_seconds_total[$__rate_interval]) and on (instance) "
                       "memroute_router_build_info"), _AT)),
                lines("Lag of the event loop", "Above 0.1 s every answer is late.", Unit.SECONDS,
                      ("memroute_router_loop_lag_seconds", _AT)),
                lines("CPU of readings", "What parsing the engines' pages costs.", Unit.COUNT,
                      (_rate("scrape_cpu_seconds_total"), _AT)),
            ),
        ),
        Row(
            title="Bounds",
            panels=(
                lines("Memory", "Of the process, and what bodies and slow answers hold of it.",
                      Unit.BYTES,
                      (_own("resident_memory_bytes"), f"{_AT} process"),
                      ("memroute_router_bodies_bytes", f"{_AT} bodies"),
                      ("memroute_router_unsent_bytes", f"{_AT} unsent answers")),
                lines("Open files", "Beside the most that may be.", Unit.COUNT,
                      (_own("open_fds"), f"{_AT} open"), (_own("max_fds"), f"{_AT} limit"),
                      ("memroute_router_client_connections", f"{_AT} clients")),
                lines("Clients that met a bound", "By the bound.", Unit.EVENTS_PER_SECOND,
                      (_rate("clients_refused_total", ", reason"), f"{_AT} {{{{reason}}}}"),
                      (_rate("bodies_refused_total"), f"{_AT} bodies")),
            ),
        ),
        Row(
            title="What it goes by",
            panels=(
                lines("Failed readings", "Of engines' pages.", Unit.EVENTS_PER_SECOND,
                      (("sum by (model_namespace, replica) (rate(memroute_router_scrape_errors_total"
                       "[$__rate_interval]))"), "{{model_namespace}}/{{replica}}")),
                lines("Readings out of date", "Replicas whose reading is older than 5 s.",
                      Unit.COUNT,
                      (("max by (model_namespace, model_deployment) "
                       "(memroute_router_stale_replicas)"),
                       "{{model_namespace}}/{{model_deployment}}")),
                lines("Objects that are not gone by", "The log names each once.", Unit.COUNT,
                      ("sum by (instance, kind, reason) (memroute_router_doubted_objects)",
                       f"{_AT} {{{{kind}}}} {{{{reason}}}}")),
                lines("Files that are refused", "1 while the last good reading stays in force.",
                      Unit.COUNT, ("memroute_router_config_refused", f"{_AT} {{{{file}}}}")),
                lines("Bugs", "Exceptions that nobody expected; the log has them.",
                      Unit.EVENTS_PER_SECOND,
                      (_rate("internal_errors_total", ", place"), f"{_AT} {{{{place}}}}")),
                lines("Traces", "Dropped: the collector is behind.", Unit.EVENTS_PER_SECOND,
                      (_rate("traces_total", ", result"), f"{_AT} {{{{result}}}}")),
            ),
        ),
        Row(
            title="Several routers",
            panels=(
                lines("Peers", "Known, and heard in the last 3 s.", Unit.COUNT,
                      ("memroute_router_peers", f"{_AT} known"),
                      ("memroute_router_peers_heard", f"{_AT} heard")),
                lines("Datagrams", "Sent, received, and those that did not come.",
                      Unit.EVENTS_PER_SECOND,
                      (_rate("peer_datagrams_sent_total"), f"{_AT} sent"),
                      (_rate("peer_datagrams_received_total"), f"{_AT} received"),
                      (_rate("peer_datagrams_missed_total"), f"{_AT} missed")),
                lines("Withheld for want of bandwidth", "Prefix routing is blind to these.",
                      Unit.EVENTS_PER_SECOND,
                      (_rate("peer_keys_withheld_total"), f"{_AT} keys"),
                      (_rate("peer_reports_withheld_total"), f"{_AT} reports")),
            ),
        ),
        Row(
            title="Tenants",
            panels=(
                lines("Tokens by tenant", "Of the file of keys; the others together beyond 500.",
                      Unit.EVENTS_PER_SECOND,
                      (("sum by (tenant) (rate(memroute_router_tenant_tokens_total"
                       "[$__rate_interval]))"), "{{tenant}}")),
                lines("Refused by quota", "By tenant.", Unit.EVENTS_PER_SECOND,
                      (("sum by (tenant) (rate(memroute_router_tenant_refused_total"
                       "[$__rate_interval]))"), "{{tenant}}")),
                lines("Refused keys", "By reason.", Unit.EVENTS_PER_SECOND,
                      (("sum by (reason) (rate(memroute_router_access_refused_total"
                       "[$__rate_interval]))"), "{{reason}}")),
                table("Builds", "Two versions at once: a rollout that has not ended.", Unit.COUNT,
                      (("max by (instance, version, python, compiled) "
                       "(memroute_router_build_info)"), "now")),
            ),
        ),
    ),
)  # fmt: skip
"""The dashboard."""
