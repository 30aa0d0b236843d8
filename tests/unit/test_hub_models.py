"""Models that only a hub knows, as the operator reads, pins and runs them."""

import asyncio
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fake_hub
from fake_hub import TINY_CONFIG, FakeHub, Repository, tiny_files
from memroute_hub import HubError, HubModel, HubReason, ModelName
from memroute_hub.client import open_hub
from memroute_hub.settings import HubSettings, Token, usual_endpoint
from memroute_operator.spec.deployment import COMMIT_UNKNOWN, MODEL_UNKNOWN, read_deployment
from memroute_operator.spec.hub_models import MAX_CONCURRENT, HubModels
from memroute_operator.spec.model_pins import MAX_CONFIG_CHARACTERS, pin_from, read_pin
from memroute_operator.spec.revision import revision_of
from operator_rig import Rig, mdep, node, operator_rig
from planned_objects import pod_of

TINY = ModelName(repository="org/tiny")
COMMIT = "ab" * 20
ENDPOINT = "http://hub.example"
GPUS = [node("a", gpus=2)]
NAME = "Qwen/Qwen3-0.6B"


def of_hub(name="m", *, model="org/tiny", hub=None, **more):
    """A ModelDeployment of a model that the catalogue does not have."""
    obj = mdep(name, model=model, maxContextTokens=1024, **more)
    if hub is not None:
        obj["spec"]["model"]["source"] = {"hub": hub}
    return obj


def hub_model(repository="org/tiny", *, commit=COMMIT, endpoint=ENDPOINT, **config):
    return HubModel(
        endpoint=endpoint,
        repository=repository,
        revision="main",
        commit=commit,
        config=TINY_CONFIG | config,
        weight_files=(),
    )


def pinned(obj, name=TINY, **model):
    """The object with a status as the operator writes it."""
    pin = pin_from(hub_model(name.repository, **model), name, usual_endpoint())
    return obj | {"status": {"model": pin.document()}}


def status_of(rig):
    return rig.cluster.objects["modeldeployments"]["default/m"]["status"]


def not_ready(pod):
    for condition in pod["status"]["conditions"]:
        if condition["type"] == "Ready":
            condition["status"] = "False"


class ScriptedHub:
    """Answers by name; an exception is raised. Counts who is asked, and how many at once."""

    def __init__(self, answers=None):
        self.answers = answers or {}
        self.asked = []
        self.running = self.most = 0
        self.gate = None

    async def __call__(self, name):
        self.asked.append(str(name))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.running -= 1
        answer = self.answers.get(str(name)) or hub_model(name.repository)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Models:
    """``HubModels`` on a clock of its own."""

    def __init__(self, hub, *, is_offline=False):
        self.now = 1000.0
        self.news = 0
        self.bugs = []
        self.read = []
        self.models = HubModels(
            hub, endpoint=ENDPOINT, usual_endpoint=usual_endpoint(), is_offline=is_offline,
            on_change=self._on_change, on_bug=lambda *bug: self.bugs.append(bug),
            on_read=self.read.append,
            clock=lambda: self.now, rng=random.Random(1),
        )  # fmt: skip

    def _on_change(self):
        self.news += 1

    async def ask(self, *objs, after_seconds=0.0):
        """The failures and pins that these are told, once everything that is due has ended."""
        self.now += after_seconds
        deployments = [read_deployment(obj) for obj in objs]
        self.models.want(deployments)
        for _ in objs:
            self.models.start_due()
            await self.models.settle()
        return [self.models.told(one) for one in deployments]


def error(reason, retry_after_seconds=None):
    return HubError(reason, "the sentence", retry_after_seconds=retry_after_seconds)


def test_a_model_of_the_catalogue_asks_no_hub():
    found = read_deployment(of_hub(model="Qwen/Qwen3-0.6B"))
    assert found.footprint is not None
    assert (found.hub_name, found.pin, found.engine_revision) == (None, None, None)


def test_a_model_that_is_described_asks_no_hub():
    obj = of_hub()
    obj["spec"]["model"]["config"] = TINY_CONFIG
    found = read_deployment(obj)
    assert found.footprint is not None
    assert found.hub_name is None


def test_the_catalogue_does_not_stand_in_for_a_revision():
    """It knows one version of each model; whoever names another wants that one."""
    found = read_deployment(of_hub(model="Qwen/Qwen3-0.6B", hub={"revision": "v2"}))
    assert found.failure.reason == MODEL_UNKNOWN
    assert "v2" in found.failure.message
    assert found.hub_name == ModelName(repository="Qwen/Qwen3-0.6B", revision="v2")


def test_a_pin_is_what_the_footprint_and_the_engine_go_by():
    found = read_deployment(pinned(of_hub()))
    assert found.footprint is not None
    assert found.hub_name is None
    container = pod_of(found)["spec"]["containers"][0]
    at = container["args"].index("--revision")
    assert container["args"][at + 1] == COMMIT


def test_the_usual_hub_is_named_to_no_engine():
    names = {
        v["name"] for v in pod_of(read_deployment(pinned(of_hub())))["spec"]["containers"][0]["env"]
    }
    assert "HF_ENDPOINT" not in names


def test_a_pin_of_another_revision_is_none():
    """An edit of the revision asks anew; going back finds nothing wrong with what was pinned."""
    obj = pinned(of_hub())
    edited = obj | of_hub(hub={"revision": "v2"})
    assert read_deployment(edited).hub_name == ModelName(repository="org/tiny", revision="v2")
    assert read_deployment(obj | of_hub(hub={"revision": "main"})).pin is not None


def test_a_token_is_the_engines_unless_they_have_one():
    hub = {"tokenSecretRef": {"name": "hub-token", "key": "value"}}
    obj = pinned(of_hub(hub=hub))
    reference = {"secretKeyRef": {"name": "hub-token", "key": "value"}}
    env = pod_of(read_deployment(obj))["spec"]["containers"][0]["env"]
    assert {"name": "HF_TOKEN", "valueFrom": reference} in env
    obj["spec"]["engine"]["env"] = [{"name": "HF_TOKEN", "value": "mine"}]
    env = pod_of(read_deployment(obj))["spec"]["containers"][0]["env"]
    assert [v for v in env if v["name"] == "HF_TOKEN"] == [{"name": "HF_TOKEN", "value": "mine"}]


def test_what_is_not_said_of_the_source_restarts_nothing():
    """The field is new: engines that run are not replaced because a CRD knows it."""
    without, with_none = of_hub()["spec"], of_hub(hub={})["spec"]
    assert revision_of(without) == revision_of(with_none)
    assert revision_of(without) != revision_of(of_hub(hub={"revision": "v2"})["spec"])
    token = {"tokenSecretRef": {"name": "other"}}
    assert revision_of(without) != revision_of(of_hub(hub=token)["spec"])


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(COMMIT),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@pytest.mark.slow
@given(
    name=ANY | st.just("org/tiny"), revision=ANY | st.just("main"), commit=ANY, size=ANY,
    endpoint=ANY, config=ANY | st.just(json.dumps(TINY_CONFIG)) | st.just("[" * 5000),
)  # fmt: skip
def test_whatever_a_status_holds_is_a_pin_or_none(**model):
    """Whoever may edit the status may have been there."""
    model["checkpointBytes"] = model.pop("size")
    status = {"model": model}
    found = read_deployment(of_hub() | {"status": status})
    assert (found.footprint is None) == (found.failure is not None)
    pin = read_pin(status, TINY)
    assert pin is None or read_pin({"model": pin.document()}, TINY) == pin


async def test_what_a_hub_says_becomes_a_pin_and_is_asked_once():
    hub = ScriptedHub()
    models = Models(hub)
    (told,) = await models.ask(of_hub())
    assert told.pin.commit == COMMIT
    assert (told.failure.reason, told.failure.is_lasting) == ("ModelResolving", False)
    await models.ask(of_hub(), of_hub("other"))
    assert hub.asked == ["org/tiny"]
    assert models.news == 1
    assert models.read == ["Read"]


async def test_before_it_has_answered_it_says_whom_it_asks():
    (of,) = [read_deployment(of_hub())]
    models = Models(ScriptedHub()).models
    models.want([of])
    told = models.told(of)
    assert told.failure.reason == "ModelResolving"
    assert ENDPOINT in told.failure.message


@pytest.mark.parametrize(
    ("reason", "is_lasting"),
    [
        (HubReason.REPOSITORY_NOT_FOUND, True), (HubReason.TOKEN_REQUIRED, True),
        (HubReason.ACCESS_NOT_GRANTED, True), (HubReason.CONFIG_MISSING, True),
        (HubReason.HUB_UNREACHABLE, False), (HubReason.HUB_TIMEOUT, False),
        (HubReason.HUB_FAILING, False), (HubReason.RATE_LIMITED, False),
    ],
)  # fmt: skip
async def test_a_failure_says_why_and_when_it_is_tried_again(reason, is_lasting):
    """Pagers and kstatus tell what passes by itself from what somebody must do."""
    hub = ScriptedHub({"org/tiny": error(reason)})
    models = Models(hub)
    (told,) = await models.ask(of_hub())
    assert told.failure.reason == reason.value
    assert told.failure.message.startswith("the sentence; tried again in ")
    assert told.failure.is_lasting is is_lasting
    await models.ask(of_hub(), after_seconds=1.0)
    assert len(hub.asked) == 1
    del hub.answers["org/tiny"]
    (told,) = await models.ask(of_hub(), after_seconds=61.0)
    assert told.pin is not None


async def test_one_models_failure_is_its_own():
    hub = ScriptedHub({"org/bad": error(HubReason.CONFIG_UNREADABLE), "org/bug": ValueError("x")})
    models = Models(hub)
    bad, bug, good = await models.ask(
        of_hub("a", model="org/bad"), of_hub("b", model="org/bug"), of_hub("c")
    )
    assert (bad.failure.reason, bug.failure.reason) == ("ConfigUnreadable", "InternalError")
    assert good.pin is not None
    assert [where for where, _ in models.bugs] == ["hub"]


async def test_a_hub_that_limits_requests_is_left_alone_by_all():
    """429 is about who asks, not about the model that was asked for."""
    hub = ScriptedHub({"org/a": error(HubReason.RATE_LIMITED, 30.0)})
    models = Models(hub)
    await models.ask(of_hub(model="org/a"))
    first, second = await models.ask(of_hub(model="org/a"), of_hub("n", model="org/b"))
    assert hub.asked == ["org/a"]
    assert first.failure.reason == second.failure.reason == "RateLimited"
    del hub.answers["org/a"]
    told = await models.ask(of_hub(model="org/a"), of_hub("n", model="org/b"), after_seconds=31.0)
    assert all(one.pin is not None for one in told)


async def test_few_are_asked_at_a_time_and_all_in_the_end():
    hub = ScriptedHub()
    hub.gate = asyncio.Event()
    models = Models(hub).models
    wanted = [read_deployment(of_hub(f"m{i}", model=f"org/m{i}")) for i in range(10)]
    models.want(wanted)
    models.start_due()
    await asyncio.sleep(0)
    assert len(hub.asked) == MAX_CONCURRENT
    hub.gate.set()
    for _ in range(3):
        await models.settle()
        models.start_due()
    await models.settle()
    assert hub.most == MAX_CONCURRENT
    assert all(models.told(one).pin is not None for one in wanted)


async def test_what_nobody_wants_any_more_is_not_waited_for():
    hub = ScriptedHub()
    hub.gate = asyncio.Event()
    models = Models(hub).models
    models.want([read_deployment(of_hub())])
    models.start_due()
    await asyncio.sleep(0)
    models.want([])
    await asyncio.sleep(0)
    assert hub.running == 0


async def test_a_pin_that_does_not_stay_says_that_the_crd_is_old():
    """Helm upgrades no CRDs: an older schema drops the field that it does not know."""
    models = Models(ScriptedHub())
    await models.ask(of_hub())
    (told,) = await models.ask(of_hub(), after_seconds=31.0)
    assert (told.failure.reason, told.failure.is_lasting) == ("CRDOutdated", True)
    assert told.pin is not None, "it is written again"


async def test_a_configuration_that_no_status_holds_is_told():
    large = hub_model(x="y" * MAX_CONFIG_CHARACTERS)
    (told,) = await Models(ScriptedHub({"org/tiny": large})).ask(of_hub())
    assert told.failure.reason == "ConfigTooLarge"
    assert "spec.model.config" in told.failure.message


async def test_offline_nobody_is_asked_and_the_remedy_is_told():
    hub = ScriptedHub()
    (told,) = await Models(hub, is_offline=True).ask(of_hub())
    assert told.failure.reason == MODEL_UNKNOWN
    assert "--offline" in told.failure.message
    assert "not in the catalogue of 43 models" in told.failure.message
    assert told.failure.message.count("config.json") == 1
    assert hub.asked == []


async def test_a_model_of_the_hub_is_pinned_and_then_serves():
    """From the object to a ready replica; the commit is in the status before there is a pod."""
    async with operator_rig(nodes=GPUS, mdeps=[of_hub()], resolve_model=ScriptedHub()) as rig:
        await rig.step()
        assert rig.condition("default/m", "Resolved")["reason"] == "ModelResolving"
        assert rig.condition("default/m", "Reconciling")["status"] == "True"
        assert rig.condition("default/m", "Degraded") == {}
        assert rig.cluster.pods() == []
        await rig.until("ready", lambda: rig.is_ready("default/m"))
        status = rig.cluster.objects["modeldeployments"]["default/m"]["status"]
        assert status["model"]["commit"] == COMMIT
        assert json.loads(status["model"]["config"]) == TINY_CONFIG
        assert COMMIT[:12] in rig.condition("default/m", "Resolved")["message"]
        (pod,) = rig.cluster.pods()
        assert COMMIT in pod["spec"]["containers"][0]["args"]


@pytest.mark.slow
async def test_a_restart_while_the_hub_is_down_keeps_what_was_pinned():
    """Nor does it notice that the branch has moved: replicas of one spec are one model."""
    async with operator_rig(nodes=GPUS, mdeps=[of_hub()], resolve_model=ScriptedHub()) as rig:
        await rig.until("ready", lambda: rig.is_ready("default/m"))
        await rig.stop()
        down = ScriptedHub({"org/tiny": error(HubReason.HUB_UNREACHABLE)})
        again = Rig(rig.cluster, rig._client, resolve_model=down)
        await again.start()
        try:
            await again.list_and_step(3)
            again.cluster.change(
                "modeldeployments", "default/m", lambda obj: obj["spec"].update(replicas=2)
            )
            await again.until("two", lambda: len(again.cluster.pods()) == 2)
            assert down.asked == []
            assert all(
                COMMIT in pod["spec"]["containers"][0]["args"] for pod in again.cluster.pods()
            )
        finally:
            await again.stop()


@pytest.mark.slow
async def test_an_edit_of_the_revision_leaves_what_runs_until_the_new_one_is_known():
    """A typing error in a revision must not end what serves."""
    hub = ScriptedHub({"org/tiny@v2": error(HubReason.REVISION_NOT_FOUND)})
    async with operator_rig(nodes=GPUS, mdeps=[of_hub()], resolve_model=hub) as rig:
        await rig.until("ready", lambda: rig.is_ready("default/m"))
        (before,) = rig.cluster.pods()
        source = {"hub": {"revision": "v2"}}

        def edit(obj):
            obj["spec"]["model"]["source"] = source
            obj["metadata"]["generation"] = 2

        rig.cluster.change("modeldeployments", "default/m", edit)
        await rig.steps(5)
        assert rig.condition("default/m", "Resolved")["reason"] == "RevisionNotFound"
        assert [pod["metadata"]["uid"] for pod in rig.cluster.pods()] == [before["metadata"]["uid"]]
        hub.answers["org/tiny@v2"] = hub_model(commit="cd" * 20)
        await rig.step(61.0)
        await rig.until("the new one", lambda: rig.is_ready("default/m"), at_most=200)
        await rig.until("the old one to go", lambda: len(rig.cluster.pods()) == 1, at_most=200)
        (after,) = rig.cluster.pods()
        assert "cd" * 20 in after["spec"]["containers"][0]["args"]


async def test_what_a_person_must_change_stalls_it_and_what_passes_does_not():
    hub = ScriptedHub(
        {"org/tiny": error(HubReason.REPOSITORY_NOT_FOUND), "org/b": error(HubReason.HUB_FAILING)}
    )
    objs = [of_hub(), of_hub("b", model="org/b"), mdep("good")]
    async with operator_rig(nodes=GPUS, mdeps=objs, resolve_model=hub) as rig:
        await rig.until("the other", lambda: rig.is_ready("default/good"))
        assert rig.condition("default/m", "Stalled")["reason"] == "RepositoryNotFound"
        assert rig.condition("default/b", "Reconciling")["reason"] == "HubFailing"
        patches = rig.cluster.count("PATCH", "modeldeployments")
        await rig.steps(3)
        assert rig.cluster.count("PATCH", "modeldeployments") == patches, "nothing has changed"


@pytest.mark.slow
async def test_a_hub_that_hangs_delays_nothing_else():
    """A step never waits for a hub."""
    hub = ScriptedHub()
    hub.gate = asyncio.Event()
    objs = [of_hub(), mdep("good")]
    async with operator_rig(nodes=GPUS, mdeps=objs, resolve_model=hub) as rig:
        rig.waits_for_hub = False
        await rig.until("the other", lambda: rig.is_ready("default/good"), at_most=10)
        assert rig.condition("default/m", "Resolved")["reason"] == "ModelResolving"
        assert hub.running == 1
        hub.gate.set()
        rig.waits_for_hub = True
        await rig.until("it as well", lambda: rig.is_ready("default/m"))


@pytest.mark.slow
async def test_against_a_hub_that_answers():
    """The whole way: gated, then granted; the operator's own token reads, the engines' loads."""
    files = tiny_files()
    with (
        fake_hub.loopback_sessions(),
        FakeHub({"org/tiny": Repository(files, is_gated=True)}) as hub,
    ):
        token = {"value": None}

        async def resolve(name):
            settings = HubSettings(endpoint=hub.url, token=Token(**token))
            async with open_hub(settings) as client:
                return await client.resolve(name)

        argv = ["--hub-endpoint", hub.url]
        async with operator_rig(
            nodes=GPUS, mdeps=[of_hub()], argv=argv, resolve_model=resolve
        ) as rig:
            await rig.steps(2)
            told = rig.condition("default/m", "Resolved")
            assert told["reason"] == "TokenRequired"
            assert "tried again in 60 s" in told["message"]
            token["value"] = fake_hub.GOOD_TOKEN
            await rig.step(61.0)
            await rig.until("ready", lambda: rig.is_ready("default/m"))
            status = rig.cluster.objects["modeldeployments"]["default/m"]["status"]
            assert status["model"]["commit"] == hub.repositories["org/tiny"].commit
            assert status["model"]["endpoint"] == hub.url
            (pod,) = rig.cluster.pods()
            variable = {"name": "HF_ENDPOINT", "value": hub.url}
            assert variable in pod["spec"]["containers"][0]["env"]
            assert status["model"]["checkpointBytes"] == sum(len(files[n]) for n in fake_hub.SHARDS)


async def test_weights_from_elsewhere_are_described_where_the_hub_does_not_know_the_name():
    """The hub is asked for what the model needs, and need not have it."""
    hub = ScriptedHub({"org/tiny": error(HubReason.REPOSITORY_NOT_FOUND)})
    obj = of_hub()
    obj["spec"]["model"]["source"] = {"persistentVolumeClaim": {"claimName": "w"}}
    (told,) = await Models(hub).ask(obj)
    assert told.failure.reason == "RepositoryNotFound"
    assert told.failure.message.endswith("give its config.json as spec.model.config")


async def test_offline_a_cache_wants_the_commit_and_no_config():
    obj = of_hub(model="Qwen/Qwen3-0.6B")
    obj["spec"]["model"]["cache"] = {"emptyDir": {}}
    (told,) = await Models(ScriptedHub(), is_offline=True).ask(obj)
    assert told.failure.reason == COMMIT_UNKNOWN
    assert "set it as spec.model.source.hub.revision" in told.failure.message
    assert "config.json" not in told.failure.message


# A replica that serves needs no hub


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reason", "argv", "status"),
    [
        (HubReason.HUB_UNREACHABLE, [], "Unknown"),
        (HubReason.RATE_LIMITED, [], "Unknown"),
        (HubReason.TOKEN_REQUIRED, [], "False"),
        (HubReason.HUB_UNREACHABLE, ["--offline"], "False"),
    ],
)
async def test_a_cache_that_is_set_without_a_way_to_the_hub_leaves_ready_what_serves(
    reason, argv, status
):
    """``helm upgrade --set modelCache.path`` must not fail a fleet that serves.

    What a new start would need is told by ``Resolved``, and whatever has to start waits for it.
    """
    down = ScriptedHub({NAME: error(reason)})
    argv = ["--model-cache-path=/c", *argv]
    async with operator_rig(nodes=GPUS, mdeps=[mdep("m", model=NAME)]) as rig:
        await rig.until("ready", lambda: rig.is_ready("default/m"))
        before = [pod["metadata"]["uid"] for pod in rig.cluster.pods()]
        needs = status_of(rig)["footprint"]
        for _ in range(2):
            async with rig.restarted(argv=argv, resolve_model=down) as again:
                await again.list_and_step(3)
                resolved = again.condition("default/m", "Resolved")
                assert resolved["status"] == status
                assert "one that has to start waits for this" in resolved["message"]
                assert again.condition("default/m")["reason"] == "Serving"
                for kind in ("Reconciling", "Stalled", "Degraded"):
                    assert again.condition("default/m", kind) == {}, kind
                assert status_of(again)["footprint"] == needs
                assert status_of(again)["rollout"]["phase"] == "Complete"
                assert [pod["metadata"]["uid"] for pod in again.cluster.pods()] == before
        async with rig.restarted(argv=argv, resolve_model=down) as again:
            again.cluster.change(
                "modeldeployments", "default/m", lambda obj: obj["spec"].update(replicas=2)
            )
            await again.list_and_step(3)
            assert again.condition("default/m")["reason"] == resolved["reason"]
            assert again.condition("default/m", "Available")["status"] == "True"
            assert [pod["metadata"]["uid"] for pod in again.cluster.pods()] == before
        answers = {NAME: hub_model(NAME, max_position_embeddings=40960)}
        async with rig.restarted(argv=argv[:1], resolve_model=ScriptedHub(answers)) as again:
            await again.until("two", lambda: again.is_ready("default/m"))
            assert len(again.cluster.pods()) == 2


@pytest.mark.slow
async def test_a_pin_that_is_lost_while_the_hub_is_down_leaves_ready_what_serves():
    """A backup that was restored without statuses has no pins; its replicas serve on."""
    async with operator_rig(nodes=GPUS, mdeps=[of_hub()], resolve_model=ScriptedHub()) as rig:
        await rig.until("ready", lambda: rig.is_ready("default/m"))
        needs = status_of(rig)["footprint"]
        rig.cluster.change("modeldeployments", "default/m", lambda obj: obj["status"].pop("model"))
        down = ScriptedHub({"org/tiny": error(HubReason.HUB_UNREACHABLE)})
        async with rig.restarted(resolve_model=down) as again:
            await again.list_and_step(3)
            assert again.condition("default/m", "Resolved")["reason"] == "HubUnreachable"
            assert again.is_ready("default/m")
            assert status_of(again)["footprint"] == needs


@pytest.mark.slow
async def test_an_engine_that_fails_is_told_before_a_hub_that_is_down():
    """Whoever is paged has to see the engine: it comes back without the hub."""
    down = ScriptedHub({NAME: error(HubReason.TOKEN_REQUIRED)})
    async with operator_rig(nodes=GPUS, mdeps=[mdep("m", model=NAME)]) as rig:
        await rig.until("ready", lambda: rig.is_ready("default/m"))
        async with rig.restarted(argv=["--model-cache-path=/c"], resolve_model=down) as again:
            (pod,) = again.cluster.pods()
            again.cluster.is_ready_at_once = False
            again.cluster.change("pods", f"default/{pod['metadata']['name']}", not_ready)
            await again.list_and_step(3)
            assert again.condition("default/m")["reason"] == "ReplicasNotServing"
            assert again.condition("default/m", "Reconciling")["status"] == "True"
            assert again.condition("default/m", "Stalled") == {}


@pytest.mark.parametrize(
    ("model", "near"),
    [
        ("Qwen/Qwen3-9B", "did you mean Qwen/Qwen3-8B"),
        ("org/tiny", None),
        ("Qwen/Qwen3-0.6B", None),
    ],
)
async def test_a_name_that_no_hub_could_be_asked_for_is_compared_with_the_catalogue(model, near):
    """Without a hub nobody else can say that a name is misspelt."""
    hub = ScriptedHub({model: error(HubReason.HUB_UNREACHABLE)})
    obj = of_hub(model=model)
    obj["spec"]["model"]["cache"] = {"emptyDir": {}}
    (told,) = await Models(hub).ask(obj)
    assert told.failure.reason == "HubUnreachable"
    assert ("did you mean" in told.failure.message) == (near is not None)
    assert near is None or near in told.failure.message
