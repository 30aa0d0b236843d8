import io
from dataclasses import replace

import pytest
from rich.console import Console

from bench.datapath import gateway, pages
from bench.datapath.__main__ import parse_options, plan_of
from bench.datapath.cases import CASES, QUICK_RATES, RATES, Results, _highest_rate
from bench.datapath.report import document_of, ratios, reference_line, tables
from bench.datapath.rig import Measured


def measured(rate):
    return Measured(
        requests_per_second=rate, events_per_second=rate, events_per_read=1.0, errors=0,
        p50_seconds=0.001, p90_seconds=0.002, p99_seconds=0.003, router_core_ratio=1.0,
        load_core_ratio=0.5, router_cpu_seconds=1.0, seconds=1.0, router_rss_bytes=1,
        rss_per_connection_bytes=1.0, rss_growth_bytes=0,
    )  # fmt: skip


def printed(*parts):
    console = Console(width=140, file=io.StringIO())
    for part in parts:
        console.print(part)
    return console.file.getvalue()


def test_the_whole_measurement_has_five_rounds_of_everything_each_router_started_anew():
    plan = plan_of(parse_options([]))
    assert (plan.runs, plan.seconds, plan.num_slow_rounds) == (5, 3.0, 5)
    assert plan.rates == RATES
    assert not plan.keeps_running


def test_a_quick_one_has_every_case_and_the_peers_with_a_bar():
    """Continuous integration runs it: less of each, nothing left out."""
    options = parse_options(["--quick"])
    plan = plan_of(options)
    assert options.cases == list(CASES)
    assert options.peers == ["memroute", "envoy", "vllm-router-round-robin"]
    assert (plan.runs, plan.seconds, plan.num_slow_rounds) == (2, 0.8, 1)
    assert plan.rates == QUICK_RATES
    assert plan.keeps_running


def test_a_router_that_keeps_up_with_no_rate_has_none():
    """What it had buffered came at once, and read as five times the rate of the others."""
    late = replace(measured(200_000.0), events_per_read=9.0)
    assert _highest_rate(lambda _: late, (10_000, 14_000)) is None
    on_time = measured(10_000.0)
    assert _highest_rate(lambda _: on_time, (10_000, 14_000)) is on_time


def test_what_is_said_beside_quick_goes_before_it():
    options = parse_options(["--quick", "--runs", "4", "--seconds", "2", "--peers", "memroute"])
    plan = plan_of(options)
    assert (plan.runs, plan.seconds, plan.num_slow_rounds) == (4, 2.0, 1)
    assert options.peers == ["memroute"]
    assert plan_of(parse_options(["--runs", "3"])).num_slow_rounds == 3


@pytest.mark.parametrize("wrong", [["--runs", "0"], ["--seconds", "0"], ["--seconds", "nan"]])
def test_a_measurement_of_nothing_is_refused(wrong):
    with pytest.raises(SystemExit):
        parse_options(wrong)


def test_a_router_that_is_not_installed_is_named_beside_the_ratios_of_the_others():
    """A skip that nobody sees would be read as a bar that holds."""
    results = Results(
        runs={
            "1KB": {
                "memroute": [measured(200.0), measured(300.0)],
                "envoy": [measured(100.0), measured(200.0)],
                "other": [None, None],
            }
        },
        failures=["other: other is not on PATH (python -m bench.datapath --install)"],
        loop_milliseconds=[8.0, 9.5],
    )
    text = printed(*tables(results), ratios(results))
    assert "1.75x (1.50 to 2.00)" in text, "the median of 2.0 and 1.5"
    assert "not measured" in text
    assert "other is not on PATH" in text
    assert reference_line(results) == "reference loop: 8.0 to 9.5 ms"
    document = document_of(results)
    assert document["cases"]["1KB"]["routers"]["other"]["ratio_of_memroute"] is None
    assert document["loop_milliseconds"] == [8.0, 9.5]


def test_a_step_of_a_page_is_what_is_made_before_requests_have_their_turn(monkeypatch):
    """Four pieces of 0.3 ms are two steps of 0.6 ms: a step ends once it has taken 0.5 ms."""
    now = [0.0]
    monkeypatch.setattr(pages.time, "thread_time", lambda: now[0])

    def pieces():
        for _ in range(4):
            now[0] += 0.0003
            yield b"x"

    whole, longest = pages._cpu(pieces())
    assert (round(whole, 6), round(longest, 6)) == (0.0012, 0.0006)
    assert pages._row("x", [0.001] * 100, 2.0).split() == ["x", "1.00", "1.00", "1.00", "2.0"]


@pytest.mark.parametrize(
    ("added_p50", "p99", "here", "there"),
    [
        (0.5, 2.9, "met", "met"),
        (0.5, 3.1, "not met", "met"),
        (0.7, 2.9, "not met", "met"),
        (1.3, 2.9, "not met", "not met"),
        (0.5, 6.1, "not met", "not met"),
    ],
)
def test_the_bars_of_one_connection_are_of_the_median_round(added_p50, p99, here, there):
    """Rounds of 1, x and 9 ms, Envoy's own 0.5; a machine half as fast as the bars' one."""

    def run(p50, p99):
        return gateway.Run(
            requests=1, errors=0, p50_seconds=p50 / 1e3, p99_seconds=p99 / 1e3, picker_seconds=0,
            envoy_seconds=0,
        )  # fmt: skip

    picked = [run(0.3 + added_p50, each) for each in (1, p99, 9)]
    told = gateway.verdict([run(0.3, 0.5)] * 3, picked, own_rate=gateway.LLM_D_ENVOY_RATE / 2)
    measured, scaled = told.split("\n")
    assert measured.endswith(f"over Envoy alone): {here}")
    assert f"p50 {added_p50:.2f} ms over Envoy alone" in measured
    assert f"p99 {p99:.2f} ms (bar 3, worst round 9.00, {p99 - 0.5:.2f} over" in measured
    assert scaled.endswith(f"p50 {added_p50 / 2:.2f} ms, p99 {p99 / 2:.2f} ms: {there}")
