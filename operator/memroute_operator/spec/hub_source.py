"""``spec.model.source.hub``: which revision engines load, and with whose token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memroute_kube.shapes import mapping

# What huggingface_hub reads in an engine's environment.
TOKEN_VARIABLE, ENDPOINT_VARIABLE = "HF_TOKEN", "HF_ENDPOINT"
DEFAULT_TOKEN_KEY = "token"  # noqa: S105 - the name of a key


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """Where the weights come from, as far as the spec says."""

    revision: str | None = None
    token_secret: str | None = None
    """Of the deployment's namespace: for gated and private models."""
    token_key: str = DEFAULT_TOKEN_KEY

    def environment(self, endpoint: str | None) -> list[dict[str, Any]]:
        """Variables for the engine. ``endpoint``: of another hub than the usual one."""
        variables: list[dict[str, Any]] = []
        if endpoint is not None:
            variables.append({"name": ENDPOINT_VARIABLE, "value": endpoint})
        if self.token_secret is not None:
            reference = {"name": self.token_secret, "key": self.token_key}
            variables.append({"name": TOKEN_VARIABLE, "valueFrom": {"secretKeyRef": reference}})
        return variables


def read_hub_source(model: Mapping[str, Any]) -> HubSource:
    """The source in ``spec.model``. Raises ``TypeError`` for what the schema does not allow."""
    hub = mapping(mapping(model.get("source")).get("hub"))
    secret = mapping(hub.get("tokenSecretRef"))
    texts = (hub.get("revision"), secret.get("name"), secret.get("key"))
    if not all(isinstance(text, str | None) for text in texts):
        message = f"source.hub has texts only, not {texts!r:.200}"
        raise TypeError(message)
    revision, name, key = texts
    return HubSource(revision=revision, token_secret=name, token_key=key or DEFAULT_TOKEN_KEY)
