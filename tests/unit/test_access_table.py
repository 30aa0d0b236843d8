"""``docs/reference/access.md``: who sees what. Each cell of its table is asked over a socket."""

import json
import re

import pytest

from access_rig import ALICE, BOB, EVE, ask, get, keyed_rig, tenant
from router_rig import Engine, body, reset, whole

EXPLAIN = b"x-memroute-explain: 1\r\n"
KEYS = (None, BOB, ALICE, EVE)
"""Of nobody, of another tenant, of the tenant, and of the tenant with ``explain``."""
SECRET = body(messages=[{"role": "user", "content": "The merger closes on Friday. " * 80}])


class Fleet:
    """One model of one replica; a tenant that may use it, by two keys, and one that may not."""

    async def start(self, tmp_path):
        # Two tenants of one name there cannot be: the one that explains is told apart by weight.
        self.rig = await keyed_rig(
            tmp_path,
            tenant("alice", ALICE, requestsPerMinute=1000),
            tenant("explaining", EVE, requestsPerMinute=1000, explain=True),
            tenant("bob", BOB, models=["b-*"]),
        )
        self.engine = Engine(whole())
        await self.engine.start()
        self.rig.add("replica-of-m", self.engine.port, capacity=100_000)
        self.rig.trust_all()

    async def stop(self):
        await self.rig.stop()
        await self.engine.stop()

    async def everything(self, key, data=None):
        """What one who asks for a chat sees: header fields and the answer, as one text."""
        status, headers, answer = await ask(self.rig, key, data, lines=EXPLAIN)
        return status, headers, json.dumps(answer)


async def sees_health(fleet, key):
    return [(await get(fleet.rig, path, key))[0] for path in (b"/health", b"/ready")] != [401, 401]


async def lists_model(fleet, key):
    seen = []
    for path in (b"/v1/models", b"/openapi.json"):
        status, _, content = await get(fleet.rig, path, key)
        seen.append(status == 200 and b'"m"' in content)
    assert seen[0] == seen[1]
    return seen[0]


async def sees_model(fleet, key):
    return (await get(fleet.rig, b"/v1/models/m", key))[0] == 200


async def is_answered(fleet, key):
    return (await ask(fleet.rig, key))[0] == 200


async def learns_that_it_exists(fleet, key):
    """By any difference between a model that is there and one that is not."""
    differs = False
    for ask_for in (
        lambda name: ask(fleet.rig, key, body(model=name), lines=EXPLAIN),
        lambda name: ask(fleet.rig, key, path=b"/v1/models/" + name.encode(), method=b"GET"),
    ):
        told = []
        for name in ("m", "q"):
            status, headers, answer = await ask_for(name)
            text = json.dumps([headers.get("x-memroute-reason"), answer])
            told.append((status, text.replace(f"'{name}'", "?")))
        differs = differs or told[0] != told[1]
    return differs


async def sees_what_is_left(fleet, key):
    _, headers, _ = await fleet.everything(key)
    return any(name.startswith("x-ratelimit-") for name in headers)


async def sees_replica(fleet, key):
    _, headers, _ = await fleet.everything(key)
    return "x-memroute-replica" in headers


async def sees_decision(fleet, key):
    _, headers, _ = await fleet.everything(key)
    return "x-memroute-decision" in headers


async def sees_names_in_errors(fleet, key):
    fleet.engine._script = reset
    try:
        _, _, answer = await fleet.everything(key)
    finally:
        fleet.engine._script = whole()
        fleet.rig.trust_all()
    return "replica-of-m" in answer


async def learns_what_was_sent(fleet, key):
    """The tokens that count as cached, after the tenant has sent the text: with it, and without."""
    for known in (ALICE, EVE):
        assert (await ask(fleet.rig, known, SECRET))[0] == 200
    _, headers, _ = await fleet.everything(key, SECRET)
    told = re.search(r"([1-9]\d*) tokens cached", headers.get("x-memroute-decision", ""))
    return told is not None


async def sees_what_operators_see(fleet, key):
    paths = (b"/debug/decisions", b"/debug/replicas", b"/map/", b"/map/live.json", b"/metrics")
    seen = [(await get(fleet.rig, path, key))[0] == 200 for path in paths]
    assert len(set(seen)) == 1
    return seen[0]


PROBES = {
    "`/health`, `/ready`": sees_health,
    "`m` in `/v1/models` and `/openapi.json`": lists_model,
    "`m` by `/v1/models/m`": sees_model,
    "`m` answers": is_answered,
    "whether `m` exists, by any refusal": learns_that_it_exists,
    "how much A has left (`x-ratelimit-…`)": sees_what_is_left,
    "which replica answered (`x-memroute-replica`)": sees_replica,
    "why, and what counts as cached (`x-memroute-decision`)": sees_decision,
    "what replicas are called, in errors": sees_names_in_errors,
    "that A has sent a prompt, by sending it again": learns_what_was_sent,
    "`/debug/decisions`, `/debug/replicas`, `/map/`, `/metrics`": sees_what_operators_see,
}


def table(repository):
    text = (repository / "docs" / "reference" / "access.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_the_table_has_a_test_for_each_row(repository):
    """A row that nobody asks is a promise that nobody keeps."""
    assert set(table(repository)) == set(PROBES)
    assert all(set(row) <= {"yes", "no"} and len(row) == 4 for row in table(repository).values())


@pytest.mark.slow
@pytest.mark.parametrize("what", PROBES)
async def test_each_cell_of_the_table_is_true(repository, tmp_path, what):
    fleet = Fleet()
    await fleet.start(tmp_path)
    found = ["yes" if await PROBES[what](fleet, key) else "no" for key in KEYS]
    await fleet.stop()
    assert found == table(repository)[what]


async def test_a_tenant_that_explains_is_told_of_its_own_prompts_alone(tmp_path):
    """With the permission to ask why, another's text is as new as any other."""
    fleet = Fleet()
    await fleet.start(tmp_path)
    assert (await ask(fleet.rig, ALICE, SECRET))[0] == 200
    _, headers, _ = await fleet.everything(EVE, SECRET)
    assert "0 tokens cached" in headers["x-memroute-decision"]
    await fleet.stop()


async def test_no_key_and_nothing_of_a_prompt_is_in_the_log_or_the_metrics(tmp_path, caplog):
    fleet = Fleet()
    await fleet.start(tmp_path)
    unknown = "mr-unknown-0123456789abcdefgh"
    for key in (None, unknown, ALICE, BOB):
        await fleet.everything(key, SECRET)
    (tmp_path / "keys.json").write_text(f"{{'{ALICE}")
    fleet.rig.router.watched[0].look()
    shown = fleet.rig.router.metrics.render().decode() + caplog.text
    shown += json.dumps([r.document() for r in fleet.rig.router.journal.recent])
    await fleet.stop()
    shown += "".join(fleet.rig.lines)
    for secret in (unknown, ALICE, BOB, EVE, "merger"):
        assert secret not in shown
    assert 'memroute_router_tenant_requests_total{tenant="alice"} 1.0' in shown
    assert 'memroute_router_access_refused_total{reason="unknown-key"} 1.0' in shown
