"""A history of the whole router, from a seed: its requests, its events, and what must be true.

``World(seed, directory).play()`` starts a router with drawn flags, engines that fail in every way,
clients of every kind, and lets replicas, settings and keys come and go. What is drawn is drawn
before anything runs, so a seed has the same requests and events each time; only the times differ.
"""

import asyncio
import collections
import dataclasses
import json
import random
from pathlib import Path

import yaml

from access_rig import tenant, write_keys
from memroute_router.discovery.static import ConfigError, StaticMembership
from memroute_router.http.client import Endpoint
from memroute_router.replicas.pool_settings import PoolSettings
from memroute_router.replicas.replica import ReplicaInfo
from router_rig import Rig
from whole_checks import idle_beside, internal_errors, left_of, wrong_ends
from whole_client import Client
from whole_engine import WholeEngine
from whole_history import draw_history
from whole_requests import ALICE, BOB

# A request may be seen waiting beside an idle replica at this many looks in a row, 10 ms apart:
# turns are given out every 10 ms, and what an idle replica was last is told by its next reading.
MAX_LOOKS = 40
LOOK_SECONDS = 0.01
# What bodies may hold in all where that is little. Unit: bytes. Source: one of the largest fits.
FEW_BYTES = 60_000
# How long what is left of a history may take to go. Unit: seconds. Source: chosen by hand, above
# all limits of the router under test.
SETTLE_SECONDS = 10.0


class FoundError(AssertionError):
    """What must be true is not; the message says what, and how to see it again."""


@dataclasses.dataclass(slots=True)
class Count:
    """What was drawn and seen, of any number of histories."""

    histories: int = 0
    requests: int = 0
    events: int = 0
    looks: int = 0
    outcomes: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add(self, other):
        self.histories += other.histories
        self.requests += other.requests
        self.events += other.events
        self.looks += other.looks
        self.outcomes += other.outcomes

    def __str__(self):
        ends = " ".join(f"{name}={num}" for name, num in self.outcomes.most_common())
        return f"{self.histories} histories, {self.requests} requests, {self.events} events: {ends}"


class World:
    """One router, its engines and its clients."""

    def __init__(self, seed, directory):
        self.seed = seed
        self._directory = Path(directory)
        self.problems = []
        self.count = Count(histories=1)
        self._history = draw_history(random.Random(seed))
        self.engines = [
            WholeEngine(str(number), seed, blocks)
            for number, blocks in enumerate(self._history.blocks)
        ]
        self._infos = {}
        """By name, the replicas that there should be."""
        self._settings = {}
        self._all_replicas = set()
        self._all_uses = set()
        self._clients = []
        self._idle_looks = {}

    # It runs.

    async def play(self):
        """The whole history; what was found is in ``problems``."""
        await self._start()
        watching = asyncio.create_task(self._watch())
        try:
            for step in self._history.steps:
                await self._do(*step)
            if self._history.ends_early:
                await asyncio.sleep(0.02)
                await self.rig.router.server.stop(timeout_seconds=0.05)
            await asyncio.gather(*(task for _, task in self._clients))
            if watching.done():
                await watching
            await self._settle()
        finally:
            watching.cancel()
            await self._stop()
        self._check()

    async def _start(self):
        flags = self._history.flags
        if self._history.has_keys:
            flags = [*flags, "--keys", self._write_keys("same")]
        if self._history.has_engine_key:
            path = self._directory / f"{self.seed}-engine-key"
            path.write_text("engine-secret")
            flags = [*flags, "--engine-key-file", str(path)]
        self.rig = Rig(*flags, body_bytes=50_000)
        if self._history.has_little_room:
            budget = self.rig.router.server.budget
            budget._max_bytes, budget._max_large_bytes = FEW_BYTES, FEW_BYTES - 10_000
        for engine in self.engines:
            await engine.start()
        router = self.rig.router
        self._file = self._directory / f"{self.seed}.yaml"
        self._membership = StaticMembership(
            self._file,
            router.pools,
            on_upsert=router.on_upsert,
            on_retired=router.on_retired,
            on_reload=lambda _: None,
            on_fault=router.on_fault,
        )
        await self.rig.start()

    async def _stop(self):
        await self.rig.stop()
        loop = asyncio.get_running_loop()
        until = loop.time() + SETTLE_SECONDS
        while any(engine.num_open for engine in self.engines) and loop.time() < until:
            await asyncio.sleep(0.01)
        for engine in self.engines:
            if engine.num_open:
                self._tell(f"engine {engine.name} has {engine.num_open} connections left")
        await asyncio.gather(*(engine.close() for engine in self.engines))

    async def _do(self, what, about, *more):
        if what == "ask":
            self.count.requests += len(about.requests)
            client = Client(about)
            self._clients.append((client, asyncio.create_task(self._ask(client))))
            await asyncio.sleep(more[0])
            return
        self.count.events += 1
        await getattr(self, f"_{what}")(about, *more)
        self._note()

    async def _add(self, facts):
        facts = dict(facts)
        port = self.engines[facts.pop("engine")].port
        self._upsert(
            ReplicaInfo(
                namespace="ns",
                deployment="d",
                endpoint=Endpoint("127.0.0.1", port),
                is_routable=True,
                **facts,
            )
        )

    async def _drain(self, name):
        info = self._infos.get(name)
        if info is not None and not self._history.uses_file:
            self._upsert(dataclasses.replace(info, is_routable=not info.is_routable))

    async def _gone(self, name):
        self._leave(name, self.rig.pools.remove_replica, self.rig.router.on_gone)

    async def _retire(self, name):
        self._leave(name, self.rig.pools.retire_replica, self.rig.router.on_retired)

    def _leave(self, name, remove, on_removed):
        if self._infos.pop(name, None) is None:
            return
        if self._history.uses_file:
            self._load()
            return
        replica = remove(f"ns/{name}")
        if replica is not None:
            on_removed(replica)

    async def _kill(self, number):
        self.engines[number].die()

    async def _revive(self, number):
        await self.engines[number].start()

    async def _keys(self, kind):
        if self._history.has_keys:
            self._write_keys(kind)
            self.rig.router.watched[0].look()

    async def _heal(self, _name):
        self.rig.trust_all()

    async def _pause(self, seconds):
        await asyncio.sleep(seconds)

    async def _ask(self, client):
        try:
            await client.run(self.rig.port)
        except TimeoutError:
            said = client.conversation
            self._tell(
                f"a client waits in vain: {[r.request_id for r in said.requests]} {said.how} "
                f"{said.leaves_sending} {said.leaves_reading} {[a.status for a in client.answers]}"
            )

    async def _page(self, path):
        """A page of the operations' listener, whatever else goes on."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.rig.ops_port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        if not answer.startswith(b"HTTP/1.1 200") and path != "/ready":
            self._tell(f"{path} is {answer[:60]!r}")

    def _upsert(self, info):
        self._infos[info.pod] = info
        if self._history.uses_file:
            self._load()
        else:
            self.rig.router.on_upsert(self.rig.pools.upsert_replica(info))

    async def _configure(self, model, settings):
        self._settings[model] = settings
        if self._history.uses_file:
            self._load()
            return
        found = None
        if settings is not None:
            found = PoolSettings(namespace="ns", deployment="d", **settings)
        self.rig.pools.configure_model(model, found)

    def _load(self):
        """Write the file anew, and let it be read; a file that is refused changes nothing."""
        models = []
        for name in ("m", "n"):
            replicas = [
                {
                    "url": f"http://127.0.0.1:{info.endpoint.port}",
                    "name": info.pod,
                    "version": info.version,
                    "weight": info.weight_ratio,
                }
                | (
                    {"kvCapacityTokens": info.promised_capacity_tokens}
                    if info.promised_capacity_tokens
                    else {}
                )
                for info in self._infos.values()
                if info.served_model == name
            ]
            settings = self._settings.get(name) or {}
            more = {
                "kvWatermarkPercent": round(100 * settings.get("watermark_ratio", 0.95)),
                "adapters": list(settings.get("adapters", ())),
            }
            models.append({"name": name, "replicas": replicas} | more)
        self._file.write_text(yaml.safe_dump({"models": models}))
        try:
            self._membership.load()
        except ConfigError:
            self.count.outcomes["(file refused)"] += 1

    def _write_keys(self, kind):
        path = self._directory / f"{self.seed}-keys.json"
        if kind == "broken":
            path.write_text("{")
        elif kind == "none":
            path.unlink(missing_ok=True)
        else:
            limits = {"requestsPerMinute": 20, "tokensPerMinute": 5_000, "maxRequests": 3}
            alice = tenant(
                "alice", ALICE, models=["*"], explain=True, weight=2.0, maxPriority=10,
                maxKVShareRatio=0.5, **(limits if kind == "limits" else {}),
            )  # fmt: skip
            bob = tenant("bob", {"id": "b", "key": BOB, "maxRequests": 2}, cacheSalt="salt" * 5)
            write_keys(path, *([bob] if kind == "bob" else [alice, bob]))
        return str(path)

    def _note(self):
        """Keep what comes, to look at it when all is over."""
        self._all_replicas.update(self.rig.replicas)
        gate = self.rig.router.gate
        if gate is not None:
            self._all_uses.update(gate.quotas.by_tenant.values())
            self._all_uses.update(gate.quotas._by_key.values())

    # What must be true.

    def _tell(self, problem):
        self.problems.append(f"seed {self.seed}: {problem}")

    async def _watch(self):
        """Look at the queues: nobody waits while an idle replica could hold it."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.count.looks += 1
            seen = {}
            for pool in self.rig.pools.by_model.values():
                for ask, backend in idle_beside(pool):
                    key = ask, backend.ledger.replica
                    seen[key] = self._idle_looks.get(key, 0) + 1
                    if seen[key] == MAX_LOOKS:
                        self._tell(
                            f"{ask.ticket.waits(0)} waits beside idle {backend.ledger.replica}: "
                            f"waits_for={ask.waits_for!r} closed={ask.closed} settings="
                            f"{pool.dispatcher.settings}"
                        )
            self._idle_looks = seen

    async def _settle(self):
        """Nothing of any request is left."""
        self._note()
        loop = asyncio.get_running_loop()
        until = loop.time() + SETTLE_SECONDS
        while left := left_of(self.rig.router, self._all_replicas, self._all_uses):
            if loop.time() > until:
                self._tell(f"left at the end: {left}")
                return
            await asyncio.sleep(0.02)

    def _check(self):
        records = [json.loads(line) for line in "".join(self.rig.lines).splitlines()]
        self.count.outcomes.update(record["outcome"] for record in records)
        clients = [client for client, _ in self._clients]
        ends = wrong_ends(records, clients, ends_early=self._history.ends_early)
        for problem in (*internal_errors(self.rig.router), *ends):
            self._tell(problem)
