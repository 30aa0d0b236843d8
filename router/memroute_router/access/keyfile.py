"""The file of keys, read. A file that cannot be used is refused as a whole, with every reason.

```yaml
tenants:
  - name: search                    # what logs, metrics and fairness call it
    models: ["llama-*", qwen-3-8b]  # names and patterns; ["*"]: all
    priority: 0                     # of requests that say nothing of it
    maxPriority: 10                 # what x-memroute-priority may ask for
    minTTFTSeconds: 0.2             # what x-memroute-ttft-ms may ask for
    weight: 2.0                     # of its share where tenants compete
    maxKVShareRatio: 0.25           # of a model's KV tokens, under way at once
    requestsPerMinute: 600
    tokensPerMinute: 200000
    maxRequests: 100                # under way at once
    mediaHosts: [cdn.example.com]   # from where engines may fetch; []: only data:
    explain: true                   # may ask why, by x-memroute-explain
    cacheSalt: "…"                  # engines keep its cached prompts apart
    keys:
      - id: search-2026-11          # what logs call the key
        sha256: 5e88…               # or key: …, of 22 characters and more
        expires: 2027-01-31T00:00:00Z
        models: [llama-3-8b]        # of these alone; limits likewise
        requestsPerMinute: 60
jwt:
  - issuer: https://login.example.com/
    audience: memroute
    jwksFile: jwks.json             # beside this file
    tenantClaim: tenant             # names one of the tenants
```
"""

import binascii
from typing import Any, Final

import orjson
import yaml

from memroute_router.access.document import DocumentReader
from memroute_router.access.media_hosts import MediaHosts
from memroute_router.access.rules import (
    Grant,
    KeyRing,
    Limits,
    ModelNames,
    ServiceClass,
    Tenant,
    TokenIssuer,
    digest_of,
)

# Characters of a key: 22 of base64 are 132 bits, too many to be guessed however fast a digest is
# computed. The digests of shorter keys could be tried out.
MIN_KEY_CHARACTERS: Final = 22
# Different characters of those, below which a key is a word that somebody has typed: random base64
# or hexadecimal of that length has ten and more but for one in ten thousand.
_MIN_DIFFERENT_CHARACTERS: Final = 8
# Keys, tenants and issuers of one file: bounds of memory (a key is some 500 bytes), above what is
# known of any fleet. Chosen by hand.
MAX_KEYS: Final = 1_000_000
MAX_TENANTS: Final = 100_000
MAX_WEIGHT: Final = 1000.0
_LIMIT_FIELDS: Final = {"requestsPerMinute", "tokensPerMinute", "maxRequests"}
_TENANT_FIELDS: Final = _LIMIT_FIELDS | {
    "name", "models", "priority", "maxPriority", "minTTFTSeconds", "weight", "maxKVShareRatio",
    "mediaHosts", "explain", "cacheSalt", "keys",
}  # fmt: skip
_KEY_FIELDS: Final = _LIMIT_FIELDS | {"id", "sha256", "key", "expires", "models", "mediaHosts"}
_ISSUER_FIELDS: Final = {"issuer", "audience", "jwksFile", "tenantClaim", "algorithms"}
# Signatures that only the issuer can make. HS256 and its like, where whoever can check a token can
# make one, and "none" are never taken.
ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
# Reasons that are told at once: the first ones lead to the rest.
_MAX_PROBLEMS: Final = 20


class KeysError(Exception):
    """The file cannot be used; the message lists the reasons. It never quotes a key."""


def read_keys(text: str) -> KeyRing:
    """What the file says. Raises ``KeysError``."""
    try:
        if text.lstrip().startswith("{"):
            document = orjson.loads(text)  # a million keys in seconds, not in minutes
        else:
            document = yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError) as error:
        # Not its words: they quote the line, and the line may hold a key.
        mark = getattr(error, "problem_mark", None)
        at = f" (line {mark.line + 1})" if mark is not None else ""
        msg = f"it is neither YAML nor JSON{at}"
        raise KeysError(msg) from None
    except RecursionError:
        msg = "it is nested too deep"
        raise KeysError(msg) from None
    reader = _Reader()
    ring = reader.ring(document)
    if reader.problems:
        told = reader.problems[:_MAX_PROBLEMS]
        more = len(reader.problems) - len(told)
        raise KeysError("; ".join(told) + (f"; and {more} more" if more else ""))
    return ring


_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Reader(DocumentReader):
    """Reads a document, collecting what is wrong with it."""

    def __init__(self) -> None:
        super().__init__()
        self._by_digest: dict[bytes, Grant] = {}
        self._ids: set[str] = set()

    def ring(self, document: Any) -> KeyRing:
        top = self.mapping(document, "the file", {"tenants", "jwt"})
        tenants: dict[str, Tenant] = {}
        listed = self.list(top, "tenants", "the file")
        if not listed:
            self.problems.append("tenants must be a list of at least one tenant")
        if len(listed) > MAX_TENANTS:
            self.problems.append(f"more than {MAX_TENANTS} tenants")
            listed = []
        for index, entry in enumerate(listed):
            self._tenant(tenants, entry, f"tenants[{index}]")
        issuers = [
            self._issuer(entry, f"jwt[{index}]")
            for index, entry in enumerate(self.list(top, "jwt", "the file"))
        ]
        found = tuple(issuer for issuer in issuers if issuer is not None)
        if len({issuer.issuer for issuer in found}) < len(found):
            self.problems.append("jwt: an issuer is there twice")
        if not self._by_digest and not found and not self.problems:
            self.problems.append("there are neither keys nor issuers of tokens: nobody could ask")
        return KeyRing(tenants=tenants, by_digest=self._by_digest, issuers=found)

    def _tenant(self, tenants: dict[str, Tenant], entry: Any, where: str) -> None:
        document = self.mapping(entry, where, _TENANT_FIELDS)
        name = self.name(document, "name", where)
        if name is None:
            return
        if name in tenants:
            self.problems.append(f"{where}.name: {name!r} is there twice")
            return
        models = self._models(document, where)
        if models is None:
            self.problems.append(f'{where}.models must list what it may use (["*"]: all)')
            models = ModelNames(())
        tenant = tenants[name] = Tenant(
            name=name,
            models=models,
            service=self._service(document, where),
            limits=self._limits(document, where),
            share_weight=self.number(document, "weight", where, MAX_WEIGHT) or 1.0,
            max_kv_share_ratio=self.number(document, "maxKVShareRatio", where, 1.0),
            media_hosts=self._media_hosts(document, where),
            may_explain=self.flag(document, "explain", where),
            cache_salt=self.text(document, "cacheSalt", where, least=16) or "",
        )
        for index, key in enumerate(self.list(document, "keys", where)):
            self._key(tenant, key, f"{where}.keys[{index}]")

    def _service(self, document: dict[str, Any], where: str) -> ServiceClass:
        priority = self.priority(document, "priority", where) or 0
        most = self.priority(document, "maxPriority", where)
        if most is not None and most < priority:
            self.problems.append(f"{where}.maxPriority must not be below its priority")
        return ServiceClass(
            priority=priority,
            max_priority=most,
            min_ttft_seconds=self.number(document, "minTTFTSeconds", where, 3600.0),
        )

    def _key(self, tenant: Tenant, entry: Any, where: str) -> None:
        document = self.mapping(entry, where, _KEY_FIELDS)
        key_id = self.name(document, "id", where)
        digest = self._digest(document, where)
        if key_id is None or digest is None:
            return
        if key_id in self._ids:
            self.problems.append(f"{where}.id: {key_id!r} is there twice")
            return
        if digest in self._by_digest:
            other = self._by_digest[digest]
            self.problems.append(f"{where}: the key of {other.key_id!r} as well")
            return
        if len(self._by_digest) >= MAX_KEYS:
            self.problems.append(f"more than {MAX_KEYS} keys")
            return
        self._ids.add(key_id)
        limits = self._limits(document, where)
        self._by_digest[digest] = Grant(
            tenant,
            key_id,
            models=self._models(document, where),
            limits=limits if limits != Limits() else None,
            expires_at=self.time(document, "expires", where),
            media_hosts=self._media_hosts(document, where),
        )

    def _digest(self, document: dict[str, Any], where: str) -> bytes | None:
        hashed, plain = document.get("sha256"), document.get("key")
        if (hashed is None) == (plain is None):
            self.problems.append(f"{where} must have one of sha256 and key")
            return None
        if hashed is not None:
            try:
                digest = binascii.unhexlify(hashed) if isinstance(hashed, str) else b""
            except ValueError:
                digest = b""
            if len(digest) != 32:  # noqa: PLR2004 - bytes of a SHA-256
                self.problems.append(f"{where}.sha256 must be 64 hexadecimal digits in quotes")
                return None
            return digest
        if not isinstance(plain, str) or not is_strong(plain):
            self.problems.append(
                f"{where}.key must be a random text of {MIN_KEY_CHARACTERS} characters or more, "
                "without white space"
            )
            return None
        return digest_of(plain.encode())

    def _issuer(self, entry: Any, where: str) -> TokenIssuer | None:
        document = self.mapping(entry, where, _ISSUER_FIELDS)
        issuer = self.text(document, "issuer", where, least=1)
        audience = self.text(document, "audience", where, least=1)
        jwks_file = self.text(document, "jwksFile", where, least=1)
        claim = self.text(document, "tenantClaim", where, least=1) or "tenant"
        algorithms = self.list(document, "algorithms", where) or ["RS256", "ES256", "EdDSA"]
        if not all(name in ALGORITHMS for name in algorithms):
            self.problems.append(f"{where}.algorithms must be of {', '.join(ALGORITHMS)}")
            return None
        if issuer is None or audience is None or jwks_file is None:
            self.problems.append(f"{where} must have issuer, audience and jwksFile")
            return None
        return TokenIssuer(
            issuer=issuer,
            audience=audience,
            jwks_file=jwks_file,
            tenant_claim=claim,
            algorithms=tuple(algorithms),
        )

    def _limits(self, document: dict[str, Any], where: str) -> Limits:
        return Limits(
            requests_per_minute=self.count(document, "requestsPerMinute", where),
            tokens_per_minute=self.count(document, "tokensPerMinute", where),
            max_requests=self.count(document, "maxRequests", where),
        )

    def _media_hosts(self, document: dict[str, Any], where: str) -> MediaHosts | None:
        if document.get("mediaHosts") is None:
            return None
        names = self.list(document, "mediaHosts", where)
        try:
            return MediaHosts(names)
        except ValueError:
            self.problems.append(
                f"{where}.mediaHosts must be hosts, like cdn.example.com, *.example.com or "
                "10.0.0.7:8080"
            )
            return MediaHosts(())

    def _models(self, document: dict[str, Any], where: str) -> ModelNames | None:
        """None where there is no list."""
        if document.get("models") is None:
            return None
        names = self.list(document, "models", where)
        if not all(isinstance(name, str) and name for name in names):
            self.problems.append(f"{where}.models must be texts")
            return ModelNames(())
        return ModelNames(names)


def is_strong(key: str) -> bool:
    """Whether a key is long and mixed enough for a fast digest."""
    return (
        len(key) >= MIN_KEY_CHARACTERS
        and len(set(key)) >= _MIN_DIFFERENT_CHARACTERS
        and key.isascii()
        and key.isprintable()
        and " " not in key
    )
