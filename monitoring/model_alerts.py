"""Alerts about what clients of a model get."""

from monitoring.alerts import Alert, Severity

_BY_MODEL = "sum by (model_namespace, model_deployment)"
_MODEL = "{{ $labels.model_namespace }}/{{ $labels.model_deployment }}"
_REPLICA = "{{ $labels.model_namespace }}/{{ $labels.replica }}"


def _share(outcomes: str) -> str:
    """Of all requests for known models, those that ended so, 0 to 1; 0 without any traffic."""
    ended = (
        f'rate(memroute_router_requests_total{{model_deployment!="",outcome=~"{outcomes}"}}[5m])'
    )
    all_of_them = 'rate(memroute_router_requests_total{model_deployment!=""}[5m])'
    return f"{_BY_MODEL} ({ended}) / clamp_min({_BY_MODEL} ({all_of_them}), 1e-9)"


MODEL_ALERTS = (
    Alert(
        name="MemrouteModelUnavailable",
        value='memroute_condition{type="Available"}',
        condition="== 0",
        minutes=2,
        severity=Severity.CRITICAL,
        summary=f"Nobody serves {_MODEL}",
        meaning="No replica of the ModelDeployment is ready, and at least one is wanted.",
        impact="Every request for the model gets 503 `no-ready-replica`.",
        look="`kubectl describe mdep`: the condition `Ready` has the reason and what would help "
        "([conditions](conditions.md)); `kubectl logs` of its pods.",
        do="What the condition says. A first start that loads weights for longer than 2 minutes fires "
        "too, and resolves by itself.",
        drill="Fault on the emulated fleet: a model for which no device is large enough; deleted.",
    ),
    Alert(
        name="MemrouteReplicasMissing",
        value="memroute_replicas_wanted - on (model_namespace, model_deployment) "
        "memroute_replicas_ready",
        condition="> 0",
        minutes=15,
        severity=Severity.WARNING,
        summary=f"{_MODEL} lacks {{{{ $value }}}} replica(s)",
        meaning="Fewer replicas are ready than the spec asks for, for a quarter of an hour.",
        impact="Less room for requests; queues and refusals under load.",
        look="`kubectl describe mdep`: `Placed`, `Progressing`, `Degraded`; the dashboard *Model*.",
        do="Make room (`memroute plan --cluster`), mend what fails to start, or lower `spec.replicas`.",
        drill="Fault on the emulated fleet: a model for which no device is large enough; deleted.",
    ),
    Alert(
        name="MemrouteModelStalled",
        value='memroute_condition{type="Stalled"}',
        condition="== 1",
        minutes=5,
        severity=Severity.WARNING,
        summary=f"{_MODEL} waits for a person",
        meaning="What is asked for cannot come true by itself: the spec, the model or the cluster must "
        "change (condition `Stalled`).",
        impact="The latest edit, or the whole model, is not served.",
        look="`kubectl describe mdep`: the reason and message of `Stalled`; `memroute_condition_info`.",
        do="What the message says ([conditions](conditions.md)).",
        drill="Fault on the emulated fleet: a model for which no device is large enough; deleted.",
    ),
    Alert(
        name="MemrouteRefusals",
        value=_share("saturated|queue-timeout|router-exhausted|engine-push-back"),
        condition="> 0.05",
        minutes=10,
        severity=Severity.WARNING,
        summary=f"{{{{ $value | humanizePercentage }}}} of the requests for {_MODEL} are refused for "
        "want of room",
        meaning="More than one request in twenty is refused because there is no room for it.",
        impact="Clients get 429, 503 or 504 and come again later.",
        look="`memroute_router_closed_total` by `reason` says what the bottleneck is "
        "([when it refuses](../how-to/when-it-refuses.md)); `memroute_router_shed_tokens_total` how much "
        "is turned away.",
        do="More replicas; or the row of the reason: `memory` a shorter context, `pace` longer targets.",
        drill="Fault on the emulated fleet: an engine that answers every request with 503; mended.",
    ),
    Alert(
        name="MemrouteFailures",
        value=_share("stream-broken|replicas-failed|replicas-died|engine-error|internal-error|"
                     "no-ready-replica"),
        condition="> 0.01",
        minutes=5,
        severity=Severity.CRITICAL,
        summary=f"{{{{ $value | humanizePercentage }}}} of the requests for {_MODEL} fail",
        meaning="More than one request in a hundred ends by a fault of an engine or of the router.",
        impact="Clients get errors, or streams that break off.",
        look="`memroute_router_requests_total` by `outcome`; `memroute explain` for single requests; the "
        "engines' logs.",
        do="The row of the outcome in [when it refuses](../how-to/when-it-refuses.md#by-reason).",
        drill="Fault on the emulated fleet: requests for a model without a replica; deleted.",
    ),
    Alert(
        name="MemrouteTargetsMissed",
        value='sum by (model_namespace, model_deployment) (rate(memroute_router_target_streams_total'
        '{target="both",result="missed"}[15m])) / clamp_min(sum by (model_namespace, '
        'model_deployment) (rate(memroute_router_target_streams_total{target="both"}[15m])), 1e-9)',
        condition="> 0.1",
        minutes=15,
        severity=Severity.WARNING,
        summary=f"{{{{ $value | humanizePercentage }}}} of the streams of {_MODEL} miss their targets",
        meaning="More than one stream in ten is later than `ttftTargetMilliseconds` or slower than "
        "`tpotTargetMilliseconds`.",
        impact="Users wait.",
        look="*Model*, the panels of TTFT and TPOT beside their targets: which of the two; "
        "`memroute_router_targets_unmet`; `memroute_router_prediction_ratio`.",
        do="More replicas; longer targets where no engine meets them.",
        drill="Fault on the emulated fleet: an engine whose steps take 30 times as long; mended.",
    ),
    Alert(
        name="MemrouteReplicaHung",
        value="max by (model_namespace, model_deployment, replica) (memroute_router_replica_hung)",
        condition="== 1",
        minutes=1,
        severity=Severity.CRITICAL,
        summary=f"{_REPLICA} hangs",
        meaning="Requests wait at the replica and nothing comes back, for four times as long as it "
        "should take.",
        impact="Its requests are sent elsewhere where there is another replica; else they wait.",
        look="`kubectl logs` of its pod; `nvidia-smi` on its node (XID).",
        do="`kubectl delete pod`: another takes its place.",
        drill="Fault on the emulated fleet: an engine that takes requests and answers nothing; mended.",
    ),
    Alert(
        name="MemrouteReplicaAvoided",
        value="max by (model_namespace, model_deployment, replica) (memroute_router_replica_avoided)",
        condition="== 1",
        minutes=5,
        severity=Severity.WARNING,
        summary=f"Routers avoid {_REPLICA}",
        meaning="Requests to the replica failed, and the trials since have failed, too.",
        impact="One replica less.",
        look="`memroute_router_retries_total` by `cause`; the engine's log; NetworkPolicies between "
        "routers and engines.",
        do="Mend or delete its pod.",
        drill="Fault on the emulated fleet: an engine that answers every request with 500; mended.",
    ),
    Alert(
        name="MemroutePreemptions",
        value="max by (model_namespace, model_deployment, replica) "
        "(rate(memroute_router_engine_preemptions_total[10m]))",
        condition="> 0.1",
        minutes=15,
        severity=Severity.WARNING,
        summary=f"{_REPLICA} preempts {{{{ $value | humanize }}}} requests per second",
        meaning="The engine runs out of KV blocks and puts requests back, which computes them twice.",
        impact="Slower answers, and less throughput than the device has.",
        look="`memroute_router_kv_ceiling_ratio` (falls under preemptions), "
        "`memroute_router_foreign_tokens` (who sends past the routers?).",
        do="A lower `routing.memoryWatermark`; no traffic past the routers.",
        drill="Fault on the emulated fleet: 24 clients that ask an engine past the routers for long answers; stopped.",
    ),
    Alert(
        name="MemrouteRetries",
        value="sum by (model_namespace, model_deployment) (rate(memroute_router_retries_total[5m]))"
        f" / clamp_min({_BY_MODEL} (rate(memroute_router_requests_total"
        '{model_deployment!=""}[5m])), 1e-9)',
        condition="> 0.05",
        minutes=10,
        severity=Severity.WARNING,
        summary=f"{{{{ $value | humanizePercentage }}}} of the requests for {_MODEL} are tried again",
        meaning="More than one request in twenty is sent to a second replica.",
        impact="Later first tokens; failures once no replica is left.",
        look="`memroute_router_retries_total` by `cause`.",
        do="`push-back`: engines are full by themselves, see `memroute_router_foreign_tokens`. "
        "`no-connection`, `connection-lost`: engines die, see their logs.",
        drill="Fault on the emulated fleet: an engine of two that answers a third of the requests with 503; mended.",
    ),
    Alert(
        name="MemrouteSafeMode",
        value="max by (model_namespace, model_deployment) (memroute_router_safe_mode)",
        condition="== 1",
        minutes=10,
        severity=Severity.WARNING,
        summary=f"The routers do not trust what they predict of {_MODEL}",
        meaning="What was predicted has been threefold off: the pool routes by least request within "
        "memory ([why](../explanation/routing.md#when-beliefs-are-wrong)).",
        impact="No holding for time and no prefix routing; targets may be missed.",
        look="`memroute_router_prediction_ratio` by `what`.",
        do="A proxy between router and engine that buffers, another process on the device, an engine "
        "that throttles.",
        drill="Series. An emulated engine that became 60 times slower did not provoke it in two minutes: "
        "what routers predict follows within seconds.",
    ),
)  # fmt: skip
"""In the order of the page."""
