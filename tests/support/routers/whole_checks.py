"""What must be true of a router while a history runs, and when it is over; findings are texts."""

import collections
import json
import re
from pathlib import Path

from memroute.traffic.dispatch.membership import could_hold

LEDGER = (
    "num_in_flight", "reserved_tokens", "num_pending", "pending_tokens", "pending_reserved_tokens",
    "num_streams",
)  # fmt: skip
FIRST_ERROR, FIRST_OF_OURS, BUG = 400, 500, 500
NUM_COLUMNS = 4
CUT_OFF = {"stream-broken", "shutting-down", "client-gone"}
"""Outcomes whose answers may be incomplete."""


def documented_errors(page):
    """``status`` → ``reason`` → whether it always has ``Retry-After``; of the reference's table."""
    found = collections.defaultdict(dict)
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) != NUM_COLUMNS or not re.match(r"\d{3}", cells[0]):
            continue
        reasons = re.findall(r"`([a-z-]+)`(?! without)", cells[1])
        if "(none)" in cells[1]:
            reasons.append(None)
        for status in re.findall(r"\d{3}", cells[0]):
            for reason in reasons:
                before = found[int(status)].get(reason, True)
                found[int(status)][reason] = before and "`Retry-After" in cells[3]
            for reason in re.findall(r"`([a-z-]+)` without", cells[1]):
                found[int(status)][reason] = False
    return dict(found)


ERRORS = documented_errors(
    (Path(__file__).parents[3] / "docs" / "reference" / "errors.md").read_text()
)


def wrong_answer(answer):
    fields, status = answer.fields, answer.status
    if fields.get("content-type", "").startswith("text/plain"):
        return  # a health page
    if b"stolen" in answer.body:
        yield "another request's answer"
    if status >= FIRST_ERROR:
        yield from wrong_error(answer, fields.get("x-memroute-reason"))
    for code in re.findall(rb'"param":null,"code":"([\w-]+)"\}\}\n\n', answer.body):
        if code not in {b"stream-broken", b"shutting-down"}:
            yield f"a stream ends with {code!r}"


def wrong_error(answer, reason):
    """What is wrong with a refusal: it is documented, with when to come back, and says why."""
    status = answer.status
    known = ERRORS.get(status, {})
    if "x-engine" in answer.fields:
        if reason is not None and reason not in known:
            yield f"{status} {reason} of an engine is not documented"
        return
    if status == BUG or reason not in known:
        yield f"{status} {reason} is not documented: {answer.body!r}"
    elif known[reason] and "retry-after" not in answer.fields:
        yield f"{status} {reason} without Retry-After"
    if answer.is_whole and answer.body and not json.loads(answer.body)["error"]["message"]:
        yield f"{status} says nothing"


def idle_beside(pool):
    """Each request of a pool that waits while an idle replica could hold it, with that.

    While it is in time, it may wait for a replica that is cheaper (which has its prompt, say): that
    is routing's choice, and over once its target is at risk.
    """
    now = pool.now_seconds()
    for ask in pool.dispatcher.waiting():
        if now < ask.deadline_seconds:
            continue
        for backend in pool.dispatcher.backends.values():
            if _could_take(ask, backend, pool.dispatcher.settings.shares):
                yield ask, backend


def _could_take(ask, backend, shares):
    ledger = backend.ledger
    is_idle = not (ledger.num_in_flight or ledger.num_there or ledger.foreign_tokens)
    return (
        is_idle
        and backend.is_routable
        and not backend.health.is_out
        and could_hold(backend, ask.profile.least_tokens)
        and ledger.replica not in ask.ticket.tried
        and _may_have(ask, backend.version, shares)
        and _has_slot(ledger, ask.profile.adapter)
    )


def _has_slot(ledger, adapter):
    return not adapter or ledger.has_adapter(adapter) or ledger.has_adapter_slot()


def _may_have(ask, version, shares):
    """Whether a request may go to replicas of a version; one that waits for any has drawn none."""
    return not shares or (shares.get(version, 0.0) > 0 and ask.version in {version, ""})


def left_of(router, replicas, uses):
    """What is left of requests when all are over: nothing should be."""
    counts = {
        "bytes of bodies": router.server.budget.held_bytes,
        "connections of clients": router.server.num_connections,
        "suspects that wait": router.isolation.num_waiting,
        "suspects that are somewhere": len(router.isolation.suspects._there),
    }
    for replica in replicas:
        name = replica.info.key
        counts |= {f"{name} {what}": getattr(replica.ledger, what) for what in LEDGER}
        counts[f"{name} busy connections"] = len(replica.upstream.busy)
    for pool in router.pools.by_model.values():
        counts[f"{pool.model} held requests"] = pool.num_held
        counts[f"{pool.model} held tokens"] = pool.held_tokens
        counts[f"{pool.model} waiters"] = len(pool._waiters)
        counts[f"{pool.model} leaving replicas"] = pool.num_leaving
    for use in uses:
        counts[f"{use.name} requests"] = use.num_requests
        counts[f"{use.name} models with tokens"] = len(getattr(use, "kv_tokens", ()))
    return {what: count for what, count in counts.items() if count}


def internal_errors(router):
    for family in router.metrics.internal_errors.collect():
        for sample in family.samples:
            if sample.name.endswith("_total") and sample.value:
                yield f"internal errors: {sample.labels} {sample.value}"


def wrong_ends(records, clients, *, ends_early):
    """What is wrong with what clients got, and with the ends in the log: one for each request.

    ``ends_early``: the router was stopped while it answered.
    """
    ends = collections.Counter(record.get("request_id", "-") for record in records)
    for name, num in ends.items():
        if num != 1 and name.startswith("q"):
            yield f"{name} has {num} ends"
    for record in records:
        if record["status"] >= FIRST_ERROR and not (record.get("why") and record.get("cause", "-")):
            yield f"the log does not say why: {record}"
    by_id = {record.get("request_id", "-"): record for record in records}
    for client in clients:
        ids = [request.request_id for request in client.conversation.requests]
        # A connection that is broken off takes with it what its client has not read yet.
        is_cut = ends_early or any(by_id[i]["outcome"] in CUT_OFF for i in ids if i in by_id)
        is_owed = client.conversation.stays and not client.is_refused and not is_cut
        for problem in _wrong_answers(client, by_id, is_owed=is_owed):
            yield f"{ids}: {problem}"


def _wrong_answers(client, by_id, *, is_owed):
    if is_owed and not client.answers:
        yield "the connection was closed without an answer"
    requests = client.conversation.requests
    are_sound = all(request.is_sound for request in requests)
    for request, answer in zip(requests, client.answers, strict=False):
        yield from wrong_answer(answer)
        name = answer.fields.get("x-request-id")
        if name is not None and are_sound and request.request_id != name:
            yield f"{request.request_id} got the answer of {name}"
        record = by_id.get(name)
        if not answer.is_whole and is_owed:
            yield f"its answer is cut off: {record}"
        if name is None:
            continue
        if record is None:
            yield f"{name} was answered and has no end"
        elif answer.is_whole and record["status"] != answer.status:
            yield f"{record} and the client was told {answer.status}"
