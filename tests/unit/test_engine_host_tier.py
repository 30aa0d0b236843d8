"""KV cache on the host of a simulated engine: stored, found, loaded, evicted, forgotten."""

import random

import pytest

from memroute.catalog import accelerator_by_name, architecture_for_model
from memroute.errors import UnsupportedShapeError
from memroute.footprint import kv_cache_layout
from memroute.hierarchy.links import PCIE_4
from memroute.units import GIB
from memroute_simulator.engine.model import (
    EngineRequest,
    HostTier,
    HostTierLimits,
    KVCache,
    RequestState,
    SegmentedContent,
    VLLMScheduler,
)
from memroute_simulator.engine.spec import EngineKind, EngineSpec

LAYOUT = kv_cache_layout(architecture_for_model("Qwen/Qwen3-0.6B"))
"""Blocks of 16 tokens, one group."""


def tier(num_chunks=256, load_seconds=1e-6, store_seconds=1e-6):
    """Chunks of one block each."""
    return HostTier(
        HostTierLimits(
            num_chunks=num_chunks,
            chunk_tokens=16,
            chunk_bytes=1024,
            load_seconds=load_seconds,
            store_seconds=store_seconds,
        )
    )


class Engine:
    """A scheduler that is stepped once a second."""

    def __init__(self, host, num_blocks=17):
        self.host = host
        self.scheduler = VLLMScheduler(
            cache=KVCache(num_blocks=num_blocks, layout=LAYOUT),
            max_num_batched_tokens=512,
            max_num_seqs=64,
            host=host,
        )
        self.now = 0.0

    def step(self):
        """One step; blocks are never lost nor held twice."""
        plan = self.scheduler.schedule(self.now)
        self.now += 1.0
        self.scheduler.complete(plan, self.now)
        assert 0 <= self.scheduler.cache.num_free <= self.scheduler.cache.num_usable
        return plan

    def run(self, *requests):
        """Serve them to the end."""
        for one in requests:
            self.scheduler.add(one)
        for _ in range(10_000):
            if not self.scheduler.has_work:
                return
            self.step()
        pytest.fail("the engine does not come to an end")


def request(name, prompt=130, output=2, segments=None):
    """A request whose prompt is its own where no segments are given."""
    own = 10**6 + int.from_bytes(str(name).encode())
    content = SegmentedContent(segments or ((own, prompt),), -own)
    return EngineRequest(
        request_id=str(name), num_prompt_tokens=prompt, num_output_tokens=output, content=content
    )


def test_what_left_the_device_comes_back_from_the_host():
    """The reason for the tier: 128 tokens are fetched instead of computed."""
    engine = Engine(tier())
    engine.run(request("a"))
    engine.run(*(request(f"other{n}") for n in range(6)))
    again = request("a")
    engine.run(again)
    assert (again.num_hit_tokens, again.num_host_hit_tokens) == (128, 128)
    assert engine.scheduler.counts.host_hit_tokens == 128
    assert engine.host.counts.loaded_chunks == 8


def test_what_the_device_has_is_not_fetched():
    """A copy costs; the host is asked only for what lies behind the device's hit."""
    engine = Engine(tier())
    engine.run(request("a"))
    again = request("a")
    engine.run(again)
    assert (again.num_hit_tokens, again.num_host_hit_tokens) == (128, 0)
    assert engine.host.counts.loaded_chunks == 0


def test_the_last_token_of_a_prompt_is_always_computed():
    """A prompt of whole chunks is found whole; its last token makes the first of the answer."""
    engine = Engine(tier())
    engine.run(request("a", prompt=128))
    again = request("a", prompt=128)
    engine.run(again)
    assert (again.num_hit_tokens, again.num_host_hit_tokens) == (127, 15)


def test_a_request_that_loads_holds_its_blocks_and_lets_others_go_on():
    """Memory is taken before anything is saved, and the queue behind it moves."""
    engine = Engine(tier(load_seconds=0.5), num_blocks=33)
    engine.run(request("a"))
    engine.run(*(request(f"other{n}") for n in range(9)))
    again, beside = request("a"), request("beside")
    engine.scheduler.add(again)
    engine.scheduler.add(beside)
    plan = engine.step()
    assert again.state is RequestState.LOADING
    assert [one.request_id for one in plan.admitted] == ["beside"]
    assert engine.scheduler.cache.num_usable - engine.scheduler.cache.num_free >= 16
    assert engine.scheduler.num_waiting == 1
    assert engine.scheduler.next_load_seconds == pytest.approx(engine.now - 1.0 + 8 * 0.5)
    engine.run()
    assert again.num_host_hit_tokens == 128


def test_a_load_that_is_given_up_gives_its_blocks_back():
    """A client that leaves in the middle of a copy leaves no block behind."""
    engine = Engine(tier(load_seconds=0.5), num_blocks=33)
    engine.run(request("a"))
    engine.run(*(request(f"other{n}") for n in range(9)))
    again = request("a")
    engine.scheduler.add(again)
    engine.step()
    engine.scheduler.abort(again)
    assert engine.scheduler.cache.num_free == engine.scheduler.cache.num_usable
    assert not engine.scheduler.has_work
    engine.now += 100.0
    engine.run(request("after"))
    assert again.state is RequestState.ABORTED


def test_two_that_want_the_same_wait_for_one_copy():
    """The second is asked again once the first has it; then it finds it on the device."""
    engine = Engine(tier(load_seconds=0.5), num_blocks=33)
    engine.run(request("a"))
    engine.run(*(request(f"other{n}") for n in range(9)))
    first, second = request("a"), request("a")
    engine.run(first, second)
    assert engine.host.counts.loaded_chunks == 8
    assert second.num_hit_tokens == 128
    assert second.num_host_hit_tokens == 0


def test_an_offer_that_does_not_fit_is_refused_whole():
    """Eight chunks into a tier of four: nothing is kept, and the next prompt is not worse off."""
    engine = Engine(tier(num_chunks=4))
    engine.run(request("a"))
    assert engine.host.counts.num_refused_offers >= 1
    assert len(engine.host.chunks) == 0
    engine.run(request("small", prompt=64))
    assert len(engine.host.chunks) == 4


def test_a_smaller_tier_than_the_device_finds_next_to_nothing():
    """It writes through: it holds little that the device does not, and the plan says so too."""
    small, large = Engine(tier(num_chunks=12)), Engine(tier(num_chunks=160))
    for engine in (small, large):
        rng = random.Random(1)
        for _ in range(200):
            engine.run(request(f"chat{rng.randrange(10)}"))
    found = [engine.scheduler.counts.host_hit_tokens for engine in (small, large)]
    assert found[1] > 10_000
    assert found[0] < found[1] / 10


def test_a_sleep_forgets_the_host_too():
    """After waking nothing may count as cached."""
    engine = Engine(tier())
    engine.run(request("a"))
    engine.scheduler.forget_prefixes()
    again = request("a")
    engine.run(again)
    assert again.num_hit_tokens == 0


def test_events_say_what_came_and_what_went():
    """Whoever listens can tell a chunk on the host from one on the device."""
    host = tier(num_chunks=8)
    host.keeps_events = True
    engine = Engine(host)
    engine.run(request("a"))
    engine.run(request("b"))
    engine.step()
    engine.step()
    events = host.take_events()
    assert [(one.is_removed, len(one.keys)) for one in events] == [
        (False, 8),
        (True, 8),
        (False, 8),
    ]
    assert host.take_events() == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_random_traffic_never_loses_a_block(seed):
    """Loads, preemptions and clients that leave, in any order."""
    rng = random.Random(seed)
    engine = Engine(tier(num_chunks=rng.choice((20, 80)), load_seconds=rng.choice((1e-6, 0.4))))
    alive = []
    for number in range(150):
        shared = rng.randrange(4)
        prompt = rng.randrange(20, 200)
        segments = ((shared, prompt // 2), (1000 + rng.randrange(30), prompt - prompt // 2))
        one = request(number, prompt, rng.randrange(1, 60), segments)
        engine.scheduler.add(one)
        alive.append(one)
        for _ in range(rng.randrange(4)):
            engine.step()
        if rng.random() < 0.2:
            engine.scheduler.abort(alive.pop(rng.randrange(len(alive))))
    engine.run()
    assert engine.scheduler.cache.num_free == engine.scheduler.cache.num_usable


def test_an_engine_takes_its_tier_from_its_flags():
    """64 GiB of Llama-3.1-8B are 32,768 blocks of 16 tokens; PCIe 4 moves one in 0.2 ms."""
    spec = EngineSpec(
        architecture=architecture_for_model("meta-llama/Llama-3.1-8B"),
        accelerator=accelerator_by_name("L40S"),
        host_kv_bytes=64 * GIB,
    )
    limits = spec.host_limits
    assert (limits.num_chunks, limits.chunk_tokens) == (32_768, 16)
    assert limits.load_seconds == pytest.approx((2 << 20) / PCIE_4.read_rate(64 << 10))
    assert spec.schedulers()[0].host.limits == limits


def test_what_is_not_simulated_is_refused():
    """SGLang's tier follows other rules, windows come back in parts."""
    accelerator = accelerator_by_name("H100")
    for model, kind in (
        ("Qwen/Qwen3-8B", EngineKind.SGLANG),
        ("openai/gpt-oss-20b", EngineKind.VLLM),
    ):
        spec = EngineSpec(
            architecture=architecture_for_model(model),
            accelerator=accelerator,
            kind=kind,
            host_kv_bytes=64 * GIB,
        )
        with pytest.raises(UnsupportedShapeError, match="one kind of cache"):
            _ = spec.host_limits
