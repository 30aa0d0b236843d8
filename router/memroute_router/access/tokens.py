"""JSON Web Tokens: who signed one, whether it counts, and whose it is.

A token is checked once: its digest and what it may do are kept until it expires, so that the next
request of it costs what a key costs. A signature costs some 0.1 ms, and tokens that are not valid
are checked each time: who floods the router with those is better met by its connections' limits.

PyJWT and cryptography are imported where a file names issuers, and only there.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from memroute_router.access.keyfile import KeysError
from memroute_router.access.rules import Grant, KeyRing, Tenant, TokenIssuer, digest_of
from memroute_router.access.words import (
    EARLY_TOKEN,
    EXPIRED_TOKEN,
    INVALID_TIMES,
    INVALID_TOKEN,
)
from memroute_router.lifecycle.refusal import Refusal

# Tokens whose verdict is kept, some 10 MB; the one used longest ago is forgotten first, and is
# checked anew. Only valid ones are kept, so that nobody else can push them out.
MAX_TOKENS: Final = 20_000
# How far the clocks of an issuer and of this router may be apart.
LEEWAY_SECONDS: Final = 30.0
# Of an issuer's keys, in its file: more than any has.
MAX_ISSUER_KEYS: Final = 1000
# The end of the year 9999: what is later, or before 1970, is no time that an issuer has meant.
MAX_UNIX_SECONDS: Final = 253_402_300_799
_TIMES: Final = ("exp", "nbf", "iat")
_MAX_SUBJECT_CHARACTERS: Final = 64


class TokenVerifier:
    """Checks the tokens of a ring's issuers. Owns the verdicts that are kept."""

    def __init__(self, ring: KeyRing, folder: Path) -> None:
        """``folder``: of the file of keys. Raises ``KeysError``."""
        try:
            import jwt  # noqa: PLC0415 - where a file names issuers, and only there
        except ImportError as error:
            msg = "jwt needs PyJWT and cryptography: pip install 'memroute[router]'"
            raise KeysError(msg) from error
        self._jwt: Any = jwt
        self._tenants = ring.tenants
        self._by_issuer: dict[str, tuple[TokenIssuer, dict[str | None, Any]]] = {}
        for issuer in ring.issuers:
            keys = self._read_jwks(folder / issuer.jwks_file)
            self._by_issuer[issuer.issuer] = issuer, keys
        self._checked: OrderedDict[bytes, Grant] = OrderedDict()

    def verify(self, token: bytes, *, unix_seconds: float) -> Grant | Refusal:
        """What the token may do; or why nothing."""
        digest = digest_of(token)
        grant = self._checked.get(digest)
        if grant is None:
            found = self._check(token, unix_seconds)
            if isinstance(found, Refusal):
                return found
            grant = found
            self._checked[digest] = grant
            if len(self._checked) > MAX_TOKENS:
                self._checked.popitem(last=False)
        else:
            self._checked.move_to_end(digest)
        if grant.expires_at is not None and unix_seconds >= grant.expires_at:
            del self._checked[digest]
            return EXPIRED_TOKEN
        return grant

    def _check(self, token: bytes, unix_seconds: float) -> Grant | Refusal:
        jwt = self._jwt
        try:
            header = jwt.get_unverified_header(token)
            claimed = jwt.decode(token, options={"verify_signature": False})
            issuer, keys = self._by_issuer[claimed["iss"]]
            key = _find(keys, header.get("kid"))
            claims = jwt.decode(
                token,
                key.key,
                # Those that the file names, and of the key's own kind: never what a token asks for.
                algorithms=[name for name in issuer.algorithms if _suits(name, key)],
                audience=issuer.audience,
                issuer=issuer.issuer,
                # Times are checked below: the library takes texts for numbers, and fails on others.
                options={
                    "require": ["iss", "aud"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, KeyError, TypeError, ValueError, RecursionError):
            # Nothing that stands in a token can be more than a token that is not valid.
            return INVALID_TOKEN
        refusal = time_refusal(claims, unix_seconds=unix_seconds)
        if refusal is not None:
            return refusal
        tenant = _tenant_of(claims, issuer, self._tenants)
        if tenant is None:
            return INVALID_TOKEN
        subject = "".join(c for c in str(claims.get("sub", "-")) if c.isalnum() or c in "._@-")
        return Grant(
            tenant,
            f"jwt:{subject[:_MAX_SUBJECT_CHARACTERS]}",
            expires_at=float(claims["exp"]) + LEEWAY_SECONDS,
        )

    def _read_jwks(self, path: Path) -> dict[str | None, Any]:
        try:
            document = json.loads(path.read_text())
            listed = document["keys"][:MAX_ISSUER_KEYS]
            keys = {}
            for entry in listed:
                if entry.get("use", "sig") == "sig" and entry.get("kty") in {"RSA", "EC", "OKP"}:
                    key = self._jwt.PyJWK(entry)
                    keys[key.key_id] = key
        except (
            OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
            self._jwt.PyJWTError,
        ) as error:  # fmt: skip
            msg = f"jwksFile {path.name}: {type(error).__name__}: it is no set of keys"
            raise KeysError(msg) from error
        if not keys:
            msg = f"jwksFile {path.name}: it has no public key for signatures"
            raise KeysError(msg)
        return keys


def time_refusal(claims: Mapping[str, Any], *, unix_seconds: float) -> Refusal | None:
    """Why a token with these claims does not count at the time; None: it does.

    ``exp``, ``nbf`` and ``iat`` are numbers of seconds (RFC 7519, NumericDate). JSON as Python
    reads it has more: ``Infinity``, ``NaN``, ``true``, numbers of a thousand digits.
    """
    times = {name: claims[name] for name in _TIMES if name in claims}
    if "exp" not in times or not all(map(_is_time, times.values())):
        return INVALID_TIMES
    if unix_seconds >= times["exp"] + LEEWAY_SECONDS:
        return EXPIRED_TOKEN
    if max(times.get("nbf", 0), times.get("iat", 0)) > unix_seconds + LEEWAY_SECONDS:
        return EARLY_TOKEN
    return None


def _is_time(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value <= MAX_UNIX_SECONDS
    )


def _find(keys: Mapping[str | None, Any], key_id: object) -> Any:
    """The key that a token names; the only one where it names none. Raises ``KeyError``."""
    if key_id is None and len(keys) == 1:
        return next(iter(keys.values()))
    if not isinstance(key_id, str):
        raise KeyError(key_id)
    return keys[key_id]


def _suits(algorithm: str, key: Any) -> bool:
    """Whether a key of this kind makes such signatures; a key may name the one it is for."""
    own = key._jwk_data  # noqa: SLF001 - PyJWK keeps what it read nowhere else
    if own.get("alg") is not None:
        return bool(own["alg"] == algorithm)
    kind = own.get("kty")
    return {"RSA": "RS PS", "EC": "ES", "OKP": "Ed"}[kind].find(algorithm[:2]) >= 0


def _tenant_of(
    claims: Mapping[str, Any], issuer: TokenIssuer, tenants: Mapping[str, Tenant]
) -> Tenant | None:
    """The tenant that the token names; None: the file has no such tenant."""
    name = claims.get(issuer.tenant_claim)
    return tenants.get(name) if isinstance(name, str) else None
