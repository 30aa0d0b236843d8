"""What a hub says of a model: its configuration, its sizes and the commit, without its weights.

``open_hub(settings)`` gives a ``Hub``; ``await hub.resolve(parse_name("owner/name@revision"))``
gives a ``HubModel``, or raises ``HubError`` with a reason and a sentence. Knows nothing of
Kubernetes: `memroute plan` and the operator share it.
"""

from memroute_hub.client import Hub, open_hub
from memroute_hub.errors import HubError, HubReason
from memroute_hub.facts import FactsSource, HubModel, RepositoryFile, model_from_document
from memroute_hub.names import ModelName, checked_name, parse_name
from memroute_hub.settings import (
    HubSettings,
    SettingsError,
    Token,
    checked_endpoint,
    is_offline_by_environment,
    personal_cache,
    personal_token,
)

__all__ = [
    "FactsSource",
    "Hub",
    "HubError",
    "HubModel",
    "HubReason",
    "HubSettings",
    "ModelName",
    "RepositoryFile",
    "SettingsError",
    "Token",
    "checked_endpoint",
    "checked_name",
    "is_offline_by_environment",
    "model_from_document",
    "open_hub",
    "parse_name",
    "personal_cache",
    "personal_token",
]
