"""A decision is the same whoever asks: the router's clients, or a gateway by the picker."""

import asyncio
import random
import time

import pytest

from gateway_rig import Gateway, PickerRig, Stream
from router_rig import Engine, Rig, body, exchange, until

NUM_REQUESTS = 120
CONVERSATIONS = ["a" * 900, "b" * 2000, "c" * 4000]


def traffic(seed):
    """Requests of several sizes and conversations; which answers end, and in what order."""
    rng = random.Random(seed)
    steps, open_ones = [], []
    for number in range(NUM_REQUESTS):
        text = rng.choice(CONVERSATIONS) + "x" * rng.randrange(3000)
        data = body(
            model=rng.choice(["m", "m", "m", "unknown"]),
            max_tokens=rng.choice([16, 64, 300, 90_000]),
            messages=[{"role": "user", "content": text}],
            user=str(number),
        )
        steps.append(("ask", number, data))
        open_ones.append(number)
        while len(open_ones) > rng.choice([4, 10, 20]):
            steps.append(("end", open_ones.pop(rng.randrange(len(open_ones))), b""))
    steps += [("end", number, b"") for number in open_ones]
    return steps


class Clock:
    """Time as both see it: a step at a time."""

    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


class ByRouter:
    """Asks the router; its engines answer when they are told to."""

    def __init__(self):
        self.releases = {}

    async def start(self, rig):
        self.rig = rig
        self.engines = []
        self.tasks = {}
        for name in ("a", "b", "c"):
            engine = Engine(self._script)
            await engine.start()
            self.engines.append(engine)
            rig.add(name, engine.port, capacity=3000)

    async def _script(self, engine, writer):
        number = int(engine.requests[-1][0].split(b"x-number: ")[1].split(b"\r\n")[0])
        await self.releases[number].wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async def ask(self, number, data):
        self.releases[number] = asyncio.Event()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-number: %d\r\n" % number
        head += b"x-request-id: r%d\r\ncontent-length: %d\r\n\r\n" % (number, len(data))
        self.tasks[number] = asyncio.create_task(exchange(self.rig.port, head + data))

    async def end(self, number):
        self.releases[number].set()
        await self.tasks[number]

    async def stop(self):
        for engine in self.engines:
            await engine.stop()


class ByPicker:
    """Asks the picker, as a gateway that carries the bytes."""

    async def start(self, rig):
        self.rig = rig
        self.streams = {}
        self.gateway = Gateway(rig.port)
        await self.gateway.__aenter__()
        for index, name in enumerate(("a", "b", "c")):
            rig.add(name, 1001 + index, capacity=3000)

    async def ask(self, number, data):
        stream = self.streams[number] = Stream(self.gateway)
        stream.ask(data, x_request_id=f"r{number}")

    async def end(self, number):
        stream = self.streams[number]
        answer = await stream.next()
        if answer.kind == 1:
            stream.answer_head()
            stream.answer_body(b"{}", is_last=True)
            while not isinstance(answer, int) and not (answer.kind == 4 and answer.is_last):
                answer = await stream.next()
        stream.half_close()

    async def stop(self):
        await self.gateway.__aexit__()


async def decided(rig, asker, steps, clock):
    """What was decided of each request, by its id."""
    await rig.start()
    rig._clock.cancel()  # time is ours
    await asker.start(rig)
    rig.trust_all()
    for pool in rig.pools.by_model.values():
        pool.now_seconds = clock
    verdicts = {}
    for what, number, data in steps:
        clock.now += 0.01
        if what == "ask":
            before = seen(rig)
            await asker.ask(number, data)
            await until(lambda before=before: seen(rig) > before)
            verdicts[number] = where(rig)
        else:
            await asker.end(number)
            name = f"r{number}"
            await until(lambda name=name: name in ended(rig))
            verdicts[number, "after"] = where(rig)
    await asker.stop()
    rig._clock = asyncio.create_task(asyncio.sleep(0))
    await rig.stop()
    return verdicts


def ended(rig):
    return {record.request_id.decode() for record in rig.router.journal.recent}


def seen(rig):
    """Requests of which something was decided."""
    return len(rig.router.journal.recent) + rig.num_leases + rig.num_held


def where(rig):
    """What each replica holds, and who has been refused, why."""
    ledgers = tuple(
        (r.info.pod, r.ledger.num_in_flight, r.ledger.reserved_tokens) for r in rig.replicas
    )
    refused = tuple(
        sorted((r.request_id, r.status, r.refusal) for r in rig.router.journal.recent if r.refusal)
    )
    return ledgers, rig.num_held, refused


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_router_and_picker_decide_alike(seed):
    """The same traffic and the same chance: replica by replica, token by token, word by word."""
    steps = traffic(seed)
    flags = ("--scrape-seconds", "3600", "--max-queue-seconds", "0")
    now = time.monotonic()
    router = await decided(Rig(*flags), ByRouter(), steps, Clock(now))
    picker = await decided(PickerRig(*flags), ByPicker(), steps, Clock(now))
    assert len(router) > NUM_REQUESTS
    for step, verdict in router.items():
        assert picker[step] == verdict, step
    _, _, refused = list(router.values())[-1]
    assert {status for _, status, _ in refused} == {400, 404, 429}
