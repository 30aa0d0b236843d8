"""Production traffic by its published quantiles: Azure 2023, ShareGPT, ServeGen's tenants.

Sources: AzurePublicDataset (Patel et al., Splitwise, ISCA 2024; CC-BY-4.0), quantiles of the
two 2023 files; the Gateway API Inference Extension's ShareGPT sample (59,999 prompts);
alibaba/ServeGen (Apache-2.0), rates, burstiness and lengths of its client groups. Prompts share
nothing: the sources say nothing of it.
"""

import random
from dataclasses import dataclass
from statistics import NormalDist

from memroute_simulator.workloads import arrivals
from memroute_simulator.workloads.lengths import Quantiles, banded, correlated
from memroute_simulator.workloads.request import Workload, WorkloadRequest, open_loop

CONV_RATE = 5.53
CODE_RATE = 2.57
CONV_INPUT = Quantiles.of(2, 14_050, p5=181, p25=396, p50=1020, p75=1189, p90=2735, p95=4083,
                          p99=4142, p99_9=4300)  # fmt: skip
CONV_OUTPUT = Quantiles.of(7, 1000, p5=41, p25=85, p50=129, p75=395, p90=424, p95=451, p99=601)
CODE_INPUT = Quantiles.of(3, 7437, p5=75, p25=578, p50=1469, p75=2745, p90=5188, p95=7303,
                          p99=7436)  # fmt: skip
CODE_OUTPUT = Quantiles.of(6, 1899, p5=6, p25=9, p50=13, p75=24, p90=55, p95=90, p99=252,
                           p99_9=480)  # fmt: skip
SHAREGPT_INPUT = Quantiles.of(4, 1024, p50=109, p90=714, p99=987)
SHAREGPT_OUTPUT = Quantiles.of(3, 1025, p50=144, p90=564, p99=948)


def azure_conv(rng: random.Random, count: int, rate: float | None) -> Workload:
    """Chats: Gamma gaps (CV 1.09), outputs piled up near 400, inputs near 1,100 and 4,100."""
    starts = arrivals.gamma(rng, CONV_RATE, 1.09, count)
    return _lengths_only("azure-conv", rng, starts, rate, CONV_INPUT, CONV_OUTPUT, -0.11)


def azure_code(rng: random.Random, count: int, rate: float | None) -> Workload:
    """Code completion: silent for minutes, then bursts (gap CV 13); answers of 13 tokens."""
    starts = arrivals.on_off(
        rng, count,
        burst_rates=(3.0, 6.0, 12.0, 70.0), mean_burst=80,
        silence_seconds=52.0, silence_probability=0.0030,
    )  # fmt: skip
    starts = arrivals.rescaled(starts, CODE_RATE)
    return _lengths_only("azure-code", rng, starts, rate, CODE_INPUT, CODE_OUTPUT, 0.0)


def sharegpt(rng: random.Random, count: int, rate: float | None) -> Workload:
    """ShareGPT lengths, Poisson."""
    starts = arrivals.poisson(rng, rate or 10.0, count)
    return _lengths_only("sharegpt", rng, starts, None, SHAREGPT_INPUT, SHAREGPT_OUTPUT, 0.0)


def _lengths_only(
    name: str,
    rng: random.Random,
    starts: list[float],
    rate: float | None,
    inputs: Quantiles,
    outputs: Quantiles,
    correlation: float,
) -> Workload:
    if rate is not None:
        starts = arrivals.rescaled(starts, rate)
    requests = []
    for index in range(len(starts)):
        u, v = correlated(rng, correlation)
        requests.append(
            WorkloadRequest(
                prompt=((index << 1, inputs.at(u)),),
                num_output_tokens=outputs.at(v),
                output_id=(index << 1) + 1,
            )
        )
    return open_loop(name, starts, requests)


@dataclass(frozen=True, slots=True)
class TenantGroup:
    """One of ServeGen's groups of clients."""

    num_clients: int
    top_share: float
    """Of the busiest client."""
    top_ten_share: float
    rate: float
    """Requests per second of the whole group, as published."""
    burstiness: Quantiles
    """CV of a client's gaps, times 100."""
    inputs: Quantiles
    outputs: Quantiles


TENANT_GROUPS = {
    "m-small": TenantGroup(
        43, 0.30, 0.93, 1174, Quantiles.of(80, 1500, p50=121, p75=247, p95=910),
        Quantiles.of(4, 4000, p50=40, p90=386, p99=1525),
        Quantiles.of(1, 400, p50=3, p90=58, p99=180),
    ),
    "m-mid": TenantGroup(
        109, 0.52, 0.79, 1790, Quantiles.of(80, 1500, p50=132, p75=251, p95=840),
        Quantiles.of(10, 8000, p50=174, p90=649, p99=3538),
        Quantiles.of(1, 1500, p50=36, p90=100, p99=511),
    ),
    "m-large": TenantGroup(
        162, 0.16, 0.63, 196, Quantiles.of(80, 1500, p50=117, p75=202, p95=920),
        Quantiles.of(30, 12_000, p50=688, p90=2369, p99=5850),
        Quantiles.of(1, 2000, p50=67, p90=461, p99=971),
    ),
    "deepseek-r1": TenantGroup(
        73, 0.29, 0.68, 16, Quantiles.of(80, 1000, p50=103, p75=166, p95=580),
        Quantiles.of(20, 60_000, p50=260, p90=2349, p99=23_612),
        Quantiles.of(10, 25_000, p50=730, p90=3465, p99=12_584),
    ),
}  # fmt: skip
CLIENT_LIKENESS = 0.5
# Share of the variance of a length that is its client's: an assumption, ServeGen gives curves
# per client and we keep the group's.


def servegen(rng: random.Random, count: int, rate: float | None, *, group: str) -> Workload:
    """Tenants of very unequal rate and burstiness; input and output are independent."""
    facts = TENANT_GROUPS[group]
    shares = client_shares(facts)
    wanted = rate or min(facts.rate, 20.0)
    starts: list[float] = []
    requests: list[WorkloadRequest] = []
    bands = zip(_bands(rng, shares), _bands(rng, shares), strict=True)
    for client, (share, (band_in, band_out)) in enumerate(zip(shares, bands, strict=True)):
        number = round(count * share)
        cv = facts.burstiness.at(rng.random()) / 100
        for start in arrivals.gamma(rng, wanted * share, cv, number):
            index = len(requests)
            starts.append(start)
            requests.append(
                WorkloadRequest(
                    prompt=((index << 1, facts.inputs.at(banded(rng, band_in, CLIENT_LIKENESS))),),
                    num_output_tokens=facts.outputs.at(banded(rng, band_out, CLIENT_LIKENESS)),
                    output_id=(index << 1) + 1,
                    tenant=f"client-{client}",
                )
            )
    # A bursty client may end late: what lies beyond the common span is cut.
    span = count / wanted
    kept = [(s, r) for s, r in zip(starts, requests, strict=True) if s <= span]
    return open_loop(f"servegen-{group}", [s for s, _ in kept], [r for _, r in kept])


def _bands(rng: random.Random, shares: list[float]) -> list[float]:
    """A normal score per client, so spread that the whole traffic keeps the group's curve."""
    order = list(range(len(shares)))
    rng.shuffle(order)
    scores, passed = [0.0] * len(shares), 0.0
    for client in order:
        middle = passed + shares[client] / 2
        scores[client] = NormalDist().inv_cdf(min(max(middle, 1e-3), 1 - 1e-3))
        passed += shares[client]
    return scores


def client_shares(group: TenantGroup) -> list[float]:
    """Each client's share of the rate: the published first and first ten, a Zipf tail beyond."""
    middle = _zipf(9, group.top_ten_share - group.top_share)
    middle = [min(share, group.top_share) for share in middle]
    middle = [s * (group.top_ten_share - group.top_share) / sum(middle) for s in middle]
    return [group.top_share, *middle, *_zipf(group.num_clients - 10, 1 - group.top_ten_share)]


def _zipf(count: int, total: float) -> list[float]:
    weights = [1 / (rank + 2) for rank in range(count)]
    return [weight * total / sum(weights) for weight in weights]
