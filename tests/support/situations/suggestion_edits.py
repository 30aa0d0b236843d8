"""What the operator makes of a spec before and after an edit that a suggestion asks for."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from memroute.placement import Placed, PlacementMode, ReplicaKey
from memroute.units import GIB
from memroute_operator.pod.manifests import replica_pod
from memroute_operator.spec.deployments import read_deployments
from memroute_operator.store.reading_cache import Cache
from memroute_operator.weights.caches import NO_SETTINGS, WeightsSettings
from operator_rig import mdep

COMMIT = "0123456789" * 4
NODE_CACHE = WeightsSettings(cache_path="/var/cache/memroute", cache_bytes=500 * 2**30)
IMAGES = {"SGLang": "lmsysorg/sglang:v0.5.23", "LlamaCPP": "llama.cpp:server-cuda"}
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 4096,
    "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 12288, "vocab_size": 151936, "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
# A hub's model of which all is known, so that its weights are fetched before the engine.
FETCHED = {"model": {"source": {"hub": {"revision": COMMIT}}, "config": CONFIG}}


def merged(spec, change):
    """The spec with the change, as ``kubectl patch --type merge`` makes it."""
    made = copy.deepcopy(spec)
    for name, value in change.items():
        if isinstance(value, dict) and isinstance(made.get(name), dict):
            made[name] = merged(made[name], value)
        elif value is None:
            made.pop(name, None)
        else:
            made[name] = copy.deepcopy(value)
    return made


class Made:
    """What the operator makes of a spec."""

    def __init__(self, spec, settings):
        engine = spec["engine"].get("type", "VLLM")
        obj = mdep("m", model=spec["model"]["name"])
        obj["spec"] = spec
        (self.of,) = read_deployments(
            [obj], [], [], {}, {}, Cache(), "vllm/vllm-openai:v0.32.0", {}, settings
        ).wanted
        assert self.of.failure is None, self.of.failure
        is_shared = self.of.mode is PlacementMode.SHARED
        num_devices = self.of.footprint.num_devices
        need, whole = self.of.footprint.total_bytes, int(79.2 * GIB)
        where = Placed(
            key=ReplicaKey(namespace="default", name="m", index=0), node="a", mode=self.of.mode,
            device_uuids=tuple(f"GPU-{i}" for i in range(num_devices)) if is_shared else (),
            num_devices=num_devices, bytes_per_device=need if is_shared else whole,
            needed_bytes_per_device=need, usable_bytes_per_device=whole, product=None, why="",
        )  # fmt: skip
        self.pod = replica_pod(
            self.of, where, is_gated=False, default_image="vllm/vllm-openai:v0.32.0",
            shared_runtime_class="nvidia", fetch_image="memroute/fetch:1",
        )  # fmt: skip
        self.spec = self.pod["spec"]
        self.engine = next(one for one in self.spec["containers"] if one["name"] == "engine")
        inits = self.spec.get("initContainers") or ()
        self.fetch = next((one for one in inits if one["name"] == "memroute-fetch"), None)
        self.type = engine

    def flag(self, name):
        """The value of the last such flag; True where it is alone; None where it is not there."""
        args = self.engine.get("args") or []
        if name not in args:
            return None
        at = len(args) - 1 - args[::-1].index(name)
        value = args[at + 1] if at + 1 < len(args) else "--"
        return True if value.startswith("--") else value

    def env(self, container=None):
        return {
            one["name"]: one.get("value", one.get("valueFrom"))
            for one in (container or self.engine)["env"]
        }


Check = Callable[[Made, Made], bool]
"""Whether what was wrong is gone: before the edit, after it."""


@dataclass(frozen=True)
class Follow:
    """One suggestion, as the edit that it asks for."""

    change: dict[str, Any]
    is_gone: Check
    first: dict[str, Any] = field(default_factory=dict)
    """What the spec says before, beside the usual."""
    settings: WeightsSettings = NO_SETTINGS
    says: str = ""
    """What the suggestion has to say for somebody to make this edit."""


def template(**spec):
    return {"template": {"spec": spec}}


def container(**fields):
    return template(containers=[{"name": "engine", **fields}])


def engine(**fields):
    return {"engine": fields}


def env(name, value="1"):
    return engine(env=[{"name": name, "value": value}])


def of_engine(kind, mode="Shared", **more):
    said = {"engine": {"type": kind}, "placement": {"mode": mode}}
    if kind != "VLLM":
        said["engine"]["image"] = IMAGES[kind]
    if kind == "LlamaCPP":
        said["model"] = {"file": "m.gguf", "checkpointBytes": 5 * 10**9}
    return merged(said, more)


def memory(**fields):
    return {"memory": fields}


def has(**wanted):
    """A check: these fields of the pod's spec are so, and were not."""

    def check(before, after):
        return all(before.spec.get(k) != v and after.spec.get(k) == v for k, v in wanted.items())

    return check


def limited(kind, resource, amount, of="engine"):
    def check(before, after):
        was, found = ((getattr(one, of).get("resources") or {}) for one in (before, after))
        return found[kind][resource] == amount != (was.get(kind) or {}).get(resource)

    return check


def variable(name, value="1"):
    return lambda before, after: before.env().get(name) != value == after.env()[name]


def image(before, after):
    return before.engine["image"] != after.engine["image"] == "mirror.example/vllm:1"


def smaller_flag(name):
    return lambda before, after: int(after.flag(name)) < int(before.flag(name))


def selected(before, after):
    """It is placed on nodes that have the label alone (the planner's part: test_why_not)."""
    return before.of.node_selector != {"zone": "a"} == after.of.node_selector


def pool_bytes(made):
    return int(made.flag("--kv-cache-memory-bytes"))


def size_limits(made):
    return [one["emptyDir"]["sizeLimit"] for one in made.spec["volumes"]
            if "sizeLimit" in one.get("emptyDir", {}) and "memory" not in str(one)]  # fmt: skip
