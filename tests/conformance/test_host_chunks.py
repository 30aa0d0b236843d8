"""The simulated host tier against vLLM's own manager: the same calls, the same answers.

Random histories of requests that offer, load and end, some of them at once: what is stored, what
is evicted, in which order, what is refused and what can be loaded must be the same after each call.
"""

import random

import pytest

from memroute_simulator.engine.model.host_chunks import HostChunks

manager_module = pytest.importorskip("vllm.v1.kv_offload.cpu.manager")
base = pytest.importorskip("vllm.v1.kv_offload.base")

HISTORIES = 200
CALLS = 400


def offload_key(key):
    """Give the engine its own key of a chunk: a hash of 32 bytes and the group."""
    return base.make_offload_key(key.to_bytes(32, "big"), 0)


def named(keys):
    """Our keys of vLLM's."""
    return [int.from_bytes(bytes(key)[:32], "big") for key in keys]


class Both:
    """One history on both sides."""

    def __init__(self, num_chunks, seed):
        self.chance = random.Random(seed)
        self.ours = HostChunks(num_chunks)
        self.theirs = manager_module.CPUOffloadingManager(num_chunks=num_chunks)
        self.requests = []
        self.num_begun = 0
        self.stores = []
        self.loads = []

    def begin(self):
        """A request with a prompt that shares a prefix with others."""
        context = base.ReqContext(
            req_id=f"r{self.num_begun}", kv_transfer_params=None, kv_hints=None
        )
        self.theirs.on_new_request(context)
        family, length = self.chance.randrange(4), self.chance.randint(1, 9)
        self.num_begun += 1
        own = self.chance.randrange(1, length + 1)
        tail = self.chance.randrange(6)
        keys = [family * 1000 + index for index in range(own)]
        keys += [10_000 + family * 1000 + tail * 100 + index for index in range(own, length)]
        self.requests.append(
            {"name": self.num_begun, "context": context, "keys": keys, "next": 0, "used": {}}
        )

    def offer(self, request):
        """Some more of its chunks are complete."""
        last = self.chance.randint(request["next"], len(request["keys"]))
        keys = request["keys"][request["next"] : last]
        if not keys:
            return
        theirs = self.theirs.prepare_store([offload_key(k) for k in keys], request["context"])
        request["used"].update(dict.fromkeys(self.ours.known(keys)))
        ours = self.ours.prepare_store(keys)
        if theirs is None:
            assert ours is None
            return
        assert ours == (named(theirs.keys_to_store), named(theirs.evicted_keys))
        request["next"] = last
        if ours[0]:
            self.stores.append((request, ours[0]))

    def load(self, request):
        """What is there of its beginning is brought to the device."""
        keys = []
        for key in request["keys"]:
            if self.ours.is_ready(key) is not True:
                break
            keys.append(key)
        if keys and not request["next"]:
            self.theirs.prepare_load([offload_key(k) for k in keys], request["context"])
            self.ours.prepare_load(keys)
            request["used"].update(dict.fromkeys(keys))
            request["next"] = len(keys)
            self.loads.append((request, keys))

    def complete(self, jobs):
        """A copy of one direction has ended."""
        if not jobs:
            return
        request, keys = jobs.pop(self.chance.randrange(len(jobs)))
        theirs = [offload_key(k) for k in keys]
        if jobs is self.stores:
            self.theirs.complete_store(theirs, request["context"])
            self.ours.complete_store(keys)
        else:
            self.theirs.complete_load(theirs, request["context"])
            self.ours.complete_load(keys)

    def end(self, request):
        """It ends, its copies may still be under way."""
        self.requests.remove(request)
        self.theirs.on_request_finished(request["context"])
        self.ours.mark_used(tuple(request["used"]))

    def compare(self):
        """Every chunk that either could know."""
        for request in self.requests:
            for key in request["keys"]:
                found = self.theirs.lookup(offload_key(key), request["context"]).name
                ours = self.ours.is_ready(key)
                assert found == {None: "MISS", False: "HIT_PENDING", True: "HIT"}[ours]


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_chunks_come_and_go_as_vllms_own(seed):
    """A simulated hit that the engine would not have is a study's error."""
    both = Both(num_chunks=random.Random(seed).randint(3, 24), seed=seed)
    for _ in range(CALLS):
        if not both.requests or both.chance.random() < 0.2:
            both.begin()
        request = both.chance.choice(both.requests)
        action = both.chance.choice(("offer", "offer", "load", "store", "loaded", "end"))
        if action == "offer":
            both.offer(request)
        elif action == "load":
            both.load(request)
        elif action == "store":
            both.complete(both.stores)
        elif action == "loaded":
            both.complete(both.loads)
        else:
            both.end(request)
        both.compare()
