"""Where each constant could matter: the scenarios that measure it, or why none does."""

SUITE = ("plain", "real")
_FAULTS = (*SUITE, "faults")
_OVERLOAD = (*SUITE, "overload")
_FAIRNESS = ("plain", "fairness")

NAME = "a name, no quantity"
MEMORY = "kept: a bound of memory"
FORMAT = "not measured: a format that routers have to agree on"
WRONG = "not measured: only where what is predicted is off by far"
YARDSTICK = "not measured: the simulator judges by it too, so attainment would move by itself"
GONE = "not measured: only where a router goes, or sends nonsense"
CHANGED = "not measured: only where a router comes"
PUBLISHED = "not measured: only in the policy of others that it is a part of"
ADAPTERS = "not measured: only where requests use LoRA adapters"
DEATHS = "not measured: only where replicas die of requests"
SENTENCE = "not measured: only how a number is written"
TARGETS = "not measured: only what is said of targets that cannot be met"
NO_READING = "not measured: only where neither the engine nor the operator says how much it holds"
OBJECTIVES = "not measured: only with an overload objective other than `requests`"
LONG_TARGETS = "not measured: only with targets longer than this"
TEXTS = "not measured: only where prompts are texts; `python -m bench.sizing` shows it"
STORAGE = "not measured: only where engines tell of KV cache in storage"
HOSTS = "not measured: only where KV cache on the host has brought nothing back yet"
SLEEP = "not measured: only where models sleep"
NO_DECISION = "not measured: it decides nothing, only how fast the same is found"
LONG_SCRAPES = "not measured: only where readings are further apart than two seconds"

UNMEASURED = {
    **dict.fromkeys(
        (
            "dispatch.size_shares.HALF_LIFE_REQUESTS",
            "dispatch.size_shares.KEEP_RATIO",
            "dispatch.token_yield.HALF_LIFE_REQUESTS",
            "dispatch.token_yield.KEEP_RATIO",
            "dispatch.token_yield.THIN_RATIO",
        ),
        OBJECTIVES,
    ),
    **dict.fromkeys(
        (
            "dispatch.suspects.FOUND_DEAD_SECONDS",
            "dispatch.suspects.MAX_APART_SECONDS",
            "dispatch.suspects.OUTLIVED",
            "dispatch.suspects.REMEMBERED_SECONDS",
            "dispatch.suspects.SAME_DEATH_SECONDS",
            "dispatch.suspects.SLOT_SECONDS",
        ),
        DEATHS,
    ),
    "dispatch.suspects.MAX_ERRORS": MEMORY,
    "dispatch.suspects.MAX_REMEMBERED": MEMORY,
    "admission.queue.MAX_ABSENT_TENANTS": MEMORY,
    "admission.settings.MAX_TPOT_SECONDS": LONG_TARGETS,
    "admission.settings.MAX_TTFT_SECONDS": LONG_TARGETS,
    "admission.settings.OWN_PREFILL_RATIO": YARDSTICK,
    "admission.targets.MAX_DIGITS": SENTENCE,
    "admission.targets.MIN_PREFILL_SAMPLES": TARGETS,
    "admission.targets.TAKEN_BACK_RATIO": TARGETS,
    "admission.targets.WHOLE": SENTENCE,
    "dispatch.fair_share.MAX_TENANTS": MEMORY,
    "dispatch.membership.UNBOUNDED_TOKENS": NAME,
    "lengths.beginnings.MAX_BEGINNINGS": MEMORY,
    "lengths.output.MAX_GROUPS": MEMORY,
    "lengths.prompt.RARE_PRIOR_TOKENS": TEXTS,
    "request.ENGINE_BLOCK_TOKENS": TEXTS,
    "prefixes.cached_prompts.UNKNOWN_CAPACITY_TOKENS": NO_READING,
    "prefixes.host_prefixes.STORAGE_FETCH_RATIO": STORAGE,
    "prefixes.host_prefixes.UNKNOWN_STORAGE_WORTH_RATIO": STORAGE,
    "prefixes.host_prefixes.UNKNOWN_WORTH_RATIO": HOSTS,
    "prefixes.reported_blocks.MAX_RECENT": MEMORY,
    "peers.group.MAX_PEER_REQUESTS": MEMORY,
    "peers.group.MAX_REQUEST_TOKENS": GONE,
    "peers.group.SILENT_SECONDS": GONE,
    "peers.open_requests._RANGE_BITS": NO_DECISION,
    "peers.reports.NO_SESSION": NAME,
    "peers.welcome.MAX_SESSIONS_TOLD": CHANGED,
    "prefixes.sessions.MAX_SESSIONS": MEMORY,
    "prefixes.sessions.NEW_SESSIONS_RATIO": MEMORY,
    "replica.requests_there.MAX_ENDED": MEMORY,
    "replica.reading.MAX_AGE_PERIODS": LONG_SCRAPES,
    "dispatch.wakes.WAKE_LOOK_SECONDS": SLEEP,
    "replica.sleep.LOOK_SECONDS": SLEEP,
    "replica.sleep.OVERDUE_SECONDS": SLEEP,
    "replica.sleep.UNKNOWN_WAKE_SECONDS": SLEEP,
    "routing.cost.ADAPTER_SECONDS": ADAPTERS,
}
"""Why a constant is in no scenario."""

_KINDS = (
    "WORDS", "SYMBOLS", "DIGITS", "ACCENTS", "ALPHABETS", "ABJADS", "INDIC", "HAN", "KANA",
    "HANGUL", "MEASURED", "UNMEASURED", "NUM_KINDS",
)  # fmt: skip

FROM_ONE = {
    "dispatch.fair_share.OVER_SHARE_RATIO",
    "dispatch.selection.OVER_SHARE_LIMIT_RATIO",
    "lengths.events.FORGET_RATIO",
    "lengths.events.MIN_COUNTED_RATIO",
    "lengths.prompt.FORGET_RATIO",
    "replica.learned_limits.LOWERED_RATIO",
    "replica.learned_limits.NEARLY_FULL_RATIO",
    "replica.requests_there.OUTLIVED_RATIO",
    "replica.prefill_law.FORGET_RATIO",
    "replica.prefill_law.SAME_RATIO",
    "routing.cost.FULL_RATIO",
}
"""Constants whose distance from 1 is what counts: it is halved and doubled. (Twice 0.99 would not
forget a little less, but grow.)"""

GROUPS = {
    "admission.gates.MAX_UNPROVEN": _FAULTS,
    "replica.own_requests.SILENT_EVENTS": _FAULTS,
    "replica.requests_there.STEP_TOKENS": _FAULTS,
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
    "replica.slowdown": (*SUITE, "slow", "faults"),
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
    if module == "lengths.beginnings":
        return UNMEASURED.get(path, TEXTS)
    if module == "routing.published":
        return PUBLISHED
    if module == "peers.wire":
        return FORMAT
    if module == "replica.predictions":
        return WRONG
    return UNMEASURED.get(path)


def groups(path: str) -> tuple[str, ...]:
    """The scenarios that measure it; none where nothing does."""
    if why_unmeasured(path) is not None:
        return ()
    return GROUPS.get(path) or GROUPS.get(path.rpartition(".")[0]) or SUITE


_HANGS = "safety: how soon a hang is found out; a request that hung is late either way"
_SHOWN = "safety: without it a replica that hangs would go on to draw requests"
_PRIOR = "learning has to start somewhere"
_FADING = "old traffic has to be forgotten; how fast matters little"
_BOUND = "a bound, of what cannot be believed"
_WORK = "a bound of the work"
_RETRIES = "safety: without a bound retries multiply an overload"
_RULE = "the rule needs a number, and any near this one does"

KEPT: dict[str, str] = {
    "admission.gates.MAX_UNPROVEN": _SHOWN,
    "replica.own_requests.SILENT_EVENTS": _SHOWN,
    "replica.requests_there.STEP_TOKENS": _SHOWN,
    "admission.hanging.LATE_RATIO": _HANGS,
    "admission.hanging.LONGEST_RATIO": _HANGS,
    "admission.hanging.UNKNOWN_SPEED_RATIO": "safety: engines that compile are not taken for hung",
    "admission.queue.QUANTUM_TOKENS": _RULE,
    "admission.refusals.DEFAULT_RETRY_AFTER_SECONDS": "clients need a number",
    "admission.refusals.MAX_RETRY_AFTER_SECONDS": "a bound of what clients are told",
    "admission.settings.CLOSED_RATIO": _RULE,
    "admission.settings.LEAST_SILENT_STEPS": _SHOWN,
    "admission.settings.MAX_PACE_MARGIN_RATIO": "a bound, for answers of a few tokens",
    "admission.settings.MAX_PREFILL_RATIO": _RULE,
    "admission.settings.MIN_STUCK_SECONDS": _HANGS,
    "admission.settings.MIN_TRIAL_SECONDS": _HANGS,
    "admission.settings.PACE_MARGIN_RATIO": _RULE,
    "admission.settings.STUCK_RATIO": _HANGS,
    "admission.settings.TRIAL_RATIO": _HANGS,
    "admission.settings.UNPROVEN_STEPS": _SHOWN,
    "dispatch.drain.LULL_SECONDS": _RULE,
    "dispatch.drain.MIN_BACKLOG_SECONDS": "safety: a rate of a moment would refuse at once",
    "dispatch.fair_share.LEAST_TOKENS_PER_SECOND": "a tenant that has left would count for ever",
    "dispatch.overload.HOPELESS_RATIO": _RULE,
    "dispatch.overload.OVERLOAD_RATIO": "safety: a burst is no overload",
    "dispatch.request_pool.HELD_TICK_SECONDS": _WORK,
    "dispatch.retries.MAX_SAVED": _RETRIES,
    "dispatch.retries.MIN_RETRIES_PER_SECOND": _RETRIES,
    "dispatch.retries.RETRIES_PER_REQUEST": _RETRIES,
    "dispatch.selection.OVER_SHARE_LIMIT_RATIO": "at 1 the others lose 9 points in a flood",
    "dispatch.turns.LATE_WAIT_SECONDS": _RULE,
    "dispatch.turns.MAX_ASKED_PER_WANT": _WORK,
    "dispatch.turns.MAX_LOOKS": _WORK,
    "dispatch.turns.MAX_LOOKS_PER_LANE": _WORK,
    "dispatch.waiting_line.EARLY_SECONDS": _RULE,
    "dispatch.waiting_line.PLAN_SECONDS": _WORK,
    "lengths.events.FORGET_RATIO": _FADING,
    "lengths.events.MAX_TOKENS_PER_EVENT": _BOUND,
    "lengths.events.MIN_COUNTED_RATIO": _RULE,
    "lengths.events.MIN_TOKENS_PER_EVENT": _BOUND,
    "lengths.events.PRIOR_EVENTS": _PRIOR,
    "lengths.output.BINS_PER_OCTAVE": _RULE,
    "lengths.output.MAX_ANSWERS": _FADING,
    "lengths.output.MIN_ANSWERS": _RULE,
    "lengths.output.NUM_BINS": _BOUND,
    "lengths.output.TELL_ANEW_ANSWERS": _WORK,
    "lengths.prompt.FORGET_RATIO": _FADING,
    "lengths.prompt.MAX_RATIO": _BOUND,
    "lengths.prompt.MAX_UNMEASURED_RATIO": _BOUND,
    "lengths.prompt.MIN_RATIO": _BOUND,
    "lengths.prompt.MIN_UNMEASURED_RATIO": _BOUND,
    "lengths.prompt.PRIOR_TOKENS": _PRIOR,
    "peers.outbox.BURST_SECONDS": "a bound of the network's use",
    "peers.outbox.MAX_BYTES_PER_SECOND": "a bound of the network's use",
    "prefixes.cached_prompts.COMMON_ID_BLOCKS": _RULE,
    "prefixes.cached_prompts.COMMON_TEXT_BLOCKS": "no case of the suite has keys of text",
    "prefixes.guessed_prefixes.MAX_BLOCKS_PER_REPLICA": "a bound of memory",
    "prefixes.rendezvous.NUM_RANKED": "safety: who answers for a replica that is out",
    "prefixes.rendezvous.NUM_SLOTS": "a bound of memory",
    "replica.backend.MAX_COMPARED": _WORK,
    "replica.backend.MIN_SAMPLES": _PRIOR,
    "replica.health.FIRST_OUT_SECONDS": "safety: a replica that fails is not asked all the time",
    "replica.health.MAX_ERRORS_IN_A_ROW": "safety: a bad request must not take a replica from all",
    "replica.health.MAX_OUT_SECONDS": "a bound, of how late a replica is back",
    "replica.learned_limits.FLOOR_RATIO": _BOUND,
    "replica.learned_limits.LOWERED_RATIO": "safety: engines that preempt get less",
    "replica.learned_limits.NEARLY_FULL_RATIO": "safety: engines that preempt get less",
    "replica.learned_limits.RAISED_RATIO": "safety: engines that preempt get less",
    "replica.ledger.COMPARED_SECONDS": _RULE,
    "replica.ledger.MIN_SHARING_RATIO": _BOUND,
    "replica.requests_there.LEAST_MORE_TOKENS": _BOUND,
    "replica.requests_there.MEMORY_QUANTILE": _RULE,
    "replica.own_requests.MIN_TELLING_TOKENS": _RULE,
    "replica.requests_there.OUTLIVED_RATIO": _RULE,
    "replica.requests_there.PACE_QUANTILE": _RULE,
    "replica.prefill_law.FORGET_RATIO": _FADING,
    "replica.prefill_law.PRIOR_PROMPTS": _PRIOR,
    "replica.prefill_law.PRIOR_PROMPT_SECONDS": _PRIOR,
    "replica.prefill_law.PRIOR_TOKENS": _PRIOR,
    "replica.prefill_law.PRIOR_TOKEN_SECONDS": _PRIOR,
    "replica.prefill_law.SAME_RATIO": _RULE,
    "replica.prefill_law.WRONG_FORGET_RATIO": "safety: a wrong law corrects itself",
    "replica.prefill_law.WRONG_RATIO": "safety: a wrong law corrects itself",
    "replica.rate.HALF_LIFE_SECONDS": _RULE,
    "replica.reading.MAX_AGE_SECONDS": "safety: replicas that nobody can read come last",
    "replica.reading.SAME_WORK_RATIO": "safety: a batch that changes is no slow replica",
    "replica.slowdown.EXACT_CLASSES": "a bound of memory",
    "replica.slowdown.MAX_DRIFT_SECONDS": "runs are shorter than it takes",
    "replica.slowdown.NUM_CLASSES": "a bound of memory",
    "replica.slowdown.RECOVERED_RATIO": "safety: a neighbour that is busy must not stop a service",
    "replica.slowdown.SHOWN_DRIFT_PER_SECOND": "runs are shorter than it takes",
    "replica.slowdown.SLOWED_RATIO": "safety: a neighbour that is busy must not stop a service",
    "replica.slowdown.WEIGHT_TOKENS": "safety: a neighbour that is busy must not stop a service",
    "replica.slowdown.UNNOTICED_SECONDS": "safety: what a slow replica shows is no measure of it",
    "replica.step_clock.ALONE_DRIFT_PER_SECOND": "runs are shorter than it takes",
    "replica.step_clock.ALONE_WINDOW_SECONDS": "safety: a burst of events is no fast engine",
    "replica.step_clock.ALONE_WINDOW_TICKS": "safety: a burst of events is no fast engine",
    "replica.step_clock.MAX_WINDOW_TICKS": _RULE,
    "replica.step_clock.MIN_TICK_SECONDS": _BOUND,
    "replica.step_clock.MIN_WINDOW_TICKS": _RULE,
    "replica.step_clock.REPORTED_RATIO": _RULE,
    "routing.cost.FULL_RATIO": "a bound: the barrier has to be finite",
    "routing.cost.KAPPA": _RULE,
    "routing.cost.MEMORY_SECONDS": _RULE,
    "routing.cost.RHO": _RULE,
    "routing.cost.SAME_SECONDS": _RULE,
    "routing.cost.STALE_SECONDS": "safety: replicas that nobody can read come last",
}
"""Why a constant that nothing shows to matter is there all the same."""

REMOVED = {
    "replica.step_clock.FASTER_RATIO, SLOWER_RATIO": (
        "no run differed; the fast end of the ticks was read only where nothing else was known, "
        "and what one request gets alone stands there now"
    ),
    "admission.settings.MISS_RATIO": (
        "no run differed; it was 1: a first token in time is worth the target itself"
    ),
    "dispatch.drain.MEMORY_BOUND_SECONDS": (
        "no run differed; as long as a lull, and about the same: `LULL_SECONDS`"
    ),
}
"""Constants that are no more, and what stands in their place."""
