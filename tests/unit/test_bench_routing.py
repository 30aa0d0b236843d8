"""The benchmark's own arithmetic, and that its studies say what they claim."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench.datapath.peer import PeerError
from bench.routing.__main__ import main
from bench.routing.bound import bound_per_second
from bench.routing.capacity import run, search
from bench.routing.cases import CASES, trace_case
from bench.routing.faults import SCENARIOS
from bench.routing.http import DEFAULT_ROUTERS, find_router
from bench.routing.plots import PLOTTED, plot
from bench.routing.progress import IncompleteError, collect
from bench.routing.refusals import Refusals
from bench.routing.report import tables_of
from bench.routing.routers import run_routers
from bench.routing.slow import SLOW_CASES
from bench.routing.statistics import geometric_mean, half_width, mean
from memroute_simulator.virtual.cluster import FleetChange
from memroute_simulator.virtual.outcome import LatencyTarget, Outcome, OutcomeStatus
from memroute_simulator.virtual.router import POLICIES
from memroute_simulator.workloads import WorkloadRequest


def attained_until(capacity):
    """An engine that attains everything up to its capacity, and less in proportion beyond."""

    def measure(rate):
        ratio = min(1.0, 0.95 * capacity / rate)
        return SimpleNamespace(rate=rate, summary=SimpleNamespace(attainment_ratio=ratio))

    return measure


@pytest.mark.parametrize("first", [1.0, 9.0, 10.0, 11.0, 60.0])
def test_the_search_finds_the_capacity_from_wherever_it_begins(first):
    rate, points = search(attained_until(10.0), first)
    assert rate == pytest.approx(10.0, rel=0.02)
    assert len(points) <= 24


def test_intervals_are_students():
    """1, 2, 3: mean 2, deviation 1; 4.303 / sqrt(3) = 2.484."""
    assert mean([1, 2, 3]) == 2
    assert half_width([1, 2, 3]) == pytest.approx(2.484, abs=0.001)
    assert half_width([1.0]) is None
    assert geometric_mean([1, 4]) == pytest.approx(2)


def test_there_are_at_least_nine_workloads_and_each_is_seeded():
    assert len(CASES) >= 9
    for case in CASES.values():
        one, two = (case.generate(case.first_rate, 1, 40) for _ in range(2))
        assert one.sessions[:20] == two.sessions[:20]
        assert one.sessions[:20] != case.generate(case.first_rate, 2, 40).sessions[:20]


def test_a_trace_can_take_the_place_of_the_workloads(tmp_path):
    path = tmp_path / "mine.csv"
    rows = [f"2023-11-16 18:15:{second:02d}.0000000,{300 + second},20" for second in range(60)]
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    point = run(trace_case(str(path)), "memroute", rate=5.0, seed=1)
    assert point.case == "mine"
    assert point.summary.attainment_ratio == 1.0


def test_the_capacity_table_compares_with_the_best_single_peer():
    """Twice the one that is best over all; of the best of each case 2 and 1."""
    rows = [
        {"case": case, "mix": "plain", "policy": policy, "seed": 1, "capacity_per_second": rate}
        for case, rates in (("x", (4.0, 2.0, 1.0)), ("y", (8.0, 4.0, 8.0 / 1.1)))
        for policy, rate in zip(("memroute", "lmetric", "random"), rates, strict=True)
    ]
    table, told = tables_of("capacity", rows)
    assert "lmetric" in told
    assert "2 times" in told
    assert list(table.columns[-3].cells) == ["2.00x", "1.10x"]


def test_answers_are_compared_with_plain_ones_and_choices_with_what_they_cost_an_oracle():
    """Whole answers: 9 of 10. Two choices cost an oracle half, and us 4.5 of 10: 0.9 of that."""
    rows = [
        {"case": "x", "mix": mix, "policy": policy, "seed": 1, "capacity_per_second": rate}
        for mix, rates in (("plain", (10, 20)), ("whole-50", (9, 20)), ("choices-2", (4.5, 10)))
        for policy, rate in zip(("memroute", "clairvoyant"), rates, strict=True)
    ]
    ours, _ = tables_of("answers", rows)
    assert [list(column.cells) for column in ours.columns] == [["x"], ["10"], ["0.9"], ["0.9"]]


def test_the_bound_is_above_what_is_served_and_follows_the_work():
    """Twice the replicas, twice the rate; half of the answers' length, less than twice."""
    case = CASES["kv-cliff"]
    bound = bound_per_second(case, 1)
    spec, count = case.engines[0]
    assert bound > 5.9, "memroute's own is about 5.7 per second"
    assert bound_per_second(replace(case, engines=((spec, 2 * count),)), 1) == pytest.approx(
        2 * bound
    )
    roomier = replace(spec, num_blocks=2 * spec.num_blocks)
    assert bound < bound_per_second(replace(case, engines=((roomier, count),)), 1) < 2 * bound


def test_every_scenario_happens_to_a_replica_that_is_there():
    for scenario in SCENARIOS.values():
        there = {str(number) for number in range(scenario.num_replicas)}
        added = [e for e in scenario.events if e.change is FleetChange.ADD]
        assert {event.replica for event in scenario.events if event not in added} <= there
        assert scenario.victim in there | {str(scenario.num_replicas)}
    assert "memroute" in POLICIES


@pytest.mark.slow
def test_slow_cases_are_slow_and_their_targets_are_the_defaults():
    """What they are about: one request alone over 50 ms, or a few together."""
    for name, slow in SLOW_CASES.items():
        case = slow.case(name)
        assert slow.tpot_alone_seconds > 0.03
        assert case.target.ttft_seconds == LatencyTarget().ttft_seconds
        needed = case.engines[0][0].layout.blocks_for(8192)
        assert case.engines[0][0].total_blocks > needed, "one sequence of the whole context fits"
        becomes_slower = {event.slowdown_ratio for event in slow.events}
        assert becomes_slower == ({2.26} if name.endswith("-shared") else set())
        assert len(slow.events) in {0, slow.num_replicas}
    over = [name for name, slow in SLOW_CASES.items() if slow.tpot_alone_seconds > 0.05]
    assert {"llama-8b-l4", "qwen-32b-a100", "llama-70b-l40s"} <= set(over)


def test_the_table_of_slow_engines_compares_seed_by_seed():
    """100 of 400 refused, 90 of 100 tokens per second; least-request is the yardstick."""
    rows = [
        {
            "case": "l4", "policy": policy, "seed": seed, "load": 0.5, "rate": 2.0,
            "num_offered": 400, "num_shed": shed, "num_failed": 0, "tpot_alone_seconds": 0.068,
            "output_tokens_per_second": tokens * seed, "ttft_p99_seconds": 0.2 * seed,
        }
        for seed in (1, 2)
        for policy, shed, tokens in (("memroute", 100, 90.0), ("least-request", 0, 100.0))
    ]  # fmt: skip
    (table,) = tables_of("slow", rows)
    cells = [next(iter(column.cells)) for column in table.columns]
    assert len(list(table.columns[0].cells)) == 1
    assert cells[:4] == ["l4", "memroute", "68", "0.5"]
    assert cells[5:8] == ["25.0%", "0.0%", "0.9 ± 0"]
    assert cells[8] == cells[9]


def refused(*, waited, retry_after, drained):
    asked = WorkloadRequest(prompt=((1, 10),), num_output_tokens=1, output_id=2)
    outcome = Outcome(number=0, asked=asked, sent_seconds=5.0)
    outcome.end(OutcomeStatus.SHED, 5.0 + waited)
    outcome.retry_after_seconds, outcome.drained_seconds = retry_after, drained
    return outcome


def test_how_the_refused_were_told():
    """At once, in time, too late; 3 s told for 4.2 (5 whole ones), 1 for 4.2, 1 for 0.2."""
    told = Refusals.of(
        [
            refused(waited=0.0, retry_after=3, drained=4.2),
            refused(waited=0.9, retry_after=1, drained=4.2),
            refused(waited=4.0, retry_after=1, drained=0.2),
            refused(waited=0.0, retry_after=1, drained=None),
        ],
        LatencyTarget(),
    )
    assert (told.at_once_ratio, told.in_time_ratio) == (0.5, 0.75)
    assert told.retry_after_right_ratio == pytest.approx(2 / 3)
    assert Refusals.of([], LatencyTarget()).in_time_ratio is None


def test_routers_are_compared_with_one_of_them():
    """0.6 and 0.5 found cached beside 0.8 of one: 0.62 times at the least; 0.9 beside 1.0."""
    rows = [
        {
            "case": "x", "policy": way, "seed": seed, "num_routers": count, "come_and_go": moves,
            "prefix_hit_ratio": hits, "attainment_ratio": attained, "ttft_p50_seconds": 0.1,
            "ttft_p99_seconds": 0.2, "num_preemptions": 0, "num_shed": 0,
        }
        for seed in (1, 2)
        for way, count, moves, hits, attained in (
            ("apart", 1, False, 0.8, 1.0),
            ("apart", 2, False, 0.6, 0.9),
            ("apart", 4, False, 0.5, 0.95),
            ("reports", 4, False, 0.8, 1.0),
            ("reports", 4, True, 0.72, 1.0),
        )
    ]  # fmt: skip
    stable, moving = tables_of("routers", rows)
    assert [list(column.cells) for column in stable.columns[-2:]] == [
        ["0.62x", "1.00x"], ["-0.100", "+0.000"],
    ]  # fmt: skip
    assert list(moving.columns[-2].cells) == ["0.90x"]
    assert list(stable.columns[3].cells) == ["0.600; 0.900; 100; 0", "-"]


@pytest.mark.slow
def test_a_run_of_several_routers_says_what_they_told_each_other():
    row = run_routers(
        "shared-prefix", "reports", num_routers=2, seed=1, come_and_go=True, times=0.1
    )
    assert row["num_routers"] == 2
    assert 500 < row["told_bytes_per_request"] < 5000
    assert row["prefix_hit_ratio"] > 0.2


@pytest.mark.slow
def test_goodput_is_of_the_time_of_sending_however_long_the_last_answer_takes():
    point = run(CASES["kv-cliff"], "memroute", rate=4.0, seed=1, times=0.1)
    assert point.summary.attainment_ratio == 1.0
    assert point.goodput_per_second == pytest.approx(4.0, rel=0.2)


def test_routers_over_http_are_yaml_files(tmp_path):
    names = {find_router(name).name for name in DEFAULT_ROUTERS}
    assert len(names) == len(DEFAULT_ROUTERS)
    own = tmp_path / "mine.yaml"
    own.write_text("{name: mine, command: [x], ready: /health}")
    assert find_router(str(own)).name == "mine"
    with pytest.raises(PeerError, match="no such router: other"):
        find_router("other")


def rounds(*ends):
    """Rows of two policies, round by round; then how it ends."""
    for seed in (1, 2):
        for policy in ("memroute", "random"):
            yield {"case": "x", "policy": policy, "seed": seed}
    yield from ends


def test_what_was_measured_is_kept_when_a_run_fails(capsys):
    with pytest.raises(IncompleteError, match="1 of 5 runs failed, the first: port taken") as told:
        collect(rounds(PeerError("port taken")), count=5, name="http", by="policy")
    assert len(told.value.rows) == 4
    assert "http: port taken" in capsys.readouterr().err
    with pytest.raises(PeerError):
        collect(iter([PeerError("port taken")]), count=1, name="http", by="policy")


def test_an_interrupt_leaves_the_rounds_in_which_everybody_had_a_turn():
    def interrupted():
        yield from itertools.islice(rounds(), 3)
        raise KeyboardInterrupt

    with pytest.raises(IncompleteError, match="interrupted after 3 of 4 runs") as told:
        collect(interrupted(), count=4, name="capacity", by="policy")
    assert [row["seed"] for row in told.value.rows] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["capacity", "--seeds", "0"], "'0' is not 1 or more"),
        (["capacity", "--policies", "best"], "no such one in --policies: 'best'"),
        (["slow", "--cases", "kv-cliff"], "no such one in --cases: 'kv-cliff'"),
        (["faults", "--cases", "kv-cliff"], "faults has a workload of its own: no --cases"),
        (
            ["http", "--trace", "mine"],
            "--trace is for capacity, answers, scrape, overload, not for http",
        ),
        (["overload", "--trace", "mine"], "--trace: no workload 'mine'"),
        (["http", "--loads", "1,x"], "'x' is not a number above 0"),
        (["http", "--engines", "here"], "'here' is no HOST:PORT, and not vllm-cpu"),
        (["http", "--time-scale", "nan"], "'nan' is not a number above 0"),
        (["faults", "--plot", "nowhere/x.png"], "no such folder: nowhere"),
        (["faults", "--plot", "faults"], "faults does not end in .png, .svg, .pdf"),
    ],
)
def test_bad_arguments_are_told(arguments, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("study", sorted(PLOTTED))
def test_every_study_can_be_drawn(study, tmp_path):
    """Rows as they come: two seeds of two policies, and a run in which nothing was served."""
    field, by, along = PLOTTED[study]
    rows = [
        {"case": "x", by: policy, "seed": seed, field: value, along or "load": step}
        for policy in ("memroute", "random")
        for seed, value in ((1, 0.5), (2, None))
        for step in (1.0, 2.0)
    ]
    if study == "deciding":
        rows = [{"num_replicas": count, field: float(count)} for count in (1, 100)]
    plot(study, rows, tmp_path / "drawn.svg")
    drawn = (tmp_path / "drawn.svg").read_text()
    assert f"<!-- {field} -->" in drawn
    if study != "deciding":
        assert "<!-- random -->" in drawn


def test_over_http_what_routers_attain_is_set_beside_ours_by_seed():
    """0.9 of 0.9 and 0.4 of 0.5: 1 and 0.8, and not 1.3 of 1.4."""

    def row(router, seed, attained):
        return {
            "case": "kv-cliff", "router": router, "seed": seed, "load": 1.0, "time_scale": 1.0,
            "attainment_ratio": attained, "num_preemptions": 0, "num_shed": 0,
            "ttft_seconds": {"p50": 0.1, "p99": 0.2}, "tpot_seconds": {"p90": 0.01},
        }  # fmt: skip

    rows = [row("memroute", 1, 0.9), row("memroute", 2, 0.5)]
    rows += [row("envoy+picker", 1, 0.9), row("envoy+picker", 2, 0.4)]
    (table,) = tables_of("http", rows)
    (column,) = (each for each in table.columns if each.header == "of memroute's")
    assert sorted(column.cells) == ["-", "0.900 (0.800 to 1.000)"]
