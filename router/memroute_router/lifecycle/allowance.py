"""What a key allows one request: its grant, and the quotas that the request takes until it ends."""

from memroute.traffic.request import RequestProfile
from memroute_router.access.gate import Gate
from memroute_router.access.quotas import Permit
from memroute_router.access.rules import Grant
from memroute_router.access.share_line import ShareWaiter
from memroute_router.access.usage_asked import edit
from memroute_router.http.exchange import Exchange
from memroute_router.lifecycle.attempt import Attempt
from memroute_router.lifecycle.refusal import Refusal
from memroute_router.replicas.pool import Pool


class Allowance:
    """The grant and the permit of one request. There is one where keys are on."""

    __slots__ = ("_gate", "grant", "permit")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.grant: Grant | None = None
        """What its key may do; None: it has not been asked, or has no key that counts."""
        self.permit: Permit | None = None
        """What it has taken of its tenant's quotas."""

    def identify(self, fields: dict[bytes, bytes]) -> Refusal | None:
        """Whose key came with the header fields; the refusal if it is nobody's."""
        found = self._gate.identify(fields)
        if isinstance(found, Refusal):
            return found
        self.grant = found
        return None

    def forbidden(self, refusal: Refusal) -> None:
        """The key may not use the model that the request names: count it."""
        self._gate.count_forbidden(refusal)

    def reserve(self, profile: RequestProfile, pool: Pool) -> Refusal | None:
        """Take what the request needs of its tenant's quotas; the refusal for want of it."""
        grant = self.grant
        if grant is None:
            return None
        found = self._gate.reserve(grant, profile, pool)
        if isinstance(found, Refusal):
            return found
        self.permit = found
        return None

    def edit_body(self, exchange: Exchange, path: bytes, *, is_stream: bool) -> None:
        """What engines get beside what the client has sent: ``usage``, and a salt of the tenant."""
        grant = self.grant
        if grant is None:
            return
        edited = edit(
            exchange.body,
            path,
            asks_usage=grant.has_token_limit and is_stream and exchange.sees_answer,
            cache_salt=grant.tenant.cache_salt,
        )
        exchange.body = edited.body
        exchange.hides_usage = edited.hides_usage

    @property
    def lacks_share(self) -> bool:
        """Whether its tenant's share of the model's KV tokens has no room for it now."""
        permit = self.permit
        return permit is not None and permit.lacks_share

    def wait_for_share(self, request: ShareWaiter, profile: RequestProfile, pool: Pool) -> None:
        """Hold the request until there is room, or for as long as it may wait."""
        permit = self.permit
        if permit is not None:
            self._gate.wait_for_share(request, permit, profile, pool)

    def share_refusal(self, pool: Pool) -> Refusal | None:
        """Why it has waited for its tenant's share in vain; None: it has not."""
        permit = self.permit
        return None if permit is None else self._gate.share_refusal(permit, pool)

    def limit_lines(self) -> bytes:
        """Header lines of what is left of its tenant's limits."""
        permit = self.permit
        return b"" if permit is None else self._gate.limit_lines(permit)

    def settle(
        self, profile: RequestProfile, attempt: Attempt | None, *, status: int, is_served: bool
    ) -> None:
        """What it has used counts for its tenant, instead of what was reserved; once.

        ``attempt``: the latest; None: no engine was asked. ``status``: of its answer; 0: none.
        """
        permit = self.permit
        if permit is None or permit.is_settled:
            return
        self._gate.settle(
            permit,
            profile,
            usage=None if attempt is None else attempt.usage,
            num_events=0 if attempt is None else attempt.num_events,
            status=status,
            is_served=is_served,
        )
