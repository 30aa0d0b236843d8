"""A history, drawn from a seed before anything runs: a router's flags, requests and events."""

from dataclasses import dataclass

from memroute.traffic.admission import OverloadObjective
from memroute.traffic.dispatch import AdmissionMode
from memroute.traffic.routing import POLICY_NAMES
from whole_client import draw_conversation

NUM_ENGINES = 4
NAMES = ("a", "b", "c", "d", "e")
# How often each happens, relative to the others.
EVENTS = {
    "add": 6, "gone": 3, "retire": 2, "drain": 3, "kill": 2, "revive": 6, "configure": 4,
    "keys": 3, "heal": 8, "page": 3, "pause": 6,
}  # fmt: skip
PAGES = ("/metrics", "/debug/queue", "/debug/replicas", "/debug/decisions", "/health", "/ready")
# Part of the steps that are requests. Unit: ratio.
ASKED_RATIO = 0.75
# Part of the histories that are twenty times as long as the others. Unit: ratio.
LONG_RATIO = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What happens to one router."""

    has_keys: bool
    uses_file: bool
    """Whether replicas and settings come from a file, or one by one as from Kubernetes."""
    has_engine_key: bool
    has_little_room: bool
    """Whether bodies may hold so little in all that some are turned away."""
    ends_early: bool
    """Whether the router is stopped while it answers."""
    blocks: list
    """Of each engine's cache."""
    flags: list
    steps: list
    """What, about what, and more."""


def draw_history(rng):
    has_keys = rng.random() < 0.4
    return History(
        has_keys=has_keys,
        uses_file=rng.random() < 0.3,
        has_engine_key=rng.random() < 0.3,
        has_little_room=rng.random() < 0.2,
        ends_early=rng.random() < 0.15,
        blocks=[rng.choice((8, 64, 1000)) for _ in range(NUM_ENGINES)],
        flags=draw_flags(rng, has_keys=has_keys),
        steps=draw_steps(rng, has_keys=has_keys),
    )


def draw_flags(rng, *, has_keys):
    flags = [
        "--access-log", "all", "--log-format", "json",
        "--connect-timeout-seconds", "0.5",
        "--first-byte-timeout-seconds", rng.choice(("0.3", "1")),
        "--stalled-engine-seconds", rng.choice(("0.3", "1")),
        "--stalled-client-seconds", rng.choice(("0.5", "2")),
        "--header-timeout-seconds", rng.choice(("0.5", "2")),
        "--body-timeout-seconds", rng.choice(("0.5", "2")),
        "--idle-timeout-seconds", rng.choice(("2", "5")),
        "--max-queue-seconds", rng.choice(("0", "0.2", "2")),
        "--max-queued-requests", rng.choice(("2", "1024")),
        "--max-attempts", rng.choice(("1", "3", "3")),
        "--scrape-seconds", rng.choice(("0.05", "0.2", "1")),
        "--max-connections", rng.choice(("8", "500", "500")),
    ]  # fmt: skip
    for chance, more in (
        (0.3, ["--hold-without-replicas", "--replica-wait-seconds", "1"]),
        (0.4, ["--trust-headers"]),
        (0.1, ["--no-explain-header"]),
        (0.2, ["--trusted-proxies", "127.0.0.0/8"]),
    ):
        if rng.random() < chance:
            flags += more
    if not has_keys:
        flags += ["--tenants", rng.choice(("none", "key", "header"))]
    return flags


def draw_steps(rng, *, has_keys):
    steps = [("add", draw_replica(rng, name)) for name in NAMES[: rng.randrange(1, 4)]]
    num = rng.randrange(20, 70) * (20 if rng.random() < LONG_RATIO else 1)
    for number in range(num):
        if rng.random() < ASKED_RATIO:
            said = draw_conversation(rng, number, has_keys=has_keys)
            steps.append(("ask", said, rng.choice((0, 0, 0.002, 0.01))))
        else:
            steps.append(draw_event(rng))
    return steps


def draw_event(rng):
    event = rng.choices(list(EVENTS), weights=list(EVENTS.values()))[0]
    return event, *{
        "add": lambda: (draw_replica(rng, rng.choice(NAMES)),),
        "kill": lambda: (rng.randrange(NUM_ENGINES),),
        "revive": lambda: (rng.randrange(NUM_ENGINES),),
        "configure": lambda: (rng.choice("mmn"), draw_settings(rng)),
        "keys": lambda: (rng.choice(("same", "limits", "bob", "broken", "none")),),
        "page": lambda: (rng.choice(PAGES),),
        "pause": lambda: (rng.random() * 0.2,),
    }.get(event, lambda: (rng.choice(NAMES),))()


def draw_replica(rng, name):
    return {
        "pod": name,
        "engine": rng.randrange(NUM_ENGINES),
        "served_model": rng.choice(("m", "m", "m", "n")),
        "promised_capacity_tokens": rng.choice((None, 100, 1000, 10_000, 1_000_000)),
        "max_context_tokens": rng.choice((None, None, 100, 4096)),
        "version": rng.choice(("", "", "canary")),
        "weight_ratio": rng.choice((1.0, 1.0, 0.1, 3.0)),
        "uid": rng.choice(("", "1", "2")),
    }


def draw_settings(rng):
    if rng.random() < 0.15:
        return None
    return {
        "watermark_ratio": rng.choice((0.1, 0.5, 0.95, 1.0)),
        "assumed_output_tokens": rng.choice((1, 256, 10_000)),
        "policy": rng.choice(POLICY_NAMES) if rng.random() < 0.4 else "memroute",
        "admission": rng.choice((*[AdmissionMode.ENFORCE] * 3, *AdmissionMode)),
        "ttft_target_seconds": rng.choice((0.01, 1.0)),
        "overload_objective": rng.choice(list(OverloadObjective)),
        "shares": rng.choice(({}, {}, {"": 1.0, "canary": 1.0}, {"canary": 1.0})),
        "adapters": rng.choice(((), ("sql",))),
    }
