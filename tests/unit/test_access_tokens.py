"""JSON Web Tokens, signed by an issuer whose public keys are in a file."""

import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from access_rig import ALICE, ask, keyed_rig, tenant
from memroute_router.access.keyfile import KeysError
from memroute_router.access.tokens import LEEWAY_SECONDS
from router_rig import whole

ISSUER, AUDIENCE = "https://login.example.com/", "memroute"
SIGNER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public(key, key_id):
    algorithm = jwt.algorithms.RSAAlgorithm if key in {SIGNER, STRANGER} else None
    made = (algorithm or jwt.algorithms.ECAlgorithm).to_jwk(key.public_key(), as_dict=True)
    return made | {"kid": key_id, "use": "sig"}


def signed(key=SIGNER, key_id="one", algorithm="RS256", **claims):
    known = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": time.time() + 600,
        "tenant": "alice",
        "sub": "u",
    }
    headers = {} if key_id is None else {"kid": key_id}
    body = {name: value for name, value in (known | claims).items() if value is not None}
    return jwt.PyJWS().encode(json.dumps(body).encode(), key, algorithm, headers)


async def rig_of(tmp_path, *keys, **issuer):
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": list(keys)}))
    known = {"issuer": ISSUER, "audience": AUDIENCE, "jwksFile": "jwks.json"}
    return await keyed_rig(tmp_path, tenant("alice", ALICE), jwt=[known | issuer])


async def test_a_token_of_the_issuer_is_its_tenants(tmp_path, engine_factory):
    rig = await rig_of(tmp_path, public(SIGNER, "one"), public(CURVE, "two"))
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    for token in (signed(), signed(CURVE, "two", "ES256"), ALICE):
        for _ in range(2):
            assert (await ask(rig, token))[0] == 200
    assert rig.router.gate.quotas.by_tenant["alice"].settled_requests == 6
    assert not any(b"authorization" in head.lower() for head, _ in engine.requests)
    await rig.stop()


def unsigned(**claims):
    return signed(None, algorithm="none", **claims)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: signed(STRANGER), "invalid-token"),
        (lambda: signed(key_id="two"), "invalid-token"),
        (lambda: signed(iss="https://evil.example.com/"), "invalid-token"),
        (lambda: signed(iss=["a"]), "invalid-token"),
        (lambda: signed(aud="others"), "invalid-token"),
        (lambda: signed(aud=None), "invalid-token"),
        (lambda: signed(exp=None), "invalid-token"),
        (lambda: signed(tenant="nobody"), "invalid-token"),
        (lambda: signed(tenant=None), "invalid-token"),
        (lambda: signed(tenant=["alice"]), "invalid-token"),
        (lambda: signed(nbf=time.time() + 600), "invalid-token"),
        (lambda: signed(exp=time.time() - LEEWAY_SECONDS - 5), "expired-token"),
        (lambda: signed(algorithm="PS256"), "invalid-token"),
        (
            lambda: signed("secret-that-is-long-enough-for-hs256", algorithm="HS256"),
            "invalid-token",
        ),
        (unsigned, "invalid-token"),
        (lambda: signed()[:-4] + "AAAA", "invalid-token"),
        (lambda: "eyJhbGciOiJSUzI1NiJ9.e30.x", "invalid-token"),
        (lambda: "eyJ.." + "x" * 9000, "invalid-token"),
        (lambda: "eyJ" + "[" * 9000 + "..", "invalid-token"),
    ],
)
async def test_every_other_token_is_401(tmp_path, engine_factory, make, reason):
    """Another signer, another audience, none, a symmetric key, no signature: none is a key."""
    rig = await rig_of(tmp_path, public(SIGNER, "one"))
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    status, headers, answer = await ask(rig, make())
    assert (status, headers["x-memroute-reason"]) == (401, reason)
    assert answer["error"]["code"] == "invalid_api_key"
    assert not engine.requests
    await rig.stop()


ODD_TIMES = [
    "Infinity", "-Infinity", "NaN", "1e999", "-1", "-0.5", "1" + "0" * 400, "1" + "0" * 5000,
    "253402300800", "1e300", "true", "false", "null", '"9999999999"', '"soon"', '""', "[]", "{}",
    "[9999999999]",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("value", ODD_TIMES, ids=lambda value: value[:12])
@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
async def test_a_time_that_is_no_number_of_seconds_is_401_and_says_so(tmp_path, name, value):
    """Signed by the issuer all the same; 500 would be the router's fault, and 200 for ever."""
    rig = await rig_of(tmp_path, public(SIGNER, "one"))
    verifier = rig.router.gate._verifier
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": 9_999_999_999, "tenant": "alice"}
    text = json.dumps(claims | {name: 0}).replace(f'"{name}": 0', f'"{name}": {value}')
    token = jwt.PyJWS().encode(text.encode(), SIGNER, "RS256", {"kid": "one"})
    status, headers, answer = await ask(rig, token)
    assert (status, headers["x-memroute-reason"]) == (401, "invalid-token")
    if len(value) < 4300:  # of more digits Python's parser makes no number, and no token of it
        assert "exp, nbf and iat" in answer["error"]["message"]
    assert not verifier._checked
    errors = rig.router.metrics.internal_errors
    assert not any(one._value.get() for one in errors._metrics.values())
    await rig.stop()


@pytest.mark.parametrize("claim", ["nbf", "iat"])
async def test_a_token_of_the_future_says_that_it_is_early(tmp_path, claim):
    """Clocks may be half a minute apart, no more."""
    rig = await rig_of(tmp_path, public(SIGNER, "one"))
    for ahead, status in ((LEEWAY_SECONDS / 2, 404), (600, 401)):
        token = signed(**{claim: time.time() + ahead})
        told, _, answer = await ask(rig, token)
        assert told == status
    assert "not valid yet" in answer["error"]["message"]
    await rig.stop()


async def test_what_was_checked_once_still_expires(tmp_path):
    rig = await rig_of(tmp_path, public(SIGNER, "one"))
    verifier = rig.router.gate._verifier
    token, now = signed(exp=time.time() + 5).encode(), time.time()
    assert verifier.verify(token, unix_seconds=now).tenant.name == "alice"
    assert verifier.verify(token, unix_seconds=now + 40).reason == "expired-token"
    assert not verifier._checked
    await rig.stop()


async def test_an_issuers_keys_are_read_again_when_they_change(tmp_path, engine_factory):
    """A key that its issuer has withdrawn signs nothing more, not even what was checked before."""
    rig = await rig_of(tmp_path, public(SIGNER, "one"))
    engine = await engine_factory(whole())
    rig.add("a", engine.port)
    old, new = signed(), signed(CURVE, "two", "ES256")
    assert [(await ask(rig, t))[0] for t in (old, new)] == [200, 401]
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [public(CURVE, "two")]}))
    assert rig.router.watched[0].look()
    assert [(await ask(rig, t))[0] for t in (old, new)] == [401, 200]
    (tmp_path / "jwks.json").write_text("{")
    assert rig.router.watched[0].look()
    assert (await ask(rig, new))[0] == 200, "a broken file changes nothing"
    await rig.stop()


@pytest.mark.parametrize(
    "text", ["", "{}", '{"keys": []}', '{"keys": [7]}', '{"keys": [{"kty": "oct", "k": "AA"}]}']
)
async def test_a_router_does_not_start_with_issuers_whose_keys_cannot_be_read(tmp_path, text):
    (tmp_path / "jwks.json").write_text(text)
    issuer = {"issuer": ISSUER, "audience": AUDIENCE, "jwksFile": "jwks.json"}
    with pytest.raises(KeysError, match="jwksFile"):
        await keyed_rig(tmp_path, tenant("alice", ALICE), jwt=[issuer])


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS1", 7])
async def test_weak_algorithms_cannot_be_named(tmp_path, algorithm):
    with pytest.raises(KeysError, match="algorithms"):
        await rig_of(tmp_path, public(SIGNER, "one"), algorithms=[algorithm])
