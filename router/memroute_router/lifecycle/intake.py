"""How a request is taken in: from bytes and fields to what admission decides on.

```text
bytes, fields ── read ──► model, pool ── tokenize (where that can be done) ──► profile
```

Nothing here knows of a connection: whoever has the body of a request and its header fields can ask,
by HTTP or otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from memroute.traffic.request import RequestProfile
from memroute_router.access.media_hosts import MediaHosts
from memroute_router.access.newcomers import KnownWords
from memroute_router.access.rules import Grant, prefix_salt
from memroute_router.access.verdicts import granted_claims
from memroute_router.access.words import forbidden
from memroute_router.discovery.names import NamesFor, unknown_model
from memroute_router.http.fields import SESSION_ID
from memroute_router.lifecycle.claims import TenantSource, read_claims
from memroute_router.lifecycle.documents import SMALL_BODY_BYTES, DocumentRoom, document_bytes
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.lifecycle.refusal import (
    BODY,
    COMPRESSED,
    DOCUMENTS_FULL,
    FIELD,
    INVALID_REQUEST,
    Refusal,
    document_too_large,
    unknown,
)
from memroute_router.prompts.tokenizer import Tokenizers
from memroute_router.replicas.pool import Pool
from memroute_router.replicas.pools import Pools
from memroute_router.requests import UNKNOWN_FAMILY, BadRequestError, ParsedRequest
from memroute_router.surface import Check, Route

MAX_SESSION_BYTES: Final = 128
# Characters of a model's name in messages, in the log and in the journal: the client chooses it.
# Names of models that exist have fewer than 100. Chosen by hand.
MAX_MODEL_CHARACTERS: Final = 128
# Looked up once, not for every request.
_NOBODY_NAMED: Final = TenantSource.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeServices:
    """What taking a request in needs of a router."""

    pools: Pools
    tokenizers: Tokenizers
    tenants: TenantSource
    names_for: NamesFor
    """Which models a client may know of."""
    is_tenant_checked: bool = False
    """Whether only those whose headers are trusted may name tenants: there are proxies who do."""
    media_hosts: MediaHosts | None = None
    """From where engines may be told to fetch; None: from anywhere."""
    words: KnownWords | None = None
    """Which of the words that tell tenants apart are tenants; None: those are believed."""
    documents: DocumentRoom | None = None
    """What bodies may take as objects; None: whatever they do."""
    model_field: bytes | None = None
    """A header field that says what the model is called for engines, where the headers are trusted
    and something on the way renames it; None: nothing does."""


class Intake:
    """One request on its way to its profile. Owns what was parsed of it."""

    __slots__ = (
        "_fields", "_find_pool", "_grant", "_held_bytes", "_on_tokenized", "_received_at_seconds",
        "_services", "_trusts_headers", "parsed", "pool",
    )  # fmt: skip

    def __init__(
        self,
        services: IntakeServices,
        fields: dict[bytes, bytes],
        *,
        received_at_seconds: float,
        trusts_headers: bool = False,
        grant: Grant | None = None,
        find_pool: Callable[[str], Pool | None] | None = None,
    ) -> None:
        """``fields``: by lower-case name. ``received_at_seconds``: on the monotonic clock.

        ``trusts_headers``: whether what they claim was checked before. ``grant``: what the key may
        do that they came with; None: keys are off. ``find_pool``: which pool serves a model, for
        whoever knows more of the request than that; None: what the pools say.
        """
        self._services = services
        self._fields = fields
        self._received_at_seconds = received_at_seconds
        self._trusts_headers = trusts_headers
        self._grant = grant
        self._find_pool = find_pool or services.pools.get
        self._on_tokenized: Callable[[], None] | None = None
        self._held_bytes = 0
        """Counted of its document; given back when that is done with."""
        self.parsed: ParsedRequest | None = None
        self.pool: Pool | None = None

    def read(self, route: Route, body: bytes) -> Refusal | None:
        """Parse, and find the pool; a refusal if either cannot be done."""
        coding = self._fields.get(b"content-encoding")
        if coding is not None and coding.lower() != b"identity":
            return Refusal(
                outcome=Outcome.BAD_REQUEST,
                status=415,
                message="the body must not be compressed",
                cause=COMPRESSED,
            )
        if len(body) > SMALL_BODY_BYTES and route.parse_document is not None:
            refusal = self._hold(document_bytes(body))
            if refusal is not None:
                return refusal
        refusal = None
        try:
            refusal = self._parse(route, body)
        finally:
            if refusal is not None or self.parsed is None:
                self._let_go()
        return refusal

    def _parse(self, route: Route, body: bytes) -> Refusal | None:
        try:
            parsed = route.parse(
                body, self._fields.get(b"content-type", b""), self._check_of_media()
            )
        except BadRequestError as error:
            return Refusal(
                outcome=Outcome.BAD_REQUEST,
                status=400,
                message=error.message,
                parameter=error.parameter,
                reason=error.reason,
                code=error.code,
                kind=None if error.code is None else INVALID_REQUEST,
                cause=error.reason or (BODY if error.parameter is None else FIELD),
            )
        self.parsed = parsed
        renamed = self._services.model_field
        if renamed is not None and self._trusts_headers and renamed in self._fields:
            parsed.model = self._fields[renamed].decode("utf-8", "replace")
        grant = self._grant
        if grant is not None and not grant.allows(parsed.model):
            # By the name alone, before it is looked up: a key learns nothing of others' models.
            return forbidden(parsed.model)
        self.pool = self._find_pool(parsed.model)
        if self.pool is None:
            name = parsed.model[:MAX_MODEL_CHARACTERS]
            return unknown(unknown_model(name, self._services.names_for(self._fields)))
        return None

    def tokenize(self, on_done: Callable[[], None]) -> bool:
        """Whether the prompt is being tokenized; ``on_done`` is called later if so."""
        if self._is_tokenized_soon(on_done):
            return True
        self._let_go()
        return False

    def _is_tokenized_soon(self, on_done: Callable[[], None]) -> bool:
        parsed, pool = self.parsed, self.pool
        if parsed is None or pool is None:
            return False
        if parsed.token_ids is not None or parsed.document is None:
            return False
        tokenizers = self._services.tokenizers
        if tokenizers.folder is None and pool.tokenizer_folder is None:
            return False
        tokenizer = tokenizers.of(pool.model, pool.tokenizer_folder)
        if tokenizer is None:
            return False
        self._on_tokenized = on_done
        return tokenizers.encode(tokenizer, parsed.document, self._tokenized)

    def profile(self) -> RequestProfile:
        """What admission decides on. Raises ``RuntimeError`` where nothing was read: a bug."""
        parsed, pool, services = self.parsed, self.pool, self._services
        if parsed is None or pool is None:
            msg = "a request without a model has no profile"
            raise RuntimeError(msg)
        grant, words = self._grant, services.words
        salt, shares_blocks = 0, True
        if grant is not None:
            claims = granted_claims(grant, self._fields, trusts_headers=self._trusts_headers)
            tenant, salt = claims.tenant, grant.prefix_salt
            # Engines that keep its prompts apart name their blocks in another way.
            shares_blocks = not grant.tenant.cache_salt
        else:
            tenants = services.tenants
            if services.is_tenant_checked and not self._trusts_headers:
                tenants = _NOBODY_NAMED
            claims = read_claims(self._fields, tenants=tenants, trusts_headers=self._trusts_headers)
            tenant = claims.tenant
            if tenant:
                salt = prefix_salt(tenant)
                if words is not None:
                    tenant = words.tenant(tenant, now_seconds=self._received_at_seconds)
        if salt and parsed.prefix:
            # What others have sent is no knowledge of this tenant's: docs/adr/0025.
            parsed.prefix = tuple([key ^ salt for key in parsed.prefix])
        deadline = None
        if claims.ttft_seconds is not None:
            deadline = self._received_at_seconds + claims.ttft_seconds
        session = self._session(parsed)
        return parsed.profile(
            assumed_output_tokens=pool.assumed_output_tokens,
            prompts=pool.prompts,
            media=services.tokenizers.media(pool.model, pool.tokenizer_folder)
            if parsed.attachments
            else UNKNOWN_FAMILY,
            tenant=tenant,
            priority=claims.priority,
            deadline_seconds=deadline,
            session=session,
            adapter=self._adapter(parsed.model, pool),
            draw=pool.draw(session),
            block_tokens=pool.dispatcher.cached.blocks.block_tokens if shares_blocks else 0,
        )

    def _check_of_media(self) -> Check | None:
        """What is asked before engines are told to fetch something; None: they may, from anywhere.

        A key's own list, or its tenant's, counts instead of the router's.
        """
        grant = self._grant
        hosts = None if grant is None else grant.media_hosts
        if hosts is None:
            hosts = self._services.media_hosts
        return None if hosts is None else hosts.check

    def _tokenized(self, token_ids: list[int] | None) -> None:
        """The prompt's tokens are known now, or (None) will not be."""
        self._let_go()
        if token_ids and self.parsed is not None:
            self.parsed.tokenized(token_ids)
        on_done, self._on_tokenized = self._on_tokenized, None
        if on_done is not None:
            on_done()

    def _hold(self, num_bytes: int) -> Refusal | None:
        """Count what the document will take; the refusal if it may not."""
        room = self._services.documents
        if room is None:
            return None
        if num_bytes > room.max_bytes:
            return document_too_large(num_bytes, room.max_bytes)
        if not room.take(num_bytes):
            return DOCUMENTS_FULL
        self._held_bytes = num_bytes
        return None

    def _let_go(self) -> None:
        """The document is done with, or will be in this step."""
        held, self._held_bytes = self._held_bytes, 0
        if held and self._services.documents is not None:
            self._services.documents.give_back(held)

    def _adapter(self, model: str, pool: Pool) -> str:
        """The LoRA adapter that is asked for; empty: the model itself, or whatever it is."""
        if model == pool.model:
            return ""
        return "" if pool.model in self._services.pools.any_name else model

    def _session(self, parsed: ParsedRequest) -> str:
        """What the client calls the conversation: a header's word goes before the body's."""
        given = self._fields.get(SESSION_ID)
        if given is None:
            return parsed.session
        return given[:MAX_SESSION_BYTES].decode("utf-8", "replace")
