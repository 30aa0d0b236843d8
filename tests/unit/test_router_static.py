"""Models and replicas from a file: what it may say, what is refused, what a change does."""

import asyncio
import os
import ssl
import subprocess
import sys

import pytest

from memroute_router.discovery.static import ConfigError, StaticMembership, read_config
from memroute_router.settings import parse_settings
from memroute_simulator.controlplane.certificates import CertificateAuthority
from router_rig import Engine, Rig, body, exchange, raw, read_answer, until, whole

GOOD = """
models:
  - name: m
    replicas:
      - http://10.0.0.1:8000
      - {url: "http://10.0.0.2", name: two, kvCapacityTokens: 1000, maxContextTokens: 500}
    maxContextTokens: 4096
    kvWatermarkPercent: 80
    assumedOutputTokens: 99
    overloadObjective: Sizes
"""


def test_a_file_names_models_their_replicas_and_how_they_admit():
    config = read_config(GOOD)
    first, second = config.replicas
    assert (first.key, first.endpoint.authority) == ("m/10.0.0.1:8000", b"10.0.0.1:8000")
    assert (second.key, second.endpoint.authority) == ("two", b"10.0.0.2:80")
    assert (first.max_context_tokens, second.max_context_tokens) == (4096, 500)
    assert (first.promised_capacity_tokens, second.promised_capacity_tokens) == (None, 1000)
    settings = config.settings["m"]
    assert (settings.watermark_ratio, settings.assumed_output_tokens) == (0.8, 99)
    assert settings.overload_objective.value == "sizes"


def test_a_file_can_split_the_traffic_and_name_adapters():
    config = read_config("""
models:
  - name: m
    replicas:
      - {url: "http://10.0.0.1:8000", weight: 2}
      - {url: "http://10.0.0.2:8000", version: canary}
    shares: {"": 95, canary: 5}
    adapters: [sql, chat]
""")
    first, second = config.replicas
    assert (first.version, first.weight_ratio) == ("", 2.0)
    assert (second.version, second.weight_ratio) == ("canary", 1.0)
    assert config.settings["m"].shares == {"": 95.0, "canary": 5.0}
    assert config.settings["m"].adapters == ("sql", "chat")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [", "not YAML"),
        ("[]", "must be a mapping"),
        ("models: []", "at least one model"),
        ("modles: []", "modles is unknown"),
        ("models: [{replicas: []}]", "models[0].name must be a text"),
        ("models: [{name: m, replicas: x}]", "must be a list of urls"),
        ("models: [{name: m, replicas: [ftp://x]}]", "must be like http://"),
        ("models: [{name: m, replicas: ['http://x:99999']}]", "Port out of range"),
        ("models: [{name: m, replicas: [http://x, http://x]}]", "is there twice"),
        ("models: [{name: m, replicas: []}, {name: m, replicas: []}]", "'m' is there twice"),
        ("models: [{name: m, replicas: [], kvWatermarkPercent: 200}]", "at most 100"),
        (
            "models: [{name: m, replicas: [], overloadObjective: x}]",
            "one of Requests, Tokens, Sizes",
        ),
        (
            "models: [{name: m, replicas: [], ttftTargetSeconds: 2}]",
            "ttftTargetSeconds is called ttftTargetMilliseconds now",
        ),
        ("models: [{name: m, replicas: [], admission: off}]", "Enforce, Observe, Disabled"),
        ("models: [{name: m, replicas: [], maxContextTokens: -1}]", "positive integer"),
        ("models: [{name: m, replicas: [{url: http://x, cpu: 1}]}]", "cpu is unknown"),
        ("models: [{name: m, replicas: [], shares: [1]}]", "shares must be a mapping"),
        ("models: [{name: m, replicas: [], shares: {a: 0}}]", "not all 0"),
        ("models: [{name: m, replicas: [], shares: {a: -1}}]", "0 or more"),
        ("models: [{name: m, replicas: [http://x], shares: {a: 1}}]", "version must be one of"),
        ("models: [{name: m, replicas: [], adapters: sql}]", "adapters must be a list"),
        ("models: [{name: m, replicas: [{url: http://x, weight: 0}]}]", "weight must be above 0"),
        ("{models: [{name: m, replicas: []}], engineCA: /nowhere}", "engineCA"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_words(text, words):
    with pytest.raises(ConfigError) as caught:
        read_config(text)
    assert words in str(caught.value)


def test_every_reason_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        read_config(
            "models: [{name: m, replicas: [ftp://x], kvWatermarkPercent: 200, colour: red}]"
        )
    assert all(
        word in str(caught.value) for word in ("colour", "kvWatermarkPercent must", "ftp://x")
    )


@pytest.fixture
async def rig():
    it = Rig("--max-queue-seconds", "0")
    await it.start()
    yield it
    await it.stop()


@pytest.mark.slow
async def test_a_change_is_applied_and_a_broken_file_changes_nothing(rig, tmp_path, monkeypatch):
    """Requests go on in the meantime, to those who stay."""
    monkeypatch.setattr("memroute_router.watched.POLL_SECONDS", 0.05)
    old, new = Engine(whole(b'{"old":1}')), Engine(whole(b'{"new":1}'))
    await old.start()
    await new.start()
    path = tmp_path / "router.yaml"
    path.write_text(f"models: [{{name: m, replicas: ['http://127.0.0.1:{old.port}']}}]")
    reloads, gone = [], []
    membership = StaticMembership(
        path, rig.pools, on_upsert=lambda _: None, on_retired=gone.append, on_reload=reloads.append
    )
    membership.load()
    following = asyncio.create_task(membership.follow())
    assert (await exchange(rig.port, raw(body())))[2] == b'{"old":1}'
    path.write_text("models: nonsense")
    membership.reload_soon()
    await until(lambda: reloads == [False])
    assert (await exchange(rig.port, raw(body())))[2] == b'{"old":1}'
    path.write_text(f"models: [{{name: m, replicas: ['http://127.0.0.1:{new.port}']}}]")
    os.utime(path, (1, 1))
    await until(lambda: reloads == [False, True])  # seen without being told
    assert (await exchange(rig.port, raw(body())))[2] == b'{"new":1}'
    assert [replica.info.endpoint.port for replica in gone] == [old.port]
    following.cancel()
    await old.stop()
    await new.stop()


@pytest.mark.slow
def test_a_router_that_cannot_read_its_file_does_not_start(tmp_path):
    command = [sys.executable, "-m", "memroute_router", "--config", str(tmp_path / "none.yaml")]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 1
    assert "cannot read it" in found.stderr
    assert "Traceback" not in found.stderr


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_settings(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for word in ("router.yaml", "curl", "x-memroute-explain", "--max-queue-seconds", "(default:"):
        assert word in text


async def test_tls_on_both_sides(tmp_path):
    """The client trusts the router's certificate, the router the engine's."""
    authority = CertificateAuthority()
    pair = authority.sign("router", addresses=("127.0.0.1",))
    pem = tmp_path / "router.pem"
    pem.write_bytes(pair.key + pair.certificate)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    engine = Engine(whole())
    server = await asyncio.start_server(engine._serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    rig = Rig("--tls-cert", str(pem), "--max-queue-seconds", "0")
    await rig.start()
    text = (
        f"engineCA: {tmp_path}/ca.pem\n"
        f"models: [{{name: m, replicas: ['https://127.0.0.1:{port}']}}]"
    )
    for info in read_config(text).replicas:
        rig.pools.upsert_replica(info)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, ssl=trusting)
    writer.write(raw(body()))
    status, _, content = await read_answer(reader)
    assert (status, content) == (200, b'{"ok":true}')
    assert b"x-forwarded-proto: https" in engine.requests[0][0]
    writer.close()
    await rig.stop()
    server.close()
