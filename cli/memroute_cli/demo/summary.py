"""The closing summary, and whether the job was really done."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from memroute.units import GIB
from memroute_cli.demo.traffic import Answer, Traffic
from memroute_cli.terminal.table import Column, Table
from memroute_kube import KubeObject

SURVIVAL_SECONDS = 1.0
# New traffic must go to the survivors within this time of a replica's death.


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to be true for the demo to have done its job."""

    text: str
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the demo saw."""

    deployments: list[KubeObject]
    traffic: Traffic
    killed_pod: str
    killed_at: float | None
    reserved_tokens_left: int | None
    engine_restarts: dict[str, int]
    oom_logs: list[str]


def checks(result: Result, *, through_gateway: bool = False) -> list[Check]:
    """All checks. ``through_gateway``: a gateway carries the bytes, and has no words for breaks."""
    by_name = {obj["metadata"]["name"]: obj for obj in result.deployments}
    served = Counter(a.replica for a in result.traffic.answers if a.outcome == "served")
    large = _condition(by_name["large"], "Placed")
    shared = Counter(
        device
        for name in ("chat", "draft")
        for placement in by_name[name]["status"].get("placements", ())
        for device in placement.get("devices", ())
    )
    found = [
        Check(
            "chat and draft serve, from pods of the cluster",
            all(_condition(by_name[n], "Ready")["status"] == "True" for n in ("chat", "draft")),
        ),
        Check("two replicas share one GPU", any(count > 1 for count in shared.values())),
        Check(
            "large does not fit, and its status says what would make it fit",
            large["status"] == "False" and "would fit" in large["message"],
        ),
        Check("every replica served requests", len(served) >= 3 and "" not in served),  # noqa: PLR2004
        Check("no engine ran out of memory", not result.oom_logs),
        Check("every lease was given back: 0 tokens reserved", result.reserved_tokens_left == 0),
    ]
    refused = [a for a in result.traffic.answers if a.outcome.startswith(("400", "503"))]
    if any(a.kind == "hopeless" for a in result.traffic.answers):
        found.append(
            Check(
                "what cannot be served was refused with a reason",
                bool(refused) and all(a.message for a in refused),
            )
        )
    if result.killed_at is not None:
        found += _survival_checks(result, result.killed_at, through_gateway=through_gateway)
    return found


def _survival_checks(result: Result, killed_at: float, *, through_gateway: bool) -> list[Check]:
    after = [
        a
        for a in result.traffic.answers
        if a.kind in ("chat", "draft") and a.sent_at > killed_at + SURVIVAL_SECONDS
    ]
    unbroken = [a for a in after if a.outcome == "served" or a.outcome.startswith("429")]
    return [
        Check(
            f"{result.killed_pod} was killed and came back",
            result.engine_restarts.get(result.killed_pod, 0) > 0,
        ),
        Check(
            "a second after the kill no request failed any more",
            bool(after) and len(unbroken) == len(after),
        ),
        _broken_check(result, killed_at, through_gateway=through_gateway),
    ]


def _broken_check(result: Result, killed_at: float, *, through_gateway: bool) -> Check:
    """Who loses a connection: the router says in the stream why; a gateway breaks it off."""
    lost = [a for a in result.traffic.answers if a.outcome == "connection lost"]
    if not through_gateway:
        return Check("no request lost its connection without a word", not lost)
    return Check(
        "no request lost its connection but in an answer of the killed replica",
        all(a.replica.endswith(result.killed_pod) and a.sent_at < killed_at for a in lost),
    )


def print_summary(console: Console, result: Result, found: list[Check]) -> None:
    """Placements and why, requests per replica, TTFT, refused and why, checks."""
    console.rule("[bold]summary")
    _print_placements(console, result)
    _print_requests(console, result.traffic)
    _print_refusals(console, result.traffic)
    console.print()
    for check in found:
        console.print(
            f"  [green]✓[/] {check.text}" if check.passed else f"  [red]✗ {check.text}[/]"
        )


def _print_placements(console: Console, result: Result) -> None:
    rows = []
    for obj in result.deployments:
        rows += [
            (
                placement["pod"], placement["node"], f"{placement['hbmBytes'] / GIB:.1f} GiB",
                f"{placement['kvCapacityTokens']:,}", placement["why"],
            )
            for placement in obj.get("status", {}).get("placements", ())
        ]  # fmt: skip
        placed = _condition(obj, "Placed")
        if placed["status"] != "True":
            why = f"{placed['reason']}: {placed['message']}"
            rows.append((obj["metadata"]["name"], "nowhere", "-", "-", why))
    columns = (
        Column(name="REPLICA", least=12), Column(name="NODE", least=7),
        Column(name="HBM", is_number=True), Column(name="KV TOKENS", is_number=True),
        Column(name="WHY", is_sentence=True),
    )  # fmt: skip
    console.print("placements, and why", Table(columns, tuple(rows)), "", sep="\n")


def _print_requests(console: Console, traffic: Traffic) -> None:
    by_replica: dict[str, list[Answer]] = {}
    for answer in traffic.answers:
        if answer.outcome == "served":
            by_replica.setdefault(answer.replica, []).append(answer)
    rows = []
    for replica in sorted(by_replica):
        answers = by_replica[replica]
        times = sorted(a.ttft_seconds for a in answers if a.ttft_seconds is not None)
        quantiles = (_quantile(times, q) for q in (0.5, 0.9, 0.99))
        rows.append((replica, str(len(answers)), *quantiles))
    columns = (
        Column(name="REPLICA", least=12),
        *(
            Column(name=name, is_number=True)
            for name in ("REQUESTS", "TTFT P50", "TTFT P90", "TTFT P99")
        ),
    )
    console.print("requests served, by replica", Table(columns, tuple(rows)), "", sep="\n")


def _quantile(ordered: list[float], q: float) -> str:
    if not ordered:
        return "not streamed"
    return f"{ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1000:.0f} ms"


def _print_refusals(console: Console, traffic: Traffic) -> None:
    rows = []
    for outcome, count in traffic.outcomes().most_common():
        if outcome == "served":
            continue
        example = next(a for a in traffic.answers if a.outcome == outcome)
        retry = f" (Retry-After: {example.retry_after} s)" if example.retry_after else ""
        rows.append((outcome, str(count), example.message + retry))
    columns = (
        Column(name="OUTCOME", least=12), Column(name="REQUESTS", is_number=True),
        Column(name="FOR EXAMPLE", is_sentence=True),
    )  # fmt: skip
    console.print("not served, and why", Table(columns, tuple(rows)), sep="\n")


def _condition(obj: KubeObject, kind: str) -> dict[str, Any]:
    for condition in obj.get("status", {}).get("conditions", ()):
        if condition["type"] == kind:
            found: dict[str, Any] = condition
            return found
    return {"status": "Unknown", "reason": "Unknown", "message": "no status yet"}
