"""What a hub says of a model: its configuration, its sizes and the commit, without its weights.

``client.open_hub(settings)`` gives a ``Hub``; ``await hub.resolve(parse_name("owner/name@v1"))``
gives a ``HubModel``, or raises ``HubError`` with a reason and a sentence. Knows nothing of
Kubernetes: `memroute plan` and the operator share it.

``client`` and ``settings`` are imported by whoever asks: huggingface_hub takes a quarter of a
second to load, and names, facts and errors need none of it.
"""

from memroute_hub.errors import TRANSIENT, HubError, HubReason
from memroute_hub.facts import FactsSource, HubModel, RepositoryFile, model_from_document
from memroute_hub.names import ModelName, checked_name, is_commit, parse_name

__all__ = [
    "TRANSIENT",
    "FactsSource",
    "HubError",
    "HubModel",
    "HubReason",
    "ModelName",
    "RepositoryFile",
    "checked_name",
    "is_commit",
    "model_from_document",
    "parse_name",
]
