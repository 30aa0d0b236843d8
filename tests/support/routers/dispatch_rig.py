"""A dispatcher with replicas and requests, on a clock of the test's own."""

import random

from memroute.traffic.admission import QueueLimits
from memroute.traffic.dispatch import Assignment, Backend, Dispatcher, DispatchSettings
from memroute.traffic.replica import ReplicaReading
from memroute.traffic.request import RequestProfile


class Asking:
    """A ticket."""

    def __init__(self, prompt=100, output=50, **facts):
        self.tried = []
        facts = {"min_prompt_tokens": prompt, "max_output_tokens": None, **facts}
        self.profile = RequestProfile(
            num_prompt_tokens=prompt, assumed_output_tokens=output, **facts
        )


def pool(replicas=2, capacity=1000, limits=None, hits=None, seed=1, **dispatch):
    """Replicas a, b, …, idle and just read."""
    made = Dispatcher(
        DispatchSettings(**dispatch),
        limits or QueueLimits(max_requests=100, max_tokens=10**6, max_seconds=10),
        rng=random.Random(seed),
        find_hits=hits,
    )
    for name in "abcdefgh"[:replicas]:
        made.add(Backend(made.ledger(name, promised_capacity_tokens=capacity)))
        read(made, name)
    return made


def read(made, name, ratio=0.0, at=0.0, **facts):
    """A scrape."""
    made.apply_reading(
        made.backends[name].ledger,
        ReplicaReading(taken_at_seconds=at, kv_cache_utilization_ratio=ratio, **facts),
    )


def answer(assignment, now):
    """The first token."""
    ledger = assignment.backend.ledger
    ledger.streamed(assignment.reservation, num_events=1, now_seconds=now)


def end(made, assignment, now, *, is_complete=True):
    """The last token."""
    made.ended(assignment, is_complete=is_complete, now_seconds=now)


def fill(made, name, tokens, now=0.0):
    """An answer of so many tokens that does not end decodes there."""
    ledger = made.backends[name].ledger
    lease = ledger.reserve(Asking(prompt=tokens).profile, now_seconds=now)
    ledger.streamed(lease, num_events=1, now_seconds=now)
    return lease


def show_a_token(made, now):
    """Each answer that is read as it comes, and leads its replica's clock, shows one more."""
    for backend in made.backends.values():
        leader = backend.ledger.leader
        if leader is not None:
            backend.ledger.streamed(leader, num_events=leader.num_events + 1, now_seconds=now)


def waits(made, arrivals, *, seconds, answer_seconds=0.05, each_step=None):
    """How long each request waited, in seconds; 99 for one that was refused.

    ``arrivals``: (when, ticket), in order. Steps of 5 ms; an answer takes ``answer_seconds``, and
    those that decode there all the time show a token every 20 ms.
    """
    came, waited, running, left = {}, {}, [], list(arrivals)

    def told(ticket, verdict, now):
        if isinstance(verdict, Assignment):
            answer(verdict, now)
            running.append((now + answer_seconds, verdict))
            waited[ticket] = now - came[ticket]
        else:
            waited[ticket] = 99.0

    for step in range(1, int((seconds + 1) * 200)):
        now = step * 0.005
        if each_step is not None:
            each_step(now)
        if step % 4 == 0:
            show_a_token(made, now)
        come = [item for item in running if item[0] <= now]
        for when, assignment in come:
            running.remove((when, assignment))
            end(made, assignment, now)
        while left and left[0][0] <= now:
            _, ticket = left.pop(0)
            came[ticket] = now
            verdict = made.submit(ticket, now_seconds=now)
            if verdict is not None:
                told(ticket, verdict, now)
        for ticket, verdict in made.turns(now_seconds=now):
            told(ticket, verdict, now)
    return waited
