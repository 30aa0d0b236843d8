"""LoRA adapters with sources: read from a spec, counted, put into pods, told in a status."""

import copy
import json

import pytest

from memroute.footprint.weights import adapter_bytes_per_rank
from memroute.units import GIB, MIB
from memroute_kube.routing import RoutingStatus, read_routing_status
from memroute_operator.adapters.calls import CALLS, read_loaded, why_refused
from memroute_operator.adapters.deciding import (
    FetchTold,
    Load,
    Unload,
    commit_of,
    read_fetched,
    steps,
)
from memroute_operator.adapters.events import adapter_events
from memroute_operator.adapters.reading import Adapter, read_adapters
from memroute_operator.adapters.slots import AdapterSlots, slots_of
from memroute_operator.engines.registry import engine_of
from memroute_operator.pod.manifests import replica_pod
from memroute_operator.pod_template import refusal
from memroute_operator.spec.deployment import read_deployment
from memroute_operator.spec.deployments import read_deployments
from memroute_operator.spec.revision import legacy_revision_of, revision_of
from memroute_operator.spec.revisions import last_good_document, last_good_object
from memroute_operator.store.reading_cache import Cache
from memroute_operator.weights.caches import NO_SETTINGS, WeightsSettings
from memroute_operator.weights.sources import SourceError
from operator_rig import mdep
from planned_objects import placed_on

COMMIT = "0123456789" * 4
SQL = {"name": "sql", "source": {"hub": {"repository": "org/sql"}}}
CLAIM = {
    "name": "law",
    "source": {"persistentVolumeClaim": {"claimName": "loras", "path": "law/v2"}},
}
VLLM, SGLANG = CALLS["vllm"], CALLS["sglang"]


def obj_of(*adapters, engine=None, **model):
    obj = mdep("m")
    obj["spec"]["engine"] |= engine or {}
    obj["spec"]["model"] |= model
    obj["spec"]["adapters"] = list(adapters)
    return obj


def read(*adapters, engine=None, settings=NO_SETTINGS, **model):
    return read_deployment(obj_of(*adapters, engine=engine, **model), settings)


def checked(*adapters, engine):
    """As the operator plans it: with what the engine refuses."""
    obj = obj_of(*adapters, engine=engine)
    read_all = read_deployments([obj], (), [], {}, {}, Cache(), "image", {})
    return read_all.wanted[0]


def pod_of(of, **more):
    return replica_pod(
        of, placed_on("a"), is_gated=False, default_image="vllm/vllm-openai:v0.32.0",
        shared_runtime_class="nvidia", fetch_image="memroute/fetch:1", **more,
    )  # fmt: skip


# -- slots ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapters", "engine", "slots"),
    [
        ([], {}, None),
        ([{"name": "a"}], {}, None),
        ([SQL], {}, (4, 16)),
        ([SQL | {"rank": 8}], {}, (4, 16)),
        ([SQL | {"rank": 33}], {}, (4, 64)),
        ([], {"maxAdapters": 2}, (2, 16)),
        ([SQL | {"rank": 20}], {"maxAdapters": 2, "maxAdapterRank": 256}, (2, 256)),
    ],
)
def test_slots_are_what_is_said_and_else_what_the_list_needs(adapters, engine, slots):
    """A name alone takes no memory: its owner loads it."""
    wanted = None if slots is None else AdapterSlots(max_adapters=slots[0], max_rank=slots[1])
    assert slots_of({"engine": engine, "adapters": adapters}) == wanted


def test_the_footprint_has_the_slots_and_the_flags_say_the_same():
    """Four slots of rank 16, whatever is loaded: vLLM allocates them at its start."""
    of, without = read(SQL), read()
    extra = adapter_bytes_per_rank(of.shape.architecture, max_adapters=4, max_rank=16)
    grown = of.footprint.weights.low - without.footprint.weights.low
    assert grown == extra
    words = " ".join(engine_of(of.engine).arguments(of, placed_on("a")))
    assert "--enable-lora --max-loras 4 --max-lora-rank 16" in words
    assert "--lora-modules" not in words, "one bad adapter would keep the engine from starting"
    env = engine_of(of.engine).environment(of, placed_on("a"))
    assert {"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "1"} in env


@pytest.mark.parametrize("flag", ["--enable-lora", "--max_loras=2", "--max-lora-rank", "--max-lor"])
def test_a_flag_that_contradicts_typed_slots_is_refused_by_name(flag):
    told = read(SQL, engine={"args": [flag]}).failure
    assert told is not None
    assert told.reason == "FlagOwned"
    assert "engine.maxAdapter" in told.message or "could be" in told.message


def test_flags_alone_are_counted_as_before():
    """Whoever loads adapters with flags of their own goes on doing so."""
    of = read({"name": "a"}, engine={"args": ["--enable-lora", "--lora-modules", "a=/x"]})
    assert of.failure is None
    assert of.shape.max_adapters == 1
    assert of.slots is None


@pytest.mark.parametrize("engine", ["LlamaCPP", "Custom"])
def test_an_engine_that_loads_none_while_it_runs_says_what_to_do_instead(engine):
    spec = {"type": engine, "image": "i"}
    if engine == "LlamaCPP":
        told = engine_of(read().engine.__class__.LLAMA_CPP).refusal(
            {"engine": spec, "model": {"name": "a/b", "file": "f"}, "adapters": [SQL]}
        )
    else:
        told = checked(SQL, engine=spec | {"args": ["$(MEMROUTE_KV_CACHE_BYTES)"]}).failure.message
    assert f"{engine} is told to load none" in told


def test_an_adapter_with_the_models_own_name_is_refused():
    """It would be shown as loaded, and no request would ever reach it."""
    one = checked(SQL | {"name": "Qwen/Qwen3-0.6B"}, engine={"type": "VLLM"})
    assert one.footprint is None
    assert "the model's own name" in one.failure.message
    assert checked({"name": "Qwen/Qwen3-0.6B"}, engine={"type": "VLLM"}).footprint is not None
    empty = SQL | {"name": "Qwen/Qwen3-0.6B:"}
    assert (
        "MODEL:ADAPTER" in checked(empty, engine={"type": "SGLang", "image": "i"}).failure.message
    )


def test_sglang_knows_an_adapter_by_the_models_name_too():
    """It would answer a request for any other name with the model alone, and say nothing."""
    engine = {"type": "SGLang", "image": "lmsysorg/sglang:v1"}
    assert "call it Qwen/Qwen3-0.6B:sql" in checked(SQL, engine=engine).failure.message
    of = checked(SQL | {"name": "Qwen/Qwen3-0.6B:sql"}, engine=engine)
    assert of.failure is None
    words = " ".join(engine_of(of.engine).arguments(of, placed_on("a")))
    assert "--enable-lora --max-loras-per-batch 5 --max-lora-rank 16" in words
    assert of.shape.max_adapters == 5, "the model itself takes one place of a batch"
    obj = obj_of(SQL | {"name": "a:b:sql"}, engine=engine, servedName="a:b")
    assert "a name without a colon" in engine_of(of.engine).refusal(obj["spec"])


# -- sources and pods -----------------------------------------------------------------------------


def test_a_list_is_read_with_where_each_lies():
    s3 = {"name": "s", "source": {"s3": {"uri": "s3://bucket/p", "region": "eu-1"}}}
    found = read_adapters({"adapters": [SQL, {"name": "own"}, CLAIM, s3]})
    assert found.listed == (
        Adapter(name="sql", address="hf://org/sql@main"),
        Adapter(name="own"),
        Adapter(name="law", path="/adapters/claims/loras/law/v2"),
        Adapter(name="s", address="s3://bucket/p"),
    )
    assert [one.name for one in found.managed] == ["sql", "law", "s"]
    assert found.credentials.region == "eu-1"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"hub": {"repository": "a/b"}, "s3": {"uri": "s3://bucket/p"}}, "has hub and s3"),
        ({"s3": {"uri": "s3://bucket/a//p"}}, "is no prefix of a bucket"),
        ({"hostPath": {"path": "/srv/loras"}}, "is not among the folders"),
        ({"hostPath": {"path": "srv"}}, "begins with /"),
        ({"persistentVolumeClaim": {"claimName": "c", "path": "../x"}}, "without .."),
    ],
)
def test_a_source_that_cannot_be_is_told(source, told):
    of = read({"name": "a", "source": source})
    assert of.failure.reason == "SourceRefused"
    assert told in of.failure.message
    assert of.footprint is None


def test_one_token_fetches_all():
    """A container has one environment: two tokens would be told apart by nobody."""

    def hub(secret):
        return {"repository": "a/b", "tokenSecretRef": {"name": secret}}

    adapters = [{"name": n, "source": {"hub": hub(n)}} for n in ("x", "y")]
    with pytest.raises(SourceError, match="several tokens \\(x, y\\)"):
        read_adapters({"adapters": adapters})
    model = {"source": {"hub": {"tokenSecretRef": {"name": "hf"}}}}
    found = read_adapters({"model": model, "adapters": [SQL]})
    assert found.credentials.token_secret == "hf"  # noqa: S105 - a name


def test_a_pod_has_the_container_that_fetches_and_the_engine_sees_adapters_alone():
    cache = WeightsSettings(cache_path="/var/cache/memroute", cache_bytes=2**30)
    of = read(
        SQL, CLAIM, settings=cache, source={"s3": {"uri": "s3://models/m"}},
        engine={"env": [{"name": "HTTPS_PROXY", "value": "http://p"}]},
    )  # fmt: skip
    pod = pod_of(of)
    engine, fetcher = pod["spec"]["containers"]
    assert fetcher["args"] == [
        "adapters", "--cache", "/cache/namespace-default", "--max-cache-bytes", str(2**30),
        "--port", "8082",
    ]  # fmt: skip
    assert {one["name"] for one in fetcher["env"]} == {
        "POD_UID", "MEMROUTE_BIND_ADDRESS", "HTTPS_PROXY",
    }  # fmt: skip
    mounts = {one["mountPath"]: one for one in engine["volumeMounts"]}
    fetched = mounts["/adapters/fetched"]
    assert fetched["subPath"] == "namespace-default/adapters"
    assert fetched["readOnly"]
    assert mounts["/adapters/claims/loras"]["readOnly"]
    volumes = {one["name"] for one in pod["spec"]["volumes"]}
    assert {one["name"] for one in engine["volumeMounts"]} <= volumes
    paths = pod["metadata"]["annotations"]["memroute.dev/adapters"]
    assert paths == "/adapters/fetched,/adapters/claims/loras"


def test_without_a_cache_adapters_are_in_a_folder_of_the_pod():
    volumes = {one["name"]: one for one in pod_of(read(SQL))["spec"]["volumes"]}
    assert list(volumes["memroute-adapters"]["emptyDir"]) == ["sizeLimit"]


@pytest.mark.parametrize("size_gib", [None, 9])
def test_a_folder_of_the_pod_is_bounded_and_its_container_knows_by_how_much(size_gib):
    """A repository of 140 GB by mistake would fill the node's disk, and evict its neighbours."""
    said = {
        "cache": {"emptyDir": {}, "sizeGiB": size_gib},
        "source": {"s3": {"uri": "s3://models/x"}},
    }
    of = read(SQL, **(said if size_gib else {}))
    limit = 9 * GIB
    if size_gib is None:
        # 256 of rank 16, in 32 bits: twice what the slots of 16 bits take, 64 times four of them.
        slots = adapter_bytes_per_rank(of.shape.architecture, max_adapters=4, max_rank=16)
        limit = 2 * 64 * slots
    pod = pod_of(of)
    volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
    beside = 256 * MIB
    assert volumes["memroute-adapters"]["emptyDir"] == {"sizeLimit": str(limit + beside)}
    (container,) = [
        one for one in pod["spec"]["containers"] if one["name"] == "memroute-adapters"
    ]  # fmt: skip
    words = container["args"]
    assert words[words.index("--max-cache-bytes") + 1] == str(limit)


def test_a_pod_without_adapters_is_what_it_was():
    """A name alone, too: an upgrade of memroute restarts nothing."""
    assert pod_of(read()) == pod_of(read({"name": "a"}))
    assert len(pod_of(read())["spec"]["containers"]) == 1


def test_a_template_may_give_the_container_resources_and_nothing_else():
    of = read(SQL)
    said = [{"name": "memroute-adapters", "resources": {"limits": {"memory": "1Gi"}}}]
    obj = copy.deepcopy(of.obj)
    obj["spec"]["template"] = {"spec": {"containers": said}}
    container = pod_of(read_deployment(obj))["spec"]["containers"][1]
    assert container["resources"]["limits"]["memory"] == "1Gi"
    assert container["image"] == "memroute/fetch:1"
    obj["spec"]["adapters"] = []
    assert len(pod_of(read_deployment(obj))["spec"]["containers"]) == 1
    said[0]["image"] = "other"
    assert "must not be set for the container memroute-adapters" in refusal(obj["spec"]["template"])


@pytest.mark.parametrize(
    ("before", "after", "restarts"),
    [
        ([], [{"name": "a"}], False),
        ([], [SQL], True),
        ([SQL], [SQL, SQL | {"name": "b"}], False),
        ([SQL], [SQL | {"rank": 16}], False),
        ([SQL], [SQL | {"rank": 64}], True),
        ([SQL], [SQL, CLAIM], True),
        ([SQL, CLAIM], [SQL, CLAIM, CLAIM | {"name": "b"}], False),
    ],
)
def test_only_what_a_pod_must_have_at_its_start_restarts_engines(before, after, restarts):
    changed = revision_of(obj_of(*before)["spec"]) != revision_of(obj_of(*after)["spec"])
    assert changed == restarts


def test_with_slots_set_the_first_adapter_restarts_nothing():
    engine = {"maxAdapters": 2}
    first = obj_of(engine=engine, source={"hub": {"tokenSecretRef": {"name": "hf"}}})
    second = copy.deepcopy(first)
    second["spec"]["adapters"] = [SQL]
    assert revision_of(first["spec"]) == revision_of(second["spec"])
    assert legacy_revision_of(second["spec"]) is None, "0.1 could not start it"


def test_the_last_good_revision_has_the_slots_that_it_had():
    """A first adapter whose rollout fails must not make the revision before it another one."""
    good = obj_of()
    document = last_good_document(good, revision_of(good["spec"]))
    now = obj_of(SQL) | {"status": {"lastGood": document}}
    assert revision_of(last_good_object(now)["spec"]) == revision_of(obj_of()["spec"])


# -- what an engine is told -----------------------------------------------------------------------


def told(state="complete", **more):
    said = {"wanted": "hf://org/sql@main", "state": state, "directory": "adapters/hub--org--sql--1"}
    return FetchTold(**(said | more))


def decided(*wanted, fetched=None, loaded=None, calls=VLLM, mounts=("/adapters/fetched",)):
    return steps(
        wanted, fetched=fetched or {}, loaded=loaded or {}, mount_paths=mounts, calls=calls,
        served_name="chat", max_rank=16,
    )  # fmt: skip


SQL_ADAPTER = Adapter(name="sql", address="hf://org/sql@main")
SQL_PATH = "/adapters/fetched/hub--org--sql--1"


def test_what_is_fetched_is_loaded_and_what_is_not_yet_is_waited_for():
    found = decided(SQL_ADAPTER, fetched={"sql": told()})
    assert found.loads == [Load(name="sql", engine_name="sql", path=SQL_PATH)]
    assert decided(SQL_ADAPTER).fetching == {"sql"}
    assert decided(SQL_ADAPTER, fetched={"sql": told("fetching")}).fetching == {"sql"}
    assert decided(SQL_ADAPTER, fetched={"sql": told()}, loaded={"sql": SQL_PATH}).loads == []


def test_what_is_wanted_no_more_is_unloaded_and_what_is_not_ours_is_left():
    found = decided(loaded={"sql": SQL_PATH, "own": "/data/own", "late": ""})
    assert found.unloads == [Unload(engine_name="sql")]


def test_another_source_under_the_same_name_takes_its_place_once_it_is_there():
    """While it is fetched the old one serves."""
    old = {"sql": "/adapters/fetched/hub--org--sql--0"}
    assert decided(SQL_ADAPTER, fetched={"sql": told("fetching")}, loaded=old).unloads == []
    found = decided(SQL_ADAPTER, fetched={"sql": told()}, loaded=old)
    assert found.unloads == [Unload(engine_name="sql")]
    assert [one.path for one in found.loads] == [SQL_PATH]


def test_a_rank_that_no_slot_takes_is_told_before_the_engine_is_asked():
    found = decided(SQL_ADAPTER, fetched={"sql": told(rank=64)})
    assert found.loads == []
    assert "its rank is 64, and the engine's slots take 16" in found.troubles["sql"]
    assert "spec.engine.maxAdapterRank" in found.troubles["sql"]


def test_what_could_not_be_fetched_says_why():
    """Also while it is tried again: else it would fail anew each time, an Event for each."""
    for state in ("failed", "fetching", "waiting"):
        failed = told(state, message="org/sql is gated")
        found = decided(SQL_ADAPTER, fetched={"sql": failed})
        assert found.troubles["sql"] == "org/sql is gated; tried again within 300 s"
        assert found.fetching == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "said",
    [
        {"state": "complete"},
        {"state": "complete", "directory": "adapters/.."},
        {"state": "complete", "directory": "adapters/"},
        {"state": "complete", "directory": ["x"]},
        {"state": "complete", "directory": "adapters/x", "source": "hf://org/sql@../../x"},
        {"state": "complete", "directory": "adapters/x", "source": "hf://org/sql@" + "f" * 10**6},
        {"state": "failed", "message": "x" * 10**6},
        {"state": "failed", "message": "\x1b[2J\n\u202egone"},
        {"state": "complete", "directory": "adapters/x", "baseModel": "m\n" * 10**6},
    ],
)
def test_whoever_has_the_port_can_say_anything_and_a_status_can_still_be_written(said):
    """A status past its limits would be refused, and nothing of the model be told any more."""
    page = json.dumps({"adapters": {"sql": {"wanted": "hf://org/sql@main", **said}}})
    fetched = read_fetched(page)
    for one in fetched.values():
        assert commit_of(one.source) is None
    found = decided(SQL_ADAPTER, fetched=fetched)
    assert all(len(words) < 600 and words.isprintable() for words in found.troubles.values())
    assert all(len(one.base_model or "") < 600 for one in found.loads)
    assert [one.path for one in found.loads] in ([], ["/adapters/fetched/x"])


def test_a_volume_that_a_pod_does_not_have_waits_for_the_rollout():
    law = Adapter(name="law", path="/adapters/claims/loras/law")
    assert "a rollout brings it" in decided(law).waiting["law"]
    mounts = ("/adapters/claims/loras",)
    assert decided(law, mounts=mounts).loads[0].path == "/adapters/claims/loras/law"
    assert decided(law, mounts=("/adapters/claims/lora",)).loads == []


def test_sglang_is_told_its_own_name():
    one = Adapter(name="chat:sql", address="hf://org/sql@main")
    found = decided(one, fetched={"chat:sql": told()}, calls=SGLANG)
    assert found.loads[0].engine_name == "sql"
    assert SGLANG.client_name("sql", "chat") == "chat:sql"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, '{"error": {"message": "LoRA rank 64 is greater than max_lora_rank 16."}}',
         "its rank is 64, and the engine's slots take 16"),
        (404, '{"detail": "Not Found"}', "the engine has no such call (HTTP 404)"),
        (404, '{"error": {"message": "Loading lora a failed: No adapter found for /x"}}',
         "No adapter found for /x; it says of itself that it was made for org/base"),
        (400, '{"success": false, "error_message": "shape mismatch"}', "shape mismatch"),
        (500, "", "the engine does not load it (HTTP 500): without a word"),
    ],
)  # fmt: skip
def test_a_refusal_of_an_engine_is_a_sentence(status, body, words):
    refused = why_refused(status, body, max_rank=16, base_model="org/base")
    assert words in refused.why
    assert not refused.is_pending


def test_a_rank_that_was_raised_waits_for_the_pods_that_have_it():
    """Nothing has failed, and nobody is to set what is set already: a rollout is under way."""
    body = '{"error": {"message": "LoRA rank 64 is greater than max_lora_rank 16."}}'
    refused = why_refused(400, body, max_rank=64, base_model=None)
    assert refused.is_pending
    assert "a rollout brings more" in refused.why


@pytest.mark.parametrize("claim", ["../../models", "a,b", "a/b", "a:b", "Loras", "-a"])
def test_a_claim_whose_name_is_none_is_refused(claim):
    """It is a part of a path in pods, and of a list with commas."""
    source = {"persistentVolumeClaim": {"claimName": claim}}
    with pytest.raises(SourceError, match="is no claim's name"):
        read_adapters(obj_of({"name": "a", "source": source})["spec"])


def test_lists_that_are_none_are_read_as_none():
    assert read_loaded("[") is None
    assert read_loaded('{"data": 3}') is None
    page = '{"data": [{"id": "m"}, {"id": "a", "root": "/x", "parent": "m"}, 7]}'
    assert read_loaded(page) == {"a": "/x"}
    assert read_fetched("{}") is None
    assert read_fetched('{"adapters": {"a": 3, "b": {"wanted": "s", "state": "waiting"}}}') == {
        "b": FetchTold(wanted="s", state="waiting")
    }


# -- what is told ---------------------------------------------------------------------------------


def test_routers_are_told_what_each_replica_has_and_nothing_where_nobody_knows():
    status = {
        "observedGeneration": 1,
        "routing": {
            "observedGeneration": 1,
            "replicas": [
                {"servedName": "m", "adapters": ["sql"], "pods": {"a": "1"}},
                {"servedName": "m", "pods": {"b": "2"}},
                {"servedName": "m", "adapters": [], "pods": {"c": "3"}},
            ],
        },
    }
    told = read_routing_status({"status": status})
    assert {one.pod: one.adapters for one in told.replicas.values()} == {
        "a": ("sql",), "b": None, "c": (),
    }  # fmt: skip
    again = RoutingStatus(names=None, replicas=told.replicas).document(1)
    assert len(again["replicas"]) == 3


def test_an_event_is_written_when_a_state_changes_and_failures_come_first():
    loaded = {"name": "a", "state": "Loaded", "loadedReplicas": 2}
    failed = {"name": "b", "state": "Failed", "message": "gated"}
    found = list(adapter_events([], [loaded, failed]))
    assert [one.reason for one in found] == ["AdapterFailed", "AdapterLoaded"]
    assert found[0].message == "adapter b: gated"
    assert list(adapter_events([loaded, failed], [loaded, failed | {"message": "still"}])) == []
    assert [one.reason for one in adapter_events([loaded], None)] == ["AdapterRemoved"]
    many = [{"name": str(n), "state": "Loaded"} for n in range(50)]
    assert len(list(adapter_events(None, many))) == 10
