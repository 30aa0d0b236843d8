"""Whose word is believed, and files that cannot be used."""

import pytest

from access_rig import ALICE, ask, keyed_rig, tenant
from memroute_router.access.engine_key import EngineKey, EngineKeyError
from memroute_router.access.proxies import TrustedProxies, parse_networks
from memroute_router.access.rules import Grant, ModelNames, ServiceClass, Tenant
from memroute_router.access.verdicts import granted_claims
from memroute_router.settings import parse_settings
from router_rig import Rig, whole


@pytest.mark.parametrize(
    ("peer", "is_trusted"),
    [
        (b"10.1.2.3", True),
        (b"10.2.0.1", False),
        (b"192.168.0.7", True),
        (b"fd00::5", True),
        (b"fd00::5%eth0", True),
        (b"fd01::5", False),
        (b"::ffff:10.1.9.9", True),
        (b"unknown", False),
        (b"", False),
        (b"10.1.2.3, 8.8.8.8", False),
    ],
)
def test_which_peers_are_proxies(peer, is_trusted):
    """By the address of the connection, never by what it says."""
    proxies = TrustedProxies(parse_networks("10.1.0.0/16, 192.168.0.7,fd00::/16"))
    assert proxies.trust(peer) is is_trusted
    assert proxies.trust(peer) is is_trusted, "also the second time"


def test_verdicts_on_peers_are_bounded():
    proxies = TrustedProxies(parse_networks("10.0.0.0/8"))
    for number in range(20_000):
        proxies.trust(b"10.0.%d.%d" % divmod(number, 256))
    assert len(proxies._kept) <= 4096


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--trusted-proxies", "10.0.0.300"], "10.0.0.300"),
        (["--trusted-proxies", ""], "''"),
        (["--keys", "k", "--tenants", "key"], "nothing to tell apart"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, told, capsys):
    with pytest.raises(SystemExit):
        parse_settings(flags)
    assert told in capsys.readouterr().err


def test_a_proxy_that_is_trusted_may_say_more_than_a_key():
    """It has checked who asks; the key's own bounds are for who has not been checked."""
    service = ServiceClass(priority=1, max_priority=5, min_ttft_seconds=0.5)
    grant = Grant(Tenant(name="t", models=ModelNames(["*"]), service=service), "k")
    fields = {b"x-memroute-priority": b"50", b"x-memroute-ttft-ms": b"100"}
    for trusts, priority, ttft in ((False, 5, 0.5), (True, 50, 0.1)):
        claims = granted_claims(grant, fields, trusts_headers=trusts)
        assert (claims.tenant, claims.priority, claims.ttft_seconds) == ("t", priority, ttft)
    assert granted_claims(grant, {}, trusts_headers=True).priority == 1


@pytest.mark.parametrize(
    ("service", "asked", "priority", "ttft"),
    [
        (ServiceClass(priority=1, max_priority=5, min_ttft_seconds=0.5), b"3", 3, 0.5),
        (ServiceClass(priority=1, max_priority=5), b"900", 5, None),
        (ServiceClass(priority=1, max_priority=5), b"-9", -9, None),
        (ServiceClass(priority=1, max_priority=5), None, 1, None),
        (ServiceClass(priority=1, max_priority=5), b"high", 0, None),
        (ServiceClass(priority=-3), b"9", -3, None),
        (ServiceClass(min_ttft_seconds=0.05), b"9", 0, 0.1),
    ],
)
def test_urgency_is_what_the_key_allows(service, asked, priority, ttft):
    """A flood that calls itself critical is still a flood."""
    grant = Grant(Tenant(name="t", models=ModelNames(["*"]), service=service), "k")
    fields = {b"x-memroute-ttft-ms": b"100"}
    if asked is not None:
        fields[b"x-memroute-priority"] = asked
    claims = granted_claims(grant, fields, trusts_headers=False)
    assert (claims.priority, claims.ttft_seconds) == (priority, ttft)


def test_a_key_may_use_what_both_lists_have():
    """A key's own list only takes away."""
    tenant_of = Tenant(name="t", models=ModelNames(["llama-*"]))
    grant = Grant(tenant_of, "k", models=ModelNames(["llama-3", "qwen"]))
    assert [name for name in ("llama-3", "llama-4", "qwen") if grant.allows(name)] == ["llama-3"]


@pytest.mark.parametrize("content", [None, b"", b"  \n", b"two words", b"\xff\xfe", b"x" * 9000])
async def test_a_router_does_not_start_with_an_engine_key_that_cannot_be_sent(tmp_path, content):
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineKeyError) as error:
        Rig("--engine-key-file", str(path))
    assert "two words" not in str(error.value)
    with pytest.raises(EngineKeyError):
        EngineKey(path).read()


async def test_an_engine_key_that_breaks_keeps_the_last_good_one(tmp_path, engine_factory):
    (tmp_path / "key").write_text("good")
    rig = await keyed_rig(
        tmp_path, tenant("alice", ALICE), flags=["--engine-key-file", str(tmp_path / "key")]
    )
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    (tmp_path / "key").write_text("two words")
    assert rig.router.watched[1].look()
    assert (await ask(rig, ALICE))[0] == 200
    assert b"authorization: Bearer good\r\n" in engine.requests[0][0]
    await rig.stop()
