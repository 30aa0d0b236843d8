"""What the router answers itself: the models that there are, its API's description, and refusals.

What goes to an engine is a ``Lifecycle``'s; what operators ask for is ``operations.py``'s.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote_to_bytes

import orjson

from memroute_router.access.gate import Gate
from memroute_router.access.words import no_such_model
from memroute_router.discovery.names import unknown_model
from memroute_router.http.errors import error_body
from memroute_router.http.exchange import Exchange
from memroute_router.http.fields import JSON
from memroute_router.lifecycle.intake import MAX_MODEL_CHARACTERS
from memroute_router.lifecycle.outcomes import Outcome
from memroute_router.lifecycle.refusal import LISTENER_CAUSES, Refusal, unknown
from memroute_router.log.journal import Journal, Record, safe_word
from memroute_router.metrics.exported import RouterMetrics
from memroute_router.pages.openapi import openapi_document
from memroute_router.replicas.pool import Pool
from memroute_router.replicas.pools import Pools
from memroute_router.surface import ROUTES

MODELS_PATH = b"/v1/models"
MODEL_PATH = b"/v1/models/"
NO_CORS = (
    "; cross-origin requests of browsers (CORS) are not answered here: put a gateway that checks "
    "origins before the router"
)
_LISTENER_OUTCOMES = {
    401: Outcome.UNAUTHORIZED,
    429: Outcome.RATE_LIMITED,
    500: Outcome.INTERNAL_ERROR,
    503: Outcome.ROUTER_EXHAUSTED,
}


class OwnAnswers:
    """Answers what is not sent to an engine, and accounts for it."""

    def __init__(
        self,
        pools: Pools,
        gate: Gate | None,
        metrics: RouterMetrics,
        journal: Journal,
        *,
        names_here: Callable[[Exchange, Sequence[str]], Sequence[str]],
        health: Mapping[bytes, Callable[[Exchange], None]],
    ) -> None:
        """``gate``: who may ask for which model; None: everybody. ``health``: answers by path.

        ``names_here``: of the names that a client may know of, those to be had where it asks.
        """
        self._pools = pools
        self._gate = gate
        self._names_here = names_here
        self._metrics = metrics
        self._journal = journal
        self._started_at = int(time.time())
        self._routes = {**health, b"/openapi.json": self._openapi, MODELS_PATH: self._models}

    def answer(self, exchange: Exchange) -> None:
        """What is not sent to an engine."""
        path = exchange.path
        method = exchange.method
        route = ROUTES.get(path)
        own = self._routes.get(path)
        if own is None and path.startswith(MODEL_PATH):
            own = self._model
        if route is None and own is None:
            told = path.decode("ascii", "backslashreplace")
            self._refuse(exchange, 404, f"no such path: {told}")
        elif own is not None and method in {b"GET", b"HEAD"}:
            refusal = None
            if self._gate is not None:
                refusal = self._gate.may_ask(path, exchange.fields)
            if refusal is None:
                own(exchange)
            else:
                self._refuse_as(exchange, refusal)
        else:
            allowed = "POST" if route is not None else "GET, HEAD"
            text = NO_CORS if method == b"OPTIONS" else ""
            self._refuse(exchange, 405, f"use {allowed}{text}", b"allow: %b\r\n" % allowed.encode())

    def _refuse(self, exchange: Exchange, status: int, text: str, lines: bytes = b"") -> None:
        self.listener_refused(exchange.peer, exchange.target, status, text, "")
        exchange.respond(status, error_body(status, text), JSON + lines)

    def _refuse_as(self, exchange: Exchange, refusal: Refusal) -> None:
        self._account(
            exchange.peer,
            exchange.target,
            refusal.status,
            refusal.message,
            cause=refusal.cause,
            outcome=refusal.outcome,
        )
        exchange.respond(refusal.status, refusal.body(is_anthropic=False), refusal.lines())

    def listener_refused(
        self, peer: bytes, target: bytes, status: int, why: str, cause: str
    ) -> None:
        """A request was refused before it was one of the API."""
        self._account(
            peer,
            target,
            status,
            why,
            cause=cause or LISTENER_CAUSES.get(status, ""),
            outcome=_LISTENER_OUTCOMES.get(status, Outcome.BAD_REQUEST),
        )

    def _account(
        self, peer: bytes, target: bytes, status: int, why: str, *, cause: str, outcome: Outcome
    ) -> None:
        """A refusal that no ``Lifecycle`` tells of is accounted for like those of requests."""
        record = Record(
            ended_at=time.time(),
            request_id=b"-",
            path=safe_word(target.partition(b"?")[0]),
            model="",
            outcome=outcome,
            status=status,
            replica="",
            refusal=why,
            cause=cause,
            client=peer,
            choice=None,
            attempts=0,
            expected_tokens=0,
            prompt_tokens=None,
            cached_tokens=None,
            output_tokens=None,
            queue_seconds=None,
            first_byte_seconds=None,
            seconds=0.0,
        )
        self._metrics.of(None).ended(record)
        self._journal.add(record)

    def _openapi(self, exchange: Exchange) -> None:
        exchange.respond(200, orjson.dumps(openapi_document(list(self._named(exchange)))))

    def _models(self, exchange: Exchange) -> None:
        named = self._named(exchange)
        models = [self._model_document(name, named) for name in named]
        exchange.respond(200, orjson.dumps({"object": "list", "data": models}))

    def names_for(self, fields: dict[bytes, bytes]) -> Sequence[str] | None:
        """The models that whoever sends these fields may know of; None: nobody knows who asks."""
        gate = self._gate
        if gate is None:
            return self._pools.names()
        grant = gate.identify(fields)
        if isinstance(grant, Refusal):
            return None
        return [name for name in self._pools.names() if grant.allows(name)]

    def _model(self, exchange: Exchange) -> None:
        name = unquote_to_bytes(exchange.path[len(MODEL_PATH) :]).decode("utf-8", "replace")
        named = self._named(exchange)
        if name in named:
            exchange.respond(200, orjson.dumps(self._model_document(name, named)))
        elif self._gate is not None:
            # The same words whether it exists or not.
            self._refuse_as(exchange, no_such_model(name))
        else:
            told = unknown_model(name[:MAX_MODEL_CHARACTERS], list(named))
            self._refuse_as(exchange, unknown(told))

    def _named(self, exchange: Exchange) -> dict[str, Pool]:
        """The models that the client may know of, and have where it asks."""
        names = self._names_here(exchange, self.names_for(exchange.fields) or ())
        return {name: pool for name in names if (pool := self._pools.get(name))}

    def _model_document(self, name: str, named: Mapping[str, Pool]) -> dict[str, object]:
        pool = named[name]
        replicas = pool.replicas.values()
        contexts = [r.info.max_context_tokens for r in replicas if r.info.max_context_tokens]
        document: dict[str, object] = {
            "id": name,
            "object": "model",
            "created": self._started_at,
            "owned_by": "memroute",
            "ready_replicas": sum(r.info.is_routable and not r.health.is_out for r in replicas),
        }
        if name != pool.model and pool.model in named:
            document["parent"] = pool.model
        if contexts:
            document["max_model_len"] = max(contexts)
        return document
