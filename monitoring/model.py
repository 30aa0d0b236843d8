"""One model: what its clients get, what is refused and why, and how its replicas are."""

from dataclasses import replace

from monitoring.panels import Dashboard, Row, Unit, Variable, lines, table

_MODEL = 'model_namespace=~"$model_namespace",model_deployment=~"$model_deployment"'
_BY_MODEL = "by (model_namespace, model_deployment"
_NAME = "{{model_namespace}}/{{model_deployment}}"
_REPLICA = "{{model_namespace}}/{{replica}}"


def _rate(name: str, by: str = "", more: str = "") -> str:
    """Events per second of all routers together."""
    return (
        f"sum {_BY_MODEL}{by}) (rate(memroute_router_{name}{{{_MODEL}{more}}}[$__rate_interval]))"
    )


def _quantile(quantile: float, name: str) -> str:
    buckets = f"rate(memroute_router_{name}_bucket{{{_MODEL}}}[$__rate_interval])"
    return f"histogram_quantile({quantile}, sum {_BY_MODEL}, le) ({buckets}))"


def _quantiles(name: str) -> tuple[tuple[str, str], ...]:
    return tuple((_quantile(q, name), f"{_NAME} p{q * 100:.0f}") for q in (0.5, 0.99))


def _of_replica(name: str) -> str:
    """What several routers say of one replica, once."""
    return f"max {_BY_MODEL}, replica) (memroute_router_{name}{{{_MODEL}}})"


def _of_model(name: str) -> str:
    """What several routers say of one model, once."""
    return f"max {_BY_MODEL}) (memroute_router_{name}{{{_MODEL}}})"


def _met(target: str) -> str:
    """Share of served streams within one of their targets."""
    mine = f',target="{target}"'
    met = _rate("target_streams_total", more=f'{mine},result="met"')
    return f"{met} / {_rate('target_streams_total', more=mine)}"


MODEL = Dashboard(
    uid="memroute-model",
    title="memroute / Model",
    description="What clients of a model get, what is refused and why, and how its replicas are.",
    variables=(
        Variable(
            name="model_namespace",
            label="namespace",
            query="label_values(memroute_replicas_wanted, model_namespace)",
        ),
        Variable(
            name="model_deployment",
            label="ModelDeployment",
            query='label_values(memroute_replicas_wanted{model_namespace=~"$model_namespace"}, '
            "model_deployment)",
        ),
    ),
    rows=(
        Row(
            title="What clients get",
            panels=(
                replace(
                    lines("Attainment", "Share of served streams within their latency targets.",
                          Unit.RATIO, *((_met(one), f"{_NAME} {one}")
                                        for one in ("ttft", "tpot", "both"))),
                    max_value=1,
                ),
                lines("Time to the first token", "Streams alone; time in the queue counts.",
                      Unit.SECONDS, *_quantiles("ttft_seconds"),
                      (_of_model("ttft_target_seconds"), f"{_NAME} target")),
                lines("Time per output token", "Streams alone, after the first token.",
                      Unit.SECONDS, *_quantiles("tpot_seconds"),
                      (_of_model("tpot_target_seconds"), f"{_NAME} target")),
                lines("Requests", "By how they ended.", Unit.PER_SECOND,
                      (_rate("requests_total", ", outcome"), f"{_NAME} {{{{outcome}}}}")),
                lines("Tokens", "Produced, and read; what was produced for nobody apart.",
                      Unit.EVENTS_PER_SECOND,
                      (_rate("output_tokens_total"), f"{_NAME} output"),
                      (_rate("prompt_tokens_total"), f"{_NAME} prompt"),
                      (_rate("cached_prompt_tokens_total"), f"{_NAME} prompt, cached"),
                      (_rate("unserved_output_tokens_total"), f"{_NAME} output, not served")),
                lines("Whole requests", "From the request to the end of the answer.",
                      Unit.SECONDS, *_quantiles("request_seconds")),
            ),
        ),
        Row(
            title="Admission",
            panels=(
                lines("Refused tokens", "Expected tokens that were turned away, by reason.",
                      Unit.EVENTS_PER_SECOND,
                      (_rate("shed_tokens_total", ", reason"), f"{_NAME} {{{{reason}}}}")),
                lines("What closes replicas", "The reason with the highest rate is the bottleneck.",
                      Unit.EVENTS_PER_SECOND,
                      (_rate("closed_total", ", reason"), f"{_NAME} {{{{reason}}}}")),
                lines("Queue", "Requests that wait for their turn, and how long they have waited.",
                      Unit.COUNT,
                      (f"sum {_BY_MODEL}) (memroute_router_queue_requests{{{_MODEL}}})",
                       f"{_NAME} waiting"),
                      (_quantile(0.99, "queue_seconds"), f"{_NAME} p99 seconds")),
                lines("Retries", "Requests that went to another replica, by cause.",
                      Unit.EVENTS_PER_SECOND,
                      (_rate("retries_total", ", cause"), f"{_NAME} {{{{cause}}}}")),
                lines("What happened over what was predicted", "The median; 1 is right.",
                      Unit.COUNT,
                      (("histogram_quantile(0.5, sum by (model_namespace, model_deployment, what, le)"
                       f" (rate(memroute_router_prediction_ratio_bucket{{{_MODEL}}}"
                       "[$__rate_interval])))"), f"{_NAME} {{{{what}}}}")),
                lines("Safe mode, targets that cannot be met", "1 while it is so.", Unit.COUNT,
                      (_of_model("safe_mode"), f"{_NAME} safe mode"),
                      (f'memroute_condition{{{_MODEL},type="TargetsUnmet"}}',
                       f"{_NAME} targets unmet")),
            ),
        ),
        Row(
            title="Replicas",
            panels=(
                lines("Ready and wanted", "Below wanted for long: kubectl describe mdep.",
                      Unit.COUNT,
                      (f"memroute_replicas_ready{{{_MODEL}}}", f"{_NAME} ready"),
                      (f"memroute_replicas_wanted{{{_MODEL}}}", f"{_NAME} wanted")),
                lines("KV pressure", "Projected use of the KV cache; above 0.9 memory closes it.",
                      Unit.RATIO, (_of_replica("kv_projected_ratio"), _REPLICA)),
                lines("KV cache as the engine says", "At the last reading.", Unit.RATIO,
                      (_of_replica("kv_utilization_ratio"), _REPLICA)),
                lines("Preemptions", "Requests that the engine has put back for want of blocks.",
                      Unit.EVENTS_PER_SECOND,
                      ((f"max {_BY_MODEL}, replica) (rate(memroute_router_engine_preemptions_total"
                       f"{{{_MODEL}}}[$__rate_interval]))"), _REPLICA)),
                lines("Requests in flight", "Of all routers together.", Unit.COUNT,
                      ((f"sum {_BY_MODEL}, replica) (memroute_router_requests_in_flight"
                       f"{{{_MODEL}}})"), _REPLICA)),
                lines("Waiting in the engine", "Above 0 for long: the router's beliefs are off.",
                      Unit.COUNT, (_of_replica("engine_requests_waiting"), _REPLICA)),
                lines("Avoided and hung", "1 while a router avoids it, or nothing comes back.",
                      Unit.COUNT,
                      (_of_replica("replica_avoided"), f"{_REPLICA} avoided"),
                      (_of_replica("replica_hung"), f"{_REPLICA} hung")),
                lines("Time per step", "Time per token of the answers there, of late.",
                      Unit.SECONDS, (_of_replica("step_seconds"), _REPLICA)),
                lines("Restarts", "Of the engine's container in its pod.", Unit.COUNT,
                      (f"memroute_replica_restarts{{{_MODEL}}}", _REPLICA)),
                table("Conditions", "As kubectl describe mdep says them.", Unit.COUNT,
                      ((f"max {_BY_MODEL}, type, status, reason) "
                       f"(memroute_condition_info{{{_MODEL}}})"), "now")),
            ),
        ),
    ),
)  # fmt: skip
"""The dashboard."""
