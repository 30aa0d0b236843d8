"""A gated model is read with the token of its own namespace, where that lets the operator have it.

``source.hub.tokenSecretRef`` names the Secret that engines and fetchers get. The operator may read
nobody's Secrets: whoever owns one grants it, by a Role for that one name. Until then the hub is
asked with the operator's own token, and its refusal says what to grant:

| the Secret | the hub is asked with |
| --- | --- |
| may be read, and has the key | its token |
| may not be read, is not there, lacks the key | the operator's own; a refusal says which it was |

What was read with a namespace's token is for the ModelDeployments that name that Secret, and for
nobody else (``OwnedName`` is another name). The token goes to the operator's hub, nowhere else.
"""

import base64
import binascii
import re
import shlex
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from memroute_hub import HubError, HubModel, HubReason, ModelName
from memroute_hub.settings import Token
from memroute_kube import SECRETS, ApiError, KubernetesClient
from memroute_kube.client import NOT_FOUND
from memroute_kube.errors import FORBIDDEN
from memroute_kube.shapes import mapping
from memroute_operator.spec.hub_source import HubSource

# What another token may change.
_OF_A_TOKEN = frozenset(
    {
        HubReason.TOKEN_REQUIRED,
        HubReason.ACCESS_NOT_GRANTED,
        HubReason.TOKEN_INVALID,
        HubReason.REPOSITORY_NOT_FOUND,
    }
)
_ACCOUNT = re.compile(r"system:serviceaccount:([a-z0-9.-]+):([a-z0-9.-]+)")
# Where the API server's words do not say who was refused.
USUAL_ACCOUNT = ("memroute-system", "memroute-operator")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSecret:
    """One key of one Secret."""

    namespace: str
    name: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedName(ModelName):
    """A model that is read with the token of a namespace: another than the same one without."""

    secret: TokenSecret

    def __str__(self) -> str:
        """As of any model."""
        return ModelName.__str__(self)


def owned(name: ModelName | None, source: HubSource, namespace: str) -> ModelName | None:
    """The name, with the Secret that its ModelDeployment names, if it does."""
    if name is None or source.token_secret is None:
        return name
    return OwnedName(
        repository=name.repository,
        revision=name.revision,
        file=name.file,
        secret=TokenSecret(namespace=namespace, name=source.token_secret, key=source.token_key),
    )


class Resolve(Protocol):
    """Asks the hub. Raises ``HubError``."""

    def __call__(self, name: ModelName, token: Token | None = None) -> Awaitable[HubModel]:
        """``token``: instead of the operator's own."""


class NamespaceTokens:
    """Asks the hub with the right token. Owns nothing: a Secret is read anew each time."""

    def __init__(self, client: KubernetesClient, resolve: Resolve) -> None:
        self._client = client
        self._resolve = resolve

    async def resolve(self, name: ModelName) -> HubModel:
        """The facts of a model. Raises ``HubError``."""
        if not isinstance(name, OwnedName):
            return await self._resolve(name)
        found = await self._read(name.secret)
        if isinstance(found, Token):
            return await self._resolve(name, token=found)
        try:
            return await self._resolve(name)
        except HubError as error:
            if error.reason not in _OF_A_TOKEN:
                raise
            message = f"{error.message}. {found}"
            raise HubError(
                error.reason, message, retry_after_seconds=error.retry_after_seconds
            ) from error

    async def _read(self, secret: TokenSecret) -> Token | str:
        """The token; else a sentence that says why there is none."""
        where = f"Secret {secret.name} of namespace {secret.namespace}"
        try:
            obj = await self._client.get(SECRETS, secret.namespace, secret.name)
        except ApiError as error:
            if error.status == FORBIDDEN:
                return refused_sentence(secret, error.message)
            if error.status == NOT_FOUND:
                return f"There is no {where}, which source.hub.tokenSecretRef names"
            # No answer: the model is asked for later, as after any other trouble of the network.
            words = f"the {where} cannot be read ({error})"
            raise HubError(HubReason.HUB_UNREACHABLE, words) from error
        data = mapping(obj.get("data")).get(secret.key)
        try:
            text = base64.b64decode(str(data or ""), validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            text = ""
        if not text.strip():
            return f"The {where} has no token under the key {secret.key}"
        return Token(value=text, hint=f"key {secret.key} of {where}")


def refused_sentence(secret: TokenSecret, said: str) -> str:
    """That the operator may not read a Secret, and the command that lets it. ``said``: by whom."""
    found = _ACCOUNT.search(said)
    account = USUAL_ACCOUNT if found is None else (found[1], found[2])
    role = shlex.quote(f"memroute-reads-{secret.name}")
    namespace, name = shlex.quote(secret.namespace), shlex.quote(secret.name)
    return (
        f"The operator may not read the Secret {secret.name} that source.hub.tokenSecretRef names. "
        f"To let it read that one: kubectl create role {role} -n {namespace} --verb=get "
        f"--resource=secrets --resource-name={name} && kubectl create rolebinding {role} "
        f"-n {namespace} --role={role} --serviceaccount={account[0]}:{account[1]}"
    )
