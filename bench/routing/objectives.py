"""Who is served under overload, by the pool's objective, and what each objective costs."""

from typing import Any

from bench.routing.capacity import run
from bench.routing.cases import Case
from memroute.traffic.admission import AdmissionSettings, OverloadObjective
from memroute_simulator.virtual.router import MEMROUTE

DEFAULT_CASES = ("azure-conv-18to1", "heavy-heterogeneous", "servegen-m-large")
"""Of the suite: chats on unequal KV caches, prompts of 50 to 30,000 tokens, bursty tenants."""
LOADS = (1.0, 1.5, 2.0)
"""Times the rate near the knee: there, and beyond what can be served."""
SECONDS = 60.0
"""Of sending: long beside what the last answers take."""
SCRAPE_SECONDS = 0.2


def run_objective(case: Case, objective: str, *, seed: int, load: float) -> dict[str, Any]:
    """One run of memroute with one objective."""
    point = run(
        case,
        MEMROUTE,
        rate=load * case.first_rate,
        seed=seed,
        scrape_seconds=SCRAPE_SECONDS,
        times=max(1.0, load * SECONDS * case.first_rate / case.num_requests),
        limits=AdmissionSettings(objective=OverloadObjective(objective)),
    )
    summary = point.summary
    met_tokens = summary.goodput_tokens_per_second * summary.span_seconds
    return {
        "case": case.name,
        "policy": MEMROUTE,
        "objective": objective,
        "seed": seed,
        "load": load,
        "attainment_ratio": summary.attainment_ratio,
        "goodput_per_second": point.goodput_per_second,
        "goodput_tokens_per_second": met_tokens / point.sent_over_seconds,
        "token_attainment_ratio": summary.token_attainment_ratio,
        "size_attainment_ratios": list(summary.size_attainment_ratios),
    }
