"""Where each constant could matter: the scenarios that measure it, or why none does."""

SUITE = ("plain", "real")
_FAULTS = (*SUITE, "faults")
_OVERLOAD = (*SUITE, "overload")
_FAIRNESS = ("plain", "fairness")

NAME = "a name, no quantity"
MEMORY = "kept: a bound of memory"
FORMAT = "not measured: a format that routers have to agree on"
GONE = "not measured: only where a router goes, or sends nonsense"
CHANGED = "not measured: only where a router comes"
PUBLISHED = "not measured: only in the policy of others that it is a part of"
ADAPTERS = "not measured: only where requests use LoRA adapters"
SENTENCE = "not measured: only how a number is written"
TARGETS = "not measured: only what is said of targets that cannot be met"
NO_READING = "not measured: only where neither the engine nor the operator says how much it holds"
LONG_TARGETS = "not measured: only with targets longer than this"
LONG_SCRAPES = "not measured: only where readings are further apart than two seconds"

UNMEASURED = {
    "admission.queue.MAX_ABSENT_TENANTS": MEMORY,
    "admission.settings.MAX_TPOT_SECONDS": LONG_TARGETS,
    "admission.settings.MAX_TTFT_SECONDS": LONG_TARGETS,
    "admission.targets.MAX_DIGITS": SENTENCE,
    "admission.targets.MIN_PREFILL_SAMPLES": TARGETS,
    "admission.targets.TAKEN_BACK_RATIO": TARGETS,
    "admission.targets.WHOLE": SENTENCE,
    "dispatch.fair_share.MAX_TENANTS": MEMORY,
    "dispatch.membership.UNBOUNDED_TOKENS": NAME,
    "lengths.output.MAX_GROUPS": MEMORY,
    "prefixes.cached_prompts.UNKNOWN_CAPACITY_TOKENS": NO_READING,
    "peers.group.MAX_PEER_REQUESTS": MEMORY,
    "peers.group.MAX_REQUEST_TOKENS": GONE,
    "peers.group.SILENT_SECONDS": GONE,
    "peers.reports.NO_SESSION": NAME,
    "peers.welcome.MAX_SESSIONS_TOLD": CHANGED,
    "prefixes.sessions.MAX_SESSIONS": MEMORY,
    "replica.own_requests.MAX_ENDED": MEMORY,
    "replica.reading.MAX_AGE_PERIODS": LONG_SCRAPES,
    "routing.cost.ADAPTER_SECONDS": ADAPTERS,
}
"""Why a constant is in no scenario."""

_KINDS = (
    "WORDS", "SYMBOLS", "DIGITS", "ACCENTS", "ALPHABETS", "ABJADS", "INDIC", "HAN", "HANGUL",
    "MEASURED", "UNMEASURED", "NUM_KINDS",
)  # fmt: skip

FROM_ONE = {
    "dispatch.fair_share.OVER_SHARE_RATIO",
    "dispatch.selection.OVER_SHARE_LIMIT_RATIO",
    "lengths.events.FORGET_RATIO",
    "lengths.events.MIN_COUNTED_RATIO",
    "lengths.prompt.FORGET_RATIO",
    "replica.learned_limits.LOWERED_RATIO",
    "replica.learned_limits.NEARLY_FULL_RATIO",
    "replica.own_requests.OUTLIVED_RATIO",
    "replica.prefill_law.FORGET_RATIO",
    "replica.prefill_law.SAME_RATIO",
    "routing.cost.FULL_RATIO",
}
"""Constants whose distance from 1 is what counts: it is halved and doubled. (Twice 0.99 would not
forget a little less, but grow.)"""

GROUPS = {
    "admission.gates.MAX_UNPROVEN": _FAULTS,
    "admission.gates.SILENT_EVENTS": _FAULTS,
    "admission.gates.STEP_TOKENS": _FAULTS,
    "admission.hanging": _FAULTS,
    "admission.queue.QUANTUM_TOKENS": _FAIRNESS,
    "admission.refusals": ("real", "overload"),
    "admission.settings.FLOOR_RATIO": (*SUITE, "slow"),
    "admission.settings.LEAST_SILENT_STEPS": _FAULTS,
    "admission.settings.MIN_STUCK_SECONDS": _FAULTS,
    "admission.settings.MIN_TRIAL_SECONDS": _FAULTS,
    "admission.settings.STUCK_RATIO": _FAULTS,
    "admission.settings.TRIAL_RATIO": _FAULTS,
    "admission.settings.UNPROVEN_STEPS": _FAULTS,
    "peers.outbox": ("real",),
    "prefixes.cached_prompts": ("real",),
    "prefixes.rendezvous": ("real",),
    "dispatch.drain": _OVERLOAD,
    "dispatch.fair_share": _FAIRNESS,
    "dispatch.overload": _OVERLOAD,
    "dispatch.retries": ("real", "faults"),
    "dispatch.selection.OVER_SHARE_LIMIT_RATIO": _FAIRNESS,
    "replica.health": ("faults",),
    "replica.rate.HALF_LIFE_SECONDS": (*_OVERLOAD, "fairness"),
    "replica.reading.MAX_AGE_SECONDS": _FAULTS,
    "replica.step_clock.ALONE_DRIFT_PER_SECOND": (*SUITE, "slow"),
    "replica.step_clock.ALONE_WINDOW_SECONDS": (*SUITE, "slow"),
    "replica.step_clock.ALONE_WINDOW_TICKS": (*SUITE, "slow"),
    "routing.cost.STALE_SECONDS": _FAULTS,
}
"""Scenarios beside the suite, by constant or by module; others are measured by the suite alone."""


def why_unmeasured(path: str) -> str | None:
    """Why no scenario shows what the constant does; None when one does."""
    module, _, name = path.rpartition(".")
    if module == "lengths.prompt" and name in _KINDS:
        return NAME
    if module == "routing.published":
        return PUBLISHED
    if module == "peers.wire":
        return FORMAT
    return UNMEASURED.get(path)


def groups(path: str) -> tuple[str, ...]:
    """The scenarios that measure it; none where nothing does."""
    if why_unmeasured(path) is not None:
        return ()
    return GROUPS.get(path) or GROUPS.get(path.rpartition(".")[0]) or SUITE


KEPT: dict[str, str] = {}
"""Why a constant that nothing shows to matter is there all the same."""
