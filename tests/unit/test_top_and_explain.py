"""What a kubeconfig shows of a fleet is what the operator's own ledger has."""

import json
import re
import shlex
from io import StringIO

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console

from cluster_stub import _merge, refuse
from cluster_view import kubeconfig, memroute, told
from memroute.placement import Ledger, Placed, plan, uses, verdicts
from memroute.units import GIB, format_gib
from memroute_cli.cluster.looking import LookError, glance
from memroute_cli.cluster.top import watched
from memroute_cli.cluster.usage import usage_of
from memroute_operator.explaining import explain_model
from memroute_operator.metrics.fleet import Shown, Snapshot
from memroute_operator.plan import wanted_replica
from memroute_operator.readings.fleet_view import VIEW_NAME, packed, read_view
from operator_rig import mdep, node, operator_rig
from planned_objects import context, deployment

LONG = "ip-10-0-123-234.eu-central-1.compute.internal.example"


@pytest.fixture
async def rig():
    async with operator_rig(
        nodes=[node("gpu-a", gpus=2), node("gpu-b"), node(LONG)],
        mdeps=[mdep("chat", model="Qwen/Qwen3-8B", replicas=2), mdep("draft")],
    ) as it:
        await it.until(
            "all ready", lambda: it.is_ready("default/chat") and it.is_ready("default/draft")
        )
        yield it


@pytest.mark.slow
async def test_top_shows_the_operators_own_ledger(rig):
    """Two programs that sum differently would send a person looking for a bug."""
    seen = await told(rig)
    usage = usage_of(seen.picture)
    facts = rig.reconciler._thinker.gather(rig.reconciler._look())
    ledger = Ledger(facts.inventory)
    for shown in usage.devices:
        (device,) = (
            d for n in facts.inventory.nodes for d in n.devices if d.uuid == shown.device.uuid
        )
        assert shown.promised_bytes == ledger.reserved_bytes(device)
        assert shown.device.live_free_bytes == device.live_free_bytes
    assert usage.fleet.num_devices == 4
    assert usage.fleet.promised_bytes == sum(
        sum(one.device_bytes.values()) for one in facts.inventory.reservations
    )
    assert {one.key: one.ready for one in usage.models} == {"default/chat": 2, "default/draft": 1}
    assert usage.observed_age_seconds < 60


def use(rig, name, num_bytes):
    """The exporter of a node says so of its first device, and is not read again."""
    rig.has_exporters = False
    device = rig.readings.devices.readings[name].devices[0]
    total = device.free_bytes + device.used_bytes
    device.free_bytes, device.used_bytes = total - num_bytes, num_bytes


def registry_of(shown):
    snapshot, registry = Snapshot(), CollectorRegistry()
    snapshot.show(shown)
    registry.register(snapshot)
    return registry


def promised_on(rig, name):
    facts = rig.reconciler._thinker.gather(rig.reconciler._look())
    return sum(sum(one.device_bytes.values()) for one in facts.replicas if one.node == name)


def foreign_metric(rig, name):
    facts = rig.reconciler._thinker.gather(rig.reconciler._look())
    text = generate_latest(registry_of(Shown(facts=facts, refused={}))).decode()
    (line,) = (
        one
        for one in text.splitlines()
        if one.startswith("memroute_device_foreign_bytes{") and f'"{name}"' in one
    )
    return float(line.split()[-1])


def row_of(seen, name):
    (row,) = (one for one in usage_of(seen.picture).nodes if one.node.name == name)
    return row


@pytest.mark.slow
async def test_what_others_use_is_told_apart_from_what_was_promised(rig):
    """A notebook on a shared device: placement must not give its bytes away, and people see why."""
    promised = promised_on(rig, "gpu-b")
    use(rig, "gpu-b", promised + 20 * GIB)
    await rig.step()
    row = row_of(await told(rig), "gpu-b")
    assert row.promised_bytes == promised
    assert row.foreign_bytes == 20 * GIB


@pytest.mark.slow
async def test_what_a_replica_that_starts_may_use_is_not_called_foreign(rig):
    """Its reading is from before it was ready: nobody knows whose those bytes are."""
    assert promised_on(rig, "gpu-b") > 20 * GIB
    use(rig, "gpu-b", 20 * GIB)
    await rig.step()
    row = row_of(await told(rig), "gpu-b")
    assert (row.foreign_bytes, row.unclear_bytes) == (0, 20 * GIB)
    assert foreign_metric(rig, "gpu-b") == 0, "what alerts go by says the same"


@pytest.mark.slow
async def test_what_a_replica_used_that_has_left_since_the_reading_is_not_called_foreign(
    rig, tmp_path
):
    """A person who scales down and looks would search the node for somebody else's process."""
    promised = promised_on(rig, "gpu-b")
    use(rig, "gpu-b", promised + GIB)
    await rig.step()
    before = row_of(await told(rig), "gpu-b")
    assert (before.promised_bytes, before.foreign_bytes) == (promised, GIB)
    pods = {
        key: pod
        for key, pod in rig.cluster.objects["pods"].items()
        if pod["spec"].get("nodeName") == "gpu-b"
    }
    for key in pods:
        del rig.cluster.objects["pods"][key]
    row = row_of(await glance(rig.reconciler.board.client), "gpu-b")
    assert row.promised_bytes == 0
    assert (row.foreign_bytes, row.unclear_bytes) == (GIB, promised)
    config = kubeconfig(rig, tmp_path / "config")
    _, output, _ = await memroute("top", "--kubeconfig", str(config))
    assert "are not told apart yet" in output
    assert max(map(len, output.splitlines())) <= 80
    lines = output.splitlines()
    assert "free ~" in " ".join(lines[:3]), "half a minute later it is more"
    marked = [line for line in lines if "gpu-b" in line and "~" in line and "GiB" not in line]
    assert len(marked) == 1
    assert not [line for line in lines if "gpu-a" in line and "~" in line]
    for key, pod in pods.items():
        rig.store.pods.forget(key, pod["metadata"]["uid"])
    assert foreign_metric(rig, "gpu-b") == GIB, "what alerts go by says the same"
    rig.now += 20
    row = row_of(await told(rig), "gpu-b")
    assert (row.foreign_bytes, row.unclear_bytes) == (GIB, promised), "of a view of now, too"
    wanted = wanted_replica(deployment("x", model="Qwen/Qwen3-32B", mode="Shared"), 0, context())
    facts = (await glance(rig.reconciler.board.client)).picture.facts()
    (why,) = (one.why for one in verdicts(facts.inventory, wanted) if one.node == "gpu-b")
    assert f"processes of others {format_gib(GIB)}" in why
    assert f"replicas that start or have just ended, {format_gib(promised)}" in why


@pytest.mark.slow
async def test_top_fits_80_columns_and_says_how_old_it_is(rig, tmp_path):
    await told(rig)
    config = kubeconfig(rig, tmp_path / "config")
    for view in ("summary", "nodes", "devices", "models"):
        status, output, errors = await memroute("top", view, "--kubeconfig", str(config))
        assert status == 0, errors
        assert max(map(len, output.splitlines())) <= 80
        header, row = (
            next(line for line in output.splitlines() if word in line)
            for word in (("MODEL", "default/chat") if view == "models" else ("PROMISED", "ip-10"))
        )
        assert len(row.split()) >= len(header.replace("IN USE", "INUSE").split())
        assert "told 0 s ago" in output or "s ago" in output
    assert "default/chat" in output
    status, output, _ = await memroute(
        "top", "nodes", "--sort-by", "promised", "-o", "json", "--kubeconfig", str(config)
    )
    rows = json.loads(output)["nodes"]
    assert [one["promisedBytes"] for one in rows] == sorted(
        (one["promisedBytes"] for one in rows), reverse=True
    )
    status, _, errors = await memroute("top", "nodes", "--sort-by", "kv", "--kubeconfig", "x")
    assert status == 2
    assert "one of name, free, promised, observed, foreign" in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "state"),
    [
        (("Asleep", "Asleep"), "Asleep"), (("Asleep", "Waking"), "Waking"),
        (("FallingAsleep", "FallingAsleep"), "FallingAsleep"), ((None, "Asleep"), "Serving"),
    ],
)  # fmt: skip
async def test_top_says_of_a_model_that_sleeps_what_it_does(rig, words, state):
    """Where one replica is awake the model serves."""

    def asleep(obj):
        routing = obj["status"]["routing"]
        (pool,) = routing["replicas"]
        pods = sorted(pool["pods"].items())
        routing["replicas"] = [
            pool | {"pods": dict([pod])} | ({} if word is None else {"sleep": word})
            for pod, word in zip(pods, words, strict=True)
        ]

    await told(rig)
    rig.cluster.change("modeldeployments", "default/chat", asleep)
    seen = await glance(rig.reconciler.board.client)
    states = {one.key: one.state for one in usage_of(seen.picture).models}
    assert states["default/chat"] == state
    assert "Asleep" not in states["default/draft"]


@pytest.mark.slow
async def test_without_the_operators_view_promises_are_shown_and_that_is_said(rig, tmp_path):
    """A person without the right, or an operator that is down: half of the answer, and why half."""
    config = kubeconfig(rig, tmp_path / "config")
    status, output, _ = await memroute("top", "--kubeconfig", str(config))
    assert status == 0
    assert "nothing is observed" in output
    assert "memroute-system/memroute-fleet" in output.replace("\n", "")
    rig.cluster.fault = lambda call: (
        refuse(403, "Forbidden", "no") if call.plural == "configmaps" else None
    )
    status, output, _ = await memroute("top", "--kubeconfig", str(config))
    assert status == 0
    assert "you may not get ConfigMap" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (refuse(403, "Forbidden", "nodes is forbidden"), "you may not list"),
        (refuse(404, "NotFound", "the server could not find"), "memroute is not installed in it"),
        (refuse(401, "Unauthorized", "Unauthorized"), "does not know these credentials"),
    ],
)
async def test_what_keeps_top_from_showing_anything_is_one_sentence(rig, tmp_path, fault, words):
    config = kubeconfig(rig, tmp_path / "config")
    rig.cluster.fault = lambda call: fault if call.plural == "modeldeployments" else None
    for command in (["top"], ["explain", "chat"]):
        status, output, errors = await memroute(*command, "--kubeconfig", str(config))
        assert status == 2
        assert output == ""
        assert words in errors
        assert "Traceback" not in errors


async def test_no_cluster_at_all_is_one_sentence(tmp_path):
    for config, words in (
        (tmp_path / "none", "no cluster is configured"),
        (unreachable(tmp_path / "config"), "the cluster does not answer"),
    ):
        status, _, errors = await memroute("top", "--kubeconfig", str(config))
        assert status == 2
        assert words in errors


def unreachable(path):
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    path.write_text(json.dumps(config))
    return path


@pytest.mark.slow
async def test_the_view_survives_its_own_writing(rig):
    """Small and large: text in data, or compressed."""
    await told(rig)
    obj = rig.cluster.objects["configmaps"][f"memroute-system/{VIEW_NAME}"]
    view = read_view(obj)
    readings = rig.readings.devices.readings
    assert view.readings["gpu-a"].devices == readings["gpu-a"].devices
    promised = sum(promised_on(rig, name) for name in readings)
    assert sum(view.own.device_bytes.values()) == promised > 0
    document = json.loads(obj["data"]["view"])
    device = document["nodes"]["gpu-a"]["devices"][0]
    document["nodes"] |= {
        f"n{i}": {"taken": 1.0, "collected": None, "devices": [device] * 8} for i in range(1250)
    }
    large = packed(document)
    assert large["data"]["view"] is None
    assert len(large["binaryData"]["view.zlib"]) < 500_000
    assert len(read_view(large).readings) == 1253
    for odd in ({}, {"data": {"view": "{"}}, {"data": {"view": '{"version": 9}'}}, {"data": 5}):
        assert read_view(odd) is None


@pytest.mark.slow
async def test_the_view_is_written_seldom(rig):
    """Telemetry in etcd: a quarter of a minute where something has changed, a minute else."""

    def writes():
        return rig.cluster.count("PATCH", "configmaps", name=VIEW_NAME)

    await rig.reconciler.tell_fleet()
    first = writes()
    for _ in range(5):
        await rig.reconciler.tell_fleet()
    assert writes() == first
    rig.now += 20
    await rig.reconciler.tell_fleet()
    assert writes() == first, "nothing has changed"
    rig.readings.routers.waiting["default/chat"] = 3
    await rig.reconciler.tell_fleet()
    assert writes() == first + 1
    rig.now += 61
    await rig.reconciler.tell_fleet()
    assert writes() == first + 2


@pytest.mark.slow
async def test_top_of_a_namespace_without_models_says_so(rig, tmp_path):
    """A head without rows looks like a fault of the table."""
    await told(rig)
    config = kubeconfig(rig, tmp_path / "config")
    status, output, _ = await memroute("top", "-n", "nothere", "--kubeconfig", str(config))
    assert status == 0
    assert "no ModelDeployment is there" in output
    assert "KV-TOKENS" not in output


@pytest.mark.slow
async def test_explain_says_where_each_replica_is_and_why(rig, tmp_path):
    await told(rig)
    config = kubeconfig(rig, tmp_path / "config")
    status, output, errors = await memroute("explain", "chat", "--kubeconfig", str(config))
    assert status == 0, errors
    flat = " ".join(output.split())
    assert re.search(r"chat-[0-9a-f]{5}-[a-z0-9]{4}: Serving on gpu-", flat)
    assert "why there: needs" in flat
    assert "node by node, for one more replica" in flat
    assert max(map(len, output.splitlines())) <= 80
    status, output, _ = await memroute(
        "explain", "default/chat", "--replica", "1", "-o", "json", "--kubeconfig", str(config)
    )
    whole = json.loads(output)
    assert [one["replica"] for one in whole["replicas"]] == [1]
    assert any(one["fits"] for one in whole["nodes"]), "its own room counts as free"
    pod = whole["replicas"][0]["pod"]
    for typed in (pod, pod.rpartition("-")[2]):
        status, named, _ = await memroute(
            "explain", "chat", "--replica", typed, "-o", "json", "--kubeconfig", str(config)
        )
        assert status == 0
        assert json.loads(named)["replicas"] == whole["replicas"], "people read names, no index"
    for arguments, words in (
        (["nothere"], "there is no ModelDeployment nothere"),
        (["cha"], "did you mean default/chat?"),
        (["chat", "-n", "other"], "there is no ModelDeployment other/chat"),
        (["chat", "--replica", "7"], "default/chat has no replica 7; it has chat-"),
        ([], "memroute decisions"),
    ):
        status, _, errors = await memroute("explain", *arguments, "--kubeconfig", str(config))
        assert status == 2
        assert words in errors


@pytest.mark.slow
async def test_explain_says_which_replica_has_which_adapter(rig, tmp_path):
    """A request for an adapter goes to the replicas that have it: one of two is half a fleet."""
    await told(rig)

    def with_adapters(obj):
        hub = {"hub": {"repository": "org/sql"}}
        obj["spec"]["adapters"] = [
            {"name": "sql", "source": hub}, {"name": "late", "source": hub}, {"name": "own"},
        ]  # fmt: skip
        status = obj["status"]
        status["adapters"] = [
            {"name": "sql", "state": "Loading", "loadedReplicas": 1, "readyReplicas": 2,
             "source": "hf://org/sql@main", "commit": "0123456789abcdef0123"},
            {"name": "own", "state": "NameOnly", "message": "it has no source"},
        ]  # fmt: skip
        (pool,) = status["routing"]["replicas"]
        first, second = sorted(pool["pods"].items())
        status["routing"]["replicas"] = [
            pool | {"pods": dict([first]), "adapters": ["sql"]},
            pool | {"pods": dict([second]), "adapters": []},
        ]

    rig.cluster.change("modeldeployments", "default/chat", with_adapters)
    config = kubeconfig(rig, tmp_path / "config")
    _, output, errors = await memroute("explain", "chat", "--kubeconfig", str(config))
    assert not errors
    flat = " ".join(output.split())
    for words in (
        "adapters: sql; not loaded: late", "adapters: none; not loaded: sql, late",
        "sql: Loading, loaded by 1 of 2 ready, hf://org/sql@main at commit 0123456789ab",
        "late: the operator has told nothing of it yet", "own: NameOnly: it has no source",
    ):  # fmt: skip
        assert words in flat
    assert max(map(len, output.splitlines())) <= 80
    _, output, _ = await memroute("explain", "chat", "-o", "json", "--kubeconfig", str(config))
    whole = json.loads(output)
    assert sorted(one["adapters"] for one in whole["replicas"]) == [[], ["sql"]]
    assert [one["name"] for one in whole["adapters"]] == ["sql", "own"]
    _, output, _ = await memroute("explain", "draft", "--kubeconfig", str(config))
    assert "adapters" not in output


def tainted(obj):
    obj["spec"]["taints"] = [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]
    return obj


def whole(obj):
    del obj["metadata"]["labels"]["memroute.dev/gpu-sharing"]
    obj["status"]["allocatable"] = {"nvidia.com/gpu": "1"}
    return obj


def cordoned(obj):
    obj["spec"]["unschedulable"] = True
    return obj


# A cluster, what is wanted first, what is wanted then and does not fit, and what should help.
HELP = {
    "another model has the room": (
        [node("a")], [mdep("chat", model="Qwen/Qwen3-8B", replicas=2)],
        mdep("big", model="Qwen/Qwen3-32B"), ("scale default/chat from 2 to 0",),
    ),
    "two other models have the room, and a third may stay": (
        [node("a")],
        [
            mdep("one", model="Qwen/Qwen3-8B"), mdep("two", model="Qwen/Qwen3-8B"), mdep("draft"),
        ],
        mdep("big", model="Qwen/Qwen3-32B", quantization="FP8", concurrency=22, kvCacheDtype="FP8"),
        ("scale default/two from 1 to 0 and scale default/one from 1 to 0",),
    ),
    "its own replicas have it": (
        [node("a")], [],
        mdep("big", model="Qwen/Qwen3-14B", replicas=3, concurrency=8),
        ("memory.quantization to FP8", "memory.kvCacheDtype to FP8"),
    ),
    "too large for one device": (
        [node("a", gpus=2)], [], mdep("big", model="Qwen/Qwen3-32B", concurrency=32),
        ("parallelism.tensorParallelSize to 2", "memory.concurrency to"),
    ),
    "a taint": ([tainted(node("a"))], [], mdep("m"), ("tolerate sku=gpu:NoSchedule",)),
    "a cordon": ([cordoned(node("a"))], [], mdep("m"), ("uncordon node a",)),
    "another way to hand devices out": (
        [node("a")], [], mdep("m", mode="Exclusive"), ("placement.mode to Shared",),
    ),
}  # fmt: skip


def followed(rig, command):
    """The command, carried out as the API server would."""
    for one in command.split(" && ")[1:]:
        followed(rig, one)
    command = command.split(" && ")[0]
    words = shlex.split(command)
    if words[1] == "patch":
        patch = json.loads(words[-1])
        rig.cluster.change(
            "modeldeployments", f"default/{words[3]}",
            lambda obj: (_merge(obj, patch), obj["metadata"].update(generation=2)),
        )  # fmt: skip
    elif words[1] == "scale":
        name, number = words[2].partition("/")[2], int(words[-1].partition("=")[2])
        rig.cluster.change(
            "modeldeployments", f"default/{name}", lambda obj: obj["spec"].update(replicas=number)
        )
    else:
        assert words[1] == "uncordon"
        rig.cluster.change("nodes", words[2], lambda obj: obj["spec"].pop("unschedulable"))


@pytest.mark.slow
@pytest.mark.parametrize("case", HELP)
async def test_each_suggestion_helps_when_it_is_followed(case):
    """A suggestion that does not help costs a night: the operator itself follows each one here."""
    nodes, first, then, expected = HELP[case]

    async def unplaceable(rig):
        await rig.until("the first", lambda: all(rig.is_ready("default/" + n) for n in names))
        rig.cluster.put("modeldeployments", then)
        await rig.until("a refusal", lambda: rig.condition(key, "Placed").get("status") == "False")
        await rig.steps(3)
        return explain_model((await told(rig)).picture, key)

    names = [one["metadata"]["name"] for one in first]
    key = f"default/{then['metadata']['name']}"
    async with operator_rig(nodes=nodes, mdeps=first) as rig:
        explanation = await unplaceable(rig)
        assert explanation.refused is not None
        commands = [one.command for one in explanation.remedies]
        changes = " ".join(one.change for one in explanation.remedies)
        for words in expected:
            assert words in changes
    before = explanation.num_refused
    for command in commands:
        async with operator_rig(nodes=nodes, mdeps=first) as rig:
            await unplaceable(rig)
            followed(rig, command)
            await rig.until(
                command,
                lambda: len(placed_of(rig, key)) > then["spec"]["replicas"] - before,
                at_most=120,
            )


@pytest.mark.slow
async def test_what_disturbs_nothing_is_suggested_first():
    """Nine replicas replaced for one more, when a node only has to be uncordoned."""
    small = mdep("m", replicas=9, concurrency=32)
    async with operator_rig(
        nodes=[node("a"), cordoned(node("b")), whole(node("c"))], mdeps=[small]
    ) as rig:
        await rig.until(
            "a refusal", lambda: rig.condition("default/m", "Placed").get("status") == "False"
        )
        await rig.steps(3)
        explanation = explain_model((await told(rig)).picture, "default/m")
    first, *rest = explanation.remedies
    assert first.change == "uncordon node b"
    assert first.num_disturbed == 0
    assert 0 < first.num_placed <= explanation.num_refused
    (mode,) = (one for one in rest if "placement.mode" in one.change)
    assert mode.num_disturbed == len(explanation.replicas)
    order = [
        (one.num_disturbed > 0, one.num_placed < explanation.num_refused, one.num_disturbed)
        for one in explanation.remedies
    ]
    assert order == sorted(order)


def placed_of(rig, key):
    status = rig.cluster.objects["modeldeployments"][key]["status"]
    return [one for one in status["placements"] if one["state"] in ("Serving", "Starting")]


@pytest.mark.slow
async def test_verdicts_agree_with_the_planner(rig):
    """Node by node and all together: the same answer, or one of them is a lie."""
    facts = (await told(rig)).picture.facts()
    for model in ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B", "Qwen/Qwen3-32B"):
        for mode in ("Shared", "Exclusive"):
            wanted = wanted_replica(deployment("x", model=model, mode=mode), 0, context())
            placed = isinstance(plan(facts.inventory, [wanted])[0], Placed)
            assert placed == any(one.fits for one in verdicts(facts.inventory, wanted))
    assert len(uses(facts.inventory)) == 3


@pytest.mark.parametrize("is_terminal", [True, False])
def test_watching_goes_on_when_a_look_fails_and_ends_with_ctrl_c(is_terminal):
    """An API server that restarts for a minute must not end the screen of whoever watches it."""
    screens = iter(["first", LookError("the cluster does not answer"), "third"])
    told = StringIO()

    def render():
        screen = next(screens)
        if isinstance(screen, Exception):
            raise screen
        return screen

    def sleep(_seconds):
        if told.getvalue().count("third"):
            raise KeyboardInterrupt

    console = Console(file=told, width=80, force_terminal=is_terminal)
    watched(console, render, 1.0, sleep=sleep)
    assert "the cluster does not answer; as it was before" in told.getvalue()
    assert "third" in told.getvalue()
