"""What restarts engines, and what must not: upgrades, rollbacks, and edits that change nothing."""

import copy
import hashlib
import json

import pytest

from memroute_operator.spec import revision
from memroute_operator.spec.revision import LEGACY_FIELDS, legacy_revision_of, revision_of

SPEC = {
    "model": {"name": "Qwen/Qwen3-8B"},
    "engine": {"type": "VLLM"},
    "memory": {
        "maxContextTokens": 8192, "concurrency": 4, "kvCacheDtype": "Auto", "quantization": "Auto",
    },
    "parallelism": {"tensorParallelSize": 1},
    "replicas": 1,
    "placement": {"mode": "Shared", "strategy": "Pack"},
    "routing": {"kvWatermarkPercent": 95},
}  # fmt: skip
PAIR = [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]


def edited(path, value, spec=SPEC):
    """The spec with one field set."""
    spec = copy.deepcopy(spec)
    *parents, last = path.split(".")
    target = spec
    for name in parents:
        target = target.setdefault(name, {})
    target[last] = value
    return spec


# What 0.1 wrote for today's words.
WORDS_OF_0_1 = {
    "VLLM": "vllm", "Auto": "auto", "FP8": "fp8", "Shared": "shared", "Exclusive": "exclusive",
    "Pack": "pack",
}  # fmt: skip


def as_0_1_stored_it(spec):
    """The same ModelDeployment in the words of 0.1."""
    spec = copy.deepcopy(spec)
    for section in ("engine", "memory", "placement"):
        for name, word in spec[section].items():
            if isinstance(word, str):
                spec[section][name] = WORDS_OF_0_1.get(word, word)
    if spec["memory"]["quantization"] == "auto":
        spec["memory"]["quantization"] = "none"
    return spec


def revision_of_release_0_1(spec):
    """The function of release 0.1, to the letter."""
    parts = {
        "model": spec["model"],
        "engine": spec["engine"],
        "memory": spec["memory"],
        "parallelism": spec["parallelism"],
        "mode": spec["placement"]["mode"],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]


EXCLUSIVE = edited("placement.mode", "Exclusive")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SPEC, edited("memory.blockSize", 16)),
        (SPEC, edited("engine.gracePeriodSeconds", 60)),
        (SPEC, edited("model.revision", "main")),
        (SPEC, edited("parallelism.pipelineParallelSize", 1)),
        (SPEC, edited("scaling", {"minReplicas": 1})),
        (SPEC, edited("replicas", 7)),
        (SPEC, edited("placement.nodeSelector", {"pool": "x"})),
        (SPEC, edited("placement.strategy", "Spread")),
        (SPEC, edited("routing.kvWatermarkPercent", 50)),
        (SPEC, edited("model.checkpointBytes", 16_381_470_720)),
        (SPEC, edited("model.servedName", "Qwen/Qwen3-8B")),
        (SPEC, edited("engine.args", [])),
        (SPEC, edited("engine.env", [])),
        (SPEC, as_0_1_stored_it(SPEC)),
        (edited("engine.env", PAIR), edited("engine.env", PAIR[::-1])),
        (EXCLUSIVE, edited("memory.concurrency", 5, EXCLUSIVE)),
        (EXCLUSIVE, edited("model.config", {"num_hidden_layers": 36}, EXCLUSIVE)),
    ],
)
def test_what_no_engine_is_told_restarts_none(before, after):
    """Among them: a newer CRD that fills in defaults, and variables in another order."""
    assert revision_of(before) == revision_of(after)


REFERRING = [{"name": "B", "value": "2"}, {"name": "A", "value": "$(B)"}]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SPEC, edited("model.name", "Qwen/Qwen3-0.6B")),
        (SPEC, edited("model.servedName", "chat")),
        (SPEC, edited("model.config", {"num_hidden_layers": 36})),
        (SPEC, edited("engine.image", "vllm/vllm-openai:v0.33.0")),
        (SPEC, edited("engine.args", ["--seed=1"])),
        (edited("engine.args", ["-a", "-b"]), edited("engine.args", ["-b", "-a"])),
        (SPEC, edited("engine.env", PAIR)),
        (edited("engine.env", PAIR), edited("engine.env", PAIR[:1])),
        (edited("engine.env", REFERRING), edited("engine.env", REFERRING[::-1])),
        (SPEC, edited("memory.maxContextTokens", 4096)),
        (SPEC, edited("memory.concurrency", 5)),
        (SPEC, edited("memory.kvCacheDtype", "FP8")),
        (SPEC, edited("memory.quantization", "FP8")),
        (SPEC, edited("parallelism.tensorParallelSize", 2)),
        (SPEC, EXCLUSIVE),
    ],
)
def test_what_an_engine_is_told_replaces_it(before, after):
    """Each of them reaches its flags, its variables, its image or its devices."""
    assert revision_of(before) != revision_of(after)


def test_a_person_can_have_everything_restarted(monkeypatch):
    """And then 0.1's replicas are none of the current spec either."""
    before = revision_of(SPEC)
    monkeypatch.setattr(revision, "TEMPLATE_VERSION", revision.TEMPLATE_VERSION + 1)
    assert revision_of(SPEC) != before
    assert legacy_revision_of(SPEC) is None


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        EXCLUSIVE,
        edited("engine.env", PAIR),
        edited("engine.args", ["--seed=1"]),
        edited("model.config", {"num_hidden_layers": 36, "x": None}),
        edited("model.checkpointBytes", 5),
    ],
)
def test_replicas_of_release_0_1_are_recognized(spec):
    """By the hash that it stamped on them: neither an upgrade nor the new words restart one."""
    stored = as_0_1_stored_it(spec)
    assert legacy_revision_of(stored) == revision_of_release_0_1(stored)
    assert legacy_revision_of(spec) == revision_of_release_0_1(stored)


def test_they_are_recognized_under_a_crd_that_fills_in_more():
    """Such as the next release's: the API server adds its defaults to what it had stored."""
    newer = edited("memory.blockSize", 16, edited("engine.grace", 60))
    assert legacy_revision_of(newer) == revision_of_release_0_1(as_0_1_stored_it(SPEC))


def test_the_crd_fills_in_nothing_that_release_0_1_would_hash(crd):
    """After a rollback 0.1 runs with the newer CRD: a default of ours would restart everything.

    The words differ: 0.1 has stored its own with each object, so ours are filled in for none.
    """
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    defaults = {
        (name, field): sub["default"]
        for name in LEGACY_FIELDS
        for field, sub in schema["properties"][name]["properties"].items()
        if "default" in sub
    }
    assert defaults == {
        ("engine", "type"): "VLLM",
        ("memory", "maxContextTokens"): 8192,
        ("memory", "concurrency"): 4,
        ("memory", "kvCacheDtype"): "Auto",
        ("memory", "quantization"): "Auto",
        ("parallelism", "tensorParallelSize"): 1,
    }
